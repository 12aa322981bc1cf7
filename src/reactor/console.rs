//! The operator's desk at the readiness loop: what is typed is waited for as sockets are.

use std::io;
use std::os::fd::AsFd;

use super::{Reactor, Socket};
use crate::address;
use crate::calls::SocketCalls;
use crate::console::{Console, Moment, Order, SocketInfo};
use crate::limits::Stage;
use crate::os;
use crate::protocol::Protocol;
use crate::selector::{Interest, KeyOwner, Selector, Trigger};

/// A console, and what is known of the readiness of its input.
#[derive(Debug)]
pub(super) struct ConsoleInput {
    pub(super) console: Console,
    /// True exactly when the selector watches the input.
    watched: bool,
    /// True from a report until it is read from; of what no selector can watch, until its end.
    pub(super) readable: bool,
}

impl<S: Selector + SocketCalls, P: Protocol + Clone> Reactor<S, P> {
    /// Has an operator see and do at `console` what there is to be seen and done. The listeners of the
    /// console are the listeners, in their order.
    ///
    /// # Errors
    /// The selector cannot watch the input.
    pub fn attend_to(&mut self, console: Console) -> io::Result<()> {
        let key = KeyOwner::Console.into();
        let watched = match self.selector.add_shared(console.input(), key, Interest::READ) {
            Ok(()) => true,
            // epoll(7) watches no files: they are always readable (kernel-notes §35).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error),
        };
        self.desk = Some(Box::new(ConsoleInput { console, watched, readable: !watched }));
        self.peers.expect_operator();
        Ok(())
    }

    /// Reads once of what is typed, if there is something; answers whether the server was asked to
    /// end at once.
    pub(super) fn read_typed(&mut self) -> io::Result<bool> {
        let Some(desk) = self.desk.as_mut().filter(|desk| desk.readable) else { return Ok(false) };
        desk.console.read();
        if desk.watched {
            desk.readable = false;
            if self.selector.trigger() != Trigger::Level {
                // It may have more: a terminal gives a line at a time, and tells of none behind it.
                let (input, key) = (desk.console.input(), KeyOwner::Console.into());
                self.selector.modify(input, key, Interest::READ)?;
            }
        }
        self.attend()
    }

    /// Lets the operator see and do; answers whether the server was asked to end at once.
    pub(super) fn attend(&mut self) -> io::Result<bool> {
        let Some(mut desk) = self.desk.take() else { return Ok(false) };
        let quits = loop {
            let ending = self.stage != Stage::Serving;
            let moment = Moment { counters: self.counters(), now: os::now(), ending };
            match self.peers.attend(&mut desk.console, moment, Socket::socket_info) {
                None => break false,
                Some(Order::Quit) => break true,
                Some(Order::Drain) => self.drain(),
            }
        };
        if desk.console.has_ended() {
            desk.readable = false;
            if std::mem::take(&mut desk.watched) {
                self.selector.remove(desk.console.input())?;
            }
        }
        self.desk = Some(desk);
        Ok(quits)
    }
}

impl Socket {
    /// As an operator sees it.
    fn socket_info(&self) -> SocketInfo {
        let mut doing = Vec::new();
        if self.interest != Interest::NONE {
            doing.push(format!("watched: {:?}", self.interest));
        }
        // What is remembered: to be read from in the next turn, or full until it is reported.
        doing.extend(self.readable.then(|| "readable".to_owned()));
        doing.extend((!self.writable).then(|| "full".to_owned()));
        SocketInfo { address: address::of_peer(self.fd.as_fd()), doing }
    }
}
