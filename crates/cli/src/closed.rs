//! Whether this program was started without a standard output.
//!
//! std opens /dev/null in place of a closed standard stream before `main`, and what is written
//! there is lost without an error. A function of `.init_array` looks before that.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Returns true if standard output was closed when this program started.
pub(crate) fn stdout_was_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look() {
    // SAFETY: fcntl(2) takes numbers alone here, and nothing of std is used that its start sets up.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    IS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the linker's section of pointers to functions, which the C library calls before `main`;
// the arguments that it passes are of no effect to a function without parameters.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;
