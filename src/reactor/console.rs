//! The operator console at the readiness loop: its input is watched as sockets are.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use super::{Reactor, WatchedSocket};
use crate::address;
use crate::console::{Console, SocketInfo};
use crate::keys::KeyOwner;
use crate::limits::Ended;
use crate::protocol::Protocol;
use crate::selector::{Interest, Selector, Trigger};

/// What is known of the readiness of the console's input.
#[derive(Debug, Default)]
pub(super) struct InputReadiness {
    /// True exactly when the selector watches the input.
    watched: bool,
    /// True from a report until it is read from; of an input that no selector can watch, until its
    /// end.
    pub(super) readable: bool,
}

impl InputReadiness {
    /// # Errors
    /// The selector cannot watch the input.
    pub(super) fn watch(console: &Console, selector: &mut impl Selector) -> io::Result<Self> {
        let key = KeyOwner::Console.into();
        let watched = match selector.add_shared(console.input(), key, Interest::READ) {
            Ok(()) => true,
            // epoll(7) watches no files: they are always readable (kernel-notes §35).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error),
        };
        Ok(InputReadiness { watched, readable: !watched })
    }
}

impl<S: Selector, P: Protocol> Reactor<S, P> {
    /// Reads the console's input once, if it is readable, and runs the commands.
    pub(super) fn read_console(&mut self) -> io::Result<ControlFlow<Ended>> {
        let input = &mut self.console_input;
        let Some(console) = self.state.console.as_mut().filter(|_| input.readable) else {
            return Ok(ControlFlow::Continue(()));
        };
        console.read();
        if input.watched {
            input.readable = false;
            if self.selector.trigger() != Trigger::Level {
                // There may be more: a terminal returns a line at a time, and an edge does not
                // report the next one.
                self.selector.modify(console.input(), KeyOwner::Console.into(), Interest::READ)?;
            }
        }
        self.serve_console()
    }

    /// Prints the messages to the operator, and runs the commands that were read.
    pub(super) fn serve_console(&mut self) -> io::Result<ControlFlow<Ended>> {
        let flow = self.state.serve_console(WatchedSocket::socket_info);
        if let Some(console) = self.state.console.as_ref().filter(|console| console.has_ended()) {
            let input = std::mem::take(&mut self.console_input);
            if input.watched {
                self.selector.remove(console.input())?;
            }
        }
        Ok(flow)
    }
}

impl WatchedSocket {
    /// Returns what the console shows of it.
    fn socket_info(&self) -> SocketInfo {
        let watched = match (self.interest.readable, self.interest.writable) {
            (false, false) => None,
            (true, false) => Some("watched: read"),
            (false, true) => Some("watched: write"),
            (true, true) => Some("watched: read|write"),
        };
        let mut doing = Vec::from_iter(watched.map(str::to_owned));
        // What is remembered: to be read in the next iteration, or full until it is reported.
        doing.extend(self.readable.then(|| "readable".to_owned()));
        doing.extend((!self.writable).then(|| "full".to_owned()));
        SocketInfo { address: address::of_peer(self.fd.as_fd()), doing }
    }
}
