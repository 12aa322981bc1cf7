//! The coroutine server: a task for each connection, written as if it were the only one.
//!
//! ```text
//!   accept_connections ── accepts, and spawns ──►  serve_connection   loop { what does it want?
//!   run_timers ── does what is due                 serve_connection          … .await … do it }
//!   give_permits ── to those that move much          …
//!   watch_shutdown ── waits for the signal
//!   serve_console ── if there is an operator
//!   serve_monitor ── if something watches the server
//! ```
//!
//! Read `serve_connection` first: the whole of a connection in one loop that *waits* in the middle.
//! The compiler makes a state machine of it, and an executor (tokio's, on one thread) resumes it.
//! Beneath is edge-triggered readiness, as in [`reactor`](proactor::reactor): tokio waits in epoll
//! and wakes the task whose socket is ready; the data are copied by calls of our own. Connections,
//! groups, limits and the life cycle are those of both loops.
//!
//! The tasks share a `RefCell`, which no task borrows while it waits: every method of `ServerState`
//! returns before the next `.await`. A connection that another task has marked is woken.
//!
//! All calls are made through [`CallHooks`], so that a trace can record them. The default hooks
//! record nothing and cost nothing.
//!
//! A wait is counted once for each time that tokio parks. Its polls without waiting are neither
//! counted nor recorded: one for at most 61 resumptions while the executor is busy, and one when a
//! task yields.

use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::runtime::{Builder, Handle, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use crate::hooks::CallHooks;
use proactor::buffer::Pool;
use proactor::calls::AT_ONCE;
use proactor::console::Console;
use proactor::counters::{Counters, LiveCounters};
use proactor::engine::Engine;
use proactor::keys::{ConnId, KeyOwner, ListenerId, MONITOR};
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::os::{self, ShutdownSignal};
use proactor::peer::Factory;
use proactor::reactor::ACCEPTS;
use proactor::status::ServerMonitor;

mod console;
mod heavy;
mod state;
mod watched;

use state::{ServerState, TaskStep};
use watched::WatchedFd;

/// A server whose connections are coroutines.
pub(crate) struct Coroutines<C> {
    runtime: LocalRuntime,
    server: Rc<TaskServer<C>>,
    /// The descriptor of the shutdown signal that is watched; `None` once the server has run.
    signal: Option<OwnedFd>,
}

/// What the tasks share.
struct TaskServer<C> {
    calls: C,
    state: RefCell<ServerState>,
}

impl<C: CallHooks> Coroutines<C> {
    /// Creates a server without a listener, which `stop` can stop. It takes its buffers from
    /// `pool`, and makes its calls through `calls`.
    ///
    /// # Errors
    /// No descriptor is left for the executor.
    pub(crate) fn new(
        calls: C,
        pool: Rc<Pool>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Coroutines<C>> {
        // Every descriptor is opened before the server says that it is ready.
        let signal = Some(stop.as_fd().try_clone_to_owned()?);
        let state = RefCell::new(ServerState::new(pool, limits, stop));
        let mut builder = Builder::new_current_thread();
        calls.watch_waits(&mut builder);
        let runtime = builder.enable_io().enable_time().build_local(<_>::default())?;
        let server = Rc::new(TaskServer { calls, state });
        Ok(Coroutines { runtime, server, signal })
    }
}

impl<C: CallHooks> Engine for Coroutines<C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory) -> io::Result<()> {
        os::set_blocking(fd.as_fd(), false)?;
        self.server.state().core.listen(id, fd, &factory)
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        self.server.state().core.set_console(console);
        Ok(())
    }

    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()> {
        self.server.state().core.monitor = Some(monitor);
        Ok(())
    }

    /// Serves until it is stopped; a second run ends at once.
    ///
    /// # Panics
    /// If a protocol panics.
    fn run(&mut self, _: Option<&LiveCounters>) -> io::Result<Ended> {
        let Some(signal) = self.signal.take() else { return Ok(Ended::Drained) };
        let Coroutines { runtime, server, .. } = self;
        let ended = runtime.block_on(async {
            server.start(signal)?;
            // In a task: to wake the future that `block_on` runs takes a system call.
            let supervisor = spawn_local(Rc::clone(server).supervise());
            supervisor.await.expect("the task is not aborted")
        });
        if matches!(ended, Ok(Ended::Drained)) {
            self.server.state().show_last_messages();
        }
        ended
    }

    /// Returns what was counted. An iteration is a wait of the executor.
    fn counters(&self) -> Counters {
        let waits = self.runtime.metrics().worker_park_count(0);
        self.server.state().counters(waits)
    }
}

