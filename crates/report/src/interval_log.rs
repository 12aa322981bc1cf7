//! Histograms as an interval log: the file that HdrHistogram's tools read, in format V2.

use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::Latencies;

/// In a log, the largest value of an interval is in milliseconds, although others are nanoseconds.
const NANOS_PER_MILLI: f64 = 1e6;

/// Returns the log of one interval: latencies in nanoseconds, each with its name as the tag.
///
/// # Panics
/// A name has a comma, a blank or a line end.
pub fn interval_log(start: SystemTime, span: Duration, named: &[(&str, &Latencies)]) -> String {
    let (mut log, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(NANOS_PER_MILLI)
        .begin_log_with(&mut log, &mut serializer)
        .expect("memory takes every write");
    for (name, latencies) in named {
        let tag = Tag::new(name).expect("a name without commas and blanks");
        let written = writer.write_histogram(&latencies.0, Duration::ZERO, span, Some(tag));
        written.expect("memory takes every write");
    }
    String::from_utf8(log).expect("a log is text")
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn a_reader_finds_the_same_latencies() {
        let mut latencies = Latencies::new();
        (1..=2000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let (start, span) = (SystemTime::UNIX_EPOCH, Duration::from_secs(2));
        let named = [("latency", &latencies), ("service_time", &latencies)];
        let log = interval_log(start, span, &named);
        assert!(
            log.starts_with("#[Histogram log format version 1.3]\n#[StartTime: 0.000"),
            "{log}"
        );
        let mut names = Vec::new();
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            let LogEntry::Interval(interval) = entry.expect("a log") else { continue };
            names.extend(interval.tag().map(|tag| tag.as_str()));
            assert_eq!(interval.duration(), span);
            assert!((1.999..2.002).contains(&interval.max()), "in milliseconds");
            let bytes = base64::Engine::decode(
                &base64::prelude::BASE64_STANDARD,
                interval.encoded_histogram(),
            );
            let read: Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes.expect("base64")[..]).expect("V2");
            assert_eq!(read, latencies.0);
        }
        assert_eq!(names, ["latency", "service_time"]);
    }
}
