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
//! (`group.rs`).
//!
//! An operator sits at the thread that waits for the end (`console.rs`).
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

mod acceptor;
mod connection;
mod console;
mod group;
mod local_counters;
mod pool;
mod shared;
mod state;
mod status;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use acceptor::Acceptor;
use connection::serve_connection;
use console::BlockingConsole;
use group::Room;
use local_counters::LocalCounters;
use pool::ThreadPool;
use shared::{SharedState, Stage};
use status::ThreadStatus;

use proactor::buffer::BufferClass;
use proactor::calls::{Calls, PlainCalls};
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::keys::ConnId;
use proactor::limits::{Ended, Limits};
use proactor::os::{self, EventFd, ShutdownSignal};
use proactor::protocol::Protocol;

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

/// A server whose calls wait. `C` is what makes them.
#[derive(Debug)]
pub struct Blocking<P, C = PlainCalls> {
    /// What this thread calls by.
    calls: C,
    style: Style,
    acceptor: Acceptor<P>,
    rooms: Vec<Arc<Room>>,
    /// How many have ever come.
    came: Arc<AtomicU64>,
    shared: Arc<SharedState>,
    threads: ThreadPool,
    limits: Limits,
    stop: ShutdownSignal,
    /// Where the operator sits, if there is one.
    desk: Option<BlockingConsole>,
    /// What those have counted who are gone.
    gone: Counters,
    /// What this thread has.
    counted: LocalCounters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<P: Protocol + Clone + Send + 'static> Blocking<P> {
    /// A server as [`with_calls`](Blocking::with_calls) makes it, whose calls are only made.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        style: Style,
        buffers: Vec<BufferClass>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Blocking<P>> {
        Blocking::with_calls(PlainCalls, style, buffers, limits, stop)
    }
}

