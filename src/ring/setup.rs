//! Setting up a ring: the flags, each with its reason, and a size that locked memory permits.
//!
//! The queues, and the rings of buffers, count against `RLIMIT_MEMLOCK` on many kernels
//! (kernel-notes §14). Where it is short, a smaller queue costs more system calls and nothing else.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use io_uring::IoUring;

use super::kernel::{Capability, Kernel, Refusal};
use super::provided::ProvidedRing;
use crate::buffer::{Pool, Size};

/// Submission queue entries: one iteration of a busy server fits one enter, more take several.
const ENTRIES: u32 = 512;
/// The smallest queue that is tried when locked memory is short.
const ENTRIES_MIN: u32 = 32;
/// How often, at intervals of [`INTERVAL`], the smallest queue is tried again: the kernel frees the
/// memory of a closed ring, such as the one used for detection, a little later.
const ATTEMPTS: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(10);

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
) -> io::Result<(IoUring, Vec<ProvidedRing>)> {
    // The submission queue may not be the longer of the two.
    let wanted = ENTRIES.min(completions);
    let (mut entries, mut attempts) = (wanted, ATTEMPTS);
    loop {
        let both = queues(kernel, entries, completions)
            .and_then(|ring| buffers(kernel, &ring, pool).map(|provided| (ring, provided)));
        match both {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && attempts > 0 => {
                if entries > ENTRIES_MIN {
                    entries /= 2;
                } else {
                    attempts -= 1;
                    std::thread::sleep(INTERVAL);
                }
            }
            Err(error) => return Err(io::Error::new(error.kind(), Refusal::Setup(error))),
            Ok(both) => {
                if entries < wanted {
                    tracing::warn!(entries, "locked memory is short (ulimit -l): a smaller queue");
                }
                return Ok(both);
            }
        }
    }
}

/// `IORING_SETUP_*`, by their bits, each with the reason to set it.
mod flag {
    /// The completion queue is longer than twice the submission queue: armed operations complete
    /// without having been submitted in this iteration.
    pub(super) const CQSIZE: u32 = 1 << 3;
    /// A queue that is longer than the kernel permits is shortened instead of refused.
    pub(super) const CLAMP: u32 = 1 << 4;
    /// A bad submission does not stop the others of its batch.
    pub(super) const SUBMIT_ALL: u32 = 1 << 7;
    /// A completion does not interrupt this thread: it enters the kernel soon anyway.
    pub(super) const COOP_TASKRUN: u32 = 1 << 8;
    /// The kernel says in the ring that completions wait to be made.
    pub(super) const TASKRUN_FLAG: u32 = 1 << 9;
    /// One thread submits, so the kernel need not lock; DEFER_TASKRUN requires it.
    pub(super) const SINGLE_ISSUER: u32 = 1 << 12;
    /// Completions are made in one batch when this thread asks for them, not one by one.
    pub(super) const DEFER_TASKRUN: u32 = 1 << 13;
    /// Submissions are taken in order: no array of indices has to be written and read.
    pub(super) const NO_SQARRAY: u32 = 1 << 16;
}

/// Returns the `IORING_SETUP_*` flags of a ring on this kernel.
pub(super) fn setup_flags(kernel: Kernel) -> u32 {
    let taskrun = if kernel.has(Capability::DeferTaskrun) {
        flag::DEFER_TASKRUN | flag::TASKRUN_FLAG
    } else if kernel.has(Capability::CoopTaskrun) {
        flag::COOP_TASKRUN | flag::TASKRUN_FLAG
    } else {
        0
    };
    let some = |capability, flag| if kernel.has(capability) { flag } else { 0 };
    flag::CQSIZE
        | flag::CLAMP
        | some(Capability::SubmitAll, flag::SUBMIT_ALL)
        | some(Capability::SingleIssuer, flag::SINGLE_ISSUER)
        | taskrun
        | some(Capability::NoSqArray, flag::NO_SQARRAY)
}

fn queues(kernel: Kernel, entries: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // A forked child must not inherit the mappings of the queues.
    builder.dontfork().setup_clamp().setup_cqsize(completions.min(entries * 16));
    let flags = setup_flags(kernel);
    if flags & flag::SUBMIT_ALL != 0 {
        builder.setup_submit_all();
    }
    if flags & flag::SINGLE_ISSUER != 0 {
        builder.setup_single_issuer();
    }
    if flags & flag::DEFER_TASKRUN != 0 {
        builder.setup_defer_taskrun();
    }
    if flags & flag::COOP_TASKRUN != 0 {
        builder.setup_coop_taskrun();
    }
    if flags & flag::TASKRUN_FLAG != 0 {
        builder.setup_taskrun_flag();
    }
    if flags & flag::NO_SQARRAY != 0 {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

fn buffers(kernel: Kernel, ring: &IoUring, pool: &Rc<Pool>) -> io::Result<Vec<ProvidedRing>> {
    if !kernel.has(Capability::BufferRing) {
        return Ok(Vec::new());
    }
    let sizes = (0..pool.sizes()).map(|at| Size(at as u8));
    let total: usize = sizes.clone().map(|size| pool.shape(size).count).sum();
    assert!(total <= 1 << 16, "a provided buffer's id has sixteen bits");
    sizes.map(|size| ProvidedRing::register(ring, pool, size)).collect()
}
