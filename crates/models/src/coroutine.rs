//! The coroutine server: a task for each connection, written as if it were alone.
//!
//! ```text
//!   accept_connections ── accepts, and spawns ──►  serve_connection   loop { what does it want? … .await … do it }
//!   run_timers ── does what is due       serve_connection   …
//!   watch_shutdown ── hears the stop signal       serve_connection   …
//!   attend ── has an operator see and do, if there is one
//! ```
//!
//! `serve_connection` is to be read first: a connection's whole life in one loop that *waits* in the
//! middle. The compiler makes a state machine of it, and an executor (tokio's, on one thread)
//! resumes it. Beneath is readiness by edges, as in [`reactor`](proactor::reactor): tokio waits in
//! epoll, and wakes the task whose socket may proceed; the data are copied by us, in calls of our
//! own. The same connections, rooms, limits and drain as in both loops.
//!
//! What the tasks share is in a `RefCell`, which no task holds while it waits: every method of
//! `ServerState` returns before the next `.await`. Whoever is marked by what another did is woken.
//!
//! Who remembers what happens is a [`RuntimeHooks`], by which all calls are made; by default nobody is,
//! and nothing of that is there.
//!
//! A wait is counted once for each time that tokio parks. Uncounted are its looks without waiting:
//! one for at most 61 resumptions while there is no time to sleep, and one when a flood yields.
//! Nor are these recorded.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, timeout};

use proactor::buffer::Pool;
use proactor::calls::PlainCalls;
use proactor::counters::Counters;
use proactor::keys::{ConnId, Key, KeyOwner};
use proactor::limits::{ACCEPT_PAUSE, Ended, Limits, Stage};
use proactor::os::{self, ShutdownSignal};
use proactor::peers::Room;
use proactor::protocol::Protocol;

mod console;
mod hooks;
mod state;
mod watched;

pub use hooks::RuntimeHooks;
use state::ServerState;
use watched::{Ready, WatchedFd};

/// Calls that one connection may make before others have their turn: a flood does not own the
/// executor. (tokio's own budget counts 128, of whatever size.)
const STEPS: usize = 32;

/// A server whose connections are coroutines.
#[derive(Debug)]
pub struct Coroutines<P, C = PlainCalls> {
    /// By what calls are made.
    calls: C,
    runtime: LocalRuntime,
    server: Shared<P, C>,
    listeners: Vec<(OwnedFd, P)>,
    /// Its counter, and the descriptor of it that is waited for; none once it has run.
    stop: Option<(ShutdownSignal, OwnedFd)>,
}

/// What the tasks share; never borrowed across an `.await`.
type Shared<P, C> = Rc<RefCell<ServerState<P, C>>>;

impl<P: Protocol + Clone + 'static> Coroutines<P> {
    /// A server as [`with_calls`](Coroutines::with_calls) makes it, whose calls are only made.
    ///
    /// # Errors
    /// No descriptor is left for the executor.
    pub fn new(pool: Rc<Pool>, limits: Limits, stop: ShutdownSignal) -> io::Result<Coroutines<P>> {
        Coroutines::with_calls(PlainCalls, pool, limits, stop)
    }
}

