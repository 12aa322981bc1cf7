//! The coroutine server: a task for each connection, written as if it were the only one.
//!
//! ```text
//!   accept_connections ── accepts, and spawns ──►  serve_connection   loop { what does it want?
//!   run_timers ── does what is due                 serve_connection          … .await … do it }
//!   watch_shutdown ── waits for the signal         …
//!   serve_console ── if there is an operator
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
//! All calls are made through [`RuntimeHooks`], so that a trace can record them. The default hooks
//! record nothing and cost nothing.
//!
//! A wait is counted once for each time that tokio parks. Its polls without waiting are neither
//! counted nor recorded: one for at most 61 resumptions while the executor is busy, and one when a
//! task yields.

use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::runtime::{Builder, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use proactor::buffer::Pool;
use proactor::calls::AT_ONCE;
use proactor::console::Console;
use proactor::counters::{Counters, LiveCounters};
use proactor::engine::Engine;
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::limits::{Ended, Limits};
use proactor::os::{self, ShutdownSignal};
use proactor::peer::{Factory, WorkerFactory};

mod console;
mod hooks;
mod state;
mod watched;

pub(crate) use hooks::RuntimeHooks;
use state::{ConsoleTask, ServerState};
use watched::{SocketReady, WatchedFd};

/// Calls that one connection may make before it yields, so that the others go on while it receives
/// a flood. (tokio's own budget counts 128, of whatever size.)
const STEPS: usize = 32;

/// A server whose connections are coroutines.
pub(crate) struct Coroutines<C> {
    runtime: LocalRuntime,
    server: SharedServer<C>,
    listeners: Vec<(ListenerId, OwnedFd, WorkerFactory)>,
    /// The descriptor of the shutdown signal that is watched; `None` once the server has run.
    signal: Option<OwnedFd>,
}

/// What the tasks share.
struct TaskServer<C> {
    calls: C,
    state: RefCell<ServerState>,
}

type SharedServer<C> = Rc<TaskServer<C>>;

impl<C> TaskServer<C> {
    /// Never kept across an `.await`.
    fn state(&self) -> RefMut<'_, ServerState> {
        self.state.borrow_mut()
    }
}

impl<C: RuntimeHooks> Coroutines<C> {
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
        Ok(Coroutines { runtime, server, listeners: Vec::new(), signal })
    }
}

/// Starts the tasks of the server itself, within its executor.
fn start<C: RuntimeHooks>(
    server: &SharedServer<C>,
    signal: OwnedFd,
    listeners: Vec<(ListenerId, OwnedFd, WorkerFactory)>,
) -> io::Result<()> {
    let watch = |fd: OwnedFd, owner: KeyOwner| {
        WatchedFd::new(fd, Interest::READABLE, owner.into(), &server.calls)
    };
    spawn_local(watch_shutdown(Rc::clone(server), watch(signal, KeyOwner::Shutdown)?));
    spawn_local(run_timers(Rc::clone(server)));
    if let Some(input) = console::open(server)? {
        spawn_local(console::serve_console(Rc::clone(server), input));
    }
    for (id, fd, factory) in listeners {
        let fd = watch(fd, KeyOwner::Listener(id))?;
        spawn_local(accept_connections(Rc::clone(server), fd, factory, id));
    }
    Ok(())
}

