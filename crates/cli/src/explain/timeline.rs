//! From recorded calls to a timeline: the phases of each call, and what waits or copies in them.
//!
//! Time zero is when the client began to send: before it there were no bytes. A reading of the
//! clock cannot divide everything: a call that slept when the bytes arrived, and returns with them,
//! was woken *and* copied in between.
//!
//! **The recorder's time is taken out.** After each call of the server, the recorder takes about as
//! long as was measured without any code of a server between two calls ([`RecorderCost`]). That
//! part of each gap after time zero is removed, and everything later moves forward by it.

use std::io;

use serde::Serialize;

use proactor::os::probe::Call;

/// What the client recorded of one message, in nanoseconds of the monotonic clock, and the calls of
/// the server during it.
#[derive(Debug)]
pub(super) struct MessageRun {
    /// Just before the first send.
    pub(super) begin: u64,
    /// Just after the last send.
    pub(super) sent: u64,
    /// When the last reply had arrived.
    pub(super) received: u64,
    /// The calls that overlap, in the order of their begins.
    pub(super) calls: Vec<Call>,
}

/// The time of the recorder between two calls, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecorderCost {
    /// After a call that returned at once.
    pub(super) warm: u64,
    /// After a call that slept: the caches are cold.
    pub(super) cold: u64,
}

/// The operations that one io_uring_enter submitted and reaped, by name.
#[derive(Debug, Clone)]
pub(super) struct EnterOps {
    pub(super) begin: u64,
    pub(super) submitted: Vec<String>,
    pub(super) completed: Vec<String>,
}

/// The server's calls for a message. Times are nanoseconds since the client began to send.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CallTimeline {
    /// The number of recorded runs; this is the run with the median time to the last reply.
    pub runs: usize,
    /// The shortest and the longest time to the last reply.
    pub spread: (i64, i64),
    /// When the last send of the client had returned.
    pub sent: i64,
    /// When the client had the last reply.
    pub received: i64,
    /// The time of the recorder that was taken out before `received`.
    pub recorder: i64,
    /// The server's calls, from the call during which the message arrived to the call that waits
    /// for the next message.
    pub calls: Vec<ServerCall>,
    /// The calls in which other threads and processes of the server slept, each name once.
    pub asleep: Vec<String>,
}

impl CallTimeline {
    /// Returns how many calls the server made, without those that wait for the next message; `None`
    /// if the server never sleeps.
    pub fn finished_calls(&self) -> Option<usize> {
        let waits = self.calls.iter().filter(|call| call.end.is_none()).count();
        (waits > 0).then_some(self.calls.len() - waits)
    }

    /// Returns the calls in order, with more than three data-less calls in a row as one group.
    pub(super) fn groups(&self) -> impl Iterator<Item = &[ServerCall]> {
        let dataless =
            |call: &ServerCall| call.phases.iter().all(|it| it.kind == PhaseKind::WithoutData);
        let groups = self.calls.chunk_by(move |a, b| dataless(a) && dataless(b));
        groups.flat_map(|group| group.chunks(if group.len() > 3 { group.len() } else { 1 }))
    }

    /// Returns the name of each group and when it began.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&ServerCall, String)> {
        self.groups().map(|group| match group {
            [one] => (one, one.label()),
            tries => (&tries[0], format!("{} tries", tries.len())),
        })
    }

    /// Returns the phases of all calls; waits come first, so that a painter draws over them.
    pub(super) fn phases(&self) -> Vec<(&ServerCall, &CallPhase)> {
        let phases =
            self.calls.iter().flat_map(|call| call.phases.iter().map(move |it| (call, it)));
        let mut phases: Vec<_> = phases.collect();
        phases.sort_by_key(|(_, phase)| phase.kind != PhaseKind::Waiting);
        phases
    }
}

/// A system call of the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerCall {
    /// The name of the system call, without the suffix of a variant.
    pub name: String,
    /// The begin: negative if it is before the message.
    pub begin: i64,
    /// The end; `None` if the call had not returned when recording ended.
    pub end: Option<i64>,
    /// The return value, an error as `-errno`; `None` before the end.
    pub result: Option<i64>,
    /// The submitted operations, for io_uring only.
    pub submitted: Vec<String>,
    /// The operations that were complete after the call, for io_uring only.
    pub completed: Vec<String>,
    /// The phases, in order and without gaps.
    pub phases: Vec<CallPhase>,
}

