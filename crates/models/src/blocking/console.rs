//! The operator console of a server of threads.
//!
//! The thread that waits for the end waits for the console's input too, and looks at the status of
//! the others. No command waits for a peer. What the operator sends is left as *messages* for the
//! thread that serves the peer: they are sent after what is owed, however long that takes. A thread
//! that sleeps because its peer sends nothing is interrupted, again and again until it has taken
//! its messages; any other looks before it goes to sleep.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::Blocking;
use super::group::Member;
use super::pool::ThreadPool;
use super::shared::SharedState;
use super::status::ThreadStatus;
use proactor::address;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::console::{Console, Delivery, Inspect, Row};
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::lifecycle::{Lifecycle, Stage};
use proactor::limits::{CloseReason, Ended};
use proactor::os;

impl<C: Calls> Blocking<C> {
    /// Reads the console's input, prints the messages to the operator, and runs the commands.
    pub(super) fn serve_console(&mut self) -> ControlFlow<Ended> {
        let Some(mut console) = self.console.take() else { return ControlFlow::Continue(()) };
        let counters = Engine::counters(self);
        let Blocking { calls, threads, shared, lifecycle, posted, .. } = self;
        console.read();
        let mut view = ThreadsView { calls, threads, shared, lifecycle, counters, posted };
        let flow = console.serve(&mut view);
        // It is gone once the operator has quit.
        self.console = Some(console).filter(|_| flow.is_continue());
        flow
    }
}

/// All threads, as the console sees them.
struct ThreadsView<'a, C> {
    calls: &'a C,
    threads: &'a ThreadPool,
    shared: &'a SharedState,
    lifecycle: &'a mut Lifecycle,
    counters: Counters,
    /// True once it has left a message.
    posted: &'a mut bool,
}

impl<C: Calls> ThreadsView<'_, C> {
    /// Leaves a message for the connection that a thread serves, unless the server drains: the
    /// thread may not have noticed that yet. Returns whether it will be sent; `None` if the thread
    /// serves none, or another than `number`.
    fn post(&self, status: &ThreadStatus, number: Option<u64>, line: &[u8]) -> Option<bool> {
        let serves = self.shared.stage() == Stage::Serving;
        status.look(|member| {
            let is_it = number.is_none_or(|number| number == member.number);
            is_it.then(|| serves && member.post(self.calls, line))
        })?
    }
}

impl<C: Calls> Inspect for ThreadsView<'_, C> {
    fn show_messages(&mut self, console: &mut Console) {
        let (lines, lost) = self.shared.take_operator_messages();
        if !lines.is_empty() {
            console.show(&lines);
        }
        if lost > 0 {
            console.say(&format!("({lost} messages were not shown: they came too fast)"));
        }
    }

    fn count(&self) -> usize {
        self.threads.statuses().filter_map(|status| status.look(|_| ())).count()
    }

    fn rows(&mut self, _: &Console) -> Vec<Row> {
        let now = os::now();
        let row = |member: &Member| row(member, now);
        self.threads.statuses().filter_map(|status| status.look(row)).collect()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn send_to(&mut self, number: u64, line: Vec<u8>) -> Delivery {
        let mut statuses = self.threads.statuses();
        let posted = statuses.find_map(|status| self.post(status, Some(number), &line));
        *self.posted |= posted == Some(true);
        match posted {
            Some(true) => Delivery::Sent,
            Some(false) => Delivery::Ending,
            None => Delivery::NotFound,
        }
    }

    fn send_to_all(&mut self, line: Vec<u8>) -> usize {
        let posted = |status: &&ThreadStatus| self.post(status, None, &line) == Some(true);
        let posted = self.threads.statuses().filter(posted).count();
        *self.posted |= posted > 0;
        posted
    }

    fn kick(&mut self, number: u64) -> bool {
        let is_it = |member: &Member| member.number == number;
        let kick = |member: &Member| member.break_off(self.calls, CloseReason::Kicked);
        let kick = |member: &Member| is_it(member).then(|| kick(member)).is_some();
        self.threads.statuses().any(|status| status.look(kick) == Some(true))
    }

    fn is_draining(&self) -> bool {
        !self.lifecycle.is_serving()
    }

    fn drain(&mut self) {
        self.lifecycle.drain(self.count(), os::now());
        self.shared.advance(Stage::Draining);
    }
}

fn row(member: &Member, now: Nanos) -> Row {
    let (state, owed) = (member.state(), member.owed.load(Ordering::Relaxed));
    let mut wants = Vec::new();
    wants.extend(state.receives().then(|| "receive".to_owned()));
    wants.extend((owed > 0).then(|| format!("send {owed} B")));
    Row {
        number: member.number,
        id: member.id,
        listener: member.listener,
        address: address::of_peer(member.socket()),
        age: Some(now.since(member.accepted)),
        received: member.received.load(Ordering::Relaxed),
        sent: member.sent.load(Ordering::Relaxed),
        wants,
        doing: vec![state.to_string()],
        marks: Vec::new(),
    }
}
