//! Where what the client says comes from.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{INPUT, Script, watch};
use proactor::selector::{Epoll, Interest, Selector, Trigger};

/// Where what is said comes from.
pub(super) enum Speaker {
    /// A terminal, a pipe, a socket: watched.
    Stream(File, Option<Interest>),
    /// What cannot be watched, because it is always ready: a file, /dev/null.
    File(File),
    /// The first part is due when every connection is there, or has failed.
    Parts { parts: VecDeque<Vec<u8>>, pause: Duration, due: Instant },
    /// All has been said.
    Done,
}

impl Speaker {
    pub(super) fn new(script: Script) -> io::Result<Speaker> {
        let file = match script {
            Script::Parts { parts, pause } => {
                return Ok(Speaker::Parts { parts, pause, due: Instant::now() });
            }
            Script::Typed(file) => file,
        };
        // The kernel alone knows what can be watched, and says so when it is tried.
        match Epoll::new(Trigger::Level)?.add(file.as_fd(), INPUT, Interest::READ) {
            Ok(()) => Ok(Speaker::Stream(file, None)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Speaker::File(file)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Speaker::File(_))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Speaker::Done)
    }

    pub(super) fn watch(&mut self, selector: &mut Epoll, interest: Interest) -> io::Result<()> {
        match self {
            Speaker::Stream(file, watched) => {
                watch(selector, file.as_fd(), INPUT, watched, interest)
            }
            _ => Ok(()),
        }
    }
}
