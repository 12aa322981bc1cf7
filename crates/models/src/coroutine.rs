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

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
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
use proactor::calls::PlainCalls;
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::engine::{Engine, Listeners};
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::limits::{Ended, Limits};
use proactor::os::{self, ShutdownSignal};
use proactor::peer::{Factory, WorkerFactory};
use proactor::protocol::Protocol;

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
#[derive(Debug)]
pub(crate) struct Coroutines<P, C = PlainCalls> {
    calls: C,
    runtime: LocalRuntime,
    server: SharedServer<P, C>,
    listeners: Listeners<Option<WorkerFactory<P>>, ()>,
    /// The descriptor of the shutdown signal that is watched; `None` once the server has run.
    signal: Option<OwnedFd>,
}

/// What the tasks share; never borrowed across an `.await`.
type SharedServer<P, C> = Rc<RefCell<ServerState<P, C>>>;

impl<P: Protocol, C: RuntimeHooks> Coroutines<P, C> {
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
    ) -> io::Result<Coroutines<P, C>> {
        // Every descriptor is opened before the server says that it is ready.
        let signal = Some(stop.as_fd().try_clone_to_owned()?);
        let server = Rc::new(RefCell::new(ServerState::new(calls.clone(), pool, limits, stop)));
        let mut builder = Builder::new_current_thread();
        calls.watch_waits(&mut builder);
        let runtime = builder.enable_io().enable_time().build_local(<_>::default())?;
        Ok(Coroutines { calls, runtime, server, listeners: Listeners::default(), signal })
    }

    /// Starts the tasks of the server itself.
    async fn start(
        server: &SharedServer<P, C>,
        calls: &C,
        signal: OwnedFd,
        listeners: &mut Listeners<Option<WorkerFactory<P>>, ()>,
    ) -> io::Result<()> {
        let signal = WatchedFd::new(signal, Interest::READABLE, KeyOwner::Shutdown.into(), calls)?;
        spawn_local(watch_shutdown(Rc::clone(server), calls.clone(), signal));
        spawn_local(run_timers(Rc::clone(server)));
        if let Some(input) = console::open(server)? {
            spawn_local(console::serve_console(Rc::clone(server), calls.clone(), input));
        }
        for (id, listener) in listeners.iter_mut() {
            let opened = listener.fd.take().zip(listener.factory.take());
            let Some((fd, factory)) = opened else { continue };
            let fd = WatchedFd::new(fd, Interest::READABLE, KeyOwner::Listener(id).into(), calls)?;
            spawn_local(accept_connections(Rc::clone(server), calls.clone(), fd, factory, id));
        }
        Ok(())
    }
}

impl<P: Protocol, C: RuntimeHooks> Engine<P> for Coroutines<P, C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        os::set_nonblocking(fd.as_fd())?;
        let factory = WorkerFactory::new(&factory, fd.as_fd());
        self.listeners.add(id, fd, Some(factory), ());
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        let mut server = self.server.borrow_mut();
        server.console = Some(ConsoleTask::new(console));
        server.peers.expect_operator();
        Ok(())
    }

    /// Serves until it is stopped; a second run ends at once.
    ///
    /// # Panics
    /// If a protocol panics.
    fn run(&mut self) -> io::Result<Ended> {
        let Some(signal) = self.signal.take() else { return Ok(Ended::Drained) };
        let Coroutines { calls, runtime, server, listeners, .. } = self;
        let ended = runtime.block_on(async {
            Self::start(server, calls, signal, listeners).await?;
            // In a task: to wake the future that `block_on` runs takes a system call.
            let supervisor = spawn_local(supervise(Rc::clone(server)));
            Ok(supervisor.await.expect("the task is not aborted"))
        });
        if matches!(ended, Ok(Ended::Drained)) {
            self.server.borrow_mut().show_last_messages();
        }
        ended
    }

    /// Returns what was counted. An iteration is a wait of the executor.
    fn counters(&self) -> Counters {
        let waits = self.runtime.metrics().worker_park_count(0);
        self.server.borrow().counters(waits)
    }
}

// The tasks.

/// Serves a connection: find out what it wants, wait until its socket is ready, do it.
async fn serve_connection<P: Protocol, C: RuntimeHooks>(
    server: SharedServer<P, C>,
    calls: C,
    socket: WatchedFd,
    id: ConnId,
) {
    let _guard = Guard(&server);
    let (key, mut steps) = (KeyOwner::Conn(id).into(), 0);
    loop {
        match next_step(&server, &calls, &socket, id, &mut steps).await {
            TaskStep::Receive(ready) => server.borrow_mut().receive(id, ready),
            TaskStep::Send(ready) => server.borrow_mut().send(id, ready),
            TaskStep::ShutDown => {
                // It fails only if the peer has reset the connection, which a read will report.
                let _ = calls.shutdown_write(key, socket.as_fd());
                server.borrow_mut().peers.shut_down(id);
            }
            TaskStep::Close => break,
        }
        server.borrow_mut().settle(Some(id));
        steps += 1;
        if steps == STEPS {
            server.borrow_mut().yield_task(id);
            yield_now().await; // Others are resumed, and tokio polls its epoll.
            steps = 0;
        }
    }
    socket.close(key, &calls);
    server.borrow_mut().closed(id);
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
async fn next_step<'a, P: Protocol, C: RuntimeHooks>(
    server: &SharedServer<P, C>,
    calls: &C,
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
            calls.ready(KeyOwner::Conn(id).into(), readable, !readable);
        }
        step
    })
    .await
}