impl<C> TaskServer<C> {
    /// Never kept across an `.await`.
    fn state(&self) -> RefMut<'_, ServerState> {
        self.state.borrow_mut()
    }
}

impl<C: CallHooks> TaskServer<C> {
    /// Starts the tasks of the server itself, within its executor.
    fn start(self: &Rc<Self>, signal: OwnedFd) -> io::Result<()> {
        let watch = |fd: OwnedFd, owner: KeyOwner| {
            watched::watch(fd, Interest::READABLE, owner.into(), &self.calls)
        };
        self.state().core.enable_trim();
        spawn_local(Rc::clone(self).watch_shutdown(watch(signal, KeyOwner::Shutdown)?));
        spawn_local(Rc::clone(self).run_timers());
        spawn_local(Rc::clone(self).give_permits());
        if let Some(console) = Rc::clone(self).serve_console()? {
            spawn_local(console);
        }
        if let Some(monitor) = &self.state().core.monitor {
            // A descriptor of its own: the executor wants to own what it watches.
            let fd = watch(monitor.fd().try_clone_to_owned()?, KeyOwner::External(MONITOR))?;
            spawn_local(Rc::clone(self).serve_monitor(fd));
        }
        for listener in &mut self.state().core.listeners {
            let id = listener.id;
            let fd = listener.fd.take().expect("the server starts once");
            let fd = watch(fd, KeyOwner::Listener(id))?;
            spawn_local(Rc::clone(self).accept_connections(fd, id));
        }
        Ok(())
    }

    // The tasks.

    /// Serves a connection: find out what it wants, wait until its socket is ready, do it.
    async fn serve_connection(self: Rc<Self>, socket: WatchedFd, id: ConnId) {
        let _guard = Guard(&self);
        let (key, mut waited) = (KeyOwner::Conn(id).into(), true);
        loop {
            let step =
                poll_fn(|cx| self.state().poll_step(&self.calls, &socket, id, &mut waited, cx));
            match step.await {
                TaskStep::Receive(ready) => self.state().receive(&self.calls, id, ready),
                TaskStep::Send(ready) => self.state().send(&self.calls, id, ready),
                TaskStep::ReceiveLast => self.state().receive_last(&self.calls, id, &socket),
                TaskStep::ShutDown => {
                    // It fails only if the peer has reset the connection, which a read will report.
                    let _ = self.calls.shutdown(key, socket.as_fd(), Shutdown::Write);
                    self.state().core.peers.shut_down(id);
                }
                TaskStep::AwaitPermit => {
                    self.state().await_permit(id);
                    poll_fn(|cx| self.state().poll_permit(id, cx)).await;
                    waited = true;
                    continue;
                }
                TaskStep::Close => break,
            }
            self.state().settle(Some(id));
        }
        watched::close(socket, key, &self.calls);
        self.state().closed(id);
    }

    /// Accepts connections while there is capacity for them; meanwhile they wait in the kernel's
    /// queue. Closes the listener when the server drains and what waited is accepted, or when its
    /// accepts fail for good.
    async fn accept_connections(self: Rc<Self>, listener: WatchedFd, id: ListenerId) {
        let _guard = Guard(&self);
        let key = KeyOwner::Listener(id).into();
        let (mut awaited, mut accepts) = (false, 0);
        loop {
            if accepts == ACCEPTS {
                yield_now().await; // Connections are resumed, and tokio polls its epoll.
                accepts = 0;
            }
            accepts += 1;
            let ready =
                poll_fn(|cx| self.state().poll_accept((&listener, id), cx, &mut awaited)).await;
            let ControlFlow::Continue(ready) = ready else { break };
            if std::mem::take(&mut awaited) {
                self.calls.ready(key, true, false);
                accepts = 1;
            }
            match self.calls.accept(key, listener.as_fd(), AT_ONCE) {
                Ok(socket) => self.open(socket, id),
                Err(error) => {
                    if self.state().listener_failed(id, error.into(), ready) {
                        break;
                    }
                }
            }
        }
        watched::close(listener, key, &self.calls);
    }

