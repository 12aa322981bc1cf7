//! The source of the bytes that the client sends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{INPUT, Script, watch};
use proactor::selector::{Epoll, Interest, Selector, Trigger};

/// The source of the bytes to send.
pub(super) enum Source {
    /// A terminal, a pipe, a socket: registered with epoll.
    Stream(File, Option<Interest>),
    /// A file or /dev/null: always ready, and refused by epoll.
    File(File),
    /// Parts. The first is due when every connection is established or has failed.
    Parts { parts: VecDeque<Vec<u8>>, pause: Duration, due: Instant },
    /// Everything is read.
    Done,
}

impl Source {
    pub(super) fn new(script: Script) -> io::Result<Source> {
        let file = match script {
            Script::Parts { parts, pause } => {
                return Ok(Source::Parts { parts, pause, due: Instant::now() });
            }
            Script::Input(file) => file,
        };
        // Only the kernel knows which files epoll takes.
        match Epoll::new(Trigger::Level)?.add(file.as_fd(), INPUT, Interest::READ) {
            Ok(()) => Ok(Source::Stream(file, None)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Source::File(file)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Source::File(_))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Source::Done)
    }

    pub(super) fn watch(&mut self, selector: &mut Epoll, interest: Interest) -> io::Result<()> {
        match self {
            Source::Stream(file, watched) => {
                watch(selector, file.as_fd(), INPUT, watched, interest)
            }
            _ => Ok(()),
        }
    }
}
