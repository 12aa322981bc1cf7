//! What this kernel's io_uring can do, found out by doing it.
//!
//! A version number says little: stable kernels take over features and fixes, distributions take
//! them out again, and sandboxes refuse what the kernel has (kernel-notes §14). So the capabilities
//! are looked for on a ring that is made for this and dropped: by the feature bits that its set-up
//! returns, by the kernel's own list of operations, and where neither shows it, by a trial. A
//! [`Version`] serves only to *lower* what was seen, so that every tier can be run on one machine.
#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;

use io_uring::{Builder, IoUring, Probe, cqueue, opcode, squeue, types};
use socket2::{Domain, Socket, Type};

use super::provided::ProvidedRing;
use crate::buffer::{BufferClass, Pool, Size};
use crate::refusal::{ENTER, MMAP, REGISTER, Refusal, SETUP};

pub use crate::version::{OLDEST_VERSION, Version};

/// The command of `IORING_OP_URING_CMD` for a socket that asks what `SIOCOUTQ` asks.
pub(super) const SOCKET_URING_OP_SIOCOUTQ: u32 = 1;
/// Entries of the throw-away ring.
const ENTRIES: u32 = 8;

/// Something that io_uring has not always had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// A receive on an idle socket waits by polling, not by blocking a kernel thread.
    FastPoll,
    /// A ring may be made disabled, and permit only the operations that are listed then.
    Restrictions,
    /// A wait may have a timeout without an operation of its own.
    ExtArg,
    /// The operation `IORING_OP_SHUTDOWN` exists.
    Shutdown,
    /// An operation may ask for a completion only if it fails.
    CqeSkip,
    /// A bad submission does not stop the others of its batch.
    SubmitAll,
    /// Completions do not interrupt the server.
    CoopTaskrun,
    /// One cancel for all that is in flight.
    CancelAny,
    /// One accept, many connections.
    MultishotAccept,
    /// A ring of buffers from which the kernel picks when data are there.
    BufferRing,
    /// One receive, many completions.
    MultishotRecv,
    /// Only one thread submits, and the kernel may rely on it.
    SingleIssuer,
    /// Completions are made when the server asks for them, not when the data come.
    DeferTaskrun,
    /// Submissions are taken in order, without an array of indices.
    NoSqArray,
    /// A socket has commands: `SIOCOUTQ` is an operation.
    SocketCommands,
    /// Sockets live in the ring's own table, and the kernel picks their slots.
    Direct,
    /// Waiting is not accounted as waiting for a disk.
    NoIowait,
}

impl Capability {
    /// Returns the kernel's name for it, without `IORING_`.
    pub fn name(self) -> &'static str {
        match self {
            Capability::FastPoll => "FEAT_FAST_POLL",
            Capability::Restrictions => "REGISTER_RESTRICTIONS",
            Capability::ExtArg => "FEAT_EXT_ARG",
            Capability::Shutdown => "OP_SHUTDOWN",
            Capability::CqeSkip => "FEAT_CQE_SKIP",
            Capability::SubmitAll => "SETUP_SUBMIT_ALL",
            Capability::CoopTaskrun => "SETUP_COOP_TASKRUN",
            Capability::CancelAny => "ASYNC_CANCEL_ANY",
            Capability::MultishotAccept => "ACCEPT_MULTISHOT",
            Capability::BufferRing => "REGISTER_PBUF_RING",
            Capability::MultishotRecv => "RECV_MULTISHOT",
            Capability::SingleIssuer => "SETUP_SINGLE_ISSUER",
            Capability::DeferTaskrun => "SETUP_DEFER_TASKRUN",
            Capability::NoSqArray => "SETUP_NO_SQARRAY",
            Capability::Direct => "FILE_INDEX_ALLOC",
            Capability::NoIowait => "ENTER_NO_IOWAIT",
            Capability::SocketCommands => "SOCKET_URING_OP_SIOCOUTQ",
        }
    }
}

impl Capability {
    /// Returns all, in the order of the kernels that brought them.
    pub fn all() -> impl Iterator<Item = Capability> {
        SINCE.iter().flat_map(|(_, brought)| *brought).copied()
    }
}

impl FromStr for Capability {
    type Err = String;