    fn open(self: &Rc<Self>, socket: OwnedFd, listener: ListenerId) {
        let addr = os::peer_addr(socket.as_fd());
        self.state().core.peers.counters.accepted += 1;
        self.state().core.listeners[listener.index()].accepted();
        let made = self.state().core.admit(listener, addr);
        let Some(made) = made else {
            return self.calls.refuse(KeyOwner::Listener(listener).into(), socket);
        };
        let id = self.state().core.peers.next_id();
        let both = Interest::READABLE | Interest::WRITABLE;
        match watched::watch(socket, both, KeyOwner::Conn(id).into(), &self.calls) {
            Ok(socket) => {
                let opened = self.state().open(listener, made, socket.as_fd());
                debug_assert_eq!(opened, id, "no connection was opened between");
                spawn_local(Rc::clone(self).serve_connection(socket, id));
            }
            Err(error) => {
                let counters = &mut self.state().core.peers.counters;
                counters.refused += 1;
                counters.close(CloseReason::Refused);
                tracing::warn!(%error, "a connection is refused");
            }
        }
    }

    /// Waits for the shutdown signal.
    async fn watch_shutdown(self: Rc<Self>, signal: WatchedFd) {
        while let Ok(mut ready) = signal.readable().await {
            self.calls.ready(KeyOwner::Shutdown.into(), true, false);
            let mut state = self.state();
            let flow = state.core.take_requests();
            state.served(flow);
            drop(state);
            ready.clear_ready();
        }
    }

    /// Serves the monitor, one thing at a time.
    async fn serve_monitor(self: Rc<Self>, watched: WatchedFd) {
        let _guard = Guard(&self);
        while let Ok(mut ready) = watched.readable().await {
            self.calls.ready(KeyOwner::External(MONITOR).into(), true, false);
            if !self.state().serve_monitor(Handle::current().metrics().worker_park_count(0)) {
                ready.clear_ready();
            }
            yield_now().await; // The connections go on.
        }
    }

    /// Does what is due by the clock.
    async fn run_timers(self: Rc<Self>) {
        let _guard = Guard(&self);
        let mut alarm = pin!(sleep(Duration::ZERO));
        loop {
            poll_fn(|cx| {
                let mut state = self.state();
                state.wait_for_change(cx.waker());
                let Some(due) = state.due else {
                    state.alarm = None;
                    return Poll::Pending;
                };
                if state.alarm.replace(due) != Some(due) {
                    alarm.as_mut().reset(Instant::now() + due.since(os::now()));
                }
                alarm.as_mut().poll(cx)
            })
            .await;
            let mut state = self.state();
            state.alarm = None;
            state.run_timers();
        }
    }

    /// Gives heavy connections their permits, a round of the executor between two of them.
    async fn give_permits(self: Rc<Self>) {
        let _guard = Guard(&self);
        loop {
            poll_fn(|cx| self.state().poll_heavy(cx)).await;
            yield_now().await; // tokio polls its epoll, and others are resumed.
            self.state().give_permits();
        }
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// No listener is left.
    async fn supervise(self: Rc<Self>) -> io::Result<Ended> {
        poll_fn(|cx| {
            let mut state = self.state();
            assert!(!state.panicked, "a task of the server has panicked");
            if let Some(ended) = state.ended() {
                return Poll::Ready(ended);
            }
            state.wait_for_change(cx.waker());
            Poll::Pending
        })
        .await
    }
}

/// Ends the server if a task panics: tokio would go on without it.
struct Guard<'a, C>(&'a TaskServer<C>);

impl<C> Drop for Guard<'_, C> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(mut state) = self.0.state.try_borrow_mut()
        {
            state.panicked = true;
            state.changed();
        }
    }
}

#[cfg(test)]
mod tests;