impl ServerCall {
    /// Returns the name, for io_uring with the operations that it submitted or completed.
    pub fn label(&self) -> String {
        let named = |ops: &[String]| match ops {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] if rest.iter().all(|op| op == first) => {
                Some(format!("{} × {first}", ops.len()))
            }
            all => Some(all.join(", ")),
        };
        match (named(&self.submitted), named(&self.completed), self.begin < 0) {
            (_, Some(done), true) => format!("{}: {done} done", self.name),
            (Some(submitted), _, false) => format!("{}({submitted})", self.name),
            _ => self.name.clone(),
        }
    }
}

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CallPhase {
    /// What happened in the phase.
    pub kind: PhaseKind,
    /// What copied or waited.
    pub actor: Actor,
    /// The begin of the phase.
    pub begin: i64,
    /// The end of the phase; `None` if it had not ended.
    pub end: Option<i64>,
}

impl CallPhase {
    /// Returns the duration, if the phase began at time zero or later, and has ended.
    pub fn length(&self) -> Option<i64> {
        self.end.filter(|_| self.begin >= 0).map(|end| end - self.begin)
    }

    /// Describes the phase, for legends, tables and tips alike.
    pub fn words(&self) -> &'static str {
        words(self.kind, self.actor)
    }
}

/// Describes a phase in a few words.
pub(super) fn words(kind: PhaseKind, actor: Actor) -> &'static str {
    match (kind, actor) {
        (PhaseKind::Waiting, _) => "waits: no data",
        (PhaseKind::Waking, _) => "data arrives, thread wakes",
        (PhaseKind::WakingAndCopying, Actor::Thread) => "thread wakes and copies in one call",
        (PhaseKind::WakingAndCopying | PhaseKind::Copying, Actor::Kernel) => "the kernel copies",
        (PhaseKind::Copying, Actor::Thread) => "the call copies",
        (PhaseKind::WithoutData, _) => "system call without data",
    }
}

/// What happens in a part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseKind {
    /// There are no bytes yet, and the call sleeps.
    Waiting,
    /// The message arrives, and the thread is being woken.
    Waking,
    /// Waking and copying: no reading of the clock divides them.
    WakingAndCopying,
    /// Bytes are copied between the socket and the server's buffer.
    Copying,
    /// The call neither waits nor copies.
    WithoutData,
}

/// What waits or copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// The thread, in a call that it made for this.
    Thread,
    /// The kernel by itself; the server is notified afterwards.
    Kernel,
}

/// The purpose of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Wait,
    Receive,
    Send,
    Other,
    Enter,
}

/// The recorded system calls: number, name, purpose.
const NAMES: &[(i64, &str, Purpose)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", Purpose::Wait),
    (libc::SYS_epoll_pwait, "epoll_wait", Purpose::Wait),
    (libc::SYS_epoll_pwait2, "epoll_wait", Purpose::Wait),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", Purpose::Wait),
    (libc::SYS_ppoll, "poll", Purpose::Wait),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select", Purpose::Wait),
    (libc::SYS_pselect6, "select", Purpose::Wait),
    (libc::SYS_rt_sigtimedwait, "sigwait", Purpose::Wait),
    (libc::SYS_clock_nanosleep, "sleep", Purpose::Wait),
    (libc::SYS_nanosleep, "sleep", Purpose::Wait),
    (libc::SYS_recvfrom, "recv", Purpose::Receive),
    (libc::SYS_recvmsg, "recv", Purpose::Receive),
    (libc::SYS_sendto, "send", Purpose::Send),
    (libc::SYS_sendmsg, "send", Purpose::Send),
    (libc::SYS_read, "read", Purpose::Other),
    (libc::SYS_accept4, "accept", Purpose::Other),
    (libc::SYS_epoll_ctl, "epoll_ctl", Purpose::Other),
    (libc::SYS_io_uring_enter, "enter", Purpose::Enter),
];

/// The numbers of the recorded system calls.
pub(super) const CALLS: [i64; NAMES.len()] = {
    let mut calls = [0; NAMES.len()];
    let mut at = 0;
    while at < calls.len() {
        calls[at] = NAMES[at].0;
        at += 1;
    }
    calls
};