fn poll_step<'a, P: Protocol, C: RuntimeHooks>(
    server: &SharedServer<P, C>,
    socket: &'a WatchedFd,
    id: ConnId,
    cx: &mut Context<'_>,
) -> Poll<TaskStep<'a>> {
    let wants = server.borrow_mut().wants(id, cx.waker());
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
async fn accept_connections<P: Protocol, C: RuntimeHooks>(
    server: SharedServer<P, C>,
    calls: C,
    listener: WatchedFd,
    mut factory: WorkerFactory<P>,
    id: ListenerId,
) {
    let _guard = Guard(&server);
    let key = KeyOwner::Listener(id).into();
    while let Some(ready) = next_connection(&server, &calls, &listener, key).await {
        match calls.accept_nonblocking(key, listener.as_fd()) {
            Ok(socket) => open(&server, &calls, socket, &mut factory, id),
            Err(error) => server.borrow_mut().not_accepted(error.into(), ready),
        }
    }
    listener.close(key, &calls);
}

/// Waits until there is capacity for a connection and the listener is readable; returns `None` once
/// the server drains.
async fn next_connection<'a, P: Protocol, C: RuntimeHooks>(
    server: &SharedServer<P, C>,
    calls: &C,
    listener: &'a WatchedFd,
    key: Key,
) -> Option<SocketReady<'a>> {
    let mut awaited = false;
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        if !server.lifecycle.is_serving() {
            return Poll::Ready(None);
        }
        server.wait_for_change(cx.waker());
        if !server.accepts() {
            return Poll::Pending;
        }
        let ready = listener.poll_readable(cx).map(Result::ok);
        match &ready {
            Poll::Pending => awaited = true,
            Poll::Ready(_) if awaited => calls.ready(key, true, false),
            Poll::Ready(_) => {}
        }
        ready
    })
    .await
}

fn open<P: Protocol, C: RuntimeHooks>(
    server: &SharedServer<P, C>,
    calls: &C,
    socket: OwnedFd,
    factory: &mut WorkerFactory<P>,
    listener: ListenerId,
) {
    let id = server.borrow().peers.next_id();
    let both = Interest::READABLE | Interest::WRITABLE;
    match WatchedFd::new(socket, both, KeyOwner::Conn(id).into(), calls) {
        Ok(socket) => {
            let mut server_state = server.borrow_mut();
            let number = server_state.peers.next_number();
            let reach = Some((id, server_state.lifecycle.shutdown()));
            let made = factory.make(number, Some(socket.as_fd()), reach);
            let opened = server_state.open(made, listener, socket.as_fd());
            drop(server_state);
            debug_assert_eq!(opened, id, "no connection was opened between");
            spawn_local(serve_connection(Rc::clone(server), calls.clone(), socket, id));
        }
        Err(error) => server.borrow_mut().refuse(&error),
    }
}

/// Waits for the shutdown signal.
async fn watch_shutdown<P: Protocol, C: RuntimeHooks>(
    server: SharedServer<P, C>,
    calls: C,
    signal: WatchedFd,
) {
    while let Ok(mut ready) = signal.readable().await {
        calls.ready(KeyOwner::Shutdown.into(), true, false);
        server.borrow_mut().take_requests();
        ready.clear_ready();
    }
}

/// Does what is due by the clock.
async fn run_timers<P: Protocol, C: RuntimeHooks>(server: SharedServer<P, C>) {
    let _guard = Guard(&server);
    let mut alarm = pin!(sleep(Duration::ZERO));
    loop {
        poll_fn(|cx| {
            let mut server = server.borrow_mut();
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
        let mut server = server.borrow_mut();
        server.alarm = None;
        server.run_timers();
    }
}

/// Waits until the server has ended.
async fn supervise<P: Protocol, C: RuntimeHooks>(server: SharedServer<P, C>) -> Ended {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
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
struct Guard<'a, P: Protocol, C: RuntimeHooks>(&'a SharedServer<P, C>);

impl<P: Protocol, C: RuntimeHooks> Drop for Guard<'_, P, C> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(mut server) = self.0.try_borrow_mut()
        {
            server.panicked = true;
            server.changed();
        }
    }
}

#[cfg(test)]
mod tests;
