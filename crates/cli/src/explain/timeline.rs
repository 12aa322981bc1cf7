//! From recorded calls to a timeline: the phases of each call, and what waits or copies in them.
//!
//! Time zero is when the client began to send: before it there were no bytes. A reading of the
//! clock cannot divide everything: a call that slept when the bytes arrived, and returns with them,
//! was woken *and* copied in between.
//!
//! **The recorder's time is taken out.** The recorder runs between the calls of the server. Its
//! time is the difference between the median reply and the median reply without it. Each gap
//! between two calls is shortened by the same share, so that the difference is gone, and everything
//! later moves forward. If the gaps are shorter than the difference, the rest is in the calls, and
//! the reply is shown later than [`CallTimeline::unrecorded`].

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
    /// The calls that overlap, in the order of their begins; none without a recorder.
    pub(super) calls: Vec<Call>,
}

impl MessageRun {
    /// Returns the time to the last reply.
    pub(super) fn reply(&self) -> u64 {
        self.received - self.begin
    }
}

/// The operations of a system call that enters the ring, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RingOps {
    /// The submitted operations, for io_uring only.
    pub submitted: Vec<String>,
    /// The operations that were complete after the call, for io_uring only.
    pub completed: Vec<String>,
}

/// The begin and the operations of a system call that enters the ring.
pub(super) type Enter = (u64, RingOps);

/// The server's calls for a message. Times are nanoseconds since the client began to send.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CallTimeline {
    /// The number of recorded runs; this is the run with the median time to the last reply.
    pub runs: usize,
    /// The quartiles of the time to the last reply: half of the runs are between them.
    pub quartiles: (i64, i64),
    /// When the last send of the client had returned.
    pub sent: i64,
    /// When the client had the last reply.
    pub received: i64,
    /// The median time to the last reply of as many runs without the recorder.
    pub unrecorded: i64,
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

    /// Returns the calls in order, with more than three data-less calls in a row as one group, and
    /// the name of each group.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&[ServerCall], String)> {
        let dataless =
            |call: &ServerCall| call.phases.iter().all(|it| it.kind == PhaseKind::WithoutData);
        let groups = self.calls.chunk_by(move |a, b| dataless(a) && dataless(b));
        let groups =
            groups.flat_map(|group| group.chunks(if group.len() > 3 { group.len() } else { 1 }));
        groups.map(|group| match group {
            [one] => (group, one.label()),
            tries => (group, format!("{} tries", tries.len())),
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
    /// The operations of a ring.
    #[serde(flatten)]
    pub ops: RingOps,
    /// The phases, in order and without gaps.
    pub phases: Vec<CallPhase>,
}

impl ServerCall {
    /// Returns the name, for io_uring with the operations that it submitted or completed.
    pub fn label(&self) -> String {
        let named = |ops: &[String]| match ops {
            [op, .., _] if ops.iter().all(|it| it == op) => format!("{} × {op}", ops.len()),
            all => all.join(", "),
        };
        let (submitted, completed) = (named(&self.ops.submitted), named(&self.ops.completed));
        match self.begin < 0 {
            true if !completed.is_empty() => format!("{}: {completed} done", self.name),
            false if !submitted.is_empty() => format!("{}({submitted})", self.name),
            _ => self.name.clone(),
        }
    }
}

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CallPhase {
    /// What happened in the phase.
    pub kind: PhaseKind,
    /// The begin of the phase.
    pub begin: i64,
    /// The end of the phase; `None` if it had not ended.
    pub end: Option<i64>,
}

/// What happens in a part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseKind {
    /// There are no bytes yet, and the call sleeps.
    Waiting,
    /// The message arrives, and the thread is being woken.
    Waking,
    /// Waking, and then a copy from the socket: no reading of the clock divides them.
    WakingAndReceiving,
    /// Bytes are copied from the socket.
    Receiving,
    /// Bytes are copied to the socket, and TCP takes them on: over loopback to the client, in this
    /// call.
    Sending,
    /// The message arrives during an enter, in which the thread then wakes and copies.
    ReceivingInEnter,
    /// An enter submits, and the thread sends in it.
    SendingInEnter,
    /// The call neither waits nor copies.
    WithoutData,
}

