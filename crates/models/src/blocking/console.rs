//! The operator's desk at a server of threads.
//!
//! The thread that waits for the end waits for what is typed too, and looks at the statuses of the
//! others. Nothing that an operator does waits for a peer. What it says is left as *mail* for the
//! thread that serves the peer: it is sent after what is owed, however long that takes. A thread
//! that sleeps because its peer says nothing is interrupted, again and again until it has taken its
//! mail; any other looks before it goes to sleep.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::group::Member;
use super::pool::ThreadPool;
use super::shared::{SharedState, Stage};
use super::status::ThreadStatus;
use super::{Blocking, WAKE, WAKE_MOST};
use proactor::address;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::console::{Console, Delivery, Inspect, Order, Row};
use proactor::counters::Counters;
use proactor::os;
use proactor::protocol::Protocol;

/// A console, and whether somebody has mail.
#[derive(Debug)]
pub(super) struct BlockingConsole {
    console: Console,
    /// How soon those with mail are interrupted again; `Some` exactly while some may have to be.
    again: Option<Duration>,
}

impl BlockingConsole {
    pub(super) fn new(console: Console) -> BlockingConsole {
        BlockingConsole { console, again: None }
    }

    pub(super) fn begin(&mut self) {
        self.console.begin();
    }

    /// What is typed at, while there may come more.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.console.input()).filter(|_| !self.console.has_ended())
    }
}

impl<P: Protocol + Clone + Send + 'static, C: Calls> Blocking<P, C> {
    /// How often it was asked to stop since this was last called: by a signal, or by the operator,
    /// who is attended to.
    pub(super) fn asked(&mut self) -> u64 {
        self.stop.take() + self.attend()
    }

    /// Lets the operator see and do; answers how often it asked the server to stop.
    pub(super) fn attend(&mut self) -> u64 {
        let Some(mut desk) = self.desk.take() else { return 0 };
        desk.console.read();
        let mut asked = 0;
        loop {
            let ending = self.shared.stage() != Stage::Serving;
            let counters = self.counters();
            let (calls, threads, shared) = (&self.calls, &self.threads, &*self.shared);
            let mut view = ThreadsView { calls, threads, shared, counters, posted: false };
            let order = desk.console.attend(&mut view, ending);
            if view.posted {
                desk.again = Some(WAKE);
            }
            match order {
                None => break,
                Some(Order::Drain) => {
                    asked += 1;
                    self.shared.advance(Stage::Draining);
                }
                Some(Order::Quit) => return asked + 2, // And nobody sits there any more.
            }
        }
        self.desk = Some(desk);
        asked
    }

    /// Wakes who sleeps and has mail; answers when to do so again, if anybody has not taken it.
    pub(super) fn call(&mut self) -> Option<Duration> {
        let desk = self.desk.as_mut()?;
        let pause = desk.again?;
        desk.again = self.threads.call().then(|| (2 * pause).min(WAKE_MOST));
        desk.again.map(|_| pause)
    }
}

/// All threads, as an operator sees them.
struct ThreadsView<'a, C> {
    calls: &'a C,
    threads: &'a ThreadPool,
    shared: &'a SharedState,
    counters: Counters,
    /// Whether it has left mail.
    posted: bool,
}

impl<C: Calls> ThreadsView<'_, C> {
    /// Leaves mail, as [`ThreadStatus::post`] does, unless all are to finish, who may not have noticed
    /// yet.
    fn post(&self, status: &ThreadStatus, number: Option<u64>, line: &[u8]) -> Option<bool> {
        if self.shared.stage() == Stage::Serving {
            return status.post(self.calls, number, line);
        }
        let is_it = |member: &Member| number.is_none_or(|number| number == member.number);
        status.look(|member| is_it(member).then_some(false))?
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
        let posted =
            self.threads.statuses().find_map(|status| self.post(status, Some(number), &line));
        self.posted |= posted == Some(true);
        match posted {
            Some(true) => Delivery::Sent,
            Some(false) => Delivery::Ending,
            None => Delivery::NotFound,
        }
    }

    fn send_to_all(&mut self, line: Vec<u8>) -> usize {
        let posted = |status: &&ThreadStatus| self.post(status, None, &line) == Some(true);
        let posted = self.threads.statuses().filter(posted).count();
        self.posted |= posted > 0;
        posted
    }

    fn kick(&mut self, number: u64) -> bool {
        let kick = |member: &Member| {
            let is_it = member.number == number;
            if is_it {
                member.break_off(self.calls);
            }
            is_it
        };
        self.threads.statuses().any(|status| status.look(kick) == Some(true))
    }
}

fn row(member: &Member, now: Nanos) -> Row {
    let (state, owed) = (member.state(), member.owed.get());
    let mut wants = Vec::new();
    wants.extend(state.receives().then(|| "receive".to_owned()));
    wants.extend((owed > 0).then(|| format!("send {owed} B")));
    Row {
        number: member.number,
        id: member.id,
        place: member.place,
        address: address::of_peer(member.socket()),
        age: Some(now.since(member.came)),
        received: member.received.get(),
        sent: member.sent.get(),
        wants,
        doing: vec![state.to_string()],
        marks: Vec::new(),
    }
}
