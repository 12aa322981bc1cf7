//! The operator console of a server of threads.
//!
//! The thread that waits for the end waits for the console's input too, and looks at the
//! connections of the others. No command waits for a peer. What the operator sends is left as
//! *messages* for the thread that serves the peer: they are sent after what is owed, however long
//! that takes. A thread that sleeps because its peer sends nothing is interrupted, again and again
//! until it has taken its messages; any other looks before it goes to sleep.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Blocking;
use super::member::Member;
use proactor::address;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::console::{Console, Inspect, Row};
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::lifecycle::Stage;
use proactor::limits::{CloseReason, Ended};
use proactor::os;

impl<C: Calls> Blocking<C> {
    /// Reads the console's input, prints the messages to the operator, and runs the commands.
    pub(super) fn serve_console(&mut self) -> ControlFlow<Ended> {
        let Some(mut console) = self.console.take() else { return ControlFlow::Continue(()) };
        console.read();
        let flow = console.serve(self);
        // It is gone once the operator has quit.
        self.console = Some(console).filter(|_| flow.is_continue());
        flow
    }
}

/// All connections, as the console sees them.
impl<C: Calls> Inspect for Blocking<C> {
    fn show_messages(&mut self, console: &mut Console) {
        let (lines, lost) = self.shared.take_operator_messages();
        if !lines.is_empty() {
            console.show(&lines);
        }
        if lost > 0 {
            console.say(&format!("({lost} messages were not shown: they came too fast)"));
        }
    }

    fn rows(&mut self) -> Vec<Row> {
        let now = os::now();
        self.shared.members().values().map(|member| row(member, now)).collect()
    }

    fn counters(&self) -> Counters {
        Engine::counters(self)
    }

    /// Leaves a message for such connections, unless the server drains: a thread may not have
    /// noticed that yet.
    fn send(&mut self, number: Option<u64>, line: Vec<u8>) -> Vec<bool> {
        let (serves, members) = (self.shared.stage() == Stage::Serving, self.shared.members());
        let is_it = |member: &&Arc<Member>| number.is_none_or(|number| number == member.number);
        let post = |member: &Arc<Member>| serves && member.post(&self.calls, &line);
        let posted: Vec<bool> = members.values().filter(is_it).map(post).collect();
        self.posted |= posted.contains(&true);
        posted
    }

    fn kick(&mut self, number: u64) -> bool {
        let members = self.shared.members();
        let found = members.values().find(|member| member.number == number);
        found.map(|member| member.break_off(&self.calls, CloseReason::Kicked)).is_some()
    }

    fn drain(&mut self) -> Option<usize> {
        let count = self.shared.members().len();
        self.begin_drain(count).then_some(count)
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
        listener: member.listener(),
        address: match member.client() {
            Some(client) => Some(client.to_string()),
            None => address::of_peer(member.socket()),
        },
        age: Some(now.since(member.accepted)),
        received: member.received.load(Ordering::Relaxed),
        sent: member.sent.load(Ordering::Relaxed),
        wants,
        doing: vec![state.to_string()],
        marks: Vec::new(),
    }
}
