//! From the calls that were noted to what they mean: the two phases, and who was in them.
//!
//! Time zero is when the client began to send: before it there were no bytes. All else is a
//! difference of clock readings. What a reading cannot divide is not divided: a call that slept
//! when the bytes came and has them when it returns was woken *and* copied in between.

use serde::Serialize;

use std::io;

use proactor::os::probe::Call;

/// What the client saw of one message, in nanoseconds of the monotonic clock, and the calls that
/// the server made meanwhile.
#[derive(Debug)]
pub(super) struct Run {
    /// Just before it was sent.
    pub(super) begin: u64,
    /// When the call that sent it had returned.
    pub(super) sent: u64,
    /// When the reply was there.
    pub(super) received: u64,
    /// Those that overlap, in the order of their begins.
    pub(super) calls: Vec<Call>,
}

/// What an enter of a ring took in and brought back, by the operations' names.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    pub(super) begin: u64,
    pub(super) submitted: Vec<String>,
    pub(super) completed: Vec<String>,
}

/// One message through one model. Times are nanoseconds since the client began to send.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scene {
    /// How many messages were recorded; this is the one whose reply took the median time.
    pub runs: usize,
    /// The shortest and the longest time to the reply.
    pub spread: (i64, i64),
    /// When the client's send had returned.
    pub sent: i64,
    /// When the client had the reply.
    pub received: i64,
    /// The server's calls, from the one that lasted when the message came to the one in which the
    /// server waits for the next.
    pub calls: Vec<Step>,
    /// What other threads and processes of the server were in all the while, one of each.
    pub asleep: Vec<String>,
}

impl Scene {
    /// How many calls a message took: without the last, which waits for the next; `None` if the
    /// server never sleeps, so that it makes calls without end.
    pub fn calls_per_message(&self) -> Option<usize> {
        let last = self.calls.last()?;
        last.end.is_none().then_some(self.calls.len() - 1)
    }
}

impl Step {
    /// What is written beside it: of a ring, also what it takes in or has brought.
    pub fn label(&self) -> String {
        match (&self.submitted[..], &self.completed[..], self.begin < 0) {
            (_, [done, ..], true) => format!("{}: {done} is done", self.name),
            ([asked, ..], _, false) => format!("{}({asked})", self.name),
            _ => self.name.clone(),
        }
    }
}

impl Phase {
    /// How long it took, if it began with the message or later and is over: nanoseconds.
    pub fn length(&self) -> Option<i64> {
        self.end.filter(|_| self.begin >= 0).map(|end| end - self.begin)
    }
}

impl Kind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Waiting => "waits",
            Kind::Waking => "is woken",
            Kind::WakingAndCopying => "wakes + copies",
            Kind::Copying => "copies",
            Kind::Asking => "asks",
        }
    }
}

/// A system call of the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Its name: that of the system call, without the letters that only tell its variants apart.
    pub name: String,
    /// When it began: negative if before the message.
    pub begin: i64,
    /// When it had returned; none if it still lasted when all was quiet.
    pub end: Option<i64>,
    /// What it answered, an error as `-errno`; none while it lasts.
    pub result: Option<i64>,
    /// Of a ring: the operations that it took in.
    pub submitted: Vec<String>,
    /// Of a ring: the operations that were found completed after it.
    pub completed: Vec<String>,
    /// What happened in it, in order, without gaps.
    pub phases: Vec<Phase>,
}

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Phase {
    /// What happened.
    pub kind: Kind,
    /// Who did it.
    pub who: Who,
    /// When it began.
    pub begin: i64,
    /// When it was over; none if it lasts.
    pub end: Option<i64>,
}

/// What happens in a part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Phase one: there are no bytes yet, and the call sleeps.
    Waiting,
    /// The message is on its way or there, and the sleeper is being woken.
    Waking,
    /// The same, and the copying too: a reading of the clock cannot divide them.
    WakingAndCopying,
    /// Phase two: bytes move between the socket and the server's buffer.
    Copying,
    /// Neither: it asks or says something, and returns at once.
    Asking,
}

/// Who waits or copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// A call that the server made for just that.
    Thread,
    /// The kernel, of its own accord: the server hears of it when it is done.
    Kernel,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Waits,
    Receives,
    Sends,
    Asks,
    Enters,
}

/// Calls with their numbers: what a server does about a message.
const NAMES: &[(i64, &str, Nature)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", Nature::Waits),
    (libc::SYS_epoll_pwait, "epoll_wait", Nature::Waits),
    (libc::SYS_epoll_pwait2, "epoll_wait", Nature::Waits),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", Nature::Waits),
    (libc::SYS_ppoll, "poll", Nature::Waits),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select", Nature::Waits),
    (libc::SYS_pselect6, "select", Nature::Waits),
    (libc::SYS_rt_sigtimedwait, "sigwait", Nature::Waits),
    (libc::SYS_clock_nanosleep, "sleep", Nature::Waits),
    (libc::SYS_nanosleep, "sleep", Nature::Waits),
    (libc::SYS_recvfrom, "recv", Nature::Receives),
    (libc::SYS_recvmsg, "recv", Nature::Receives),
    (libc::SYS_sendto, "send", Nature::Sends),
    (libc::SYS_sendmsg, "send", Nature::Sends),
    (libc::SYS_read, "read", Nature::Asks),
    (libc::SYS_accept4, "accept", Nature::Asks),
    (libc::SYS_epoll_ctl, "epoll_ctl", Nature::Asks),
    (libc::SYS_io_uring_enter, "enter", Nature::Enters),
];

