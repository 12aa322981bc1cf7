//! Each view from traces made by hand: what it says of a healthy server, and of one in which a
//! single thing is wrong.

use std::time::Duration;

use super::{
    ConnectionList, ConnectionTimeline, Cut, Diff, Doctor, Ending, Measure, Summary, TimelineLine,
    TraceStats,
};
use crate::events;
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Kind, Token};
use proactor::selector::{Key, KeyOwner};
use proactor_record::{
    About, Call, Clock, Frozen, Level, Log, Op, Payload, Record, Recorder, Settings, Trace,
    WaitMode, Writer, Writers, sys,
};

use proactor_record::format::SKIP_SUCCESS;

const SEND: Op = Op::Ring(Kind::Send);

/// Writes a trace as a loop would.
struct Tape {
    log: Recorder,
    now: u64,
    queued: u64,
    pending: u32,
    reaped: u64,
}

impl Tape {
    fn new(model: &str) -> Tape {
        Tape::with(model, Settings::default())
    }

    fn with(model: &str, settings: Settings) -> Tape {
        let settings = Settings { bytes: 1 << 20, clock: Some(Clock::Nanos), ..settings };
        let more = vec![("completions".to_owned(), "64".to_owned())];
        let detail = "DEFER_TASKRUN".to_owned();
        let about = About { model: model.to_owned(), detail, more, ..About::default() };
        let log = Recorder::new(None, &settings, &about).unwrap();
        Tape { log, now: 0, queued: 0, pending: 0, reaped: 0 }
    }

    /// Time passes: so many microseconds.
    fn pass(&mut self, micros: u64) -> &mut Tape {
        self.now += micros * 1000;
        self
    }

    fn note(&mut self, record: Record) -> &mut Tape {
        let now = self.now;
        self.log.note(|| now, record);
        self
    }

    fn sqe(&mut self, kind: Kind, conn: u32, len: u32) -> &mut Tape {
        self.sqe_with(kind, conn, len, 0)
    }

    fn sqe_with(&mut self, kind: Kind, conn: u32, len: u32, flags: u8) -> &mut Tape {
        (self.queued, self.pending) = (self.queued + 1, self.pending + 1);
        self.note(Record::submitted(token(kind, conn), 0, conn as i32, len, flags))
    }

    /// In the kernel for so many microseconds.
    fn enter(&mut self, micros: u64, mode: WaitMode, provided: u32, overflow: bool) -> &mut Tape {
        let now = self.now;
        self.log.begin_iteration(|| now, Record::enter_begin(self.queued, self.pending, mode));
        self.pass(micros);
        let (now, pending) = (self.now, self.pending as i32);
        let end = Record::enter_end(pending, self.reaped, provided, overflow);
        self.log.end_iteration(|| now, end);
        self.pending = 0;
        self
    }

    fn entered(&mut self, micros: u64) -> &mut Tape {
        self.enter(micros, WaitMode::Endless, 0, false)
    }

    fn cqe(&mut self, kind: Kind, conn: u32, res: i32, flags: u32) -> &mut Tape {
        self.reaped += 1;
        self.note(Record::completed(token(kind, conn), res, flags, 0))
    }

    /// A connection is accepted and its receive armed.
    fn open(&mut self, conn: u32) -> &mut Tape {
        self.entered(10).cqe(Kind::Accept, 0, conn as i32, Cqe::MORE).sqe(Kind::Recv, conn, 2048)
    }

    /// A message of 64 bytes comes and goes back, `micros` after it came.
    fn echo(&mut self, conn: u32, micros: u64) -> &mut Tape {
        self.entered(20).cqe(Kind::Recv, conn, 64, Cqe::MORE | Cqe::BUFFER);
        self.sqe(Kind::Send, conn, 64).entered(micros).cqe(Kind::Send, conn, 64, 0)
    }

    /// The peer ends, and the connection is closed.
    fn shut(&mut self, conn: u32) -> &mut Tape {
        self.entered(10).cqe(Kind::Recv, conn, 0, 0).sqe(Kind::Close, conn, 0);
        self.entered(10).cqe(Kind::Close, conn, 0, 0)
    }

