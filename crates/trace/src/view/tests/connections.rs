//! Connections: their timelines, how they ended, and the list of them.

use super::super::{ConnectionList, ConnectionTimeline, Cut, Ending, ListOrder, TimelineLine};
use super::tape::{Tape, ring};
use proactor::ring::{Cqe, Kind};

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
    let list = ConnectionList::new(tape.stats(), 1, ListOrder::Worst);
    assert_eq!((list.left_out, list.unclean), (1, 1));
    assert_eq!(list.connections[0].faults, ["closed while send was in flight"]);
    let text = list.to_string();
    assert!(text.contains("OUT OF ORDER") && text.contains("1 more (--all"), "{text}");
    assert_eq!(tape.findings(), ["out-of-order"]);
}

#[test]
fn the_list_is_in_the_order_that_is_asked_for() {
    let mut tape = ring();
    // c0 has the most messages and the most to receive, c1 the slowest reply, c2 the most bytes.
    (0..100).for_each(|_| _ = tape.echo(0, 50));
    tape.echo(1, 5).echo(1, 900).entered(5).cqe(Kind::Recv, 0, 9000, Cqe::MORE);
    tape.open(2).sqe(Kind::Send, 2, 60_000).entered(5).cqe(Kind::Send, 2, 60_000, 0);
    let first = |order| {
        let list = ConnectionList::new(tape.stats(), 1, order);
        list.connections[0].conn.slot()
    };
    let mut orders =
        [ListOrder::Bytes, ListOrder::Messages, ListOrder::Slowest, ListOrder::Worst].into_iter();
    assert_eq!(orders.by_ref().map(first).collect::<Vec<_>>(), [2, 0, 1, 1]);
}

#[test]
fn what_was_in_flight_before_a_gap_is_not_said_to_be_at_the_end() {
    let mut tape = Tape::new("uring");
    tape.sqe(Kind::Accept, 0, 0).open(0);
    tape.log.freeze(crate::Frozen::Signal);
    tape.open(1);
    tape.log.thaw();
    // The trace goes on with the other connection, and has no more of this one.
    tape.entered(10).cqe(Kind::Recv, 1, 64, Cqe::MORE | Cqe::BUFFER).sqe(Kind::Send, 1, 64);
    let conns = tape.stats().conns;
    let in_flight: Vec<_> = conns.iter().map(|conn| conn.in_flight.names()).collect();
    assert_eq!(in_flight, [vec![], vec!["send"]]);
}
