//! A readiness loop as a part of something larger: its owner turns it, has it watch descriptors of
//! its own, and brings it connections that it did not accept.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Reactor, Whose};
use crate::clock::Nanos;
use crate::keys::ConnId;
use crate::limits::Stage;
use crate::os;
use crate::peers::Room;
use crate::protocol::Protocol;
use crate::selector::{Interest, Selector};

impl<S: Selector, P: Protocol + Clone> Reactor<S, P> {
    /// Serves a connection, a non-blocking socket, that was accepted elsewhere, in the room of a
    /// listener or in one of its own. It is not counted as accepted here.
    pub fn adopt(&mut self, fd: OwnedFd, protocol: P, room: Room) -> ConnId {
        let socket = self.socket(fd, 1);
        let id = self.peers.open(protocol, room, socket);
        self.watch_new(id);
        id
    }

    /// As [`adopt`](Reactor::adopt), but for a [line](crate::peers::Peers::open_line) within the
    /// house: what passes there is not counted.
    pub fn adopt_line(&mut self, fd: OwnedFd, protocol: P, room: Room) -> ConnId {
        let socket = self.socket(fd, 0);
        let id = self.peers.open_line(protocol, room, socket);
        self.watch_new(id);
        id
    }

    /// Watches whether a descriptor of its owner may be read from, as long as it may, and reports
    /// it as `guest`.
    ///
    /// # Errors
    /// It is watched already, or cannot be.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, guest: u32) -> io::Result<()> {
        self.selector.add(fd, Whose::Guest(guest).into(), Interest::READ)
    }

    /// Ceases to watch a descriptor of its owner.
    ///
    /// # Errors
    /// It is not watched.
    pub fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.selector.remove(fd)
    }

    /// Moves to `guests` which of its owner's descriptors were reported since the last time.
    pub fn take_guests(&mut self, guests: &mut Vec<u32>) {
        guests.append(&mut self.guests);
    }

    /// No turn sleeps beyond this moment.
    pub fn wake_at(&mut self, when: Option<Nanos>) {
        self.wake_at = when;
    }

    /// Drains, as if it had been asked to stop; if it does already, nothing changes.
    pub fn drain(&mut self) {
        if self.stage == Stage::Serving {
            self.stage = Stage::Draining(os::now() + self.limits.drain);
            self.peers.finish_all();
        }
    }
}
