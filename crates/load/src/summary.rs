//! The result of `proactor load`, as text and as JSON. Pure functions.

use std::io;
use std::time::Duration;

use minijinja::{Value, context};
use serde::Serialize;

use super::{Load, LoadProtocol, LoadSlice, Workload};
use proactor_report::histogram::Percentiles;
use proactor_report::template;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "schema", rename = "proactor.load/3")]
pub struct LoadSummary {
    /// The address of the server.
    pub address: String,
    /// What the client did.
    #[serde(flatten)]
    pub workload: Workload,
    /// The protocol of the server.
    #[serde(flatten)]
    pub protocol: LoadProtocol,
    /// The bytes of a reply.
    pub reply_size: usize,
    /// The seed of the message bytes.
    pub seed: u64,
    /// The engine in use: `epoll` or `uring`.
    pub engine: &'static str,
    /// The whole run as one slice.
    #[serde(flatten)]
    pub slice: LoadSlice,
    /// The messages per second.
    pub rate: f64,
    /// The share of the time in which the client had work.
    pub client_busy: f64,
    /// True if latencies were measured: not if bytes went in one direction.
    pub is_timed: bool,
    /// True for an open loop.
    pub is_open: bool,
    /// The times from plan to reply, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// The times from plan to send, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offer_lag: Option<Percentiles>,
    /// The times from send to reply. A percentile with fewer than 100 samples above it is the lower
    /// end of its interval, one with fewer than 20 is null.
    pub service_time: Percentiles,
    /// The smallest number of replies of a connection.
    pub connection_messages_min: u64,
    /// The largest number of replies of a connection.
    pub connection_messages_max: u64,
    /// What makes the numbers doubtful, with advice.
    pub warnings: Vec<String>,
}

impl LoadSummary {
    /// Makes the result of a finished run.
    pub fn new(load: &Load, address: String, seed: u64, slice: LoadSlice) -> LoadSummary {
        let is_open = load.streams.workload.offer.is_some();
        let (connection_messages_min, connection_messages_max) = load.connection_messages();
        LoadSummary {
            address,
            workload: load.streams.workload,
            protocol: load.streams.protocol.clone(),
            reply_size: load.streams.streams.last().map_or(0, |stream| stream.reply),
            seed,
            engine: load.engine_name,
            slice,
            rate: slice.rate(),
            client_busy: slice.busy(),
            is_timed: !load.streams.workload.pattern.is_one_way(),
            is_open,
            latency: is_open.then(|| load.latencies().estimates()),
            offer_lag: is_open.then(|| load.offer_lags().estimates()),
            service_time: if is_open { load.service_times() } else { load.latencies() }.estimates(),
            connection_messages_min,
            connection_messages_max,
            warnings: warnings(
                &slice,
                is_open,
                load.latencies().percentile(0.5),
                load.fallback.as_ref(),
            ),
        }
    }

    /// Returns the result as text.
    pub fn text(&self) -> String {
        template::fill(include_str!("summary.txt"), Value::from_serialize(self))
    }
}

/// Returns whether the server was silent for long: for ten times as long as it usually takes, and
/// either for [`SILENCE`] at once or in gaps that are [`SILENCE_SHARE`] of the time.
fn is_silent(slice: &LoadSlice, p50: Option<Duration>) -> bool {
    let is_long = slice.longest_gap >= SILENCE || slice.gap_share() >= SILENCE_SHARE;
    is_long && p50.is_some_and(|p50| slice.longest_gap >= 10 * p50)
}

/// A gap of this length is called out.
const SILENCE: Duration = Duration::from_millis(50);
/// Gaps that take this share of the time are called out.
const SILENCE_SHARE: f64 = 0.05;