/// Returns the timeline of the run with the median time to the last reply.
///
/// Runs in which the server woke before the last message was sent are omitted, if there are others:
/// they do not show several ready sockets.
pub(super) fn median(
    runs: &[MessageRun],
    enters: &[EnterOps],
    cost: RecorderCost,
) -> io::Result<CallTimeline> {
    let mut timelines: Vec<_> = runs.iter().map(|run| timeline(run, enters, cost)).collect();
    if timelines.iter().any(CallTimeline::woke_after_all_were_sent) {
        timelines.retain(CallTimeline::woke_after_all_were_sent);
    }
    timelines.sort_by_key(|it| it.received);
    let ends = [timelines.first(), timelines.last()].map(|it| it.map(|it| it.received));
    let [Some(first), Some(last)] = ends else {
        return Err(io::Error::other("there was no message"));
    };
    let middle = timelines.len() / 2;
    let timeline = timelines.swap_remove(middle);
    if timeline.calls.is_empty() {
        return Err(io::Error::other("no system call of the server was recorded"));
    }
    Ok(CallTimeline { runs: runs.len(), spread: (first, last), ..timeline })
}

impl CallTimeline {
    /// Returns true if no call that was in progress at time zero returned before `sent`.
    fn woke_after_all_were_sent(&self) -> bool {
        let mut waits = self.calls.iter().filter(|call| call.begin < 0);
        waits.all(|call| call.end.is_none_or(|end| end >= self.sent))
    }
}

fn timeline(run: &MessageRun, enters: &[EnterOps], cost: RecorderCost) -> CallTimeline {
    let cost = Removed::new(run, cost);
    let since = |nanos: u64| (nanos - cost.before(nanos)) as i64 - run.begin as i64;
    // The reply left in the last call that carried bytes; what the recorder did after it did not
    // delay the client.
    let carries = |call: &&Call| matches!(purpose(call).1, Purpose::Send | Purpose::Enter);
    let began = run.calls.iter().filter(carries).map(|call| call.begin);
    let left = began.filter(|&begin| begin <= run.received).max().unwrap_or(run.received);
    let recorder = cost.before(left) as i64;
    let received = (run.received - run.begin) as i64 - recorder;
    // A thread that only sleeps takes no part.
    let moved = |thread: u64| {
        run.calls.iter().any(|call| call.thread == thread && (call.begin > run.begin))
    };
    let mut asleep: Vec<String> = Vec::new();
    let mut calls = Vec::new();
    for call in &run.calls {
        if moved(call.thread) {
            let mut shown = server_call(call, since, received);
            let near = enters.iter().min_by_key(|one| one.begin.abs_diff(call.begin));
            if let Some(near) = near.filter(|_| shown.name == "enter") {
                shown.submitted.clone_from(&near.submitted);
                if shown.end.is_some() {
                    shown.completed.clone_from(&near.completed);
                }
            }
            calls.push(shown);
        } else if !asleep.iter().any(|name| name == purpose(call).0) {
            asleep.push(purpose(call).0.to_owned());
        }
    }
    // A server that never sleeps is shown to the end of its pass.
    if calls.iter().all(|call| call.end.is_some()) {
        let next = calls.iter().position(|call| call.begin > received && call.name == "recv");
        calls.truncate(next.map_or(calls.len(), |at| at + 1));
    }
    let (spread, sent) = ((received, received), (run.sent - run.begin) as i64);
    CallTimeline { runs: 1, spread, sent, received, recorder, calls, asleep }
}

/// The intervals that belong to the recorder, in order and without overlap.
struct Removed(Vec<(u64, u64)>);

impl Removed {
    fn new(run: &MessageRun, cost: RecorderCost) -> Removed {
        let mut intervals = Vec::new();
        for (at, call) in run.calls.iter().enumerate() {
            let Some(end) = call.end.filter(|&end| end >= run.begin) else { continue };
            let mut later = run.calls[at + 1..].iter().filter(|it| it.thread == call.thread);
            let Some(next) = later.next() else { continue };
            let cost = if call.begin < run.begin { cost.cold } else { cost.warm };
            intervals.push((end, next.begin.min(end + cost)));
        }
        intervals.sort_unstable();
        intervals.dedup_by(|next, before| {
            let overlaps = next.0 <= before.1;
            if overlaps {
                before.1 = before.1.max(next.1);
            }
            overlaps
        });
        Removed(intervals)
    }

