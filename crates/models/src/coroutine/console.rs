//! The operator console of the coroutine server: one more task, which awaits its input.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::state::{ServerState, TaskState};
use super::watched::{self, SocketReady, WatchedFd};
use super::{Guard, TaskServer};
use crate::hooks::CallHooks;
use proactor::keys::KeyOwner;
use proactor::loop_state::LoopState;
use proactor::os;

impl<C: CallHooks> TaskServer<C> {
    /// Serves the console, if there is one, whenever there is input or a message to the operator,
    /// until it quits.
    ///
    /// # Errors
    /// The executor cannot watch the input.
    pub(super) fn serve_console(self: Rc<Self>) -> io::Result<Option<impl Future<Output = ()>>> {
        let mut state = self.state();
        let Some(console) = &mut state.core.console else { return Ok(None) };
        console.flush();
        // A descriptor of its own: the executor wants to own what it watches.
        let input = console.input().try_clone_to_owned()?;
        drop(state);
        let key = KeyOwner::Console.into();
        let mut watched = match watched::watch(input, Interest::READABLE, key, &self.calls) {
            Ok(watched) => Some(watched),
            // No epoll(7) watches it: it is always readable (kernel-notes §35).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => None,
            Err(error) => return Err(error),
        };
        Ok(Some(async move {
            let _guard = Guard(&*self);
            loop {
                let ready = self.next_event(watched.as_ref()).await;
                if self.state().serve_console(ready) {
                    return;
                }
                if self.state().input_has_ended()
                    && let Some(watched) = watched.take()
                {
                    watched::close(watched, key, &self.calls);
                }
                yield_now().await; // So that the connections go on during much input.
            }
        }))
    }

    /// Waits for input or a message to the operator. If readiness of the input was reported, it is
    /// remembered until a read finds nothing: a terminal returns a line at a time, and an edge does
    /// not report the next one.
    async fn next_event<'a>(&self, watched: Option<&'a WatchedFd>) -> Option<SocketReady<'a>> {
        poll_fn(|cx| {
            let mut state = self.state();
            state.wait_for_change(cx.waker());
            // tokio's driver fails only when it shuts down, and this task with it.
            if let Some(watched) = watched
                && let Poll::Ready(ready) = watched.poll_read_ready(cx)
            {
                return Poll::Ready(ready.ok());
            }
            let is_file = watched.is_none() && !state.input_has_ended();
            match is_file || state.core.peers.has_operator_messages() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }
}

impl ServerState {
    /// Reads the input and serves the console. Returns true if the operator quits.
    fn serve_console(&mut self, ready: Option<SocketReady<'_>>) -> bool {
        let counters = self.counters(Handle::current().metrics().worker_park_count(0));
        let LoopState { peers, lifecycle, console, .. } = &mut self.core;
        let console = console.as_mut().expect("its task runs");
        if !console.read()
            && let Some(mut ready) = ready
        {
            ready.clear_ready();
        }
        let mut view = peers.inspect(lifecycle, counters, os::now(), TaskState::socket_info);
        let flow = console.serve(&mut view);
        drop(view);
        self.served(flow);
        flow.is_break()
    }

    fn input_has_ended(&self) -> bool {
        self.core.console.as_ref().is_none_or(|console| console.has_ended())
    }

    /// Prints the last messages to the operator, when no task runs any more.
    pub(super) fn show_last_messages(&mut self) {
        let LoopState { peers, console, .. } = &mut self.core;
        if let Some(console) = console {
            peers.show_operator_messages(console);
        }
    }
}