impl<P: Protocol + Clone + 'static, C: RuntimeHooks> Coroutines<P, C> {
    /// A server without a listener, which `stop` can stop. Its buffers are `pool`'s, its calls are
    /// made by `calls`.
    ///
    /// # Errors
    /// No descriptor is left for the executor.
    pub fn with_calls(
        calls: C,
        pool: Rc<Pool>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Coroutines<P, C>> {
        let server = Rc::new(RefCell::new(ServerState::new(calls.clone(), pool, limits)));
        let mut builder = Builder::new_current_thread();
        calls.attend(&mut builder);
        let runtime = builder.enable_io().enable_time().build_local(<_>::default())?;
        let watched = stop.as_fd().try_clone_to_owned()?;
        let stop = Some((stop, watched));
        Ok(Coroutines { calls, runtime, server, listeners: Vec::new(), stop })
    }

    /// Serves `protocol` to whoever connects to `fd`, a listening socket, which becomes
    /// non-blocking. Each listener is a room of its own.
    ///
    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub fn listen(&mut self, fd: OwnedFd, protocol: P) -> io::Result<()> {
        os::set_nonblocking(fd.as_fd())?;
        self.listeners.push((fd, protocol));
        Ok(())
    }

    /// Serves until it is stopped. Afterwards it serves nobody any more.
    ///
    /// # Errors
    /// The executor cannot watch a listener, or the stop signal.
    ///
    /// # Panics
    /// If a protocol does.
    pub fn run(&mut self) -> io::Result<Ended> {
        let Some((stop, watched)) = self.stop.take() else { return Ok(Ended::Drained) };
        let listeners = std::mem::take(&mut self.listeners);
        let (server, calls) = (Rc::clone(&self.server), self.calls.clone());
        let ended = self.runtime.block_on(async {
            let watched = WatchedFd::new(watched, KeyOwner::Shutdown.into(), &calls)?;
            spawn_local(watch_shutdown(Rc::clone(&server), calls.clone(), watched, stop));
            spawn_local(run_timers(Rc::clone(&server)));
            if let Some(typed) = console::open(&server)? {
                spawn_local(console::attend(Rc::clone(&server), calls.clone(), typed));
            }
            for (at, (fd, protocol)) in listeners.into_iter().enumerate() {
                let listener = WatchedFd::new(fd, KeyOwner::Listener(at).into(), &calls)?;
                let (server, calls) = (Rc::clone(&server), calls.clone());
                spawn_local(accept_connections(server, calls, listener, protocol, Room(at as u16)));
            }
            // In a task: to wake what is blocked on would take a system call.
            Ok(spawn_local(supervise(server)).await.expect("a task of ours that is not aborted"))
        });
        if matches!(ended, Ok(Ended::Drained)) {
            self.server.borrow_mut().show_last();
        }
        ended
    }

    /// What it has counted. A turn is a wait of the executor's.
    pub fn counters(&self) -> Counters {
        let waits = self.runtime.metrics().worker_park_count(0);
        self.server.borrow().counters(waits)
    }
}

// The tasks.

/// A connection's life: find out what it wants, wait until it may, do it.
async fn serve_connection<P: Protocol, C: RuntimeHooks>(
    server: Shared<P, C>,
    calls: C,
    socket: WatchedFd,
    id: ConnId,
) {
    let _guard = Guard(&server);
    let (key, mut steps) = (KeyOwner::Conn(id).into(), 0);
    loop {
        match next_step(&server, &calls, &socket, id, &mut steps).await {
            Step::Receive(ready) => server.borrow_mut().receive(id, ready),
            Step::Send(ready) => server.borrow_mut().send(id, ready),
            Step::ShutDown => {
                // It fails only if the peer has reset, and then a read will tell.
                let _ = calls.shutdown_write(key, socket.as_fd());
                server.borrow_mut().peers.shut_down(id);
            }
            Step::Close => break,
        }
        server.borrow_mut().settle(Some(id));
        steps += 1;
        if steps == STEPS {
            server.borrow_mut().yield_task(id);
            yield_now().await; // First others are resumed, and tokio asks who else is ready.
            steps = 0;
        }
    }
    socket.close(key, &calls);
    server.borrow_mut().closed(id);
}

/// What a connection does next, once it may.
enum Step<'a> {
    Receive(Ready<'a>),
    Send(Ready<'a>),
    ShutDown,
    Close,
}

/// Waits until the connection wants something and its socket may. Its wishes are asked for anew
/// whenever the task is woken, by its socket or by what another did. `steps` begins anew if there
/// was anything to wait for.
async fn next_step<'a, P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    calls: &C,
    socket: &'a WatchedFd,
    id: ConnId,
    steps: &mut usize,
) -> Step<'a> {
    poll_fn(|cx| {
        let step = poll_step(server, socket, id, cx);
        *steps = if step.is_pending() { 0 } else { *steps };
        if let Poll::Ready(step @ (Step::Receive(_) | Step::Send(_))) = &step
            && *steps == 0
        {
            let readable = matches!(step, Step::Receive(_));
            calls.ready(KeyOwner::Conn(id).into(), readable, !readable);
        }
        step
    })
    .await
}

