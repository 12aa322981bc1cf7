//! A readiness loop as a part of something larger: its owner turns it, has it watch descriptors of
//! its own, and brings it connections that it did not accept.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Reactor;
use crate::calls::SocketCalls;
use crate::clock::Nanos;
use crate::keys::ConnId;
use crate::limits::Stage;
use crate::os;
use crate::peers::Room;
use crate::protocol::Protocol;
use crate::selector::{Interest, KeyOwner, Selector};

impl<S: Selector + SocketCalls, P: Protocol + Clone> Reactor<S, P> {
    /// Serves a connection, a non-blocking socket, that was accepted elsewhere, in the room of a
    /// listener or in one of its own. It is not counted as accepted here.
    pub fn adopt(&mut self, fd: OwnedFd, protocol: P, room: Room) -> ConnId {
        let socket = self.socket(fd, 1);
        let id = self.peers.open(protocol, room, socket);
        self.watch_new(id);
        id
    }

    /// As [`adopt`](Reactor::adopt), but for a [line](crate::peers::Peers::open_link) within the
    /// house: what passes there is not counted.
    pub fn adopt_link(&mut self, fd: OwnedFd, protocol: P, room: Room) -> ConnId {
        let socket = self.socket(fd, 0);
        let id = self.peers.open_link(protocol, room, socket);
        self.watch_new(id);
        id
    }

    /// By what the next connection will be known here.
    pub fn next_id(&self) -> ConnId {
        self.peers.next_id()
    }

    /// By what it waits.
    pub fn selector_mut(&mut self) -> &mut S {
        &mut self.selector
    }

    /// Watches whether a descriptor of its owner may be read from, as long as it may, and reports
    /// it as `guest`.
    ///
    /// # Errors
    /// It is watched already, or cannot be.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, guest: u32) -> io::Result<()> {
        self.selector.add(fd, KeyOwner::External(guest).into(), Interest::READ)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::buffer::{BufferClass, Pool};
    use crate::limits::{Ended, Limits};
    use crate::os::ShutdownSignal;
    use crate::protocol::Echo;
    use crate::selector::Poll;

    fn reactor() -> Reactor<Poll, Echo> {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 8 }]).unwrap();
        Reactor::new(Poll::new(), pool, Limits::default(), ShutdownSignal::new().unwrap()).unwrap()
    }

    #[test]
    fn what_passes_by_an_adopted_connection_is_counted_and_by_a_line_is_not() {
        for (adopt, counted) in [(true, 4), (false, 0)] {
            let (mut ours, its) = UnixStream::pair().unwrap();
            its.set_nonblocking(true).unwrap();
            let mut reactor = reactor();
            match adopt {
                true => reactor.adopt(its.into(), Echo, Room(0)),
                false => reactor.adopt_link(its.into(), Echo, Room(0)),
            };
            ours.write_all(b"PING").unwrap();
            reactor.turn().unwrap();
            ours.read_exact(&mut [0; 4]).unwrap();
            let counters = reactor.counters();
            assert_eq!((counters.received_bytes, counters.sent_bytes), (counted, counted));
            assert_eq!(counters.accepted, 0, "not here");
            drop(ours);
            while reactor.connections() > 0 {
                reactor.turn().unwrap();
            }
        }
    }

    #[test]
    fn a_guest_is_reported_while_it_is_watched_and_a_turn_sleeps_no_longer_than_its_owner_says() {
        let (stop, mut reactor, mut guests) =
            (ShutdownSignal::new().unwrap(), reactor(), Vec::new());
        reactor.watch(stop.as_fd(), 7).unwrap();
        stop.request();
        for _ in 0..2 {
            reactor.turn().unwrap();
            reactor.take_guests(&mut guests);
            assert_eq!(std::mem::take(&mut guests), [7]);
        }
        reactor.unwatch(stop.as_fd()).unwrap();
        let begin = os::now();
        reactor.wake_at(Some(begin + Duration::from_millis(10)));
        reactor.turn().unwrap();
        reactor.take_guests(&mut guests);
        assert!(guests.is_empty() && os::now().since(begin) >= Duration::from_millis(10));
    }

    #[test]
    fn who_drains_by_itself_may_be_asked_to_as_well() {
        let mut reactor = reactor();
        reactor.drain();
        reactor.drain();
        assert_eq!(reactor.turn().unwrap_or(None), Some(Ended::Drained));
    }
}