impl<C: RuntimeHooks> Engine for Coroutines<C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory) -> io::Result<()> {
        os::set_nonblocking(fd.as_fd())?;
        let factory = WorkerFactory::new(&factory, fd.as_fd());
        self.listeners.push((id, fd, factory));
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        let mut state = self.server.state();
        state.console = Some(ConsoleTask::new(console));
        state.peers.expect_operator();
        Ok(())
    }

    /// Serves until it is stopped; a second run ends at once.
    ///
    /// # Panics
    /// If a protocol panics.
    fn run(&mut self, _: Option<&LiveCounters>) -> io::Result<Ended> {
        let Some(signal) = self.signal.take() else { return Ok(Ended::Drained) };
        let Coroutines { runtime, server, listeners, .. } = self;
        let ended = runtime.block_on(async {
            start(server, signal, std::mem::take(listeners))?;
            // In a task: to wake the future that `block_on` runs takes a system call.
            let supervisor = spawn_local(supervise(Rc::clone(server)));
            Ok(supervisor.await.expect("the task is not aborted"))
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

// The tasks.

/// Serves a connection: find out what it wants, wait until its socket is ready, do it.
async fn serve_connection<C: RuntimeHooks>(server: SharedServer<C>, socket: WatchedFd, id: ConnId) {
    let _guard = Guard(&server);
    let (key, mut steps) = (KeyOwner::Conn(id).into(), 0);
    loop {
        match next_step(&server, &socket, id, &mut steps).await {
            TaskStep::Receive(ready) => server.state().receive(&server.calls, id, ready),
            TaskStep::Send(ready) => server.state().send(&server.calls, id, ready),
            TaskStep::ShutDown => {
                // It fails only if the peer has reset the connection, which a read will report.
                let _ = server.calls.shutdown(key, socket.as_fd(), Shutdown::Write);
                server.state().peers.shut_down(id);
            }
            TaskStep::Close => break,
        }
        server.state().settle(Some(id));
        steps += 1;
        if steps == STEPS {
            server.state().yield_task(id);
            yield_now().await; // Others are resumed, and tokio polls its epoll.
            steps = 0;
        }
    }
    socket.close(key, &server.calls);
    server.state().closed(id);
}

/// The next operation of a connection, once its socket is ready for it.
enum TaskStep<'a> {
    Receive(SocketReady<'a>),
    Send(SocketReady<'a>),
    ShutDown,
    Close,
}

/// Waits until the connection wants something that its socket is ready for. Its wants are computed
/// anew whenever the task is woken, by its socket or by another task. `steps` starts anew if the
/// task had to wait.
async fn next_step<'a, C: RuntimeHooks>(
    server: &SharedServer<C>,
    socket: &'a WatchedFd,
    id: ConnId,
    steps: &mut usize,
) -> TaskStep<'a> {
    poll_fn(|cx| {
        let step = poll_step(server, socket, id, cx);
        *steps = if step.is_pending() { 0 } else { *steps };
        if let Poll::Ready(step @ (TaskStep::Receive(_) | TaskStep::Send(_))) = &step
            && *steps == 0
        {
            let readable = matches!(step, TaskStep::Receive(_));
            server.calls.ready(KeyOwner::Conn(id).into(), readable, !readable);
        }
        step
    })
    .await
}

fn poll_step<'a, C: RuntimeHooks>(
    server: &SharedServer<C>,
    socket: &'a WatchedFd,
    id: ConnId,
    cx: &mut Context<'_>,
) -> Poll<TaskStep<'a>> {
    let wants = server.state().wants(id, cx.waker());
    // tokio's driver fails only when it shuts down, and this task with it.
    let when_ready = |ready: io::Result<_>, step: fn(_) -> TaskStep<'a>| {
        Poll::Ready(ready.map_or(TaskStep::Close, step))
    };
    if wants.close {
        return Poll::Ready(TaskStep::Close);
    }
    if wants.shut_down {
        return Poll::Ready(TaskStep::ShutDown);
    }
    // A reply is sent first, from a buffer that is still in the cache.
    if wants.send
        && let Poll::Ready(ready) = socket.poll_writable(cx)
    {
        return when_ready(ready, TaskStep::Send);
    }
    if wants.receive
        && let Poll::Ready(ready) = socket.poll_readable(cx)
    {
        return when_ready(ready, TaskStep::Receive);
    }
    Poll::Pending
}