    /// Returns how much of the recorder lies before this time.
    fn before(&self, time: u64) -> u64 {
        let parts = self.0.iter().take_while(|&&(begin, _)| begin < time);
        parts.map(|&(begin, end)| end.min(time) - begin).sum()
    }
}

/// Returns the cost of the recorder from calls made in threes: one that slept, and two that
/// returned at once.
pub(super) fn recorder_cost(calls: &[Call]) -> RecorderCost {
    let gap = |one: &Call, next: &Call| next.begin.saturating_sub(one.end.unwrap_or(next.begin));
    let median = |at: usize| {
        let mut gaps: Vec<u64> =
            calls.chunks_exact(3).map(|three| gap(&three[at], &three[at + 1])).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied().unwrap_or(0)
    };
    RecorderCost { cold: median(0), warm: median(1) }
}

/// Returns the name and the purpose of a call.
fn purpose(call: &Call) -> (&'static str, Purpose) {
    let known = NAMES.iter().find(|(number, ..)| *number == call.number);
    let (_, name, purpose) = known.copied().unwrap_or((0, "?", Purpose::Other));
    #[cfg(target_arch = "x86_64")]
    if call.number == libc::SYS_poll && call.args[2] as i32 == 0 {
        return (name, Purpose::Other);
    }
    (name, purpose)
}

fn server_call(call: &Call, since: impl Fn(u64) -> i64, received: i64) -> ServerCall {
    let (name, purpose) = purpose(call);
    let (begin, end) = (since(call.begin), call.end.map(&since));
    let result = call.end.map(|_| call.result);
    let phases = match purpose {
        Purpose::Wait => wait(begin, end, PhaseKind::Waking, Actor::Thread),
        Purpose::Receive => match result {
            Some(bytes) if bytes >= 0 && begin >= 0 => whole(PhaseKind::Copying, begin, end),
            Some(bytes) if bytes < 0 => whole(PhaseKind::WithoutData, begin, end),
            _ => wait(begin, end, PhaseKind::WakingAndCopying, Actor::Thread),
        },
        Purpose::Send => whole(PhaseKind::Copying, begin, end),
        Purpose::Other => whole(PhaseKind::WithoutData, begin, end),
        Purpose::Enter => enter(call.args[1] > 0, begin, end, received),
    };
    let (submitted, completed) = (Vec::new(), Vec::new());
    ServerCall { name: name.to_owned(), begin, end, result, submitted, completed, phases }
}

fn whole(kind: PhaseKind, begin: i64, end: Option<i64>) -> Vec<CallPhase> {
    vec![CallPhase { kind, actor: Actor::Thread, begin, end }]
}

/// Returns the phases of a call that sleeps: waiting until the message is sent, then `then`.
fn wait(begin: i64, end: Option<i64>, then: PhaseKind, actor: Actor) -> Vec<CallPhase> {
    let waiting = |end| CallPhase { kind: PhaseKind::Waiting, actor: Actor::Thread, begin, end };
    match end {
        Some(end) if begin < 0 && end > 0 => {
            vec![waiting(Some(0)), CallPhase { kind: then, actor, begin: 0, end: Some(end) }]
        }
        _ => vec![waiting(end)],
    }
}

/// Returns the phases of an io_uring_enter. A send that it submits is done, at the latest, when the
/// client has the reply.
fn enter(submits: bool, begin: i64, end: Option<i64>, received: i64) -> Vec<CallPhase> {
    if begin < 0 || !submits {
        return wait(begin, end, PhaseKind::WakingAndCopying, Actor::Kernel);
    }
    let copied = end.map_or(received, |end| end.min(received)).max(begin);
    let copying =
        CallPhase { kind: PhaseKind::Copying, actor: Actor::Kernel, begin, end: Some(copied) };
    let waiting = CallPhase { kind: PhaseKind::Waiting, actor: Actor::Thread, begin: copied, end };
    if end == Some(copied) { vec![copying] } else { vec![copying, waiting] }
}