    fn wait(&mut self, micros: u64, ready: &[u32]) -> &mut Tape {
        let now = self.now;
        self.log.begin_iteration(|| now, Record::wait_begin(WaitMode::Endless, 0));
        self.pass(micros);
        let (now, count) = (self.now, ready.len() as i32);
        self.log.end_iteration(|| now, Record::wait_end(Some(count)));
        for &conn in ready {
            self.note(Record::ready(key(conn), true, false, false));
        }
        self
    }

    fn call(&mut self, call: Call, conn: u32, len: u32, res: i32) -> &mut Tape {
        self.note(Record::call_begin(call, false, key(conn), conn as i32, len));
        self.pass(2);
        self.note(Record::call_end(call, false, key(conn), conn as i32, res))
    }

    fn trace(&mut self) -> Trace {
        Trace::from_bytes(self.log.bytes()).unwrap()
    }

    fn stats(&mut self) -> TraceStats {
        TraceStats::of(&self.trace(), &Cut::default())
    }

    fn findings(&mut self) -> Vec<&'static str> {
        let doctor = Doctor::new(self.stats());
        assert!(doctor.looked_for.len() > 10);
        doctor.findings.iter().map(|one| one.name).collect()
    }
}

fn token(kind: Kind, conn: u32) -> u64 {
    match kind {
        Kind::Accept | Kind::Wake => Token::at(kind, conn).0,
        _ => Token::of(kind, ConnId::new(conn, 0)).0,
    }
}

fn key(conn: u32) -> u64 {
    Key::from(KeyOwner::Conn(ConnId::new(conn, 0))).0
}

/// A ring that serves two connections, 100 messages each.
fn ring() -> Tape {
    let mut tape = Tape::new("uring");
    tape.sqe(Kind::Accept, 0, 0).open(0).open(1);
    // 64 buffers are lent.
    tape.enter(1, WaitMode::None, 64, false).cqe(Kind::Wake, 0, 1, 0);
    for _ in 0..100 {
        tape.echo(0, 30).pass(1).echo(1, 40).pass(1);
    }
    tape
}

/// An epoll server that serves two connections, 100 messages each.
fn selector(model: &str) -> Tape {
    let mut tape = Tape::new(model);
    tape.wait(5, &[]).call(Call::Watch, 0, 1, 0).call(Call::Watch, 1, 1, 0);
    for _ in 0..100 {
        tape.wait(30, &[0, 1]);
        for conn in [0, 1] {
            tape.call(Call::Recv, conn, 2048, 64).call(Call::Send, conn, 64, 64);
        }
    }
    tape
}

/// A ring without multishot: each receive is submitted anew.
fn one_shot() -> Tape {
    let mut tape = Tape::new("uring");
    for conn in 0..120 {
        tape.sqe(Kind::Recv, conn % 2, 64).entered(9).cqe(Kind::Recv, conn % 2, 64, 0);
    }
    tape
}

/// A ring to which it is done once.
fn once(plant: impl Fn(&mut Tape) -> &mut Tape) -> Tape {
    let mut tape = ring();
    plant(&mut tape);
    tape
}

/// A ring to which it is done as often as a check needs.
fn often(plant: impl Fn(&mut Tape) -> &mut Tape) -> Tape {
    let mut tape = ring();
    for _ in 0..30 {
        plant(&mut tape);
    }
    tape
}

#[test]
fn a_healthy_ring_and_a_healthy_selector_have_no_finding() {
    for mut tape in [ring(), selector("epoll")] {
        let stats = tape.stats();
        assert_eq!(stats.messages, 200);
        let doctor = Doctor::new(stats.clone());
        assert_eq!(doctor.findings, []);
        let text = doctor.to_string();
        assert!(text.contains("nothing found") && text.contains("stalls"), "{text}");
        assert_eq!(Doctor::new(stats).health.verdict, "healthy");
    }
}

