//! Numbers with their units, as people read them: three significant digits, no more.

use std::time::Duration;

/// A rate or a count too large to read: `830`, `92.1k`, `1.23M`, `4.56G`.
pub fn rate(value: f64) -> String {
    scaled(value, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")])
}

/// Bytes, in powers of ten: `64 B`, `1.60 GB`.
pub fn bytes(value: f64) -> String {
    scaled(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")])
}

/// A span of time: `812 ns`, `31.2 µs`, `4.10 ms`, `1.23 s`.
pub fn span(value: Duration) -> String {
    let nanos = value.as_nanos() as f64;
    scaled(nanos, &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")])
}

/// A share of one: `98 %`, and `0.3 %` where a whole number would be zero.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent != 0.0 && percent.abs() < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// A whole number with its thousands set apart: `41,203,118`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in JSON: whole nanoseconds.
pub fn as_nanos<S: serde::Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(span.as_nanos() as u64)
}

/// So many of a thing whose plural ends in s: `1 turn`, `5,361 turns`.
pub fn plural(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), agree(n, "", "s"))
}

/// The form of a word that goes with so many: `agree(1, "was", "were")` is `was`.
pub fn agree<'a>(n: u64, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// How often: `once`, `5,361 times`.
pub fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{} times", count(n)) }
}

/// Reads a span of time: `5`, `2.5` (seconds), `40ms`, `90s`, `2m`.
///
/// # Errors
/// A sentence that says what would be right, for a text that is none or is zero.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no span of time: write 5, 2.5s, 40ms or 2m");
    let at = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let span = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if span.is_zero() { Err(wrong()) } else { Ok(span) }
}

/// The first unit that the value reaches *once it is rounded*, so that no `1000 µs` is written.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    for (at, &(unit, name)) in units.iter().enumerate() {
        let scaled = value / unit;
        let last = at + 1 == units.len();
        if scaled >= 0.9995 || last {
            // Below the smallest unit there are no digits to show, unless it is not a whole one.
            let digits = if last && scaled.fract() == 0.0 { 0 } else { decimals(scaled) };
            return format!("{scaled:.digits$}{name}");
        }
    }
    String::new()
}

/// How many decimals leave three significant digits.
fn decimals(value: f64) -> usize {
    match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_three_significant_digits() {
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(830.0), "830");
        assert_eq!(rate(92_149.0), "92.1k");
        assert_eq!(rate(1_234_567.0), "1.23M");
        assert_eq!(rate(0.0345), "0.03");
        assert_eq!(rate(999_999.0), "1.00M");
    }

    #[test]
    fn a_span_takes_the_unit_it_is_read_in() {
        assert_eq!(span(Duration::from_nanos(812)), "812 ns");
        assert_eq!(span(Duration::from_nanos(31_240)), "31.2 µs");
        assert_eq!(span(Duration::from_nanos(999_999)), "1.00 ms");
        assert_eq!(span(Duration::from_millis(1230)), "1.23 s");
        assert_eq!(span(Duration::from_secs(125)), "125 s");
    }

    #[test]
    fn bytes_and_shares_and_counts() {
        assert_eq!(bytes(64.0), "64 B");
        assert_eq!(bytes(1.6e9), "1.60 GB");
        assert_eq!(percent(0.98), "98 %");
        assert_eq!(percent(0.003), "0.3 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(count(7), "7");
        assert_eq!(count(41_203_118), "41,203,118");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 5361].map(|n| plural(n, "turn")), ["0 turns", "1 turn", "5,361 turns"]);
        assert_eq!([0, 1, 2].map(|n| agree(n, "was", "were")), ["were", "was", "were"]);
        assert_eq!([0, 1, 5361].map(times), ["0 times", "once", "5,361 times"]);
    }

    #[test]
    fn a_span_is_read_as_it_is_written() {
        assert_eq!(parse_span("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_span("2.5s"), Ok(Duration::from_millis(2500)));
        assert_eq!(parse_span("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0", "-1", "5 parsecs", "nan", "inf", "1e300", "ms"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
