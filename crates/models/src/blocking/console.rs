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
use proactor::address;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::console::{Console, Inspect, Row};
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

    fn rows(&mut self, _: &Console) -> Vec<Row> {
        let now = os::now();
        let row = |member: &Member| row(member, now);
        self.threads.statuses().filter_map(|status| status.look(row)).collect()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    /// Leaves a message for each thread that serves such a connection, unless the server drains: a
    /// thread may not have noticed that yet.
    fn send(&mut self, number: Option<u64>, line: Vec<u8>) -> Vec<bool> {
        let serves = self.shared.stage() == Stage::Serving;
        let post = |member: &Member| {
            let is_it = number.is_none_or(|number| number == member.number);
            is_it.then(|| serves && member.post(self.calls, &line))
        };
        let statuses = self.threads.statuses();
        let posted: Vec<bool> = statuses.filter_map(|status| status.look(post)?).collect();
        *self.posted |= posted.contains(&true);
        posted
    }

    fn kick(&mut self, number: u64) -> bool {
        let is_it = |member: &Member| member.number == number;
        let kick = |member: &Member| member.break_off(self.calls, CloseReason::Kicked);
        let kick = |member: &Member| is_it(member).then(|| kick(member)).is_some();
        self.threads.statuses().any(|status| status.look(kick) == Some(true))
    }

    fn drain(&mut self) -> Option<usize> {
        let count = self.threads.statuses().filter_map(|status| status.look(|_| ())).count();
        let starts = self.lifecycle.drain(count, os::now());
        starts.then(|| self.shared.advance(Stage::Draining)).map(|()| count)
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
