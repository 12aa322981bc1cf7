//! The map of time and duration.

use super::super::{Cut, Heatmap, TraceStats};
use super::tape::{Tape, ring, selector};
use proactor_record::{Call, Level, Settings};

fn maps(tape: &mut Tape) -> Vec<Heatmap> {
    let trace = tape.trace();
    let cut = Cut::default();
    Heatmap::all(&trace, &cut, &TraceStats::of(&trace, &cut))
}

#[test]
fn each_duration_is_counted_once_in_the_column_of_its_begin() {
    let mut tape = ring();
    let stats = tape.stats();
    let maps = maps(&mut tape);
    let names: Vec<_> = maps.iter().map(|map| map.of).collect();
    assert_eq!(names, ["reply", "enter", "send"], "a multishot receive waits for its peer");
    let sends = &maps[2];
    let send = stats.ops.iter().find(|row| row.op.name() == "send").unwrap();
    assert_eq!((sends.samples, send.ages.unwrap().samples), (200, 200));
    let summed = |at: usize| sends.rows.iter().map(|row| row.counts[at]).sum::<u64>();
    assert_eq!((0..72).map(summed).sum::<u64>(), 200);
    for octave in &send.octaves {
        let row = sends.rows.iter().find(|row| row.from_ns == octave.from_ns).unwrap();
        assert_eq!(row.counts.iter().sum::<u64>(), octave.count);
    }
}

#[test]
fn a_hole_and_a_slow_call_are_seen_where_they_were() {
    let mut tape = Tape::with("epoll", Settings { level: Level::Record, ..Settings::default() });
    let echo = |tape: &mut Tape, times: u32| {
        for _ in 0..times {
            tape.wait(5, &[0]).call(Call::Recv, 0, 2048, 64).call(Call::Send, 0, 64, 64).pass(91);
        }
    };
    echo(&mut tape, 100);
    tape.pass(40_000);
    echo(&mut tape, 100);
    let maps = maps(&mut tape);
    let sends = maps.iter().find(|map| map.of == "send").unwrap();
    let row = sends.rows.iter().find(|row| row.from_ns == 2000).unwrap();
    let empty = row.counts.iter().filter(|&&count| count == 0).count();
    // 40 of 60 milliseconds are two thirds of the columns.
    assert!((44..=52).contains(&empty), "{empty} empty columns in {:?}", row.counts);
    let text = sends.to_string();
    let drawn = text.lines().find(|line| line.contains("2.00 µs")).unwrap();
    assert!(
        drawn.contains("·                   ") || drawn.contains("░                   "),
        "{text}"
    );
    assert!(drawn.ends_with(" 200"), "{text}");
    assert!(text.ends_with("█ 10,000 and more"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn calls_that_were_not_timed_are_not_drawn() {
    let names: Vec<_> = maps(&mut selector("epoll")).iter().map(|map| map.of).collect();
    assert_eq!(names, ["reply", "wait"]);
}
