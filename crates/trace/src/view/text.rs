//! Numbers and bars as text: `0.34`, `31.2 µs`, `▎████▌`.

use proactor_report::histogram::Percentiles;
use proactor_report::{NOTHING, units};

/// From an eighth to the whole of a character.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// A bar as long as `value` is of `most`, which is `width` characters; what is not zero is seen.
pub(super) fn bar(value: u64, most: u64, width: usize) -> String {
    if value == 0 || most == 0 {
        return String::new();
    }
    let eighths = (value as f64 / most as f64 * (width * 8) as f64).round() as usize;
    let eighths = eighths.clamp(1, width * 8);
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8 - 1]);
    }
    text
}

/// Text in lines of no more than `width` characters, where its words allow it.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// A number that is no count: `0.34`, `6.0`, `5,361`.
pub(super) fn ratio(value: f64) -> String {
    match value {
        v if v >= 999.5 => units::count(v.round() as u64),
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => format!("{v:.1}"),
        v if v >= 0.0995 || v == 0.0 => format!("{v:.2}"),
        v if v >= 0.000_5 => format!("{v:.3}"),
        _ => "<0.001".to_owned(),
    }
}

/// A number of nanoseconds, or a dash.
pub(super) fn span(time: Option<u64>) -> String {
    time.map_or(NOTHING.to_owned(), units::nanos)
}

/// The median, the 99th percentile and the maximum.
pub(super) fn spread(all: &Percentiles) -> String {
    format!("p50 {}  p99 {}  max {}", span(all.p50_ns), span(all.p99_ns), span(all.max_ns))
}

/// A count, or nothing where it is zero.
pub(super) fn some(n: u64) -> String {
    if n == 0 { String::new() } else { units::count(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_and_what_is_not_zero_is_seen() {
        assert_eq!(bar(8, 8, 3), "███");
        assert_eq!(bar(4, 8, 3), "█▌");
        assert_eq!(bar(1, 1_000_000, 3), "▏");
        assert_eq!(bar(0, 8, 3), "");
        assert_eq!(bar(0, 0, 3), "");
        assert_eq!(bar(9, 8, 3), "███", "no longer than it may be");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn a_ratio_has_the_digits_that_say_something() {
        let all = [0.0, 0.0001, 0.0034, 0.34, 6.0, 27.5, 120.4, 5361.0].map(ratio);
        assert_eq!(all, ["0.00", "<0.001", "0.003", "0.34", "6.00", "27.5", "120", "5,361"]);
    }
}