#[test]
fn each_fault_of_a_ring_is_found_and_nothing_else() {
    let planted: [(&str, Tape); 13] = [
        (
            "cq-overflow",
            once(|tape| tape.enter(5, WaitMode::Endless, 0, true).cqe(Kind::Wake, 0, 1, 0)),
        ),
        (
            "no-buffers",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048)
            }),
        ),
        ("out-of-order", once(|tape| tape.entered(5).cqe(Kind::Send, 1, 64, 0))),
        (
            "errors",
            once(|tape| {
                tape.sqe(Kind::Send, 0, 64).entered(5).cqe(Kind::Send, 0, -libc::EINVAL, 0)
            }),
        ),
        ("accepts-refused", once(|tape| tape.entered(5).cqe(Kind::Accept, 0, -libc::EMFILE, 0))),
        (
            "never-closed",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, 0, 0).entered(1_100_000);
                tape.cqe(Kind::Recv, 1, 64, Cqe::MORE)
            }),
        ),
        ("stalls", often(|tape| tape.pass(2000).echo(0, 5))),
        (
            "disarmed",
            often(|tape| {
                tape.echo(0, 5).entered(5).cqe(Kind::Recv, 0, 64, 0).sqe(Kind::Recv, 0, 2048)
            }),
        ),
        (
            "short-sends",
            often(|tape| tape.sqe(Kind::Send, 0, 64).entered(5).cqe(Kind::Send, 0, 60, 0)),
        ),
        ("woken-for-nothing", often(|tape| tape.entered(5))),
        (
            "resets",
            once(|tape| {
                tape.entered(5).cqe(Kind::Recv, 0, -libc::ECONNRESET, 0).sqe(Kind::Close, 0, 0);
                tape.entered(5).cqe(Kind::Close, 0, 0, 0)
            }),
        ),
        ("one-each-iteration", once(|tape| (2..9).fold(tape, Tape::open))),
        ("one-shot", one_shot()),
    ];
    for (name, mut tape) in planted {
        assert_eq!(tape.findings(), [name]);
        let stats = tape.stats();
        let ill = Doctor::new(stats.clone()).ills().next().is_some();
        let health = Doctor::new(stats).health;
        assert_eq!(health.verdict != "healthy", ill, "{name}");
        assert!(!ill || health.hint.is_empty(), "{name}: no hint beside a problem");
        assert_eq!(
            ill,
            !["one-shot", "one-each-iteration", "resets", "short-sends"].contains(&name),
            "{name}"
        );
    }
}

#[test]
fn each_fault_of_a_selector_is_found_and_nothing_else() {
    type Plant = fn(&mut Tape);
    let planted: [(&str, Plant); 5] = [
        ("spurious-reports", |tape| {
            tape.wait(5, &[0]);
        }),
        ("would-block", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Recv, 0, 64, -libc::EAGAIN);
        }),
        ("rewatched", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Rewatch, 0, 3, 0);
        }),
        ("short-sends", |tape| {
            tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9);
            tape.call(Call::Send, 0, 64, 3).call(Call::Send, 0, 61, -libc::EAGAIN);
        }),
        ("errors", |tape| {
            tape.wait(5, &[0]).call(Call::Accept, 0, 0, -libc::EPERM).call(Call::Recv, 0, 64, 9);
        }),
    ];
    for (name, plant) in planted {
        let mut tape = selector("epoll");
        (0..60).for_each(|_| plant(&mut tape));
        assert_eq!(tape.findings(), [name]);
    }
}

