//! Setting up a ring: the flags, each with its reason, and a size that locked memory permits.
//!
//! The queues, and the rings of buffers, count against `RLIMIT_MEMLOCK` on many kernels
//! (kernel-notes §14). Where it is short, a smaller queue costs more system calls and nothing else.

use std::io;
use std::rc::Rc;

use io_uring::IoUring;
use io_uring::types::Napi;

use super::kernel::{ATTEMPTS, Capability, INTERVAL, Kernel, SETUP_FLAGS, SetFlags};
use super::provided::ProvidedRing;
use crate::buffer::{Pool, Size};
use crate::polling::Polling;
use crate::refusal::{REGISTER, Refusal, SETUP};

/// Submission queue entries: one iteration of a busy server fits one enter, more take several.
const ENTRIES: u32 = 512;
/// The smallest queue that is tried when locked memory is short.
const ENTRIES_MIN: u32 = 32;

/// Sets up a ring with at most this many completions, and its rings of buffers if `kernel` has
/// them.
///
/// # Errors
/// What the kernel says; where it lacks memory, that and the way out.
///
/// # Panics
/// If the pool has more buffers than can be provided.
pub(super) fn set_up(
    kernel: Kernel,
    pool: &Rc<Pool>,
    completions: u32,
    polling: Polling,
) -> io::Result<(IoUring, Vec<ProvidedRing>)> {
    // The submission queue may not be the longer of the two.
    let wanted = ENTRIES.min(completions);
    let (mut entries, mut attempts) = (wanted, ATTEMPTS);
    loop {
        let both = queues(kernel, entries, completions, polling).map_err(|error| (SETUP, error));
        let both = both.and_then(|ring| match register(kernel, &ring, pool, polling) {
            Ok(provided) => Ok((ring, provided)),
            Err(error) => Err((REGISTER, error)),
        });
        match both {
            // The smallest queue is tried again: the kernel frees the memory of a closed ring, such
            // as the one used for detection, a little later.
            Err((_, error)) if error.raw_os_error() == Some(libc::ENOMEM) && attempts > 0 => {
                if entries > ENTRIES_MIN {
                    entries /= 2;
                } else {
                    attempts -= 1;
                    std::thread::sleep(INTERVAL);
                }
            }
            Err((call, error)) => return Err(Refusal::of(call, &error).into()),
            Ok(both) => {
                if entries < wanted {
                    tracing::warn!(entries, "locked memory is short (ulimit -l): a smaller queue");
                }
                return Ok(both);
            }
        }
    }
}

/// The completion queue is longer than twice the submission queue: armed operations complete
/// without having been submitted in this iteration.
const CQSIZE: u32 = 1 << 3;
/// A queue that is longer than the kernel permits is shortened instead of refused.
const CLAMP: u32 = 1 << 4;
/// A kernel thread takes what is submitted.
const SQPOLL: u32 = 1 << 1;

/// Returns the flags of a ring on this kernel: of the two that make completions, the better one.
fn chosen(kernel: Kernel) -> impl Iterator<Item = (u32, SetFlags)> {
    let defers = kernel.has(Capability::DeferTaskrun);
    let is_chosen = move |capability| {
        kernel.has(capability) && !(defers && capability == Capability::CoopTaskrun)
    };
    let flags = SETUP_FLAGS.into_iter().filter(move |(capability, ..)| is_chosen(*capability));
    flags.map(|(_, bits, set)| (bits, set))
}

/// Returns the `IORING_SETUP_*` flags of a ring on this kernel.
pub(super) fn setup_flags(kernel: Kernel, polling: Polling) -> u32 {
    let sqpoll = polling.sqpoll.map_or(0, |_| SQPOLL);
    chosen(kernel).fold(CQSIZE | CLAMP | sqpoll, |flags, (bits, _)| flags | bits)
}

fn queues(kernel: Kernel, entries: u32, completions: u32, polling: Polling) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // A forked child must not inherit the mappings of the queues.
    builder.dontfork().setup_clamp().setup_cqsize(completions.min(entries * 16));
    for (_, set) in chosen(kernel) {
        set(&mut builder);
    }
    if let Some(idle) = polling.sqpoll {
        builder.setup_sqpoll(idle.as_millis().max(1) as u32);
    }
    builder.build(entries)
}

/// Registers the rings of buffers, and how the ring polls devices.
fn register(
    kernel: Kernel,
    ring: &IoUring,
    pool: &Rc<Pool>,
    polling: Polling,
) -> io::Result<Vec<ProvidedRing>> {
    if let Some(time) = polling.napi {
        let micros = time.as_micros() as u32;
        ring.submitter().register_napi(&mut Napi::new().set_busy_poll_timeout(micros))?;
    }
    if !kernel.has(Capability::BufferRing) {
        return Ok(Vec::new());
    }
    let sizes = (0..pool.sizes()).map(|at| Size(at as u8));
    let total: usize = sizes.clone().map(|size| pool.shape(size).count).sum();
    assert!(total <= 1 << 16, "a provided buffer's id has sixteen bits");
    sizes.map(|size| ProvidedRing::register(ring, pool, size)).collect()
}