fn poll_step<'a, P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    socket: &'a WatchedFd,
    id: ConnId,
    cx: &mut Context<'_>,
) -> Poll<Step<'a>> {
    let wants = server.borrow_mut().wants(id, cx.waker());
    // tokio's driver fails only when it shuts down, and this task with it.
    let may = |ready: io::Result<_>, step: fn(_) -> Step<'a>| {
        Poll::Ready(ready.map_or(Step::Close, step))
    };
    if wants.close {
        return Poll::Ready(Step::Close);
    }
    if wants.shut_down {
        return Poll::Ready(Step::ShutDown);
    }
    // What it has to say goes out first, from a buffer that is still in the cache.
    if wants.send
        && let Poll::Ready(ready) = socket.poll_writable(cx)
    {
        return may(ready, Step::Send);
    }
    if wants.receive
        && let Poll::Ready(ready) = socket.poll_readable(cx)
    {
        return may(ready, Step::Receive);
    }
    Poll::Pending
}

/// Accepts whoever comes while there is room: who comes meanwhile waits in the kernel's queue. The
/// listener is closed when the server drains.
async fn accept_connections<P: Protocol + Clone + 'static, C: RuntimeHooks>(
    server: Shared<P, C>,
    calls: C,
    listener: WatchedFd,
    protocol: P,
    room: Room,
) {
    let _guard = Guard(&server);
    let key = KeyOwner::Listener(room.0.into()).into();
    while let Some(mut ready) = next_connection(&server, &calls, &listener, key).await {
        match calls.accept_nonblocking(key, listener.as_fd()) {
            Ok(socket) => open(&server, &calls, socket, protocol.clone(), room),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => ready.clear_ready(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                    server.borrow_mut().pause(&error);
                    let _ = timeout(ACCEPT_PAUSE, until(&server, |server| !server.pausing)).await;
                    server.borrow_mut().go_on();
                }
                _ => tracing::debug!(%error, "a connection was lost unaccepted"),
            },
        }
    }
    listener.close(key, &calls);
}

/// Waits until there is room for one more and, it seems, somebody has come; `None` once nobody is
/// wanted any more.
async fn next_connection<'a, P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    calls: &C,
    listener: &'a WatchedFd,
    key: Key,
) -> Option<Ready<'a>> {
    let mut awaited = false;
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        if server.stage != Stage::Serving {
            return Poll::Ready(None);
        }
        server.wait_for_change(cx.waker());
        if server.pausing || server.is_full() {
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

fn open<P: Protocol + 'static, C: RuntimeHooks>(
    server: &Shared<P, C>,
    calls: &C,
    socket: OwnedFd,
    protocol: P,
    room: Room,
) {
    let id = server.borrow().peers.next_id();
    match WatchedFd::new(socket, KeyOwner::Conn(id).into(), calls) {
        Ok(socket) => {
            let opened = server.borrow_mut().open(protocol, room, socket.as_fd());
            debug_assert_eq!(opened, id, "nobody came between");
            spawn_local(serve_connection(Rc::clone(server), calls.clone(), socket, id));
        }
        Err(error) => server.borrow_mut().refuse(&error),
    }
}

/// Hears the stop signal.
async fn watch_shutdown<P: Protocol, C: RuntimeHooks>(
    server: Shared<P, C>,
    calls: C,
    watched: WatchedFd,
    stop: ShutdownSignal,
) {
    while let Ok(mut ready) = watched.readable().await {
        calls.ready(KeyOwner::Shutdown.into(), true, false);
        let asked = stop.take();
        ready.clear_ready();
        server.borrow_mut().ask(asked);
    }
}

/// Does what is due by the clock.
async fn run_timers<P: Protocol, C: RuntimeHooks>(server: Shared<P, C>) {
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
        server.settle(None);
    }
}

/// Sees the server from its start to its end.
async fn supervise<P: Protocol, C: RuntimeHooks>(server: Shared<P, C>) -> Ended {
    until(&server, |server| server.asked > 0).await;
    let span = server.borrow_mut().drain();
    let ended = |server: &ServerState<P, C>| server.asked > 1 || server.peers.is_empty();
    if timeout(span, until(&server, ended)).await.is_err() {
        server.borrow_mut().cut();
        until(&server, ended).await;
    }
    if server.borrow().asked > 1 { Ended::AtOnce } else { Ended::Drained }
}

/// Waits until `condition` holds of the server.
async fn until<P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    condition: impl Fn(&ServerState<P, C>) -> bool,
) {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        assert!(!server.panicked, "a task of the server has panicked");
        if condition(&server) {
            return Poll::Ready(());
        }
        server.wait_for_change(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Ends the server if its task panics: tokio would go on without it.
struct Guard<'a, P: Protocol, C: RuntimeHooks>(&'a Shared<P, C>);

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