/// Returns what makes the numbers of a run doubtful, with advice.
fn warnings(
    slice: &LoadSlice,
    is_open: bool,
    p50: Option<Duration>,
    fallback: Option<&io::Error>,
) -> Vec<String> {
    let values = context! {
        client_busy => slice.busy(),
        cpu_share => slice.cpu_share(),
        behind_share => slice.behind_share(),
        is_silent => is_silent(slice, p50),
        is_open,
        achieved => slice.achieved(),
        unsent => slice.unsent,
        longest_gap_ns => slice.longest_gap.as_nanos() as u64,
        gap_share => slice.gap_share(),
        fallback => fallback.map(io::Error::to_string),
    };
    let lines = template::fill(include_str!("warnings.txt"), values);
    lines.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadShape;
    use proactor_report::Latencies;

    fn summary(idle_millis: u64, cpu_millis: u64, behind_share: f64) -> LoadSummary {
        let slice = LoadSlice {
            messages: 200_000,
            bytes: 12_800_000,
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(cpu_millis),
            idle: Duration::from_millis(idle_millis),
            behind: Duration::from_millis(2000).mul_f64(behind_share),
            unread_share: 0.2,
            ..LoadSlice::default()
        };
        let mut latencies = Latencies::new();
        for i in 1..=2000 {
            latencies.record(Duration::from_micros(i));
        }
        LoadSummary {
            address: "127.0.0.1:7000".to_owned(),
            workload: LoadShape { connections: 64, size: 64, depth: 1 }.into(),
            protocol: LoadProtocol::echo(),
            reply_size: 64,
            seed: 7,
            engine: "uring",
            slice,
            rate: slice.rate(),
            client_busy: slice.busy(),
            is_timed: true,
            is_open: false,
            latency: None,
            offer_lag: None,
            service_time: latencies.estimates(),
            connection_messages_min: 3100,
            connection_messages_max: 3150,
            warnings: warnings(&slice, false, latencies.percentile(0.5), None),
        }
    }

    #[test]
    fn the_text_has_five_lines() {
        let expected = "\
64 connections to 127.0.0.1:7000, 64 B messages, depth 1, closed loop, engine uring, seed 7

rate                       100k msg/s, 6.40 MB/s each way, for 2.00 s
replies                    200,000, every byte verified
service time, closed loop  p50 1.00 ms   p90 1.80 ms   p99 ≥ 1.97 ms   p99.9 –   max 2.00 ms
messages per connection    3,100 to 3,150
load generator             busy 60 %, on a CPU 100 % of the time; 20 % of the connections had an unread reply
";
        assert_eq!(summary(800, 1995, 0.2).text(), expected);
    }

    #[test]
    fn a_client_that_is_the_bottleneck_is_a_warning() {
        let text = summary(40, 1995, 0.7).text();
        assert!(
            text.contains(
                "Warning: the load generator was the bottleneck (98 % busy, and replies waited for it \
                 70 % of the time"
            ),
            "{text}"
        );
        let text = summary(40, 1995, 0.2).text();
        assert!(text.contains("the load generator was 98 % busy"), "{text}");
        let text = summary(800, 1000, 0.2).text();
        assert!(text.contains("had a CPU for only 50 % of the time"), "{text}");
    }

    #[test]
    fn a_silent_server_is_a_warning_and_a_slow_one_is_none() {
        let millis = Duration::from_millis;
        let slice = |longest_gap, in_gaps| LoadSlice {
            wall: millis(1000),
            longest_gap: millis(longest_gap),
            in_gaps: millis(in_gaps),
            ..LoadSlice::default()
        };
        let p50 = Some(Duration::from_micros(500));
        assert!(is_silent(&slice(200, 200), p50), "once for long");
        assert!(is_silent(&slice(8, 80), p50), "8 ms of every 100");
        assert!(!is_silent(&slice(8, 16), p50), "rarely");
        assert!(!is_silent(&slice(60, 900), Some(millis(50))), "each reply takes as long");
        let expected = "no reply came for 200 ms although some were owed, and 21 % of the time";
        let lines = warnings(&slice(200, 210), false, p50, None);
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{lines:?}");
    }

    #[test]
    fn the_json_names_its_schema_and_units() {
        let json = serde_json::to_value(summary(800, 1995, 0.2)).expect("it is plain data");
        assert_eq!(json["schema"], "proactor.load/3");
        assert_eq!(json["wall_ns"], 2_000_000_000u64);
        assert_eq!(json["service_time"]["p99_9_ns"], serde_json::Value::Null);
    }
}
