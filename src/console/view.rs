//! How a console shows what there is: tables of connections and counters, and what peers say.

use std::borrow::Borrow;
use std::iter;
use std::time::Duration;

use super::ListenerInfo;
use crate::counters::Counters;
use crate::keys::{ConnId, ListenerId};
use crate::printable::push_escaped;

/// A connection, as `list` shows it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its number, by which the operator names it.
    pub number: u64,
    /// The key of the connection.
    pub id: ConnId,
    /// The listener of the connection.
    pub listener: ListenerId,
    /// The address of its peer.
    pub address: Option<String>,
    /// How long it has been here.
    pub age: Option<Duration>,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
    /// What it would have done.
    pub wants: Vec<String>,
    /// What is in flight, or waited for.
    pub doing: Vec<String>,
    /// Why it has to wait.
    pub marks: Vec<&'static str>,
}

/// Stands in a table for a value that there is not.
const NONE: &str = "–";

/// Returns the table of all connections, in the order in which they were accepted, and their
/// number.
pub(super) fn list(mut rows: Vec<Row>, listeners: &[ListenerInfo]) -> String {
    if rows.is_empty() {
        return "no connections".to_owned();
    }
    rows.sort_unstable_by_key(|row| row.number);
    let titles = ">no|key|listener|protocol|peer|>age|>in|>out|wants|in flight|marks";
    let count = connections(rows.len());
    let none = || NONE.to_owned();
    let cells = rows.into_iter().map(|row| {
        let listener = listeners.get(row.listener.index());
        vec![
            row.number.to_string(),
            row.id.to_string(),
            listener.map_or_else(|| row.listener.to_string(), |one| one.address.clone()),
            listener.map_or_else(none, |one| one.protocol.clone()),
            row.address.unwrap_or_else(none),
            row.age.map_or_else(none, age),
            bytes(row.received),
            bytes(row.sent),
            listed(&row.wants),
            listed(&row.doing),
            listed(&row.marks),
        ]
    });
    format!("{}{count}", table(titles, cells))
}

/// Returns a number of connections with its noun.
pub(super) fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// Returns a table with a line for each row. A column whose title begins with `>` is aligned to
/// the right.
fn table(titles: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let titles: Vec<&str> = titles.split('|').collect();
    let header = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
    let rows: Vec<Vec<String>> = iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).zip(&titles);
        let cells = cells.map(|((cell, &width), title)| match title.starts_with('>') {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn listed<S: Borrow<str>>(words: &[S]) -> String {
    if words.is_empty() { NONE.to_owned() } else { words.join(", ") }
}

/// Formats bytes with three significant digits, in powers of ten: `64 B`, `1.60 MB`.
fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    let scales = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match scales.into_iter().find(|&(scale, _)| value >= scale * 0.9995) {
        None => format!("{bytes} B"),
        Some((scale, unit)) => {
            let value = value / scale;
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            format!("{value:.decimals$} {unit}")
        }
    }
}

/// Formats a whole number with separated thousands: `41,203,118`.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Formats a span of time in its two largest units.
fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Returns the table of the counters.
pub(super) fn stats(counters: &Counters) -> String {
    let counted = counters.named().into_iter();
    let rows = counted.map(|(name, value)| vec![name.replace('_', " "), thousands(value)]);
    table("counted|>since the start", rows).trim_end().to_owned()
}

/// Writes lines of a client so that they have no effect on a terminal.
pub(super) fn write_harmless(lines: &[u8], out: &mut String) {
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        push_escaped(line.strip_suffix(b"\r").unwrap_or(line), out);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harmless(lines: &[u8]) -> String {
        let mut out = String::new();
        write_harmless(lines, &mut out);
        out
    }

    #[test]
    fn a_peer_cannot_do_anything_to_the_operators_terminal() {
        assert_eq!(harmless(b"[1] \x1b[2J\x07\r\n"), "[1] \\u001b[2J\\u0007\n");
        assert_eq!(
            harmless("[1] a\u{202e}b\u{9b}c\u{2028}d\n".as_bytes()),
            "[1] a\\u202eb\\u009bc\\u2028d\n"
        );
        assert_eq!(harmless(b"[1] \xff\xfe\n"), "[1] \\xff\\xfe\n");
        assert_eq!(harmless("[1] grüße\t☺\n[2] b\n".as_bytes()), "[1] grüße\t☺\n[2] b\n");
        assert_eq!(harmless(b"[1] a\rb\n"), "[1] a\\u000db\n");
    }

    #[test]
    fn a_list_has_a_row_for_each_in_order_of_arrival() {
        let row = |number, slot| Row {
            number,
            id: ConnId::new(slot, 0),
            listener: ListenerId(0),
            address: Some("127.0.0.1:5000".to_owned()),
            age: Some(Duration::from_secs(3)),
            received: 64,
            sent: 1_600_000,
            wants: vec!["receive".to_owned(), "send 12 B".to_owned()],
            doing: vec!["recv".to_owned()],
            marks: vec![],
        };
        let listeners =
            [ListenerInfo { address: "127.0.0.1:7000".into(), protocol: "echo".into() }];
        let strange = Row { listener: ListenerId(7), address: None, age: None, ..row(1, 5) };
        let text = list(vec![row(2, 0), strange], &listeners);
        let expected = "\
no  key  listener        protocol  peer            age   in      out  wants               in flight  marks
 1  5.0  7               –         –                 –  64 B  1.60 MB  receive, send 12 B  recv       –
 2  0.0  127.0.0.1:7000  echo      127.0.0.1:5000  3 s  64 B  1.60 MB  receive, send 12 B  recv       –
2 connections";
        let narrow = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(narrow(&text), narrow(expected), "{text}");
        assert_eq!(list(vec![], &listeners), "no connections");
    }

    #[test]
    fn an_age_is_printed_in_two_units() {
        let ages = [0, 59, 60, 3599, 3600, 86_399, 86_400, 360_000];
        let printed = ages.map(|seconds| age(Duration::from_secs(seconds)));
        let expected = ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min"];
        assert_eq!(printed[..6], expected);
        assert_eq!(printed[6..], ["1 d 0 h", "4 d 4 h"]);
    }

    #[test]
    fn every_counter_is_shown() {
        let counters = Counters { received_bytes: 1234567, ..Counters::default() };
        let text = stats(&counters);
        assert_eq!(text.lines().count(), 1 + counters.named().len());
        assert!(text.contains("received bytes") && text.contains("1,234,567"), "{text}");
    }
}
