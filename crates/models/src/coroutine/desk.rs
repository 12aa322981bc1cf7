//! The operator's desk at the coroutine server: one more task, which awaits what is typed.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::server::{Server, Task};
use super::watched::{Ready, Watched};
use super::witness::Witness;
use super::{Coroutines, Guard, Shared};
use proactor::console::{Console, Moment, Order};
use proactor::keys::Whose;
use proactor::limits::Stage;
use proactor::os;
use proactor::protocol::Protocol;

/// A console, and who is woken to attend to it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) console: Console,
    pub(super) attendant: Waker,
}

impl<P: Protocol + Clone + 'static, C: Witness> Coroutines<P, C> {
    /// Has an operator see and do at `console` what there is to be seen and done, while it runs.
    /// The places of the console are the listeners, in their order.
    pub fn attend_to(&mut self, console: Console) {
        let mut server = self.server.borrow_mut();
        server.desk = Some(Desk { console, attendant: Waker::noop().clone() });
        server.peers.expect_operator();
    }
}

/// What is typed, as it is waited for.
pub(super) enum Typed {
    Watched(Watched),
    /// No epoll(7) watches it: it is always readable (kernel-notes §35).
    File,
    /// There will be no more.
    Ended,
}

/// Begins to watch what is typed, if there is an operator, and prompts.
///
/// # Errors
/// The executor cannot watch it.
pub(super) fn open<P: Protocol, C: Witness>(server: &Shared<P, C>) -> io::Result<Option<Typed>> {
    let mut server = server.borrow_mut();
    let Server { desk, calls, .. } = &mut *server;
    let Some(desk) = desk else { return Ok(None) };
    desk.console.begin();
    // A descriptor of its own: the executor wants to own what it watches.
    let typed = desk.console.input().try_clone_to_owned()?;
    let typed = match Watched::reading(typed, Whose::Input.into(), calls) {
        Ok(watched) => Typed::Watched(watched),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Typed::File,
        Err(error) => return Err(error),
    };
    Ok(Some(typed))
}

/// Has the operator see and do, as soon as something is typed or told, until it quits.
pub(super) async fn attend<P: Protocol, C: Witness>(
    server: Shared<P, C>,
    calls: C,
    mut typed: Typed,
) {
    let _guard = Guard(&server);
    loop {
        let cause = something(&server, &typed).await;
        if server.borrow_mut().serve_operator(cause) {
            return;
        }
        if server.borrow().hears_no_more()
            && let Typed::Watched(watched) = std::mem::replace(&mut typed, Typed::Ended)
        {
            watched.close(Whose::Input.into(), &calls);
        }
        yield_now().await; // Who types a lot has others go first.
    }
}

/// Why the operator is attended to.
enum Cause<'a> {
    /// It has typed something, it seems; with the memory of that, if it was reported. That is kept
    /// until a look finds nothing: a terminal gives a line at a time, and tells of none behind it.
    Typed(Option<Ready<'a>>),
    /// Something was told to it.
    Told,
}

/// Waits until something is typed or told.
async fn something<'a, P: Protocol, C: Witness>(
    server: &Shared<P, C>,
    typed: &'a Typed,
) -> Cause<'a> {
    poll_fn(|cx| {
        let mut server = server.borrow_mut();
        if let Some(desk) = &mut server.desk {
            desk.attendant.clone_from(cx.waker());
        }
        match typed {
            // tokio's driver fails only when it shuts down, and this task with it.
            Typed::Watched(watched) => {
                if let Poll::Ready(ready) = watched.poll_readable(cx) {
                    return Poll::Ready(Cause::Typed(ready.ok()));
                }
            }
            Typed::File => return Poll::Ready(Cause::Typed(None)),
            Typed::Ended => {}
        }
        if server.peers.has_told() { Poll::Ready(Cause::Told) } else { Poll::Pending }
    })
    .await
}

impl<P: Protocol, C: Witness> Server<P, C> {
    /// Reads what was typed, if that is the cause, and attends to it; answers whether the operator
    /// quits.
    fn serve_operator(&mut self, cause: Cause<'_>) -> bool {
        if let Some(desk) = &mut self.desk
            && let Cause::Typed(ready) = cause
            && !desk.console.read()
            && let Some(mut ready) = ready
        {
            ready.clear_ready();
        }
        self.attend()
    }

    /// Whether nothing more will be typed.
    fn hears_no_more(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.console.has_ended())
    }

    /// Lets the operator see and do; answers whether it quits.
    fn attend(&mut self) -> bool {
        let Some(mut desk) = self.desk.take() else { return false };
        let quits = loop {
            let ending = self.asked > 0 || self.stage != Stage::Serving;
            let counters = self.counters(Handle::current().metrics().worker_park_count(0));
            let moment = Moment { counters, now: os::now(), ending };
            match self.peers.attend(&mut desk.console, moment, Task::sight) {
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
        let Server { desk, peers, .. } = self;
        if let Some(desk) = desk {
            peers.show_told(&mut desk.console);
        }
    }
}