    /// Parses a [`name`](Capability::name), in upper or lower case.
    fn from_str(text: &str) -> Result<Capability, String> {
        let known = Capability::all().find(|it| it.name().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            let names: Vec<_> = Capability::all().map(Capability::name).collect();
            format!("unknown feature {text:?}: use one of {}", names.join(", "))
        })
    }
}

/// The capabilities that each release of Linux brought.
pub const SINCE: [(Version, &[Capability]); 12] = {
    use Capability::*;
    const fn v(major: u16, minor: u16) -> Version {
        Version { major, minor }
    }
    [
        (v(5, 7), &[FastPoll]),
        (v(5, 10), &[Restrictions]),
        (v(5, 11), &[ExtArg, Shutdown]),
        (v(5, 17), &[CqeSkip]),
        (v(5, 18), &[SubmitAll]),
        (v(5, 19), &[CoopTaskrun, CancelAny, MultishotAccept, BufferRing]),
        (v(6, 0), &[MultishotRecv, SingleIssuer]),
        (v(6, 1), &[DeferTaskrun]),
        (v(6, 6), &[NoSqArray]),
        (v(6, 7), &[SocketCommands]),
        // Those of 5.19 to 6.12 keep closed sockets open: counted from the first that may not
        // (§67).
        (v(6, 13), &[Direct]),
        (v(6, 15), &[NoIowait]),
    ]
};

/// The capabilities that a kernel was seen to have, or that will be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernel(u32);

impl Kernel {
    /// Only the capabilities of [`OLDEST_VERSION`].
    pub const OLDEST: Kernel = Kernel(0);

    /// Looks for each capability, on a ring that is dropped.
    ///
    /// A capability is absent if the kernel does not know what was asked (`EINVAL`, `EOPNOTSUPP`).
    /// Any other error is a refusal, however well the other calls work: a filter may permit one of
    /// the three calls and not the next, and a short limit is not an old kernel.
    ///
    /// # Errors
    /// There is no usable io_uring here; the refusal says what refuses it, most likely.
    pub fn detect() -> Result<Kernel, Refusal> {
        Refusal::remembered()?;
        let (mut ring, mut kernel) = set_up()?;
        submit(&mut ring, &[opcode::Nop::new().build()])?;
        reap(&mut ring, 1)?;
        let mut probe = Probe::new();
        let probed = retried(|| ring.submitter().register_probe(&mut probe));
        let refused = |error: &io::Error| Refusal::of(REGISTER, error);
        probed.map_err(|error| refused(&error))?;
        // The newest of the operations that a server needs.
        let needed =
            [opcode::Send::CODE, opcode::Recv::CODE, opcode::Close::CODE, opcode::Read::CODE];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(refused(&io::Error::other("it lacks SEND, RECV, CLOSE or READ")));
        }

        let features = ring.params();
        kernel.set(Capability::FastPoll, features.is_feature_fast_poll());
        kernel.set(Capability::ExtArg, features.is_feature_ext_arg());
        kernel.set(Capability::CqeSkip, features.is_feature_skip_cqe_on_success());
        kernel.set(Capability::NoIowait, features.is_feature_no_iowait());
        kernel.set(Capability::Shutdown, probe.is_supported(opcode::Shutdown::CODE));