#[test]
fn a_finding_has_evidence_and_the_first_times_it_happened() {
    let mut tape = ring();
    tape.entered(5).cqe(Kind::Recv, 1, -libc::ENOBUFS, 0).sqe(Kind::Recv, 1, 2048);
    let at = tape.now;
    let doctor = Doctor::new(tape.stats());
    let finding = &doctor.findings[0];
    assert_eq!((finding.first[0].at_ns, finding.first[0].conn), (at, Some(ConnId::new(1, 0))));
    let text = doctor.to_string();
    for part in ["no-buffers", "1 of 201 receives", "64 lent in all", "c1.0", "--buffers", "! no-b"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn operations_are_counted_with_their_ages() {
    let stats = ring().stats();
    let send = stats.op(SEND).unwrap();
    assert_eq!((send.begun, send.ended, send.ok, send.bytes), (200, 200, 200, 12_800));
    let ages = send.ages.unwrap();
    assert_eq!(ages.samples, 200);
    // A hundred took 30 µs, as many took 40; p99 would need a thousand.
    assert!((29_900..=30_100).contains(&ages.p50_ns.unwrap()), "{ages:?}");
    assert!((39_900..=40_100).contains(&ages.p90_ns.unwrap()), "{ages:?}");
    assert_eq!(ages.p99_ns, None);
    let octaves: Vec<_> = send.octaves.iter().map(|one| (one.from_ns, one.count)).collect();
    assert_eq!(octaves, [(16_000, 100), (32_000, 100)]);
    let recv = stats.op(Op::Ring(Kind::Recv)).unwrap();
    assert_eq!((recv.begun, recv.ended, recv.in_flight), (2, 200, 2));
    assert!(recv.multishot && recv.ages.is_none(), "a receive waits for its peer: no age");
    let iterations = stats.iterations.as_ref().unwrap();
    assert_eq!((iterations.count, stats.calls), (403, Some(403)));
    assert_eq!(iterations.inside_ns, 21_000 + 100 * 110_000);
    assert_eq!(iterations.outside.max_ns.map(|n| n / 100), Some(10));
    let buffers = stats.buffers.unwrap();
    assert_eq!((buffers.lent, buffers.filled, buffers.most), (64, 200, Some(64)));
    let text = Summary::new(stats).to_string();
    for part in ["2 connections", "200 messages", "2.02 system calls per message", "recv*", "16 µs"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_quiet_send_is_ok_without_a_completion_and_its_age_a_bound() {
    let mut tape = Tape::new("uring");
    tape.open(0).entered(5).cqe(Kind::Recv, 0, 64, Cqe::MORE);
    tape.sqe_with(Kind::Send, 0, 64, SKIP_SUCCESS).pass(3).entered(20);
    tape.note(Record::implied(token(Kind::Send, 0), 64));
    let stats = tape.stats();
    let send = stats.op(SEND).unwrap();
    assert_eq!((send.begun, send.ended, send.ok, send.implied), (1, 0, 1, 1));
    assert_eq!(stats.measure, Measure::Taken);
    assert_eq!(stats.answered.max_ns.map(|n| n / 10), Some(300), "3 µs, to the enter");
    assert!(Summary::new(stats).to_string().contains("its age is an upper bound"));
    assert!(tape.findings().is_empty());
}

#[test]
fn calls_are_counted_where_the_kernel_is_called() {
    for (model, calls) in [("epoll", 503), ("poll", 501), ("sigio", 503), ("nonblocking", 400)] {
        let stats = selector(model).stats();
        assert_eq!(stats.calls, Some(calls), "{model}");
        assert_eq!(stats.measure, Measure::Waited);
        assert!(
            stats.op(Op::Call(Call::Recv)).unwrap().ages.is_none(),
            "the clock was read per batch"
        );
    }
    let settings = Settings { level: Level::Record, ..Settings::default() };
    let mut tape = Tape::with("epoll", settings);
    tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Send, 0, 9, 9);
    let stats = tape.stats();
    assert_eq!(
        stats.op(Op::Call(Call::Send)).unwrap().ages.unwrap().max_ns.map(|n| n / 10),
        Some(200)
    );
    assert_eq!(stats.measure, Measure::Called);
    assert_eq!(stats.answered.max_ns.map(|n| n / 10), Some(200));
}

#[test]
fn a_timeline_folds_what_repeats_itself_and_names_the_slowest_exchanges() {
    let mut tape = ring();
    tape.echo(1, 700);
    tape.echo(1, 50).shut(1);
    let trace = tape.trace();
    let timeline = ConnectionTimeline::of(&trace, &Cut::default(), (1, None), 2, false).unwrap();
    assert_eq!((timeline.stats.messages, timeline.stats.exchanges), (102, 102));
    assert_eq!(timeline.stats.ending, Ending::PeerFirst);
    let slowest: Vec<_> = timeline.slowest.iter().map(|one| (one.number, one.took_ns)).collect();
    assert_eq!(slowest, [(101, 700_000), (102, 50_000)]);
    let folds: Vec<_> =
        timeline.lines.iter().filter(|one| matches!(one, TimelineLine::Folded { .. })).collect();
    assert_eq!(folds, [&TimelineLine::Folded { exchanges: 100, steps: 300 }]);
    let text = timeline.to_string();
    for part in [
        "accepted",
        "armed #2",
        "┤ to the first data",
        "turnaround 40.0 µs",
        "100 exchanges folded",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.ends_with("verdict: clean, peer first   every operation ended once ✓"), "{text}");

    let all = ConnectionTimeline::of(&trace, &Cut::default(), (1, Some(0)), 2, true).unwrap();
    assert!(all.lines.iter().all(|one| matches!(one, TimelineLine::Step(_))));
    assert_eq!(all.lines.len(), 1 + 3 * 102 + 3);
    assert_eq!(ConnectionTimeline::of(&trace, &Cut::default(), (9, None), 2, true), None);
}

#[test]
fn the_first_data_is_timed_only_if_the_trace_has_its_beginning() {
    let text = |tape: &mut Tape| {
        let trace = tape.trace();
        ConnectionTimeline::of(&trace, &Cut::default(), (0, None), 3, true).unwrap().to_string()
    };
    let mut begun = Tape::new("uring");
    assert!(text(begun.open(0).echo(0, 5)).contains("to the first data"));
    // The recordings of these begin with a message, and with a send.
    let mut message = Tape::new("uring");
    message.entered(5).cqe(Kind::Recv, 0, 64, Cqe::MORE).sqe(Kind::Send, 0, 64);
    let mut send = Tape::new("uring");
    send.entered(5).cqe(Kind::Send, 0, 64, 0);
    for mut tape in [message, send] {
        let text = text(tape.echo(0, 5));
        assert!(!text.contains("to the first data"), "{text}");
    }
}

#[test]
fn what_is_abnormal_is_not_folded() {
    let mut tape = ring();
    tape.entered(5).cqe(Kind::Recv, 0, -libc::ENOBUFS, 0).sqe(Kind::Recv, 0, 2048);
    tape.echo(0, 5).echo(0, 5);
    let timeline =
        ConnectionTimeline::of(&tape.trace(), &Cut::default(), (0, None), 3, false).unwrap();
    assert!(timeline.to_string().contains("recv* ENOBUFS"), "{timeline}");
}

#[test]
fn a_connection_that_ends_out_of_order_is_the_first_of_the_list() {
    let mut tape = ring();
    tape.sqe(Kind::Send, 1, 64).entered(5).cqe(Kind::Recv, 1, 0, 0).sqe(Kind::Close, 1, 0);
    tape.entered(5).cqe(Kind::Close, 1, 0, 0);
    let list = ConnectionList::new(tape.stats(), 1);
    assert_eq!((list.left_out, list.unclean), (1, 1));
    assert_eq!(list.connections[0].faults, ["closed while send was in flight"]);
    let text = list.to_string();
    assert!(text.contains("OUT OF ORDER") && text.contains("1 more (--all"), "{text}");
    assert_eq!(tape.findings(), ["out-of-order"]);
}

#[test]
fn two_traces_are_compared_per_message_and_nonsense_is_refused() {
    let diff = Diff::new(selector("epoll").stats(), ring().stats()).unwrap();
    let line = |name: &str| diff.lines.iter().find(|line| line.name == name).unwrap();
    let calls = line("system calls / message");
    assert_eq!((calls.a, calls.b), (Some(503.0 / 200.0), Some(403.0 / 200.0)));
    assert_eq!((line("  recv calls").a, line("  recv calls").b), (Some(1.0), None));
    let text = diff.to_string();
    assert!(text.contains("0.80×") && text.contains("answered is left out"), "{text}");

    let none = Diff::new(ring().stats(), Tape::new("epoll").stats()).unwrap_err();
    assert!(none.contains("second trace has no message"), "{none}");
    let mut sample = ring().stats();
    sample.source.sample = 4;
    let refused = Diff::new(sample, ring().stats()).unwrap_err();
    assert!(refused.contains("sample of 1 in 4"), "{refused}");
}

#[test]
fn where_records_are_lost_nothing_is_paired_over_the_gap_and_the_view_says_so() {
    let mut tape = ring();
    tape.sqe(Kind::Send, 0, 64);
    tape.log.freeze(crate::Frozen::Signal);
    tape.entered(5).cqe(Kind::Send, 0, 64, 0);
    tape.log.thaw();
    // Its submission is seen, a completion is not, and this is of another.
    tape.entered(5).cqe(Kind::Send, 0, 64, 0);
    let stats = tape.stats();
    assert_eq!(stats.source.lost, 3);
    let send = stats.op(SEND).unwrap();
    assert_eq!((send.begun, send.ended, send.unseen), (201, 201, 1));
    assert_eq!(send.ages.unwrap().samples, 200);
    assert!(stats.source.to_string().contains("note: 3 records were not written"));
    assert_eq!(stats.buffers.unwrap().fewest, None, "how many were lent is not known");
    assert_eq!(tape.findings(), ["records-lost"], "and no fault of the loop is made of it");
}

#[test]
fn what_was_in_flight_before_a_gap_is_not_said_to_be_at_the_end() {
    let mut tape = Tape::new("uring");
    tape.sqe(Kind::Accept, 0, 0).open(0);
    tape.log.freeze(crate::Frozen::Signal);
    tape.open(1);
    tape.log.thaw();
    // The other connection is heard of once more, and this one never.
    tape.entered(10).cqe(Kind::Recv, 1, 64, Cqe::MORE | Cqe::BUFFER).sqe(Kind::Send, 1, 64);
    let conns = tape.stats().conns;
    let in_flight: Vec<_> = conns.iter().map(|conn| conn.in_flight.names()).collect();
    assert_eq!(in_flight, [vec![], vec!["send"]]);
}

#[test]
fn the_doctor_says_why_records_are_not_here_and_advises_more_room_only_if_that_was_short() {
    let lost = |model: &str, [lost, overwritten, stopped]: [u64; 3]| {
        let mut stats = ring().stats();
        (stats.source.lost, stats.source.overwritten) = (lost, overwritten);
        stats.source.stopped = stopped;
        if model == "process" {
            stats.source.writers = "processes";
        }
        let finding =
            Doctor::new(stats.clone()).findings.into_iter().find(|one| one.name == "records-lost");
        let finding = finding.expect("some are lost");
        (finding.evidence.join("; "), finding.fix)
    };
    let (evidence, fix) = lost("process", [1, 0, 0]);
    assert_eq!(evidence, "1 begun and not written");
    assert!(
        fix.contains("the record that it was writing is lost") && !fix.contains("--trace-size"),
        "{fix}"
    );
    let (evidence, fix) = lost("uring", [3, 0, 3]);
    assert_eq!(evidence, "3 not written while recording was stopped");
    assert!(fix.contains("SIGUSR2") && !fix.contains("--trace-size"), "{fix}");
    let (evidence, fix) = lost("process", [8, 7, 0]);
    assert_eq!(evidence, "7 overwritten by newer ones, 1 begun and not written");
    assert!(fix.contains("--trace-size"), "{fix}");
}

#[test]
fn a_cut_counts_only_what_lies_within() {
    let mut tape = ring();
    let trace = tape.trace();
    let half = Duration::from_nanos(tape.now / 2);
    let of = |since, until| TraceStats::of(&trace, &Cut { since, until, conn: None });
    let (before, after) = (of(None, Some(half)), of(Some(half), None));
    assert_eq!(before.messages + after.messages, 200);
    assert!((90..110).contains(&before.messages), "{}", before.messages);
    assert_eq!(after.op(SEND).unwrap().unseen, 0, "its submission is known, though not counted");
    assert!(after.source.to_string().contains("only what lies between"));
    let one = TraceStats::of(&trace, &Cut { conn: Some((1, None)), ..Cut::default() });
    assert_eq!((one.messages, &one.iterations, one.calls), (100, &None, None));
    assert!(Summary::new(one).to_string().contains("only c1 is counted"));
}

#[test]
fn a_sample_tells_nothing_per_message() {
    let settings = Settings { sample: 2, ..Settings::default() };
    let mut tape = Tape::with("uring", settings);
    (0..64).for_each(|conn| {
        tape.open(conn).echo(conn, 5);
    });
    let stats = tape.stats();
    assert!((1..64).contains(&stats.messages));
    assert_eq!((stats.calls, stats.per_message(7)), (None, None));
    assert!(stats.source.to_string().contains("1 of 2 connections is here"));
    assert!(Doctor::new(stats.clone()).findings.iter().all(|one| one.name != "out-of-order"));
}

#[test]
fn an_empty_trace_has_every_view() {
    let mut tape = Tape::new("uring");
    let stats = tape.stats();
    assert!(Summary::new(stats.clone()).to_string().contains("no operation"));
    assert!(Doctor::new(stats.clone()).health.to_string().contains("nothing can be said"));
    assert!(ConnectionList::new(stats.clone(), 9).to_string().contains("no connection"));
    assert!(Doctor::new(stats.clone()).to_string().contains("nothing found"));
}

#[test]
fn json_has_a_schema_and_what_the_text_says() {
    let json = |view: &dyn erased::Json| view.json();
    let stats = ring().stats();
    let summary = json(&Summary::new(stats.clone()));
    assert_eq!(summary["schema"], "proactor.trace.summary/2");
    assert_eq!(summary["messages"], 200);
    assert_eq!(summary["ops"][0]["op"], "accept");
    assert_eq!(json(&Doctor::new(stats.clone()).health)["verdict"], "healthy");
    assert_eq!(json(&Doctor::new(stats.clone()))["schema"], "proactor.trace.doctor/2");
    let timeline =
        ConnectionTimeline::of(&ring().trace(), &Cut::default(), (0, None), 3, false).unwrap();
    assert_eq!(json(&timeline)["lines"][0]["step"]["what"], "recv armed #1");
    assert_eq!(json(&ConnectionList::new(stats.clone(), 9))["connections"][1]["messages"], 100);
    let diff = json(&Diff::new(stats.clone(), stats).unwrap());
    assert_eq!(diff["lines"][0]["name"], "messages");
}

/// Views as JSON, whatever they are.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

/// The age of a read at the console is how long a person took to type.
#[test]
fn the_ages_that_are_drawn_are_never_those_of_a_wait_for_a_person() {
    let mut tape = Tape::new("uring");
    tape.sqe(Kind::PollRead, 0, 0).sqe(Kind::Read, 0, 0).open(0);
    for _ in 0..50 {
        tape.echo(0, 30);
    }
    tape.entered(1_460_000).cqe(Kind::PollRead, 0, 1, 0).cqe(Kind::Read, 0, 9, 0);
    let stats = tape.stats();
    for kind in [Kind::PollRead, Kind::Read] {
        assert_eq!(stats.op(Op::Ring(kind)).unwrap().ages, None, "{kind}");
    }
    let text = Summary::new(stats).to_string();
    assert!(text.contains("send age") && !text.contains("read age"), "{text}");
}

fn threads() -> Writer {
    let settings = Settings { bytes: 0, ..Settings::default() };
    Writer::new(None, &settings, &About::default(), Writers::Threads).expect("memory")
}

#[test]
fn the_calls_of_all_lanes_are_forgotten_at_a_gap_and_not_counted() {
    let writer = threads();
    let lanes = [writer.lane(0), writer.lane(1)];
    let begin = Record::call_begin(Call::Lock, false, 7, 0, 0);
    lanes.iter().for_each(|lane| lane.write(sys::monotonic, begin));
    writer.freeze(Frozen::Signal);
    writer.thaw();
    let end = Record::call_end(Call::Lock, false, 7, 0, 0);
    lanes.iter().for_each(|lane| lane.write(sys::monotonic, end));
    let trace = Trace::from_bytes(&writer.bytes()).expect("it is a trace");
    let lanes = TraceStats::of(&trace, &Cut::default()).lanes.expect("many wrote");
    let in_calls = |number| {
        let mut spans = lanes.spans.iter().filter(|thread| thread.number() == number);
        spans.next().map(|thread| (thread.calls, thread.spent.waiting_ns + thread.spent.other_ns))
    };
    assert_eq!((in_calls(0), in_calls(1)), (Some((1, 0)), Some((1, 0))));
}

#[test]
fn the_same_call_in_two_lanes_has_a_duration_in_each() {
    let writer = threads();
    let lanes = [writer.lane(0), writer.lane(1)];
    let begin = Record::call_begin(Call::Send, false, 7, 0, 0);
    lanes.iter().for_each(|lane| lane.write(sys::monotonic, begin));
    let end = Record::call_end(Call::Send, false, 7, 0, 1);
    lanes.iter().for_each(|lane| lane.write(sys::monotonic, end));
    let trace = Trace::from_bytes(&writer.bytes()).expect("it is a trace");
    let ends = events(&trace).filter(|event| matches!(event.what, Payload::CallEnd { .. }));
    let calls: Vec<_> = ends.map(|event| (event.lane, event.lasted.is_some())).collect();
    assert_eq!(calls, [(Some(0), true), (Some(1), true)]);
}
