//! The numbers of each interval of the time.

use std::time::Duration;

use super::super::{Cut, SeriesRow, TimeSeries, TraceStats};
use super::tape::{Tape, ring, selector};
use crate::TraceFile;
use proactor::ring::{Cqe, Kind};

fn series(trace: &TraceFile, every: Duration) -> TimeSeries {
    TimeSeries::of(trace, &Cut::default(), every).expect("not too many rows")
}

fn sum(series: &TimeSeries, of: impl Fn(&SeriesRow) -> u64) -> u64 {
    series.rows.iter().map(of).sum()
}

#[test]
fn the_intervals_of_a_loop_have_together_what_the_whole_has() {
    for mut tape in [ring(), selector("epoll"), selector("poll")] {
        let (trace, stats) = (tape.trace(), tape.stats());
        let series = series(&trace, Duration::from_micros(700));
        assert!(series.rows.len() >= 5, "{series}");
        let TraceStats { messages, bytes_in, bytes_out, .. } = stats;
        let all = [
            (messages, sum(&series, |row| row.messages)),
            (bytes_in, sum(&series, |row| row.bytes_in)),
            (bytes_out, sum(&series, |row| row.bytes_out)),
            (stats.calls.unwrap(), sum(&series, |row| row.calls.unwrap())),
            (stats.answered.samples, sum(&series, |row| row.replies.samples)),
            (stats.connections, sum(&series, |row| row.opened)),
            (stats.source.span_ns, sum(&series, |row| row.span_ns)),
        ];
        all.into_iter().for_each(|(whole, parts)| assert_eq!(whole, parts, "{series}"));
        let at = |pair: &[SeriesRow]| pair[1].at_ns - pair[0].at_ns;
        assert!(series.rows.windows(2).all(|pair| at(pair) == 700_000));
    }
}

#[test]
fn an_interval_without_an_event_is_a_row_and_its_connections_are_open() {
    let mut tape = Tape::new("uring");
    tape.open(0).open(1).echo(0, 10).shut(1);
    tape.entered(3_500_000).cqe(Kind::Recv, 0, 64, Cqe::MORE);
    let all = series(&tape.trace(), Duration::from_secs(1));
    let rows: Vec<_> = all.rows.iter().map(|row| (row.messages, row.closed, row.open)).collect();
    assert_eq!(rows, [(1, 1, 1), (0, 0, 1), (0, 0, 1), (1, 0, 1)]);
    let text = all.to_string();
    for part in ["messages/s", "each row is of 1.00 s, the last of 500 ms"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // One message in the half of a second.
    let last: Vec<_> = text.lines().rev().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(last[..4], ["3.000", "s", "2", "128"], "{text}");
    let one = Cut { conn: Some((1, None)), ..Cut::default() };
    let of_one = TimeSeries::of(&tape.trace(), &one, Duration::from_secs(1)).unwrap();
    assert_eq!((sum(&of_one, |row| row.messages), of_one.rows[0].calls), (0, None));
}

#[test]
fn a_part_begins_with_its_first_event_and_far_too_many_rows_are_refused() {
    let mut tape = ring();
    let trace = tape.trace();
    let since = Some(Duration::from_millis(5));
    let cut = Cut { since, ..Cut::default() };
    let part = TimeSeries::of(&trace, &cut, Duration::from_millis(1)).unwrap();
    assert!((5_000_000..5_100_000).contains(&part.rows[0].at_ns), "{part}");
    assert_eq!(sum(&part, |row| row.messages), TraceStats::of(&trace, &cut).messages);
    assert_eq!((sum(&part, |row| row.opened), part.rows[0].open), (0, 2), "{part}");
    let rows = TimeSeries::of(&trace, &Cut::default(), Duration::from_nanos(1)).unwrap_err();
    assert!(rows > 10_000, "{rows}");
}