        // An accept into a slot of the kernel's choice must not be tried on a kernel that may
        // lack it: a connection would be taken and lost (kernel-notes §7). SOCKET came with it.
        let socket = probe.is_supported(opcode::Socket::CODE);
        kernel.set(Capability::Direct, socket && try_direct_close(&mut ring)?);
        kernel.set(Capability::MultishotAccept, socket);
        kernel.set(Capability::CancelAny, socket);
        kernel.set(Capability::SocketCommands, socket && try_socket_command(&mut ring)?);
        let (buffers, multishot) = try_multishot_recv(ring)?;
        kernel.set(Capability::BufferRing, buffers);
        kernel.set(Capability::MultishotRecv, multishot);
        Ok(kernel)
    }

    /// Whether it is there.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u8 != 0
    }

    /// Returns the newest version of which all capabilities are there, and those of all before it.
    pub fn tier(self) -> Version {
        let has_all = |(_, brought): &&(Version, &[Capability])| {
            brought.iter().all(|&capability| self.has(capability))
        };
        SINCE.iter().take_while(has_all).last().map_or(OLDEST_VERSION, |(version, _)| *version)
    }

    /// Returns why a server does not use a capability that is there; `None` if it does.
    pub fn unused(self, capability: Capability) -> Option<&'static str> {
        match capability {
            Capability::CoopTaskrun if self.has(Capability::DeferTaskrun) => {
                Some("SETUP_DEFER_TASKRUN replaces it")
            }
            Capability::MultishotAccept => Some("it brings no address of a peer"),
            _ => None,
        }
    }

    /// Returns the capabilities that a server uses.
    pub fn in_use(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |it| self.has(*it) && self.unused(*it).is_none())
    }

    /// Only what kernels up to `ceiling` had.
    ///
    /// # Errors
    /// That is less than suffices.
    pub fn lowered_to(self, ceiling: Version) -> io::Result<Kernel> {
        if ceiling < OLDEST_VERSION {
            let short = format!("io_uring as of {ceiling} lacks what a server needs");
            return Err(io::Error::other(format!("{short}: {OLDEST_VERSION} is the least")));
        }
        let newer = SINCE.iter().filter(|(version, _)| *version > ceiling);
        Ok(newer.flat_map(|(_, brought)| *brought).fold(self, |kernel, &one| kernel.without(one)))
    }

    /// The same without one, and without those that need it.
    #[must_use]
    pub fn without(mut self, capability: Capability) -> Kernel {
        self.set(capability, false);
        match capability {
            // A poll in front of each operation is on a descriptor of the process; and a send that
            // posts no completion may still be behind its poll when the enter that took it returns.
            Capability::FastPoll => {
                [Capability::Direct, Capability::BufferRing, Capability::CqeSkip]
                    .into_iter()
                    .fold(self, Kernel::without)
            }
            Capability::BufferRing => self.without(Capability::MultishotRecv),
            Capability::SingleIssuer => self.without(Capability::DeferTaskrun),
            _ => self,
        }
    }

    /// The same for a ring whose submissions a kernel thread takes: it runs the task work, and a
    /// send that posts no completion may not have begun when an enter returns.
    ///
    /// # Errors
    /// The thread would take only files that are registered.
    pub fn with_sqpoll(self) -> io::Result<Kernel> {
        if !self.has(Capability::ExtArg) {
            return Err(io::Error::other("SQPOLL needs Linux 5.11"));
        }
        let others = [Capability::DeferTaskrun, Capability::CoopTaskrun, Capability::CqeSkip];
        Ok(others.into_iter().fold(self, Kernel::without))
    }

    fn set(&mut self, capability: Capability, there: bool) {
        let bit = 1 << capability as u8;
        self.0 = if there { self.0 | bit } else { self.0 & !bit };
    }

    /// Returns how connections are received from, what a socket is, and the task-run flag.
    pub fn describe(self) -> String {
        let first = |names: &[(Capability, &'static str)], otherwise| {
            let found = names.iter().find(|(capability, _)| self.has(*capability));
            found.map_or(otherwise, |(_, name)| *name)
        };
        let receive = [
            (Capability::MultishotRecv, "multishot recv"),
            (Capability::BufferRing, "one-shot recv from a buffer ring"),
            (Capability::FastPoll, "one-shot recv"),
        ];
        let receive = first(&receive, "one-shot recv behind a poll");
        let flags = [
            (Capability::DeferTaskrun, "DEFER_TASKRUN"),
            (Capability::CoopTaskrun, "COOP_TASKRUN"),
        ];
        let flag = first(&flags, "no task-run flag");
        let files = if self.has(Capability::Direct) { ", direct descriptors" } else { "" };
        format!("{receive}{files}, {flag}")
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Capability::all().filter(|it| self.has(*it))).finish()
    }
}

/// Makes a builder set flags.
pub(super) type SetFlags = fn(&mut Builder) -> &mut Builder;

