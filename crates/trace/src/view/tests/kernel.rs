//! What the kernel's events add to each view.

use super::super::{
    ConnectionList, ConnectionTimeline, Cut, Delays, Diff, DiffSide, Doctor, ListOrder, Summary,
    TraceStats,
};
use super::tape::{Tape, token};
use crate::kernel::{KernelEvent, Missing, Sidecar, Tracepoint};
use crate::trace_file::TraceFile;
use proactor::ring::{Cqe, Kind};
use proactor_record::{About, Clock, Record, Recorder, Settings, Trace, WaitMode};

fn event(time: u64, user_data: u64, tracepoint: Tracepoint, res: u64) -> KernelEvent {
    let own = [res, 0, 0, 0];
    let (thread, ring, request, opcode) = (1, 0, 0, None);
    KernelEvent { time, thread, ring, request, user_data, opcode, tracepoint, own }
}

fn recorder() -> Recorder {
    let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
    Recorder::new(None, &settings, &About::default()).expect("memory")
}

/// The delays of a trace with these events of the kernel.
fn delays(trace: &Trace, sidecar: &Sidecar) -> Delays {
    let trace = TraceFile::new(trace.clone(), Some(sidecar.clone()));
    TraceStats::of(&trace, &Cut::default()).kernel.expect("there are events")
}

#[test]
fn completions_on_both_sides_of_a_loss_are_not_matched() {
    let mut log = recorder();
    let cqe = || Record::completed(7, 64, 0, 0);
    log.write_at(1000, cqe());
    log.write_at(9000, Record::lost(5));
    log.write_at(9500, cqe());
    let trace = Trace::from_bytes(log.bytes()).expect("a trace");
    let post = |time| event(time, 7, Tracepoint::Complete, 64);
    // The second and third were reaped in the gap.
    let events = [900, 2000, 3000, 9400].map(post).to_vec();
    let sidecar = Sidecar { events, ..Sidecar::default() };
    let found = delays(&trace, &sidecar);
    assert_eq!(found.reaping.max_ns, Some(100), "{found}");
    // The kernel lost the event of the first.
    let events = [1500, 9400].map(post).to_vec();
    let sidecar = Sidecar { events, lost: 1, ..Sidecar::default() };
    let found = delays(&trace, &sidecar);
    assert_eq!((found.unmatched, found.reaping.samples), (1, 1), "{found}");
    assert!(found.to_string().contains("the kernel lost events: "), "{found}");
}

#[test]
fn the_stages_of_a_completion_are_measured() {
    let mut log = recorder();
    let cqe = |id, res| Record::completed(id, res, 0, 0);
    log.write_at(5000, cqe(7, 64));
    log.write_at(5000, cqe(7, 32));
    log.write_at(5000, cqe(9, 1));
    log.write_at(9000, Record::enter_begin(0, 0, WaitMode::None));
    let trace = Trace::from_bytes(log.bytes()).expect("a trace");
    let events = vec![
        event(500, 7, Tracepoint::Complete, 1), // Before the recording started.
        event(1000, 7, Tracepoint::TaskAdd, 0),
        event(1500, 7, Tracepoint::TaskAdd, 0),
        event(3000, 7, Tracepoint::Complete, 64),
        event(4000, 7, Tracepoint::CqeOverflow, 32),
        event(4000, 3, Tracepoint::QueueAsyncWork, 0),
    ];
    let mut sidecar = Sidecar { events, lost: 2, ..Sidecar::default() };
    let found = delays(&trace, &sidecar);
    assert_eq!((found.posting.samples, found.posting.max_ns), (1, Some(2000)));
    assert_eq!((found.reaping.samples, found.handling.samples), (2, 3));
    assert_eq!(found.reaping.max_ns, Some(2000));
    assert!(found.handling.max_ns >= Some(4000));
    let counts = (found.overflowed, found.punted, found.unmatched, found.lost);
    assert_eq!(counts, (Some(1), Some(1), 1, 2));
    assert!(found.to_string().contains("not matched 1, lost by the kernel 2"));
    // An unknown count is not shown as zero.
    sidecar.missing = vec![Missing::Tracepoint(Tracepoint::CqeOverflow)];
    let found = delays(&trace, &sidecar);
    assert_eq!((found.overflowed, found.punted), (None, Some(1)));
    let (text, json) = (found.to_string(), serde_json::json!(found));
    assert!(text.contains("full queue –") && text.contains("no io_uring_cqe_overflow"), "{text}");
    assert!(json["overflowed"].is_null() && json["missing"][0] == "io_uring_cqe_overflow");
}

