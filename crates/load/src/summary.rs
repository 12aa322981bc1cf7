//! What a run of `load` tells: as text, and as JSON. Pure functions.

use serde::Serialize;

use super::{Load, Shape, Slice, WireChoice};
use proactor_report::histogram::Percentiles;
use proactor_report::units;

/// The shape of the JSON, and its version.
pub const SCHEMA: &str = "proactor.load/1";

/// Busier than this, a client is the bottleneck.
const BUSY: f64 = 0.95;
/// With more of the connections' replies than this lying there at each look, messages wait for the
/// client.
const BEHIND: f64 = 0.50;
/// With less of a CPU than this, a client was disturbed.
const DISTURBED: f64 = 0.90;

/// A run, told.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// To where.
    pub address: String,
    /// Connections.
    pub connections: usize,
    /// Bytes per message.
    pub size: usize,
    /// Messages outstanding per connection, at most.
    pub depth: usize,
    /// From which the bytes were made.
    pub seed: u64,
    /// What moved them: `epoll` or `uring`.
    pub wire: &'static str,
    /// What was done.
    #[serde(flatten)]
    pub slice: Slice,
    /// Messages per second.
    pub rate: f64,
    /// Of its time, how much the client was at work.
    pub client_busy: f64,
    /// Service times in a closed loop.
    pub service_time: Percentiles,
    /// The least messages that a connection had replied to.
    pub connection_messages_min: u64,
    /// The most.
    pub connection_messages_max: u64,
    /// What is to be said of these numbers.
    pub warnings: Vec<String>,
}

impl Summary {
    /// Of a run that has come to its end.
    pub fn new(
        load: &Load,
        address: String,
        seed: u64,
        wanted: WireChoice,
        slice: Slice,
    ) -> Summary {
        let Shape { connections, size, depth } = load.crowd.shape();
        let (least, most) = load.fairness();
        let mut warnings = warnings(&slice);
        if let (WireChoice::Auto, Some(error)) = (wanted, load.fallback()) {
            warnings.push(format!(
                "io_uring does not work for the load generator ({error}); it used epoll, which is at \
                 its end at a lower rate."
            ));
        }
        Summary {
            schema: SCHEMA,
            address,
            connections,
            size,
            depth,
            seed,
            wire: load.wire(),
            slice,
            rate: slice.rate(),
            client_busy: slice.busy(),
            service_time: load.latencies().percentiles(),
            connection_messages_min: least,
            connection_messages_max: most,
            warnings,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Summary { connections, size, depth, wire, address, seed, slice, .. } = self;
        let plural = if *connections == 1 { "" } else { "s" };
        let mut text = format!(
            "{connections} connection{plural} to {address}, {size} B messages, depth {depth}, closed \
             loop, wire {wire}, seed {seed}\n\n"
        );
        let [p50, p90, p99, p99_9, max] =
            self.service_time.cells().map(|(n, v)| format!("{n} {v}"));
        let lines = [
            (
                "rate",
                format!(
                    "{} msg/s, {}/s each way, for {}",
                    units::rate(self.rate),
                    units::bytes(slice.bytes as f64 / slice.wall.as_secs_f64().max(1e-9)),
                    units::span(slice.wall)
                ),
            ),
            ("replies", format!("{}, every byte verified", units::count(slice.messages))),
            ("service time, closed loop", [p50, p90, p99, p99_9, max].join("   ")),
            (
                "messages per connection",
                format!(
                    "{} to {}",
                    units::count(self.connection_messages_min),
                    units::count(self.connection_messages_max)
                ),
            ),
            (
                "load generator",
                format!(
                    "busy {}, on a CPU {} of the time, replies of {} of the connections waiting for it",
                    units::percent(self.client_busy),
                    units::percent(slice.cpu_share()),
                    units::percent(slice.backlog)
                ),
            ),
        ];
        for (name, value) in lines {
            text.push_str(&format!("{name:<27}{value}\n"));
        }
        for warning in &self.warnings {
            text.push_str(&format!("\nWarning: {warning}\n"));
        }
        text
    }
}

/// What is to be said of a client, as advice.
fn warnings(slice: &Slice) -> Vec<String> {
    let mut warnings = Vec::new();
    let busy = units::percent(slice.busy());
    if slice.busy() > BUSY && slice.backlog > BEHIND {
        warnings.push(format!(
            "the load generator was the bottleneck ({busy} busy, with replies of {} of the connections \
             waiting for it): these are its numbers, not the server's. Use --engine uring, or a second \
             load generator.",
            units::percent(slice.backlog)
        ));
    } else if slice.busy() > BUSY {
        warnings.push(format!(
            "the load generator had no time to spare ({busy} busy): the server may be able to do more. \
             See whether it slept, or use a second load generator."
        ));
    }
    if slice.cpu_share() < DISTURBED {
        warnings.push(format!(
            "the load generator had a CPU only {} of the time: something else ran on it. Pin it to one \
             of its own with --cpu.",
            units::percent(slice.cpu_share())
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proactor_report::Latencies;

    fn summary(idle_millis: u64, cpu_millis: u64, backlog: f64) -> Summary {
        let slice = Slice {
            messages: 200_000,
            bytes: 12_800_000,
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(cpu_millis),
            idle: Duration::from_millis(idle_millis),
            backlog,
        };
        let mut latencies = Latencies::new();
        for i in 1..=2000 {
            latencies.record(Duration::from_micros(i));
        }
        Summary {
            schema: SCHEMA,
            address: "127.0.0.1:7000".to_owned(),
            connections: 64,
            size: 64,
            depth: 1,
            seed: 7,
            wire: "uring",
            slice,
            rate: slice.rate(),
            client_busy: slice.busy(),
            service_time: latencies.percentiles(),
            connection_messages_min: 3100,
            connection_messages_max: 3150,
            warnings: warnings(&slice),
        }
    }

    #[test]
    fn a_run_is_told_in_five_lines() {
        let expected = "\
64 connections to 127.0.0.1:7000, 64 B messages, depth 1, closed loop, wire uring, seed 7

rate                       100k msg/s, 6.40 MB/s each way, for 2.00 s
replies                    200,000, every byte verified
service time, closed loop  p50 1.00 ms   p90 1.80 ms   p99 1.98 ms   p99.9 –   max 2.00 ms
messages per connection    3,100 to 3,150
load generator             busy 60 %, on a CPU 100 % of the time, replies of 20 % of the connections waiting for it
";
        assert_eq!(summary(800, 1995, 0.2).text(), expected);
    }

    #[test]
    fn a_client_that_was_the_bottleneck_says_so() {
        let text = summary(40, 1995, 0.7).text();
        assert!(
            text.contains(
                "Warning: the load generator was the bottleneck (98 % busy, with replies of 70 %"
            ),
            "{text}"
        );
        let text = summary(40, 1995, 0.2).text();
        assert!(text.contains("no time to spare (98 % busy)"), "{text}");
        let text = summary(800, 1000, 0.2).text();
        assert!(text.contains("had a CPU only 50 % of the time"), "{text}");
    }

    #[test]
    fn the_json_names_its_schema_and_its_units() {
        let json = serde_json::to_value(summary(800, 1995, 0.2)).expect("it is plain data");
        assert_eq!(json["schema"], "proactor.load/1");
        assert_eq!(json["wall_ns"], 2_000_000_000u64);
        assert_eq!(json["service_time"]["p99_9_ns"], serde_json::Value::Null);
    }
}