/// The flags that some kernels lack: the capability, the `IORING_SETUP_*` bits, and what sets them.
pub(super) const SETUP_FLAGS: [(Capability, u32, SetFlags); 6] = [
    // It permits nothing before it is enabled, and then only what is listed (`restrict.rs`).
    (Capability::Restrictions, 1 << 6, |builder| builder.setup_r_disabled()),
    // A bad submission does not stop the others of its batch.
    (Capability::SubmitAll, 1 << 7, |builder| builder.setup_submit_all()),
    // A completion does not interrupt this thread, which enters the kernel soon anyway: the kernel
    // says in the ring that completions wait to be made (TASKRUN_FLAG).
    (Capability::CoopTaskrun, 1 << 8 | TASKRUN_FLAG, |builder| {
        builder.setup_coop_taskrun().setup_taskrun_flag()
    }),
    // One thread submits, so the kernel need not lock; DEFER_TASKRUN requires it.
    (Capability::SingleIssuer, SINGLE_ISSUER, |builder| builder.setup_single_issuer()),
    // Completions are made in one batch when this thread asks for them, not one by one.
    (Capability::DeferTaskrun, 1 << 13 | TASKRUN_FLAG | SINGLE_ISSUER, |builder| {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()
    }),
    // Submissions are taken in order: no array of indices has to be written and read.
    (Capability::NoSqArray, 1 << 16, |builder| builder.setup_no_sqarray()),
];
const TASKRUN_FLAG: u32 = 1 << 9;
const SINGLE_ISSUER: u32 = 1 << 12;

/// How often a call is made again that fails for the moment, and when: the kernel frees the memory
/// of a closed ring a little after it is closed.
pub(super) const ATTEMPTS: u32 = 20;
pub(super) const INTERVAL: Duration = Duration::from_millis(10);

/// Makes a call, again if a signal came or something is short for the moment.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        match call().map_err(|error| (error.raw_os_error(), error)) {
            Ok(made) => return Ok(made),
            Err((Some(libc::EINTR), _)) => {}
            Err((Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM), _)) => sleep(INTERVAL),
            Err((_, error)) => return Err(error),
        }
    }
    call()
}

/// Makes a call that some kernels do not know: `None` if this one does not.
fn tried<T>(name: &'static str, call: impl FnMut() -> io::Result<T>) -> Result<Option<T>, Refusal> {
    match retried(call).map_err(|error| (error.raw_os_error(), error)) {
        Ok(made) => Ok(Some(made)),
        Err((Some(libc::EINVAL | libc::EOPNOTSUPP), _)) => Ok(None),
        Err((_, error)) if name == SETUP => {
            Err(Refusal::of(if setup_works() { MMAP } else { SETUP }, &error))
        }
        Err((_, error)) => Err(Refusal::of(name, &error)),
    }
}

/// Returns true if io_uring_setup(2) itself works: what fails is the mapping of the queues.
fn setup_works() -> bool {
    let mut params = [0u64; 15]; // 120 bytes of `struct io_uring_params`, all-zero: no flags.
    // SAFETY: the kernel reads and writes 120 bytes at `params` during the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
    // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
    fd >= 0 && unsafe { OwnedFd::from_raw_fd(fd as RawFd) }.as_raw_fd() >= 0
}

/// A throw-away ring, and which of the set-up flags it may have. On a new kernel one ring says it
/// all: each counts against the limit of locked memory until it is taken apart, some time after it
/// is closed.
fn set_up() -> Result<(IoUring, Kernel), Refusal> {
    let mut kernel = Kernel::OLDEST;
    let mut all = IoUring::builder();
    for (.., set) in SETUP_FLAGS {
        set(&mut all);
    }
    if let Some(ring) = tried(SETUP, || all.build(ENTRIES))?
        && enable(&ring)?
    {
        SETUP_FLAGS.iter().for_each(|(capability, ..)| kernel.set(*capability, true));
        return Ok((ring, kernel));
    }
    let ring = tried(SETUP, || IoUring::builder().build(ENTRIES))?;
    let unknown = || Refusal::of(SETUP, &io::Error::from_raw_os_error(libc::EINVAL));
    let ring = ring.ok_or_else(unknown)?;
    for (capability, _, set_flags) in SETUP_FLAGS {
        let with_flags = tried(SETUP, || set_flags(&mut IoUring::builder()).build(ENTRIES))?;
        let works = match &with_flags {
            Some(ring) if capability == Capability::Restrictions => enable(ring)?,
            ring => ring.is_some(),
        };
        kernel.set(capability, works);
    }
    Ok((ring, kernel))
}