/// A ring that echoes 200 messages of two connections, and the kernel's events: each message
/// arrives 8 µs before it is reaped and is posted 3 µs before, and the enter sleeps until then.
/// Of the first connection, every receive is done by a worker thread.
fn echoes() -> (Tape, Sidecar) {
    let (mut tape, mut events) = (Tape::new("uring"), Vec::new());
    tape.sqe(Kind::Accept, 0, 0).open(0).open(1);
    for round in 0..200 {
        let conn = round % 2;
        let begun = tape.now;
        tape.entered(20);
        let (now, recv) = (tape.now, token(Kind::Recv, conn));
        events.push(event(begun + 2000, 0, Tracepoint::CqringWait, 1));
        if conn == 0 {
            events.push(event(begun + 1000, recv, Tracepoint::QueueAsyncWork, 0));
        }
        events.push(event(now - 8000, recv, Tracepoint::TaskAdd, 0));
        let post = event(now - 3000, recv, Tracepoint::Complete, 64);
        events.push(KernelEvent { own: [64, Cqe::MORE.into(), 0, 0], ..post });
        tape.cqe(Kind::Recv, conn, 64, Cqe::MORE).sqe(Kind::Send, conn, 64).entered(30);
        events.push(event(tape.now - 1000, token(Kind::Send, conn), Tracepoint::Complete, 64));
        tape.cqe(Kind::Send, conn, 64, 0).pass(10);
    }
    tape.entered(1);
    (tape, Sidecar { events, has_sleeps: true, ..Sidecar::default() })
}

#[test]
fn each_view_says_when_completions_were_posted_and_what_enters_did() {
    let (mut tape, sidecar) = echoes();
    let trace = Trace::from_bytes(tape.log.bytes()).expect("a trace");
    let without = TraceStats::of(&trace.clone().into(), &Cut::default());
    let trace = TraceFile::new(trace, Some(sidecar));
    let stats = TraceStats::of(&trace, &Cut::default());
    let kernel = stats.kernel.as_ref().expect("there are events");
    // Of the receives 5 µs; of the enters 10 µs, and those that submit a send do not sleep.
    assert_eq!(kernel.posting.samples, 200);
    assert!(kernel.posting.max_ns.is_some_and(|took| (5000..5100).contains(&took)), "{kernel}");
    assert_eq!(kernel.asleep_ns, Some(200 * 10_000), "{kernel}");
    let summary = Summary { stats: stats.clone() }.to_string();
    for words in [
        "asleep 17 %, waking up or at work 67 %",
        "posted → reaped p50 3.00 µs, max 3.00 µs",
        "100 by worker threads",
    ] {
        assert!(summary.contains(words), "no {words:?} in {summary}");
    }
    // Of one connection, or of a part.
    let of_one = Cut { conn: Some((1, None)), ..Cut::default() };
    let one = TraceStats::of(&trace, &of_one).kernel.expect("there are events");
    assert_eq!((one.reaping.samples, one.punted, one.asleep_ns), (200, Some(0), None), "{one}");
    let list = ConnectionList::new(stats.clone(), 9, ListOrder::Worst);
    assert_eq!(list.connections[0].reaping.longest_ns, 3000);
    let shown = list.to_string();
    assert!(shown.contains("posted → reaped: mean") && shown.contains("2.00 µs"), "{shown}");
    let plain = ConnectionList::new(without.clone(), 9, ListOrder::Worst).to_string();
    assert!(!plain.contains("posted"), "{plain}");
    let timeline = ConnectionTimeline::of(&trace, &Cut::default(), (0, None), 1, false);
    let timeline = timeline.expect("it is in the trace").to_string();
    for words in [
        "arrived 8.00 µs, posted 3.00 µs before, by a worker thread (io-wq)",
        "posted → reaped mean 2.00 µs, longest 3.00 µs   handed to worker threads (io-wq) 100",
        "reaped 3.00 µs after it was posted",
    ] {
        assert!(timeline.contains(words), "no {words:?} in {timeline}");
    }
    let doctor = Doctor::new(stats);
    assert!(doctor.findings.iter().any(|one| one.name == "punted"), "{doctor}");
    assert!(doctor.not_visible.iter().all(|one| one.name != "kernel"), "{doctor}");
    let doctor = Doctor::new(without);
    assert!(doctor.findings.iter().all(|one| one.name != "punted"), "{doctor}");
    assert!(doctor.not_visible.iter().any(|one| one.name == "kernel"), "{doctor}");
    let side = || DiffSide::of(&trace, &Cut::default());
    let diff = Diff::new(side(), side(), None).expect("there are messages");
    let value = |name: &str| {
        let line = diff.lines.iter().find(|line| line.name == name);
        line.and_then(|line| line.a.value).unwrap_or_else(|| panic!("no {name} in {diff}"))
    };
    assert_eq!(value("asleep in enters / message"), 10_000.0);
    assert_eq!(value("to worker threads (io-wq) / message"), 0.5);
    assert!((4900.0..=5100.0).contains(&value("arrival to posted, p50")), "{diff}");
}
