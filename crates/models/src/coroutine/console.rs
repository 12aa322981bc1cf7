//! The operator console of the coroutine server: one more task, which awaits its input.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::Poll;

use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::hooks::RuntimeHooks;
use super::state::{ServerState, TaskState};
use super::watched::{SocketReady, WatchedFd};
use super::{Guard, SharedServer};
use proactor::keys::KeyOwner;
use proactor::os;

/// The input of the console, as it is waited for.
pub(super) enum TaskInput {
    Watched(WatchedFd),
    /// No epoll(7) watches it: it is always readable (kernel-notes §35).
    File,
    Ended,
}

/// Starts to watch the input of the console, if there is one, and prompts.
///
/// # Errors
/// The executor cannot watch it.
pub(super) fn open<C: RuntimeHooks>(server: &SharedServer<C>) -> io::Result<Option<TaskInput>> {
    let mut state = server.state();
    let Some(task) = &mut state.console else { return Ok(None) };
    task.console.flush();
    // A descriptor of its own: the executor wants to own what it watches.
    let input = task.console.input().try_clone_to_owned()?;
    match WatchedFd::new(input, Interest::READABLE, KeyOwner::Console.into(), &server.calls) {
        Ok(watched) => Ok(Some(TaskInput::Watched(watched))),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Some(TaskInput::File)),
        Err(error) => Err(error),
    }
}

/// Serves the console whenever there is input or a message to the operator, until it quits.
pub(super) async fn serve_console<C: RuntimeHooks>(server: SharedServer<C>, mut input: TaskInput) {
    let _guard = Guard(&server);
    loop {
        let event = next_event(&server, &input).await;
        if server.state().handle_console(event).is_break() {
            return;
        }
        if server.state().console_input_has_ended()
            && let TaskInput::Watched(watched) = std::mem::replace(&mut input, TaskInput::Ended)
        {
            watched.close(KeyOwner::Console.into(), &server.calls);
        }
        yield_now().await; // So that the connections go on during much input.
    }
}

/// Why the console is served.
enum ConsoleEvent<'a> {
    /// The input seems to be readable. If readiness was reported, it is remembered until a read
    /// finds nothing: a terminal returns a line at a time, and an edge does not report the next
    /// one.
    Input(Option<SocketReady<'a>>),
    /// There is a message to the operator.
    Messages,
}

async fn next_event<'a, C: RuntimeHooks>(
    server: &SharedServer<C>,
    input: &'a TaskInput,
) -> ConsoleEvent<'a> {
    poll_fn(|cx| {
        let mut server = server.state();
        if let Some(task) = &mut server.console {
            task.waker.clone_from(cx.waker());
        }
        match input {
            // tokio's driver fails only when it shuts down, and this task with it.
            TaskInput::Watched(watched) => {
                if let Poll::Ready(ready) = watched.poll_readable(cx) {
                    return Poll::Ready(ConsoleEvent::Input(ready.ok()));
                }
            }
            TaskInput::File => return Poll::Ready(ConsoleEvent::Input(None)),
            TaskInput::Ended => {}
        }
        match server.peers.has_operator_messages() {
            true => Poll::Ready(ConsoleEvent::Messages),
            false => Poll::Pending,
        }
    })
    .await
}

impl ServerState {
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