/// Enables a ring that was made disabled. Returns false if it stays disabled, as on Linux 5.10.46,
/// which says that it is enabled every time (kernel-notes §80).
fn enable(ring: &IoUring) -> Result<bool, Refusal> {
    let register = || ring.submitter().register_enable_rings();
    retried(register).map_err(|error| Refusal::of(REGISTER, &error))?;
    Ok(register().is_err())
}

/// Queues and submits entries that refer to no memory, and waits for a completion.
fn submit(ring: &mut IoUring, entries: &[squeue::Entry]) -> Result<(), Refusal> {
    // SAFETY: no entry refers to memory.
    unsafe { ring.submission().push_multiple(entries) }.expect("an empty queue has space");
    retried(|| ring.submit_and_wait(1)).map_err(|error| Refusal::of(ENTER, &error)).map(drop)
}

/// Returns the results of the next completions, this many at least.
fn reap(ring: &mut IoUring, least: usize) -> Result<Vec<i32>, Refusal> {
    let mut results: Vec<i32> = ring.completion().map(|cqe| cqe.result()).collect();
    while results.len() < least {
        retried(|| ring.submit_and_wait(1)).map_err(|error| Refusal::of(ENTER, &error))?;
        results.extend(ring.completion().map(|cqe| cqe.result()));
    }
    Ok(results)
}

fn socket_pair() -> Result<(UnixStream, UnixStream), Refusal> {
    UnixStream::pair().map_err(|error| Refusal::of("socketpair", &error))
}

/// Whether closing a direct descriptor closes its socket while an older operation rests on another:
/// the peer must hear the end. Older kernels release slots in the order of what uses them, so one
/// idle connection would keep all that are closed after it open (kernel-notes §67).
fn try_direct_close(ring: &mut IoUring) -> Result<bool, Refusal> {
    let (resting, its_peer) = socket_pair()?;
    let (socket, mut peer) = socket_pair()?;
    let submitter = ring.submitter();
    let files = [resting.as_raw_fd(), socket.as_raw_fd()];
    let registered = tried(REGISTER, || {
        submitter.register_files_sparse(8)?;
        submitter.register_files_update(0, &files)
    })?;
    if registered.is_none() {
        return Ok(false);
    }
    drop(socket); // Now its slot alone has it.
    let rest = opcode::PollAdd::new(types::Fixed(0), libc::POLLIN as u32).build();
    let close = opcode::Close::new(types::Fixed(1)).build();
    submit(ring, &[rest, close])?;
    let results = reap(ring, 1)?;
    let closed = peer.set_nonblocking(true).is_ok() && matches!(peer.read(&mut [0]), Ok(0));
    drop(its_peer); // Which ends what rests, before anything else is tried.
    reap(ring, 2 - results.len())?;
    Ok(closed && results == [0])
}

/// Whether `SIOCOUTQ` of a TCP socket is an operation: an older kernel has the operation, but no
/// command for sockets.
fn try_socket_command(ring: &mut IoUring) -> Result<bool, Refusal> {
    // Where there is no TCP, no socket has it.
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { return Ok(false) };
    let fd = types::Fd(socket.as_raw_fd());
    submit(ring, &[opcode::UringCmd16::new(fd, SOCKET_URING_OP_SIOCOUTQ).build()])?;
    Ok(reap(ring, 1)? == [0])
}

