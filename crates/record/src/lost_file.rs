//! Survival of a recorder whose file is cut short while it is mapped.
//!
//! A store to a mapped page of a file raises SIGBUS if the page lies beyond the end of a file that
//! another program has truncated, or if the filesystem has no block for it. The handler of
//! [`survive_lost_files`] maps memory in place of the whole file, marks its header as stopped, and
//! returns: the store is repeated and succeeds. A fault at any other address is left to the handler
//! that was there before, or to the default action.
//!
//! # Protocol
//! Each mapping has a region in a static table, which a fork copies together with the mapping.
//!
//! 1. `register` takes a free region: it sets `start` from 0 by `compare_exchange`, then
//!    `state` (Relaxed), then `len` (Release). Before `len` is set no address is in the region.
//! 2. The thread that faults, or finds that the file is no recording any more, loads `len`
//!    (Acquire), and sets `state` from `FILE` to `REPLACING` by `compare_exchange`. So one thread
//!    replaces the mapping. Another one that faults meanwhile returns, and repeats its store until
//!    step 3 is done.
//! 3. It maps memory, stores the reason in the header, and sets `state` to `MEMORY`.
//! 4. `unregister` sets `len` to 0, then `start` to 0 (Release), before the pages
//!    are unmapped. No thread is in step 2 or 3 then: a store to the pages borrows their owner.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::format::{Frozen, at};

/// A mapping that the handler may replace.
struct Region {
    start: AtomicUsize,
    len: AtomicUsize,
    state: AtomicU32,
}

// The states of a region.
const FILE: u32 = 0;
const REPLACING: u32 = 1;
const MEMORY: u32 = 2;
const FAILED: u32 = 3;

impl Region {
    const fn new() -> Region {
        let (start, len) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Region { start, len, state: AtomicU32::new(FILE) }
    }
}

/// As many recorders of a process are protected; a server has one or two.
static REGIONS: [Region; 64] = [const { Region::new() }; 64];

/// The handler before ours.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on a recording whose file is cut short, or whose disk has no block for a page, stops
/// with a warning, instead of ending the process by SIGBUS. It installs a handler of SIGBUS, which
/// passes all other faults on to the handler before it. A recorder does not call this itself: the
/// handlers of a process are its program's decision.
///
/// # Errors
/// sigaction(2), never for this signal.
pub fn survive_lost_files() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: all-zero is a valid sigaction: the default action, an empty mask.
    let (mut before, mut action): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: `before` is written to during the call; nothing is set.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) };
    if BEFORE.set(before).is_err() {
        return Ok(());
    }
    let handler: extern "C" fn(_, _, _) = on_bus_error;
    (action.sa_sigaction, action.sa_flags) =
        (handler as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK);
    // SAFETY: `action` is read during the call. Its handler is async-signal-safe: atomics, mmap(2),
    // sigaction(2), and the handler that the process had for this signal before.
    match unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes the information of this signal; with this code it has an address.
    let fault = unsafe { ((*info).si_code == libc::BUS_ADRERR).then(|| (*info).si_addr()) };
    if fault.is_some_and(|fault| replace(fault.addr())) {
        return;
    }
    let before = BEFORE
        .get()
        .filter(|old| old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN);
    match before {
        // SAFETY: sigaction(2) returned this handler together with the flag that gives it three
        // arguments; they are passed on as the kernel passed them.
        Some(old) if old.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(old.sa_sigaction);
            handler(signal, info, context);
        },
        // SAFETY: as above, without the flag: it takes the signal alone.
        Some(old) => unsafe {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(old.sa_sigaction);
            handler(signal);
        },
        None => {
            // SAFETY: all-zero is the default action. The instruction faults again behind this
            // handler, and the process ends by the signal.
            unsafe {
                let action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// Maps memory in place of the file that has this address: steps 2 and 3 of the protocol. Returns
/// false if no region has it, or if there is no memory.
pub(crate) fn replace(address: usize) -> bool {
    let is_in = |region: &&Region| {
        let len = region.len.load(Ordering::Acquire);
        address.wrapping_sub(region.start.load(Ordering::Relaxed)) < len
    };
    let Some(region) = REGIONS.iter().find(is_in) else { return false };
    let claimed =
        region.state.compare_exchange(FILE, REPLACING, Ordering::Relaxed, Ordering::Relaxed);
    if let Err(state) = claimed {
        // Also if the other thread has just finished: the store is repeated in any case.
        return state != FAILED;
    }
    let start = std::ptr::without_provenance_mut(region.start.load(Ordering::Relaxed));
    let len = region.len.load(Ordering::Relaxed);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the region is that of a log, which stays registered as long as a thread can fault
    // in it (step 4), and so all of these pages are the mapping of that recorder. All access to
    // them is by atomics or by their one owner, for which they now have zeros.
    let mapped = unsafe { libc::mmap(start, len, access, kind, -1, 0) };
    if mapped == libc::MAP_FAILED {
        region.state.store(FAILED, Ordering::Relaxed);
        return false;
    }
    // SAFETY: the mapping begins with a header, which has an aligned number there.
    let frozen = unsafe { AtomicU32::from_ptr(mapped.byte_add(at::FROZEN).cast()) };
    frozen.store(Frozen::LostFile as u32, Ordering::Relaxed);
    region.state.store(MEMORY, Ordering::Relaxed);
    true
}

/// Registers a mapping of a log, at the start of which is its header: step 1 of the protocol.
pub(crate) fn register(start: *const u8, len: usize) {
    let take = |region: &&Region| {
        let order = (Ordering::Acquire, Ordering::Relaxed);
        region.start.compare_exchange(0, start.addr(), order.0, order.1).is_ok()
    };
    if let Some(region) = REGIONS.iter().find(take) {
        region.state.store(FILE, Ordering::Relaxed);
        region.len.store(len, Ordering::Release);
    }
}

/// Removes a mapping from the table, before it is unmapped: step 4 of the protocol.
pub(crate) fn unregister(start: *const u8) {
    let is_its = |region: &&Region| region.start.load(Ordering::Relaxed) == start.addr();
    if let Some(region) = REGIONS.iter().find(is_its) {
        region.len.store(0, Ordering::Relaxed);
        region.start.store(0, Ordering::Release);
    }
}
