//! What a child does, from its fork to its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::relay::Member;
use super::single::Single;
use crate::buffer::{Pool, Shape};
use crate::counters::Counters;
use crate::limits::{Ended, Limits};
use crate::os::process::{self, Signals, Wake};
use crate::os::{self, Stop};
use crate::peers::Room;
use crate::protocol::Protocol;
use crate::reactor::Reactor;
use crate::selector::Poll;

/// Buffers of each size that a child has of its own.
const BUFFERS: usize = 16;

/// What a child is given: its client, the `me`th at its listener.
#[derive(Debug)]
pub(super) struct Charge<P> {
    pub(super) socket: OwnedFd,
    pub(super) protocol: P,
    pub(super) me: u64,
}

impl<P: Protocol + Clone> Charge<P> {
    /// Serves it, until it has gone or has been told to and drained; answers the exit status.
    /// `line` leads to the parent, if its client can hear of others.
    pub(super) fn live(
        self,
        line: Option<OwnedFd>,
        buffers: &[Shape],
        signals: Signals,
        publish: impl FnMut(&Counters),
    ) -> u8 {
        let lived = Pool::new(&few(buffers)).and_then(|pool| match line {
            None => self.alone(pool, signals, publish),
            Some(line) => {
                let stop = Stop::new()?;
                signals.tell(Wake::Ask(&stop))?;
                self.among_others(line, pool, stop, publish)
            }
        });
        match lived {
            Ok(()) => 0,
            Err(error) => {
                tracing::warn!("a child fails its connection: {error}");
                1
            }
        }
    }

    fn alone(
        self,
        pool: Rc<Pool>,
        signals: Signals,
        publish: impl FnMut(&Counters),
    ) -> io::Result<()> {
        os::set_blocking(self.socket.as_fd())?;
        // The socket is closed when this has ended; then nothing is opened before the process ends.
        signals.tell(Wake::Unblock(self.socket.as_fd()))?;
        Single::new(self.socket, self.protocol, self.me, pool).serve(process::told, publish)
    }

    /// Serves it in a room of two: the client, and the line to the parent.
    pub(super) fn among_others(
        self,
        line: OwnedFd,
        pool: Rc<Pool>,
        stop: Stop,
        mut publish: impl FnMut(&Counters),
    ) -> io::Result<()> {
        /// The parent's deadline is the only one: past it, it kills, and counts.
        const FOR_EVER: Duration = Duration::MAX;
        let limits = Limits { connections: 2, drain: FOR_EVER };
        let mut room = Reactor::new(Poll::new(), pool, limits, stop)?;
        room.adopt_line(line, Member::line(), Room(0));
        room.adopt(self.socket, Member::guest(self.protocol, self.me), Room(0));
        loop {
            // To be told while it drains by itself changes nothing.
            let drained = room.turn()? == Some(Ended::Drained);
            publish(&room.counters());
            if drained {
                return Ok(());
            }
            if room.connections() < 2 {
                // The client has gone; or the parent has given up this child.
                room.drain();
            }
        }
    }
}

/// A few buffers of each size.
fn few(buffers: &[Shape]) -> Vec<Shape> {
    buffers.iter().map(|shape| Shape { count: shape.count.min(BUFFERS), ..*shape }).collect()
}