/// The purpose of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Wait,
    Receive,
    Send,
    Other,
    Enter,
}

/// The recorded system calls: number, name, purpose.
pub(super) const NAMES: &[(i64, &str, Purpose)] = &[
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

/// Returns the name and the purpose of a call.
fn purpose(call: &Call) -> (&'static str, Purpose) {
    let known = NAMES.iter().find(|(number, ..)| *number == call.number);
    let &(_, name, purpose) = known.expect("no other call is recorded");
    #[cfg(target_arch = "x86_64")]
    if call.number == libc::SYS_poll && call.args[2] as i32 == 0 {
        return (name, Purpose::Other);
    }
    (name, purpose)
}

/// How a server receives: the calls that enter its ring, and whether a receive call sleeps.
pub(super) type Receives<'a> = (&'a [Enter], bool);

/// Returns the timeline of the run with the median time to the last reply, which takes `unrecorded`
/// without the recorder.
///
/// Of `several` connections, runs in which the server woke before the last message was sent are
/// omitted, if there are others: they do not show several ready sockets.
pub(super) fn median(
    runs: &[MessageRun],
    receives: Receives<'_>,
    unrecorded: u64,
    several: bool,
) -> io::Result<CallTimeline> {
    let (late, early): (Vec<&MessageRun>, Vec<_>) = runs.iter().partition(|run| {
        let slept = |call: &&Call| match purpose(call).1 {
            Purpose::Wait | Purpose::Enter => call.begin < run.begin,
            Purpose::Receive => receives.1 && call.begin < run.begin,
            Purpose::Send | Purpose::Other => false,
        };
        let mut waits = run.calls.iter().filter(slept);
        !several || waits.all(|call| call.end.is_none_or(|end| end >= run.sent))
    });
    let mut shown = if late.is_empty() { early } else { late };
    shown.sort_by_key(|run| run.reply());
    let middle = shown.len() / 2;
    let excess = shown.get(middle).map_or(0, |run| run.reply().saturating_sub(unrecorded));
    let mut shown: Vec<_> = shown.iter().map(|run| timeline(run, receives, excess)).collect();
    if shown.get(middle).is_none_or(|run| run.calls.is_empty()) {
        return Err(io::Error::other("no system call of the server was recorded"));
    }
    // Not in the order of `shown`: a run with short gaps keeps more of the recorder's time.
    let mut replies: Vec<i64> = shown.iter().map(|run| run.received).collect();
    replies.sort_unstable();
    let quartiles = (replies[replies.len() / 4], replies[replies.len() * 3 / 4]);
    let unrecorded = unrecorded as i64;
    Ok(CallTimeline { runs: runs.len(), quartiles, unrecorded, ..shown.swap_remove(middle) })
}

/// Returns the timeline of a run, of which the recorder took the time `excess`.
fn timeline(run: &MessageRun, receives: Receives<'_>, excess: u64) -> CallTimeline {
    // The reply left in the last call that carried bytes; what the recorder did after it did not
    // delay the client.
    let carries = |call: &&Call| matches!(purpose(call).1, Purpose::Send | Purpose::Enter);
    let began = run.calls.iter().filter(carries).map(|call| call.begin);
    let left = began.filter(|&begin| begin <= run.received).max().unwrap_or(run.received);
    // The same share of every gap is the recorder's.
    let gaps = gaps(run);
    let share = (excess as f64 / gap_time(&gaps, left).max(1) as f64).min(1.0);
    let removed = |time| (gap_time(&gaps, time) as f64 * share) as i64;
    let since = |time: u64| time as i64 - run.begin as i64 - removed(time);
    let received = run.reply() as i64 - removed(left);
    let mut timeline = CallTimeline {
        sent: (run.sent - run.begin) as i64,
        received,
        recorder: removed(left),
        ..CallTimeline::default()
    };
    for call in &run.calls {
        let name = purpose(call).0.to_owned();
        // A thread that only sleeps takes no part.
        let moves = |it: &Call| it.thread == call.thread && it.begin > run.begin;
        if run.calls.iter().any(moves) {
            timeline.calls.push(server_call(call, since, received, receives));
        } else if !timeline.asleep.contains(&name) {
            timeline.asleep.push(name);
        }
    }
    // A server that never sleeps is shown to the end of its pass.
    let calls = &mut timeline.calls;
    if calls.iter().all(|call| call.end.is_some()) {
        let next = calls.iter().position(|call| call.begin > received && call.name == "recv");
        calls.truncate(next.map_or(calls.len(), |at| at + 1));
    }
    timeline
}

