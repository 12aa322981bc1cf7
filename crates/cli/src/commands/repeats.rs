//! Lines of a log that repeat others: the first of a kind is printed, then one a minute.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// What lines have in common that repeat one another: the call in the source that they come from,
/// and their message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineKind {
    pub(super) site: u64,
    pub(super) message: u64,
}

impl LineKind {
    /// Returns the kind of the lines of the call that `site` identifies.
    pub(super) fn new(site: u64, message: &impl Hash) -> LineKind {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        LineKind { site, message: hasher.finish() }
    }
}

/// The time in which one line of a kind is printed.
const INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of messages of one call that are distinguished: a message may contain what a
/// client chooses.
const MESSAGES_MAX: usize = 8;

/// The kinds of which a line was printed within the interval.
#[derive(Debug, Default)]
pub(super) struct Repeats(BTreeMap<LineKind, Repeated>);

#[derive(Debug)]
struct Repeated {
    /// The end of the interval.
    due: Instant,
    /// The last line that was left out.
    last: String,
    /// The number of lines that were left out.
    count: u64,
}

impl Repeats {
    /// Takes a line. Returns it if it is printed now.
    pub(super) fn take(&mut self, kind: LineKind, line: String, now: Instant) -> Option<String> {
        let LineKind { site, .. } = kind;
        let all = LineKind { site, message: 0 }..=LineKind { site, message: u64::MAX };
        let is_known = self.0.contains_key(&kind) || self.0.range(all).count() < MESSAGES_MAX;
        let kind = if is_known { kind } else { LineKind { site, message: u64::MAX } };
        if let Some(repeated) = self.0.get_mut(&kind) {
            (repeated.last, repeated.count) = (line, repeated.count + 1);
            return None;
        }
        self.0.insert(kind, Repeated { due: now + INTERVAL, last: String::new(), count: 0 });
        Some(line)
    }

    /// Returns when [`due`](Repeats::due) next has a line.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().filter(|repeated| repeated.count > 0).map(|repeated| repeated.due).min()
    }

    /// Returns the last line of each kind whose interval has ended, and how many it stands for. At
    /// the end of the log, without a `now`, those of all kinds.
    pub(super) fn due(&mut self, now: Option<Instant>) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        self.0.retain(|_, repeated| {
            let is_due = now.is_none_or(|now| repeated.due <= now);
            let keeps = !is_due || repeated.count > 0;
            if is_due && keeps {
                let count = std::mem::take(&mut repeated.count);
                lines.push((std::mem::take(&mut repeated.last), count));
                repeated.due = now.unwrap_or(repeated.due) + INTERVAL;
            }
            keeps
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of lines that come at these seconds, and at the end.
    fn printed(lines: &[(u64, u64, &str)], end: u64) -> Vec<String> {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut printed = Vec::new();
        let mut lines = lines.iter().peekable();
        for second in 0..=end {
            let now = start + Duration::from_secs(second);
            let due = repeats.due(Some(now)).into_iter();
            printed.extend(due.map(|(line, count)| format!("{second}: {line} ×{count}")));
            while let Some((_, site, text)) = lines.next_if(|line| line.0 == second) {
                let (message, number) = text.split_once(' ').unwrap_or((text, ""));
                let line = format!("{message} {number}");
                let taken = repeats.take(LineKind::new(*site, &message), line, now);
                printed.extend(taken.map(|line| format!("{second}: {line}")));
            }
        }
        let rest = repeats.due(None).into_iter();
        printed.extend(rest.map(|(line, count)| format!("end: {line} ×{count}")));
        printed
    }

    #[test]
    fn a_kind_is_printed_at_once_then_each_minute_with_a_count_and_at_the_end() {
        let mut lines: Vec<(u64, u64, String)> =
            (0..=125).map(|second| (second, 1, format!("full {second}"))).collect();
        lines.push((126, 2, "full 126".to_owned()));
        lines.push((126, 1, "other 126".to_owned()));
        let lines: Vec<_> = lines.iter().map(|(at, site, line)| (*at, *site, &**line)).collect();
        let expected = [
            "0: full 0",
            "60: full 59 ×59",
            "120: full 119 ×60",
            "126: full 126",
            "126: other 126",
            "180: full 125 ×6",
        ];
        assert_eq!(printed(&lines, 200), expected);
        assert_eq!(printed(&lines[..3], 3), ["0: full 0", "end: full 2 ×2"]);
    }

    #[test]
    fn a_kind_that_has_paused_is_printed_at_once_again() {
        assert_eq!(printed(&[(0, 1, "a 1"), (61, 1, "a 2")], 70), ["0: a 1", "61: a 2"]);
        assert_eq!(
            printed(&[(0, 1, "a 1"), (1, 1, "a 2"), (130, 1, "a 3")], 140),
            ["0: a 1", "60: a 2 ×1", "130: a 3"]
        );
    }

    #[test]
    fn a_message_that_always_differs_is_limited_too_and_hides_no_other_call() {
        let lines: Vec<String> = (0..1000).map(|number| format!("a{number} x")).collect();
        let mut lines: Vec<_> = lines.iter().map(|line| (0, 1, &**line)).collect();
        lines.push((1, 2, "b x"));
        let printed = printed(&lines, 1);
        assert_eq!(printed.len(), MESSAGES_MAX + 3, "{printed:?}");
        assert!(printed.contains(&"1: b x".to_owned()), "{printed:?}");
        assert_eq!(printed.last().expect("some"), &format!("end: a999 x ×{}", 999 - MESSAGES_MAX));
    }
}
