//! Blocking calls: whoever waits for bytes sleeps in the call that wants them.
//!
//! ```text
//!   one at a time           a thread for each
//!
//!   ┌► accept                ┌► accept ──► thread: read ◄─► write
//!   │  read ◄─► write        │             thread: read ◄─► write
//!   └─ close                 └─            …
//! ```
//!
//! The oldest way to serve, driving the same connections as the loops. Nothing is asked about
//! readiness: the thread itself is what waits, and the kernel's scheduler is the loop. One
//! connection at a time needs no more than that, and the next one waits; with a thread for each,
//! all are served, and each costs a stack and a switch.
//!
//! Each connection has a few buffers of its own, of the shapes that a loop would share among all.
//! Who speaks to others writes to their sockets itself, so a slow listener slows its speaker
//! (`room.rs`).
//!
//! # Stopping
//!
//! A thread that sleeps in a call does not look at flags. `shutdown(2)` would wake it, but after
//! it the kernel answers what still comes with a reset, and a reset destroys what the peer has not
//! yet read. So a drain interrupts the calls, by a signal whose handler does nothing
//! ([`os::interrupt`]), again and again until each thread has said that it noticed: it may have
//! looked at the flag just before the signal, and gone to sleep just after. From then on each
//! finishes by itself. Past the deadline nothing is to be preserved, and `shutdown(2)` it is, which
//! lasts: whoever goes to sleep later wakes at once. In the end every thread is joined.

mod conversation;
mod crew;
mod door;
mod hall;
mod room;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use conversation::converse;
use crew::Crew;
use door::Door;
use hall::{Hall, Stage};
use room::Room;

use crate::buffer::Shape;
use crate::counters::Counters;
use crate::limits::{Ended, Limits};
use crate::os::{self, Bell, Stop};
use crate::protocol::Protocol;

/// Accepts at one listener in a turn.
const ACCEPTS: usize = 64;
/// How soon who has not noticed a drain is interrupted again, at first …
const WAKE: Duration = Duration::from_millis(1);
/// … and after each time has doubled it, at most.
const WAKE_MOST: Duration = Duration::from_millis(64);

/// How many a server serves at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One, and when it is over the next. It has a thread, for the one that was called waits for
    /// the signal to stop.
    OneByOne,
    /// As many as there are, each in a thread.
    Threads,
}