/// Accepts connections while there is capacity for them; meanwhile they wait in the kernel's queue.
/// Closes the listener when the server drains.
async fn accept_connections<C: RuntimeHooks>(
    server: SharedServer<C>,
    listener: WatchedFd,
    mut factory: WorkerFactory,
    id: ListenerId,
) {
    let _guard = Guard(&server);
    let key = KeyOwner::Listener(id).into();
    while let Some(ready) = next_connection(&server, &listener, key).await {
        match server.calls.accept(key, listener.as_fd(), AT_ONCE) {
            Ok(socket) => open(&server, socket, &mut factory, id),
            Err(error) => server.state().not_accepted(error.into(), ready),
        }
    }
    listener.close(key, &server.calls);
}

/// Waits until there is capacity for a connection and the listener is readable; returns `None` once
/// the server drains.
async fn next_connection<'a, C: RuntimeHooks>(
    server: &SharedServer<C>,
    listener: &'a WatchedFd,
    key: Key,
) -> Option<SocketReady<'a>> {
    let mut awaited = false;
    poll_fn(|cx| {
        let mut state = server.state();
        if !state.lifecycle.is_serving() {
            return Poll::Ready(None);
        }
        state.wait_for_change(cx.waker());
        if !state.accepts() {
            return Poll::Pending;
        }
        let ready = listener.poll_readable(cx).map(Result::ok);
        match &ready {
            Poll::Pending => awaited = true,
            Poll::Ready(_) if awaited => server.calls.ready(key, true, false),
            Poll::Ready(_) => {}
        }
        ready
    })
    .await
}

fn open<C: RuntimeHooks>(
    server: &SharedServer<C>,
    socket: OwnedFd,
    factory: &mut WorkerFactory,
    listener: ListenerId,
) {
    let id = server.state().peers.next_id();
    let both = Interest::READABLE | Interest::WRITABLE;
    match WatchedFd::new(socket, both, KeyOwner::Conn(id).into(), &server.calls) {
        Ok(socket) => {
            let mut state = server.state();
            let reach = Some((id, state.lifecycle.shutdown()));
            let made = factory.make(state.peers.next_number(), Some(socket.as_fd()), reach);
            let opened = state.open(made, listener, socket.as_fd());
            debug_assert_eq!(opened, id, "no connection was opened between");
            spawn_local(serve_connection(Rc::clone(server), socket, id));
        }
        Err(error) => server.state().refuse(&error),
    }
}

/// Waits for the shutdown signal.
async fn watch_shutdown<C: RuntimeHooks>(server: SharedServer<C>, signal: WatchedFd) {
    while let Ok(mut ready) = signal.readable().await {
        server.calls.ready(KeyOwner::Shutdown.into(), true, false);
        server.state().take_requests();
        ready.clear_ready();
    }
}

/// Does what is due by the clock.
async fn run_timers<C: RuntimeHooks>(server: SharedServer<C>) {
    let _guard = Guard(&server);
    let mut alarm = pin!(sleep(Duration::ZERO));
    loop {
        poll_fn(|cx| {
            let mut server = server.state();
            server.timer_waker.clone_from(cx.waker());
            let Some(due) = server.due else {
                server.alarm = None;
                return Poll::Pending;
            };
            if server.alarm.replace(due) != Some(due) {
                alarm.as_mut().reset(Instant::now() + due.since(os::now()));
            }
            alarm.as_mut().poll(cx)
        })
        .await;
        let mut server = server.state();
        server.alarm = None;
        server.run_timers();
    }
}

/// Waits until the server has ended.
async fn supervise<C: RuntimeHooks>(server: SharedServer<C>) -> Ended {
    poll_fn(|cx| {
        let mut server = server.state();
        assert!(!server.panicked, "a task of the server has panicked");
        if let Some(ended) = server.ended() {
            return Poll::Ready(ended);
        }
        server.wait_for_change(cx.waker());
        Poll::Pending
    })
    .await
}

/// Ends the server if a task panics: tokio would go on without it.
struct Guard<'a, C>(&'a SharedServer<C>);

impl<C> Drop for Guard<'_, C> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(mut server) = self.0.state.try_borrow_mut()
        {
            server.panicked = true;
            server.changed();
        }
    }
}

#[cfg(test)]
mod tests;