/// Registers a ring of buffers and receives one byte by a multishot recv from a private pair of
/// sockets: an `EINVAL`, or a receive that ends at once, says that it is not there (kernel-notes
/// §15). Returns whether there are buffer rings, and whether there is multishot recv.
fn try_multishot_recv(mut ring: IoUring) -> Result<(bool, bool), Refusal> {
    let pool = Pool::new(&[BufferClass { bytes: 64, count: 2 }]);
    let pool = pool.map_err(|error| Refusal::of(MMAP, &error))?;
    let register = || ProvidedRing::register(&ring, &pool, Size::SMALLEST);
    let Some(mut provided) = tried(REGISTER, register)? else { return Ok((false, false)) };
    provided.lend(&pool);
    let (ours, mut theirs) = socket_pair()?;
    theirs.write_all(b"x").map_err(|error| Refusal::of("write", &error))?;
    const RECV: u64 = 1; // What else was tried on this ring is not its answer.
    let recv = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), 0).build().user_data(RECV);
    // SAFETY: the receive writes only into the pool's lent buffers. Below, it is waited for until
    // it has ended; if that fails, the pool and the ring of buffers are never freed.
    unsafe { ring.submission().push(&recv) }.expect("an empty queue has space");
    let mut answers = Vec::new();
    let (mut ended, mut refused) = (false, None);
    let mut theirs = Some(theirs);
    for _ in 0..4 {
        refused = retried(|| ring.submit_and_wait(1)).err();
        if refused.is_some() {
            break;
        }
        for cqe in ring.completion().filter(|cqe| cqe.user_data() == RECV) {
            ended |= !cqueue::more(cqe.flags());
            answers.push((cqe.result(), cqueue::more(cqe.flags())));
        }
        theirs = None; // which ends the receive
        if ended {
            break;
        }
    }
    drop(theirs);
    if !ended {
        std::mem::forget((pool, provided));
    } else {
        provided.unregister(&ring);
    }
    match refused {
        Some(error) => Err(Refusal::of(ENTER, &error)),
        None => Ok((true, ended && answers.first() == Some(&(1, true)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Kernel = Kernel((1 << (Capability::NoIowait as u8 + 1)) - 1);

    #[test]
    fn the_table_lists_every_capability_once_and_by_age() {
        let listed: Vec<usize> =
            SINCE.iter().flat_map(|(_, brought)| *brought).map(|one| *one as usize).collect();
        assert_eq!(listed, Vec::from_iter(0..=Capability::NoIowait as usize));
        assert!(SINCE.is_sorted_by(|(older, _), (newer, _)| older < newer));
        assert!(SINCE[0].0 > OLDEST_VERSION);
    }

    #[test]
    fn lowering_takes_away_what_came_later() {
        let lowered = |text: &str| ALL.lowered_to(text.parse().unwrap()).unwrap();
        assert_eq!(lowered("5.6"), Kernel::OLDEST);
        assert!(lowered("5.7").has(Capability::FastPoll));
        assert!(!lowered("5.10").has(Capability::ExtArg));
        assert!(lowered("6.0").has(Capability::MultishotRecv));
        assert!(!lowered("6.0").has(Capability::DeferTaskrun));
        // There they keep closed sockets open (kernel-notes §67).
        assert!(!lowered("6.12").has(Capability::Direct));
        assert_eq!(lowered("99.0"), ALL);
        assert!(ALL.lowered_to(Version { major: 5, minor: 5 }).is_err());
    }

    #[test]
    fn what_needs_a_feature_is_left_out_with_it() {
        use Capability::{BufferRing, CqeSkip, DeferTaskrun, Direct, MultishotRecv, SingleIssuer};
        let left_out = |one: Capability| {
            let rest = ALL.without(one);
            Capability::all().filter(move |it| !rest.has(*it)).collect::<Vec<_>>()
        };
        // A skipped completion would count a send as done that waits behind its poll.
        let behind_polls = [Capability::FastPoll, CqeSkip, BufferRing, MultishotRecv, Direct];
        assert_eq!(left_out(Capability::FastPoll), behind_polls);
        assert_eq!(left_out(BufferRing), [BufferRing, MultishotRecv]);
        assert_eq!(left_out(SingleIssuer), [SingleIssuer, DeferTaskrun]);
        assert_eq!(left_out(CqeSkip), [CqeSkip]);
    }

    #[test]
    fn a_tier_is_the_newest_version_of_which_nothing_is_absent() {
        let tier = |kernel: Kernel| kernel.tier().to_string();
        assert_eq!(tier(Kernel::OLDEST), "5.6");
        assert_eq!(tier(ALL), SINCE[SINCE.len() - 1].0.to_string());
        assert_eq!(tier(ALL.lowered_to("6.1".parse().unwrap()).unwrap()), "6.1");
        assert_eq!(tier(ALL.without(Capability::CqeSkip)), "5.11");
    }

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!("6.1".parse(), Ok(Version { major: 6, minor: 1 }));
        for wrong in ["6", "six.one", "6.1.2", "", "-6.1"] {
            assert!(wrong.parse::<Version>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
