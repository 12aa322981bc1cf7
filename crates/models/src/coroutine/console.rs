//! The operator's desk at the coroutine server: one more task, which awaits what is typed.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::hooks::RuntimeHooks;
use super::state::{ServerState, TaskState};
use super::watched::{Ready, WatchedFd};
use super::{Coroutines, Guard, Shared};
use proactor::console::{Console, Moment, Order};
use proactor::keys::KeyOwner;
use proactor::limits::Stage;
use proactor::os;
use proactor::protocol::Protocol;

/// A console, and who is woken to attend to it.
#[derive(Debug)]
pub(super) struct ConsoleTask {
    pub(super) console: Console,
    pub(super) waker: Waker,
}

impl<P: Protocol + Clone + 'static, C: RuntimeHooks> Coroutines<P, C> {
    /// Has an operator see and do at `console` what there is to be seen and done, while it runs.
    /// The listeners of the console are the listeners, in their order.
    pub fn attend_to(&mut self, console: Console) {
        let mut server = self.server.borrow_mut();
        server.desk = Some(ConsoleTask { console, waker: Waker::noop().clone() });
        server.peers.expect_operator();
    }
}

/// What is typed, as it is waited for.
pub(super) enum ConsoleInput {
    Watched(WatchedFd),
    /// No epoll(7) watches it: it is always readable (kernel-notes §35).
    File,
    /// There will be no more.
    Ended,
}

/// Begins to watch what is typed, if there is an operator, and prompts.
///
/// # Errors
/// The executor cannot watch it.
pub(super) fn open<P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
) -> io::Result<Option<ConsoleInput>> {
    let mut server = server.borrow_mut();
    let ServerState { desk, calls, .. } = &mut *server;
    let Some(desk) = desk else { return Ok(None) };
    desk.console.begin();
    // A descriptor of its own: the executor wants to own what it watches.
    let typed = desk.console.input().try_clone_to_owned()?;
    let typed = match WatchedFd::reading(typed, KeyOwner::Console.into(), calls) {
        Ok(watched) => ConsoleInput::Watched(watched),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => ConsoleInput::File,
        Err(error) => return Err(error),
    };
    Ok(Some(typed))
}

/// Has the operator see and do, as soon as something is typed or told, until it quits.
pub(super) async fn attend<P: Protocol, C: RuntimeHooks>(
    server: Shared<P, C>,
    calls: C,
    mut typed: ConsoleInput,
) {
    let _guard = Guard(&server);
    loop {
        let cause = next_event(&server, &typed).await;
        if server.borrow_mut().serve_operator(cause) {
            return;
        }
        if server.borrow().input_has_ended()
            && let ConsoleInput::Watched(watched) =
                std::mem::replace(&mut typed, ConsoleInput::Ended)
        {
            watched.close(KeyOwner::Console.into(), &calls);
        }
        yield_now().await; // Who types a lot has others go first.
    }
}

/// Why the operator is attended to.
enum ConsoleEvent<'a> {
    /// It has typed something, it seems; with the memory of that, if it was reported. That is kept
    /// until a look finds nothing: a terminal gives a line at a time, and tells of none behind it.
    Input(Option<Ready<'a>>),
    /// Something was told to it.
    Messages,
}

/// Waits until something is typed or told.
async fn next_event<'a, P: Protocol, C: RuntimeHooks>(
    server: &Shared<P, C>,
    typed: &'a ConsoleInput,
) -> ConsoleEvent<'a> {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        if let Some(desk) = &mut server.desk {
            desk.waker.clone_from(cx.waker());
        }
        match typed {
            // tokio's driver fails only when it shuts down, and this task with it.
            ConsoleInput::Watched(watched) => {
                if let Poll::Ready(ready) = watched.poll_readable(cx) {
                    return Poll::Ready(ConsoleEvent::Input(ready.ok()));
                }
            }
            ConsoleInput::File => return Poll::Ready(ConsoleEvent::Input(None)),
            ConsoleInput::Ended => {}
        }
        if server.peers.has_messages() {
            Poll::Ready(ConsoleEvent::Messages)
        } else {
            Poll::Pending
        }
    })
    .await
}

impl<P: Protocol, C: RuntimeHooks> ServerState<P, C> {
    /// Reads what was typed, if that is the cause, and attends to it; answers whether the operator
    /// quits.
    fn serve_operator(&mut self, cause: ConsoleEvent<'_>) -> bool {
        if let Some(desk) = &mut self.desk
            && let ConsoleEvent::Input(ready) = cause
            && !desk.console.read()
            && let Some(mut ready) = ready
        {
            ready.clear_ready();
        }
        self.attend()
    }

    /// Whether nothing more will be typed.
    fn input_has_ended(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.console.has_ended())
    }

    /// Lets the operator see and do; answers whether it quits.
    fn attend(&mut self) -> bool {
        let Some(mut desk) = self.desk.take() else { return false };
        let quits = loop {
            let ending = self.asked > 0 || self.stage != Stage::Serving;
            let counters = self.counters(Handle::current().metrics().worker_park_count(0));
            let moment = Moment { counters, now: os::now(), ending };
            match self.peers.attend(&mut desk.console, moment, TaskState::socket_info) {
                None => break false,
                Some(Order::Drain) => {
                    self.ask(1);
                    self.peers.finish_all(); // Now: nobody hears what is said after it.
                }
                Some(Order::Quit) => {
                    self.ask(2);
                    break true;
                }
            }
        };
        self.desk = Some(desk);
        self.settle(None);
        quits
    }

    /// Shows what was told at the very end, when no task runs any more.
    pub(super) fn show_last(&mut self) {
        let ServerState { desk, peers, .. } = self;
        if let Some(desk) = desk {
            peers.show_messages(&mut desk.console);
        }
    }
}
