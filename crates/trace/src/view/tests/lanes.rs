//! Traces of many writers: threads, each in its lane.

use super::super::{Cut, TraceStats};
use super::tape::threads;
use crate::events;
use crate::trace_file::TraceFile;
use proactor_record::sys;
use proactor_record::{Call, Content, Frozen, Record};

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
    let trace = TraceFile::from_bytes(&writer.bytes()).expect("it is a trace");
    let lanes = TraceStats::of(&trace, &Cut::default()).lanes.expect("many wrote");
    let in_calls = |number| {
        let mut spans = lanes.spans.iter().filter(|thread| thread.number == number);
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
    let trace = TraceFile::from_bytes(&writer.bytes()).expect("it is a trace");
    let ends = events(&trace).filter(|event| matches!(event.what, Content::CallEnd { .. }));
    let calls: Vec<_> = ends.map(|event| (event.lane, event.lasted.is_some())).collect();
    assert_eq!(calls, [(Some(0), true), (Some(1), true)]);
}