/// Returns the gaps between the calls of each thread, in order.
fn gaps(run: &MessageRun) -> Vec<(u64, u64)> {
    let gaps = run.calls.iter().enumerate().filter_map(|(at, call)| {
        let next = run.calls[at + 1..].iter().find(|it| it.thread == call.thread);
        call.end.filter(|&end| end >= run.begin).zip(next.map(|next| next.begin))
    });
    let mut gaps: Vec<(u64, u64)> = gaps.collect();
    gaps.sort_unstable();
    gaps
}

/// Returns the duration of the gaps before this time. What overlaps counts once.
fn gap_time(gaps: &[(u64, u64)], time: u64) -> u64 {
    let mut counted = 0;
    let duration = |&(begin, end): &(u64, u64)| {
        let (begin, end) = (begin.max(counted), end.min(time));
        counted = counted.max(end);
        end.saturating_sub(begin)
    };
    gaps.iter().map(duration).sum()
}

fn server_call(
    call: &Call,
    since: impl Fn(u64) -> i64,
    reply: i64,
    (ring, sleeps): Receives<'_>,
) -> ServerCall {
    let (name, purpose) = purpose(call);
    let (begin, end) = (since(call.begin), call.end.map(&since));
    let result = call.end.map(|_| call.result);
    let near = ring.iter().filter(|_| purpose == Purpose::Enter);
    let near = near.min_by_key(|(at, _)| at.abs_diff(call.begin));
    let mut ops = near.map(|(_, ops)| ops.clone()).unwrap_or_default();
    if end.is_none() {
        ops.completed.clear();
    }
    let whole = |kind| vec![CallPhase { kind, begin, end }];
    let phases = match (purpose, result) {
        (Purpose::Wait, _) => wait(begin, end, PhaseKind::Waking),
        (Purpose::Receive, Some(bytes)) if bytes < 0 => whole(PhaseKind::WithoutData),
        // One that does not sleep may have been interrupted before it looked at its socket.
        (Purpose::Receive, Some(_)) if begin >= 0 || !sleeps => whole(PhaseKind::Receiving),
        (Purpose::Receive, _) => wait(begin, end, PhaseKind::WakingAndReceiving),
        (Purpose::Send, _) => whole(PhaseKind::Sending),
        (Purpose::Other, _) => whole(PhaseKind::WithoutData),
        (Purpose::Enter, _) if begin < 0 || call.args[1] == 0 => {
            wait(begin, end, PhaseKind::ReceivingInEnter)
        }
        (Purpose::Enter, _) => submit(begin, end, reply),
    };
    ServerCall { name: name.to_owned(), begin, end, result, ops, phases }
}

/// Returns the phases of a call that sleeps: waiting until the message is sent, then `then`.
fn wait(begin: i64, end: Option<i64>, then: PhaseKind) -> Vec<CallPhase> {
    let waiting = CallPhase { kind: PhaseKind::Waiting, begin, end };
    match end {
        Some(end) if begin < 0 && end > 0 => {
            let woken = CallPhase { kind: then, begin: 0, end: Some(end) };
            vec![CallPhase { end: Some(0), ..waiting }, woken]
        }
        _ => vec![waiting],
    }
}

/// Returns the phases of an io_uring_enter that submits. A send is done, at the latest, when the
/// client has the reply; then the call waits.
fn submit(begin: i64, end: Option<i64>, received: i64) -> Vec<CallPhase> {
    let copied = end.map_or(received, |end| end.min(received)).max(begin);
    let mut phases = vec![CallPhase { kind: PhaseKind::SendingInEnter, begin, end: Some(copied) }];
    if end != Some(copied) {
        phases.extend(wait(copied, end, PhaseKind::ReceivingInEnter));
    }
    phases
}
