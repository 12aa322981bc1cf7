//! What is the same in all views: two of a kind compared, gaps, and JSON.

use super::super::{
    ConnectionList, ConnectionTimeline, Cut, Diff, DiffSide, Doctor, ListOrder, Summary, TraceStats,
};
use super::tape::{SEND, Tape, one_shot, ring, selector};
use proactor::ring::{Cqe, Kind};
use proactor_record::{OpKind, Settings, Trace};

fn side(tape: &mut Tape) -> DiffSide {
    DiffSide::of(&tape.trace(), &Cut::default())
}

#[test]
fn two_traces_are_compared_per_message_and_nonsense_is_refused() {
    let diff = Diff::new(side(&mut selector("epoll")), side(&mut ring()), None).unwrap();
    let line = |name: &str| diff.lines.iter().find(|line| line.name == name).unwrap();
    let calls = line("system calls / message");
    let [a, b] = [calls.a, calls.b].map(|number| (number.value.unwrap() * 10.0).round());
    assert_eq!((a, b), (25.0, 20.0));
    assert_eq!(calls.differs, Some(true));
    assert_eq!(line("  recv calls").b.value, None);
    let text = diff.to_string();
    assert!(text.contains("0.80×") && text.contains("answered is left out"), "{text}");
    assert!(diff.lines.iter().all(|line| !line.name.starts_with("answered")), "{text}");

    let none = Diff::new(side(&mut ring()), side(&mut Tape::new("epoll")), None).unwrap_err();
    assert!(none.contains("second trace has no message"), "{none}");
    let mut sampled = Tape::with("uring", Settings { sample: 2, ..Settings::default() });
    (0..64).for_each(|conn| _ = sampled.open(conn).echo(conn, 5));
    let refused = Diff::new(side(&mut sampled), side(&mut ring()), None).unwrap_err();
    assert!(refused.contains("sample of 1 in 2"), "{refused}");
}

/// A ring that serves two connections, with so many messages in the iterations of each tenth.
fn batches(of: &[usize]) -> DiffSide {
    let mut tape = Tape::new("uring");
    tape.open(0).open(1);
    for &batch in of.iter().cycle().take(10) {
        for _ in 0..100 {
            tape.entered(20);
            (0..batch).for_each(|_| _ = tape.cqe(Kind::Recv, 0, 64, Cqe::MORE));
        }
    }
    side(&mut tape)
}

#[test]
fn a_difference_is_marked_only_outside_of_what_varies_by_itself() {
    let differs = |a: &[usize], b: &[usize], again: Option<&[usize]>| {
        let diff = Diff::new(batches(a), batches(b), again.map(batches)).unwrap();
        let line = diff.lines.iter().find(|line| line.name == "messages / iteration").unwrap();
        assert!(diff.to_string().contains('≠'), "the foot explains it");
        line.differs
    };
    assert_eq!(differs(&[2, 4], &[3, 5], None), Some(false), "their slices overlap");
    assert_eq!(differs(&[2, 3], &[7, 9], None), Some(true));
    assert_eq!(differs(&[2, 3], &[7, 9], Some(&[8, 8])), Some(false), "as far as another one of A");
}

#[test]
fn a_number_is_that_of_the_median_slice_and_none_in_which_clients_rested() {
    let number = |side: DiffSide| {
        let diff = Diff::new(side, batches(&[1]), None).unwrap();
        diff.lines.into_iter().find(|line| line.name == "messages / iteration").unwrap().a
    };
    let one_burst = number(batches(&[2, 2, 2, 2, 2, 2, 2, 2, 2, 10]));
    assert_eq!(one_burst.value, Some(2.0), "the whole has 2.8");
    let mut late = Tape::new("uring");
    (0..1000).for_each(|_| _ = late.entered(20).cqe(Kind::Wake, 0, 1, 0));
    (0..1000).for_each(|_| _ = late.entered(20).cqe(Kind::Recv, 0, 64, Cqe::MORE));
    assert!(number(side(&mut late)).range.unwrap()[0] > 0.9);
}

#[test]
fn another_one_of_the_first_has_columns_of_its_own_and_is_of_the_same_model() {
    let diff = |again: &mut Tape| {
        Diff::new(side(&mut ring()), side(&mut selector("epoll")), Some(side(again)))
    };
    let text = diff(&mut ring()).unwrap().to_string();
    let heading = text.lines().find(|line| line.contains("B / A")).unwrap();
    let words: Vec<_> = heading.split("  ").map(str::trim).filter(|one| !one.is_empty()).collect();
    assert_eq!(words, ["A: uring", "again", "B: epoll", "B / A"]);
    let refused = diff(&mut selector("poll")).unwrap_err();
    assert!(refused.contains("of the model poll, and the first of uring"), "{refused}");
}

#[test]
fn a_part_in_which_no_buffer_is_lent_is_of_a_ring_that_lends_buffers() {
    let mut tape = ring();
    let since = Some(std::time::Duration::from_nanos(tape.now));
    tape.entered(5).cqe(Kind::Wake, 0, 1, 0);
    let part = TraceStats::of(&tape.trace(), &Cut { since, ..Cut::default() });
    assert_eq!(part.buffers.map(|buffers| (buffers.lent, buffers.filled)), Some((0, 0)));
    assert_eq!(part.answered.samples, 0, "all replies were before");
    let own = one_shot().stats();
    assert_eq!(own.buffers, None, "each receive has its own");
}