impl<P: Protocol + Clone + Send + 'static, C: Calls> Blocking<P, C> {
    /// A server without a listener, which `stop` can stop. Each connection has a few buffers of
    /// each of these shapes, and each thread its own [lane](Calls::lane) of `calls`.
    ///
    /// SIGURG gets a handler that does nothing, in the whole process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn with_calls(
        calls: C,
        style: Style,
        buffers: Vec<BufferClass>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Blocking<P, C>> {
        let calls_before = os::calls();
        os::allow_interrupts()?;
        Ok(Blocking {
            calls,
            style,
            acceptor: Acceptor::new(),
            rooms: Vec::new(),
            came: Arc::default(),
            shared: Arc::new(SharedState::new(buffers, limits.max_input, EventFd::new()?)),
            threads: ThreadPool::new(),
            limits,
            stop,
            desk: None,
            gone: Counters::default(),
            counted: LocalCounters::default(),
            calls_before,
        })
    }

    /// Serves `protocol` to whoever connects to `fd`, a listening socket, which becomes
    /// non-blocking. Each listener is a room of its own.
    ///
    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub fn listen(&mut self, fd: OwnedFd, protocol: P) -> io::Result<()> {
        let room = Arc::new(Room::new(Arc::clone(&self.came), self.rooms.len()));
        self.acceptor.add(fd, protocol, Arc::clone(&room))?;
        self.rooms.push(room);
        Ok(())
    }

    /// Has an operator see and do at `console` what there is to be seen and done, while it runs.
    /// The listeners of the console are the listeners, in their order.
    pub fn attend_to(&mut self, console: Console) {
        Arc::get_mut(&mut self.shared).expect("no thread runs yet").attended = true;
        self.desk = Some(BlockingConsole::new(console));
    }

    /// Serves until it is stopped. No thread of it is left.
    ///
    /// # Errors
    /// poll(2) fails, or the one thread of [`Style::OneByOne`] cannot be made.
    ///
    /// # Panics
    /// If a protocol did in its thread.
    pub fn run(&mut self) -> io::Result<Ended> {
        self.desk.iter_mut().for_each(BlockingConsole::begin);
        let asked = match self.style {
            Style::OneByOne => self.run_one_by_one(),
            Style::Threads => self.run_threads(),
        };
        let at_once = !matches!(asked, Ok(1));
        let ended = self.finish(at_once);
        asked.and(ended)
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        let calls = os::calls() - self.calls_before;
        let mut counters = Counters { calls, ..self.counted.counters() };
        counters += self.gone;
        counters += self.threads.counters();
        counters
    }

    /// Has a thread serve; answers how often it was asked to stop.
    fn run_one_by_one(&mut self) -> io::Result<u64> {
        let acceptor = std::mem::replace(&mut self.acceptor, Acceptor::new());
        let calls = self.calls.clone();
        self.threads.add(&self.shared, move |shared, status| {
            serve_one_after_another(&calls, shared, status, acceptor)
        })?;
        loop {
            let again = self.call();
            self.wait(again)?;
            self.gone += self.threads.reap(&self.shared)?;
            match self.asked() {
                0 => {}
                asked => return Ok(asked),
            }
        }
    }

    /// Accepts, and has a thread serve each; answers how often it was asked to stop.
    fn run_threads(&mut self) -> io::Result<u64> {
        loop {
            let room = self.threads.len() < self.limits.connections;
            let again = self.call();
            let typed = self.desk.as_ref().and_then(BlockingConsole::input);
            let others = [self.stop.as_fd(), self.shared.event.as_fd()].into_iter().chain(typed);
            let ready = self.acceptor.wait(&self.calls, others, room, again)?;
            self.counted.completed.add(ready as u64);
            self.counted.turns.add(1);
            self.reap()?;
            (0..self.acceptor.len()).for_each(|at| self.accept(at));
            match self.asked() {
                0 => {}
                asked => return Ok(asked),
            }
        }
    }

    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPTS {
            if self.threads.len() >= self.limits.connections {
                return;
            }
            let id = self.threads.next_id();
            let came = self.acceptor.accept(&self.calls, at, id, &self.counted);
            let Some((membership, protocol)) = came else { return };
            let calls = self.calls.clone();
            let work = move |shared: &SharedState, status: &ThreadStatus| {
                let calls = calls.lane(id.slot());
                serve_connection(&calls, shared, status, membership, protocol, &mut || {
                    status.notice()
                });
                Ok(())
            };
            if let Err(error) = self.threads.add(&self.shared, work) {
                tracing::warn!(%error, threads = self.threads.len(), "a connection is refused");
                self.counted.refused.add(1);
                self.counted.closed.add(1);
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let before = self.threads.len();
        self.gone += self.threads.reap(&self.shared)?;
        if self.threads.len() < before {
            self.acceptor.try_again();
        }
        Ok(())
    }

    /// Has everyone finish, and cuts off who takes too long, or all `at_once`.
    fn finish(&mut self, mut at_once: bool) -> io::Result<Ended> {
        self.acceptor.close();
        self.shared.advance(Stage::Draining);
        if at_once {
            self.cut();
        }
        let until = os::now() + self.limits.drain;
        let (mut pause, mut failed) = (WAKE, Ok(()));
        loop {
            match self.threads.reap(&self.shared) {
                Ok(counted) => self.gone += counted,
                Err(error) => failed = failed.and(Err(error)),
            }
            if self.threads.len() == 0 {
                self.attend(); // To what was told last.
                let ended = if at_once { Ended::AtOnce } else { Ended::Drained };
                return failed.map(|()| ended);
            }
            let again = self.call();
            let wake = self.threads.wake().then_some(pause);
            pause = (2 * pause).min(WAKE_MOST);
            let cuts = self.shared.stage() < Stage::Cutting;
            let left = cuts.then(|| until.since(os::now()));
            self.wait([again, wake, left].into_iter().flatten().min())?;
            if self.asked() > 0 {
                at_once = true;
                self.cut();
            } else if cuts && os::now() >= until {
                self.gone.cut = self.cut();
            }
        }
    }

    /// Breaks everyone off; answers how many.
    fn cut(&self) -> u64 {
        // In this order: who enters a room after it was cut sees that.
        self.shared.advance(Stage::Cutting);
        self.rooms.iter().map(|room| room.cut(&self.calls)).sum()
    }

    /// Sleeps until it is asked to stop, a thread has ended, or the operator has something to see
    /// or to do.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let typed = self.desk.as_ref().and_then(BlockingConsole::input);
        let ask = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()), // A negative one is skipped.
            events: libc::POLLIN,
            revents: 0,
        };
        let mut asked = [Some(self.stop.as_fd()), Some(self.shared.event.as_fd()), typed].map(ask);
        self.counted.turns.add(1);
        self.counted.completed.add(self.calls.wait(&mut asked, timeout)? as u64);
        Ok(())
    }
}

/// Accepts one, serves it until it is over, and accepts the next, until the server drains.
fn serve_one_after_another<P: Protocol + Clone>(
    calls: &impl Calls,
    shared: &SharedState,
    status: &ThreadStatus,
    mut acceptor: Acceptor<P>,
) -> io::Result<()> {
    let calls = calls.lane(status.id.slot());
    let mut id = status.id;
    while shared.stage() == Stage::Serving {
        status.counted.completed.add(acceptor.wait(&calls, [], true, None)? as u64);
        status.counted.turns.add(1);
        for at in 0..acceptor.len() {
            if let Some((membership, protocol)) = acceptor.accept(&calls, at, id, &status.counted) {
                // Who has not been let in by then never will be, and should learn it now.
                let mut noticed = || {
                    status.notice();
                    acceptor.close();
                };
                serve_connection(&calls, shared, status, membership, protocol, &mut noticed);
                id = ConnId::new(id.slot(), id.generation() + 1); // The next tenant's.
            }
        }
    }
    status.notice();
    Ok(())
}

#[cfg(test)]
mod tests;