/// A server whose calls wait.
#[derive(Debug)]
pub struct Blocking<P> {
    style: Style,
    door: Door<P>,
    rooms: Vec<Arc<Room>>,
    /// How many have ever come.
    came: Arc<AtomicU64>,
    hall: Arc<Hall>,
    crew: Crew,
    limits: Limits,
    stop: Stop,
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<P: Protocol + Clone + Send + 'static> Blocking<P> {
    /// A server without a listener, which `stop` can stop. Each connection has a few buffers of
    /// each of these shapes.
    ///
    /// SIGURG gets a handler that does nothing, in the whole process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        style: Style,
        buffers: Vec<Shape>,
        limits: Limits,
        stop: Stop,
    ) -> io::Result<Blocking<P>> {
        let calls_before = os::calls();
        os::allow_interrupts()?;
        Ok(Blocking {
            style,
            door: Door::new(),
            rooms: Vec::new(),
            came: Arc::default(),
            hall: Arc::new(Hall::new(buffers, Bell::new()?)),
            crew: Crew::new(),
            limits,
            stop,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Serves `protocol` to whoever connects to `fd`, a listening socket, which becomes
    /// non-blocking. Each listener is a room of its own.
    ///
    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub fn listen(&mut self, fd: OwnedFd, protocol: P) -> io::Result<()> {
        let room = Arc::new(Room::new(Arc::clone(&self.came)));
        self.door.add(fd, protocol, Arc::clone(&room))?;
        self.rooms.push(room);
        Ok(())
    }

    /// Serves until it is stopped. No thread of it is left.
    ///
    /// # Errors
    /// poll(2) fails, or the one thread of [`Style::OneByOne`] cannot be made.
    ///
    /// # Panics
    /// If a protocol did in its thread.
    pub fn run(&mut self) -> io::Result<Ended> {
        let asked = match self.style {
            Style::OneByOne => self.serve_one_by_one(),
            Style::Threads => self.serve_by_threads(),
        };
        let at_once = !matches!(asked, Ok(1));
        let ended = self.finish(at_once);
        asked.and(ended)
    }

    /// What it has counted, of connections that are over.
    pub fn counters(&self) -> Counters {
        let calls = self.counters.calls + os::calls() - self.calls_before;
        Counters { calls, ..self.counters }
    }

    /// Has a thread serve; answers how often it was asked to stop.
    fn serve_one_by_one(&mut self) -> io::Result<u64> {
        let door = std::mem::replace(&mut self.door, Door::new());
        self.crew.add(&self.hall, |hall, noticed| one_by_one(hall, door, noticed))?;
        loop {
            self.wait(None)?;
            self.counters += self.crew.reap(&self.hall)?;
            match self.stop.take() {
                0 => {}
                asked => return Ok(asked),
            }
        }
    }

    /// Accepts, and has a thread serve each; answers how often it was asked to stop.
    fn serve_by_threads(&mut self) -> io::Result<u64> {
        loop {
            let room = self.crew.len() < self.limits.connections;
            let others = [self.stop.as_fd(), self.hall.bell.as_fd()];
            self.counters.completed += self.door.wait(&others, room)? as u64;
            self.counters.turns += 1;
            self.reap()?;
            (0..self.door.len()).for_each(|at| self.accept(at));
            match self.stop.take() {
                0 => {}
                asked => return Ok(asked),
            }
        }
    }

    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPTS {
            if self.crew.len() >= self.limits.connections {
                return;
            }
            let Some((seat, protocol)) = self.door.accept(at, &mut self.counters) else { return };
            let work = |hall: &Hall, noticed: &mut dyn FnMut()| {
                Ok(converse(hall, seat, protocol, noticed))
            };
            if let Err(error) = self.crew.add(&self.hall, work) {
                tracing::warn!(%error, threads = self.crew.len(), "a connection is refused");
                self.counters.refused += 1;
                self.counters.closed += 1;
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let before = self.crew.len();
        self.counters += self.crew.reap(&self.hall)?;
        if self.crew.len() < before {
            self.door.try_again();
        }
        Ok(())
    }

    /// Has everyone finish, and cuts off who takes too long, or all `at_once`.
    fn finish(&mut self, mut at_once: bool) -> io::Result<Ended> {
        self.door.close();
        self.hall.advance(Stage::Draining);
        if at_once {
            self.cut();
        }
        let until = os::now() + self.limits.drain;
        let (mut pause, mut failed) = (WAKE, Ok(()));
        loop {
            match self.crew.reap(&self.hall) {
                Ok(counted) => self.counters += counted,
                Err(error) => failed = failed.and(Err(error)),
            }
            if self.crew.len() == 0 {
                let ended = if at_once { Ended::AtOnce } else { Ended::Drained };
                return failed.map(|()| ended);
            }
            let wake = self.crew.wake().then_some(pause);
            pause = (2 * pause).min(WAKE_MOST);
            let cuts = self.hall.stage() < Stage::Cutting;
            let left = cuts.then(|| until.since(os::now()));
            self.wait([wake, left].into_iter().flatten().min())?;
            if self.stop.take() > 0 {
                at_once = true;
                self.cut();
            } else if cuts && os::now() >= until {
                self.counters.cut = self.cut();
            }
        }
    }

    /// Breaks everyone off; answers how many.
    fn cut(&self) -> u64 {
        // In this order: who enters a room after it was cut sees that.
        self.hall.advance(Stage::Cutting);
        self.rooms.iter().map(|room| room.cut()).sum()
    }

    /// Sleeps until it is asked to stop, or a thread has ended.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let ask = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut asked = [&self.stop.as_fd(), &self.hall.bell.as_fd()].map(|fd| ask(fd.as_raw_fd()));
        self.counters.turns += 1;
        self.counters.completed += os::poll(&mut asked, timeout)? as u64;
        Ok(())
    }
}

/// Accepts one, serves it until it is over, and accepts the next, until the server drains.
fn one_by_one<P: Protocol + Clone>(
    hall: &Hall,
    mut door: Door<P>,
    noticed: &mut dyn FnMut(),
) -> io::Result<Counters> {
    let mut counters = Counters::default();
    while hall.stage() == Stage::Serving {
        counters.completed += door.wait(&[], true)? as u64;
        counters.turns += 1;
        for at in 0..door.len() {
            if let Some((seat, protocol)) = door.accept(at, &mut counters) {
                // Who has not been let in by then never will be, and should learn it now.
                let mut noticed = || {
                    noticed();
                    door.close();
                };
                counters += converse(hall, seat, protocol, &mut noticed);
            }
        }
    }
    noticed();
    Ok(counters)
}

#[cfg(test)]
mod tests;