#[test]
fn what_a_ring_does_in_its_enters_and_a_selector_between_its_waits_is_a_dash() {
    let diff = Diff::new(side(&mut selector("epoll")), side(&mut ring()), None).unwrap();
    for name in ["time not waiting / message", "between them, p50", "enter or wait, p50"] {
        let line = diff.lines.iter().find(|line| line.name == name);
        let line = line.unwrap_or_else(|| panic!("{name}\n{diff}"));
        assert!(line.a.value.is_some() && line.b.value.is_none(), "{line:?}");
    }
    // Without the delays of one, what it did in a stall is not known.
    let mut stalled = ring();
    (0..3).for_each(|_| _ = stalled.pass(9000).echo(0, 5));
    let mut trace = Trace::from_bytes(stalled.log.bytes()).unwrap();
    let mut stalls = |trace: &Trace| {
        let other = DiffSide::of(&trace.clone().into(), &Cut::default());
        let diff = Diff::new(side(&mut stalled), other, None).unwrap();
        let line = diff.lines.iter().find(|line| line.name == "stalls").unwrap();
        (line.a.value, line.b.value)
    };
    assert_eq!(stalls(&trace), (Some(3.0), Some(3.0)));
    trace.header.text.retain(|(name, _)| name != "delays");
    assert_eq!(stalls(&trace), (Some(3.0), None));
}

#[test]
fn the_last_part_of_a_recording_is_said_to_be_one() {
    let mut tape = Tape::with("uring", Settings::default());
    tape.sqe(Kind::Accept, 0, 0).open(0).open(1);
    // 32,768 records are kept, of five for each message.
    (0..10_000).for_each(|_| _ = tape.echo(0, 30));
    let stats = tape.stats();
    let head = stats.source.to_string();
    assert!(head.contains("the last ") && head.contains(" of 500 ms"), "{head}");
    let since = Some(std::time::Duration::from_millis(499));
    let part = TraceStats::of(&tape.trace(), &Cut { since, ..Cut::default() });
    assert_eq!(part.source.of_ns, None, "that is the part that was asked for");
    let recv = stats.op(OpKind::Ring(Kind::Recv)).unwrap();
    assert!(recv.ended > 4000 && recv.unseen == 1, "one submission has all completions: {recv:?}");
    let list = ConnectionList::new(stats, 9, ListOrder::Worst).to_string();
    assert!(list.contains("before") && list.contains("> "), "{list}");
    let timeline = ConnectionTimeline::of(&tape.trace(), &Cut::default(), (0, None), 3, false);
    let timeline = timeline.unwrap().to_string();
    assert!(timeline.contains("opened before what is here"), "{timeline}");
}

#[test]
fn small_buffers_do_not_look_cheap() {
    // One message of 4 KiB in an enter, or in 64 parts.
    let bytes_per_call = |parts: i32| {
        let mut tape = Tape::new("uring");
        tape.open(0);
        for _ in 0..20 {
            tape.entered(20);
            (0..parts).for_each(|_| _ = tape.cqe(Kind::Recv, 0, 4096 / parts, Cqe::MORE));
        }
        let stats = tape.stats();
        assert!(Summary { stats: stats.clone() }.to_string().contains("per call"));
        stats.bytes_per_call()
    };
    assert_eq!(bytes_per_call(1), bytes_per_call(64));
    let stats = ring().stats();
    let bytes = stats.bytes_per_call().map(|bytes| bytes * stats.calls.unwrap() as f64);
    assert_eq!(bytes, Some(25_600.0), "of both directions");
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
    // Each has a submission of its own that is not here.
    tape.log.freeze(crate::Frozen::Signal);
    tape.sqe(Kind::Send, 0, 64).log.thaw();
    let stats = tape.entered(5).cqe(Kind::Send, 0, 64, 0).stats();
    assert_eq!(stats.op(SEND).unwrap().unseen, 2);
}

#[test]
fn json_has_a_schema_and_what_the_text_says() {
    let json = |view: &dyn erased::Json| view.json();
    let stats = ring().stats();
    let summary = json(&Summary { stats: stats.clone() });
    assert_eq!(summary["schema"], "proactor.trace.summary/2");
    assert_eq!(summary["messages"], 200);
    assert_eq!(summary["ops"][0]["op"], "accept");
    let doctor = json(&Doctor::new(stats.clone()));
    assert_eq!(doctor["schema"], "proactor.trace.doctor/3");
    assert_eq!(doctor["verdict"], "nothing found; not visible from here: kernel");
    assert_eq!(doctor["not_visible"][0]["name"], "kernel");
    let timeline =
        ConnectionTimeline::of(&ring().trace(), &Cut::default(), (0, None), 3, false).unwrap();
    assert_eq!(json(&timeline)["lines"][0]["step"]["what"], "recv armed #1");
    let list = json(&ConnectionList::new(stats, 9, ListOrder::Worst));
    assert_eq!(list["connections"][1]["messages"], 100);
    let diff = json(&Diff::new(side(&mut ring()), side(&mut ring()), None).unwrap());
    assert_eq!(diff["schema"], "proactor.trace.diff/3");
    assert_eq!(
        (&diff["lines"][0]["name"], &diff["lines"][0]["a"]["value"]),
        (&"messages".into(), &200.0.into())
    );
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
