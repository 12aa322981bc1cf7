//! The operator console of the coroutine server: one more task, which awaits its input.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::{Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::hooks::RuntimeHooks;
use super::state::{ServerState, TaskState};
use super::watched::{Ready, WatchedFd};
use super::{Guard, Shared};
use proactor::console::Console;
use proactor::keys::KeyOwner;
use proactor::os;
use proactor::protocol::Protocol;

/// A console, and the waker of its task.
#[derive(Debug)]
pub(super) struct ConsoleTask {
    pub(super) console: Console,
    pub(super) waker: Waker,
}

impl ConsoleTask {
    pub(super) fn new(console: Console) -> ConsoleTask {
        ConsoleTask { console, waker: Waker::noop().clone() }
    }
}

/// The input of the console, as it is waited for.
pub(super) enum ConsoleInput {
    Watched(WatchedFd),
    /// No epoll(7) watches it: it is always readable (kernel-notes §35).
    File,
    Ended,
}

/// Starts to watch the input of the console, if there is one, and prompts.
///
/// # Errors
/// The executor cannot watch it.
pub(super) fn open<P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
) -> io::Result<Option<ConsoleInput>> {
    let mut server = server.borrow_mut();
    let ServerState { console: Some(task), calls, .. } = &mut *server else { return Ok(None) };
    task.console.begin();
    // A descriptor of its own: the executor wants to own what it watches.
    let input = task.console.input().try_clone_to_owned()?;
    match WatchedFd::reading(input, KeyOwner::Console.into(), calls) {
        Ok(watched) => Ok(Some(ConsoleInput::Watched(watched))),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Some(ConsoleInput::File)),
        Err(error) => Err(error),
    }
}

/// Serves the console whenever there is input or a message to the operator, until it quits.
pub(super) async fn serve_console<P: Protocol, C: RuntimeHooks>(
    server: Shared<P, C>,
    calls: C,
    mut input: ConsoleInput,
) {
    let _guard = Guard(&server);
    loop {
        let event = next_event(&server, &input).await;
        if server.borrow_mut().handle_console(event).is_break() {
            return;
        }
        if server.borrow().console_input_has_ended()
            && let ConsoleInput::Watched(watched) =
                std::mem::replace(&mut input, ConsoleInput::Ended)
        {
            watched.close(KeyOwner::Console.into(), &calls);
        }
        yield_now().await; // Much input does not starve the connections.
    }
}

/// Why the console is served.
enum ConsoleEvent<'a> {
    /// The input seems to be readable. If readiness was reported, it is remembered until a read
    /// finds nothing: a terminal returns a line at a time, and an edge does not report the next one.
    Input(Option<Ready<'a>>),
    /// There is a message to the operator.
    Messages,
}

async fn next_event<'a, P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    input: &'a ConsoleInput,
) -> ConsoleEvent<'a> {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        if let Some(task) = &mut server.console {
            task.waker.clone_from(cx.waker());
        }
        match input {
            // tokio's driver fails only when it shuts down, and this task with it.
            ConsoleInput::Watched(watched) => {
                if let Poll::Ready(ready) = watched.poll_readable(cx) {
                    return Poll::Ready(ConsoleEvent::Input(ready.ok()));
                }
            }
            ConsoleInput::File => return Poll::Ready(ConsoleEvent::Input(None)),
            ConsoleInput::Ended => {}
        }
        match server.peers.has_operator_messages() {
            true => Poll::Ready(ConsoleEvent::Messages),
            false => Poll::Pending,
        }
    })
    .await
}

impl<P: Protocol, C: RuntimeHooks> ServerState<P, C> {
    /// Reads the input, if that is the event, and serves the console. Breaks if the operator quits.
    fn handle_console(&mut self, event: ConsoleEvent<'_>) -> ControlFlow<()> {
        let counters = self.counters(Handle::current().metrics().worker_park_count(0));
        let ServerState { console: Some(task), peers, lifecycle, .. } = self else {
            return ControlFlow::Continue(());
        };
        if let ConsoleEvent::Input(ready) = event
            && !task.console.read()
            && let Some(mut ready) = ready
        {
            ready.clear_ready();
        }
        let mut view = peers.inspect(lifecycle, counters, os::now(), TaskState::socket_info);
        let flow = task.console.serve(&mut view);
        drop(view);
        if let ControlFlow::Break(ended) = flow {
            self.end(ended);
        }
        self.settle(None);
        self.changed(); // A command may have begun the drain.
        if flow.is_break() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn console_input_has_ended(&self) -> bool {
        self.console.as_ref().is_some_and(|task| task.console.has_ended())
    }

    /// Prints the last messages to the operator, when no task runs any more.
    pub(super) fn show_last_messages(&mut self) {
        let ServerState { console, peers, .. } = self;
        if let Some(task) = console {
            peers.show_operator_messages(&mut task.console);
        }
    }
}
