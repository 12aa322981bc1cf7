//! Operations, calls and ages in numbers, and what is left out where they would be untrue.

use super::super::{ConnectionList, Cut, Doctor, ListOrder, Measure, Summary, TraceStats};
use super::tape::{SEND, Tape, key, ring, selector, token};
use proactor::ring::{Cqe, Kind};
use proactor_record::format::{LINK, SKIP_SUCCESS};
use proactor_record::{Call, Level, OpKind, Record, Settings};
use std::time::Duration;

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
    let recv = stats.op(OpKind::Ring(Kind::Recv)).unwrap();
    assert_eq!((recv.begun, recv.ended, recv.in_flight), (2, 200, 2));
    assert!(recv.multishot && recv.ages.is_none(), "a receive waits for its peer: no age");
    let iterations = stats.iterations.as_ref().unwrap();
    assert_eq!((iterations.count, stats.calls), (403, Some(403)));
    assert_eq!(iterations.inside_ns, 21_000 + 100 * 110_000);
    assert_eq!(iterations.outside.max_ns.map(|n| n / 100), Some(10));
    let buffers = stats.buffers.unwrap();
    assert_eq!((buffers.lent, buffers.filled, buffers.most), (64, 200, Some(64)));
    let text = Summary { stats }.to_string();
    for part in ["2 connections", "200 messages", "2.02 system calls per message", "recv*", "16 µs"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn an_implied_send_is_ok_without_a_completion_and_its_age_a_bound() {
    let mut tape = Tape::new("uring");
    tape.open(0).entered(5).cqe(Kind::Recv, 0, 64, Cqe::MORE);
    tape.sqe_with(Kind::Send, 0, 64, SKIP_SUCCESS).pass(3).entered(20);
    tape.note(Record::implied(token(Kind::Send, 0), 64));
    let stats = tape.stats();
    let send = stats.op(SEND).unwrap();
    assert_eq!((send.begun, send.ended, send.ok, send.implied), (1, 0, 1, 1));
    assert_eq!(stats.measure, Measure::Taken);
    assert_eq!(stats.answered.max_ns.map(|n| n / 10), Some(300), "3 µs, to the enter");
    assert!(Summary { stats }.to_string().contains("its age is an upper bound"));
    assert!(tape.findings().is_empty());
}

#[test]
fn calls_are_counted_where_the_kernel_is_called() {
    for (model, calls) in [("epoll", 503), ("poll", 501), ("sigio", 503), ("nonblocking", 400)] {
        let stats = selector(model).stats();
        assert_eq!(stats.calls, Some(calls), "{model}");
        assert_eq!(stats.measure, Measure::Waited);
        assert!(
            stats.op(OpKind::Call(Call::Recv)).unwrap().ages.is_none(),
            "the clock was read per batch"
        );
    }
    let settings = Settings { level: Level::Record, ..Settings::default() };
    let mut tape = Tape::with("epoll", settings);
    tape.wait(5, &[0]).call(Call::Recv, 0, 64, 9).call(Call::Send, 0, 9, 9);
    let stats = tape.stats();
    assert_eq!(
        stats.op(OpKind::Call(Call::Send)).unwrap().ages.unwrap().max_ns.map(|n| n / 10),
        Some(200)
    );
    assert_eq!(stats.measure, Measure::Called);
    assert_eq!(stats.answered.max_ns.map(|n| n / 10), Some(200));
}

#[test]
fn what_a_parent_and_its_children_send_each_other_is_no_message_of_a_client() {
    let mut tape = selector("process");
    for call in [Call::Recv, Call::Send] {
        let link = LINK | key(0);
        tape.note(Record::call_begin(call, false, link, 9, 2048));
        tape.note(Record::call_end(call, false, link, 9, 32));
    }
    let stats = tape.stats();
    let listed: u64 = stats.conns.iter().map(|conn| conn.messages).sum();
    assert_eq!((stats.messages, listed), (200, 200));
    assert_eq!((stats.bytes_in, stats.bytes_out), (200 * 64, 200 * 64));
    assert_eq!(stats.op(OpKind::Call(Call::Recv)).unwrap().ok, 201, "it is a call all the same");
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
    assert!(Summary { stats: one }.to_string().contains("only c1 is counted"));
}

#[test]
fn a_sample_says_nothing_per_message() {
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
    assert!(Summary { stats: stats.clone() }.to_string().contains("no operation"));
    assert!(Doctor::new(stats.clone()).health.to_string().contains("nothing can be said"));
    assert!(
        ConnectionList::new(stats.clone(), 9, ListOrder::Worst)
            .to_string()
            .contains("no connection")
    );
    assert!(Doctor::new(stats.clone()).to_string().contains("nothing found"));
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
        assert_eq!(stats.op(OpKind::Ring(kind)).unwrap().ages, None, "{kind}");
    }
    let text = Summary { stats }.to_string();
    assert!(text.contains("send age") && !text.contains("read age"), "{text}");
}