/// The numbers of all that is noted.
pub(super) const CALLS: [i64; NAMES.len()] = {
    let mut calls = [0; NAMES.len()];
    let mut at = 0;
    while at < calls.len() {
        calls[at] = NAMES[at].0;
        at += 1;
    }
    calls
};

/// The run of the median time to the reply, explained.
pub(super) fn median(mut runs: Vec<Run>, carried: &[Carried]) -> io::Result<Scene> {
    runs.sort_by_key(|run| run.received - run.begin);
    let took = |run: &Run| (run.received - run.begin) as i64;
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return Err(io::Error::other("there was no message"));
    };
    let scene = explain(&runs[runs.len() / 2], carried);
    if scene.calls.is_empty() {
        return Err(io::Error::other("no call of the server was seen"));
    }
    Ok(Scene { runs: runs.len(), spread: (took(first), took(last)), ..scene })
}

fn explain(run: &Run, carried: &[Carried]) -> Scene {
    let since = |nanos: u64| nanos as i64 - run.begin as i64;
    let received = since(run.received);
    // Who did nothing but sleep has no part in it.
    let moved = |thread: u64| {
        run.calls.iter().any(|call| call.thread == thread && (call.begin > run.begin))
    };
    let mut asleep: Vec<String> = Vec::new();
    let mut calls = Vec::new();
    for call in &run.calls {
        if moved(call.thread) {
            let mut step = step(call, since, received);
            let near = carried.iter().min_by_key(|one| one.begin.abs_diff(call.begin));
            if let Some(near) = near.filter(|_| step.name == "enter") {
                step.submitted.clone_from(&near.submitted);
                if step.end.is_some() {
                    step.completed.clone_from(&near.completed);
                }
            }
            calls.push(step);
        } else if !asleep.iter().any(|name| name == nature(call).0) {
            asleep.push(nature(call).0.to_owned());
        }
    }
    // One that tries all, again and again, is shown to the end of the round.
    if calls.last().is_some_and(|last| last.end.is_some()) {
        let next = calls.iter().position(|step| step.begin > received && step.name == "recv");
        calls.truncate(next.map_or(calls.len(), |at| at + 1));
    }
    Scene { runs: 1, spread: (received, received), sent: since(run.sent), received, calls, asleep }
}

/// What a call is called, and what it is for here.
fn nature(call: &Call) -> (&'static str, Nature) {
    let known = NAMES.iter().find(|(number, ..)| *number == call.number);
    let (_, name, nature) = known.copied().unwrap_or((0, "?", Nature::Asks));
    #[cfg(target_arch = "x86_64")]
    if call.number == libc::SYS_poll && call.args[2] as i32 == 0 {
        return (name, Nature::Asks);
    }
    (name, nature)
}

fn step(call: &Call, since: impl Fn(u64) -> i64, received: i64) -> Step {
    let (name, nature) = nature(call);
    let (begin, end) = (since(call.begin), call.end.map(&since));
    let result = call.end.map(|_| call.result);
    let phases = match nature {
        Nature::Waits => waits(begin, end, Kind::Waking, Who::Thread),
        Nature::Receives => match result {
            Some(bytes) if bytes >= 0 && begin >= 0 => all(Kind::Copying, begin, end),
            Some(bytes) if bytes < 0 => all(Kind::Asking, begin, end),
            _ => waits(begin, end, Kind::WakingAndCopying, Who::Thread),
        },
        Nature::Sends => all(Kind::Copying, begin, end),
        Nature::Asks => all(Kind::Asking, begin, end),
        Nature::Enters => enters(call.args[1] > 0, begin, end, received),
    };
    let (submitted, completed) = (Vec::new(), Vec::new());
    Step { name: name.to_owned(), begin, end, result, submitted, completed, phases }
}

fn all(kind: Kind, begin: i64, end: Option<i64>) -> Vec<Phase> {
    vec![Phase { kind, who: Who::Thread, begin, end }]
}

/// A call that sleeps: until the message is sent, and what it does then.
fn waits(begin: i64, end: Option<i64>, then: Kind, who: Who) -> Vec<Phase> {
    let waiting = |end| Phase { kind: Kind::Waiting, who: Who::Thread, begin, end };
    match end {
        Some(end) if begin < 0 && end > 0 => {
            vec![waiting(Some(0)), Phase { kind: then, who, begin: 0, end: Some(end) }]
        }
        _ => vec![waiting(end)],
    }
}

/// An enter: it may take a send along, which is done when the client has the reply at the latest.
fn enters(submits: bool, begin: i64, end: Option<i64>, received: i64) -> Vec<Phase> {
    if begin < 0 || !submits {
        return waits(begin, end, Kind::WakingAndCopying, Who::Kernel);
    }
    let copied = end.map_or(received, |end| end.min(received)).max(begin);
    let copying = Phase { kind: Kind::Copying, who: Who::Kernel, begin, end: Some(copied) };
    let waiting = Phase { kind: Kind::Waiting, who: Who::Thread, begin: copied, end };
    if end == Some(copied) { vec![copying] } else { vec![copying, waiting] }
}
