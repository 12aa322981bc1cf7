//! Numbers with units for people to read, with three significant digits.

use std::time::Duration;

/// Formats a rate or a large count: `830`, `92.1k`, `1.23M`, `4.56G`.
pub fn rate(value: f64) -> String {
    scaled(value, &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")])
}

/// Formats bytes in powers of ten: `64 B`, `1.60 GB`.
pub fn bytes(value: f64) -> String {
    scaled(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")])
}

/// Formats a duration: `812 ns`, `31.2 µs`, `4.10 ms`, `1.23 s`.
pub fn span(value: Duration) -> String {
    let nanos = value.as_nanos() as f64;
    scaled(nanos, &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")])
}

/// Formats a number of nanoseconds as a duration: `31.2 µs`.
pub fn nanos(value: u64) -> String {
    span(Duration::from_nanos(value))
}

/// Formats a share of one: `98 %`, and with a decimal below ten percent: `0.3 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = usize::from(percent != 0.0 && percent.abs() < 9.95);
    format!("{percent:.digits$} %")
}

/// Formats a number that is no count: `0.34`, `6.00`, `5,361`.
pub fn ratio(value: f64) -> String {
    match value {
        v if v >= 999.5 => count(v.round() as u64),
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => format!("{v:.1}"),
        v if v >= 0.0995 || v == 0.0 => format!("{v:.2}"),
        v if v >= 0.000_5 => format!("{v:.3}"),
        _ => "<0.001".to_owned(),
    }
}

/// Formats a whole number with separated thousands: `41,203,118`.
pub fn count(value: u64) -> String {
    match value {
        0..1000 => value.to_string(),
        _ => format!("{},{:03}", count(value / 1000), value % 1000),
    }
}

/// Serializes a duration as whole nanoseconds.
pub fn as_nanos<S: serde::Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(span.as_nanos() as u64)
}

/// Formats a count with a noun whose plural ends in s: `1 round`, `5,361 rounds`.
pub fn plural(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), agree(n, "", "s"))
}

/// Returns the form of a word that agrees with a count: `agree(1, "was", "were")` is `was`.
pub fn agree<'a>(n: u64, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// Formats a frequency: `once`, `5,361 times`.
pub fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{} times", count(n)) }
}

/// Parses a duration: a number with a unit (`1us`, `40ms`, `2.5s`, `2m`, `1h`), or seconds without
/// one.
///
/// # Errors
/// The text is not a duration; the message shows the accepted forms.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let at = text.find(char::is_alphabetic).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let seconds = match unit {
            "" | "s" => 1.0,
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * seconds).ok()
    };
    parsed().ok_or_else(|| {
        format!("invalid duration `{text}`: write a number and a unit, as 500ms, 2s, 1us or 5m")
    })
}

/// Parses a duration that is longer than zero.
///
/// # Errors
/// As [`parse_duration`], or the duration is zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!("invalid duration `{text}`: it must be longer than zero")),
        duration => Ok(duration),
    }
}

/// Parses a rate that is above zero: a number, which `k` or `M` may follow.
///
/// # Errors
/// The text is not a rate; the message shows the accepted forms.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * factor);
    rate.filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(|| {
        format!("invalid rate `{text}`: write a number above zero, as 50000, 50k or 1.5M")
    })
}

/// Formats a value in the largest unit that it reaches after rounding, so that the result is never
/// `1000 µs`.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let (last, larger) = units.split_last().expect("a unit");
    let reached = larger.iter().find(|(unit, _)| value / unit >= 0.9995);
    let (unit, name) = reached.unwrap_or(last);
    let scaled = value / unit;
    let digits = match scaled.abs() {
        // A whole number of the smallest unit has no decimals.
        _ if reached.is_none() && scaled.fract() == 0.0 => 0,
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_zero() {
        assert_eq!(parse_rate("50k"), Ok(50_000.0));
        assert_eq!(parse_rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(parse_rate("830"), Ok(830.0));
        for wrong in ["", "k", "0", "-1", "inf", "NaN", "5 k", "5kk"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
    }

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
    fn a_duration_has_the_largest_unit_that_fits() {
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
    fn a_ratio_has_the_digits_that_say_something() {
        let all = [0.0, 0.0001, 0.0034, 0.34, 6.0, 27.5, 120.4, 5361.0].map(ratio);
        assert_eq!(all, ["0.00", "<0.001", "0.003", "0.34", "6.00", "27.5", "120", "5,361"]);
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(
            [0, 1, 5361].map(|n| plural(n, "round")),
            ["0 rounds", "1 round", "5,361 rounds"]
        );
        assert_eq!([0, 1, 2].map(|n| agree(n, "was", "were")), ["were", "was", "were"]);
        assert_eq!([0, 1, 5361].map(times), ["0 times", "once", "5,361 times"]);
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        let parsed = |text| parse_positive_duration(text).map(|duration| duration.as_nanos());
        assert_eq!(parsed("5"), Ok(5_000_000_000));
        assert_eq!(parsed("2.5s"), Ok(2_500_000_000));
        assert_eq!(parsed("40ms"), Ok(40_000_000));
        assert_eq!(parsed("1us"), Ok(1000));
        assert_eq!(parsed("0.5µs"), Ok(500));
        assert_eq!(parsed("7ns"), Ok(7));
        assert_eq!(parsed("2m"), Ok(120_000_000_000));
        assert_eq!(parsed("1h"), Ok(3_600_000_000_000));
        for invalid in ["", "0", "-1", "5 parsecs", "nan", "inf", "1e300", "ms"] {
            let error = parsed(invalid).expect_err(invalid);
            assert!(error.starts_with(&format!("invalid duration `{invalid}`: ")), "{error}");
        }
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("0ms"), Ok(Duration::ZERO));
    }
}
