//! What a ring permits: the operations of this server, and no others (kernel-notes §80).
//!
//! io_uring can open, read and connect files. So that a fault in this process cannot make the ring
//! do so, a ring is made disabled; it is given its buffers and its file table, a list of what it
//! permits from then on, and is enabled. What is not in the list completes with `EACCES`, and the
//! list cannot be changed. It is made from [`Kind`], of which each [`Op`](super::Op) has one: a
//! kind that is not listed does not compile.

use std::io;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode};

use super::Kind;
use super::kernel::{Capability, Kernel};

/// Enabling a ring, which works once: with it, the list of registrations is never empty, which
/// Linux 7.0 would take for all.
const ENABLE_RINGS: u8 = 12;
/// Taking a ring of buffers away, at the end.
const UNREGISTER_PBUF_RING: u8 = 23;

/// Returns the opcodes and the flags of the entries that an operation of this kind is queued as.
fn entries(kernel: Kernel, kind: Kind) -> (&'static [u8], Flags) {
    let flag = |capability, flag| if kernel.has(capability) { flag } else { Flags::empty() };
    let socket = flag(Capability::Direct, Flags::FIXED_FILE);
    match kind {
        Kind::Accept => (&[opcode::Accept::CODE], Flags::empty()),
        Kind::Recv => {
            (&[opcode::Recv::CODE], socket | flag(Capability::BufferRing, Flags::BUFFER_SELECT))
        }
        Kind::Send => (
            &[opcode::Send::CODE, opcode::SendMsg::CODE],
            socket | flag(Capability::CqeSkip, Flags::SKIP_SUCCESS),
        ),
        Kind::Shutdown if kernel.has(Capability::Shutdown) => (&[opcode::Shutdown::CODE], socket),
        Kind::Shutdown => (&[opcode::Nop::CODE], Flags::empty()),
        Kind::Close => (&[opcode::Close::CODE], Flags::empty()),
        Kind::CancelAccept | Kind::CancelRecv | Kind::CancelSend => {
            (&[opcode::AsyncCancel::CODE], Flags::empty())
        }
        Kind::Wake => (&[opcode::PollAdd::CODE], Flags::empty()),
        Kind::Internal if kernel.has(Capability::ExtArg) => {
            (&[opcode::AsyncCancel::CODE], Flags::empty())
        }
        Kind::Internal => (&[opcode::AsyncCancel::CODE, opcode::Timeout::CODE], Flags::empty()),
        Kind::PollAccept | Kind::PollRecv | Kind::PollSend if kernel.has(Capability::FastPoll) => {
            (&[], Flags::empty())
        }
        Kind::PollAccept | Kind::PollRecv | Kind::PollSend | Kind::PollRead => {
            (&[opcode::PollAdd::CODE], Flags::IO_LINK)
        }
        Kind::Read => (&[opcode::Read::CODE], Flags::empty()),
        Kind::Outq if kernel.has(Capability::Direct) => (&[opcode::UringCmd16::CODE], socket),
        Kind::Outq => (&[], Flags::empty()),
    }
}

/// Returns true if an operation of this kind may be queued as an entry with this opcode.
pub(super) fn permits(kernel: Kernel, kind: Option<Kind>, opcode: u8) -> bool {
    kind.is_some_and(|kind| entries(kernel, kind).0.contains(&opcode))
}

/// Enables a ring that was made disabled, with what it permits from now on. Returns the number of
/// operations; `None` if it permits all, because the kernel has no restrictions.
///
/// No flag is required, because none is in every entry.
///
/// # Errors
/// io_uring_register(2).
pub(super) fn enable(kernel: Kernel, ring: &IoUring) -> io::Result<Option<usize>> {
    if !kernel.has(Capability::Restrictions) {
        return Ok(None);
    }
    let all = Kind::ALL.iter().map(|kind| entries(kernel, *kind));
    let flags = all.clone().fold(Flags::empty(), |all, (_, flags)| all | flags);
    let mut opcodes: Vec<u8> = all.flat_map(|(opcodes, _)| opcodes).copied().collect();
    opcodes.sort_unstable();
    opcodes.dedup();
    let mut permitted: Vec<Restriction> =
        opcodes.iter().copied().map(Restriction::sqe_op).collect();
    permitted.push(Restriction::sqe_flags_allowed(flags.bits()));
    permitted.push(Restriction::register_op(ENABLE_RINGS));
    if kernel.has(Capability::BufferRing) {
        permitted.push(Restriction::register_op(UNREGISTER_PBUF_RING));
    }
    ring.submitter().register_restrictions(&mut permitted)?;
    ring.submitter().register_enable_rings()?;
    Ok(Some(opcodes.len()))
}
