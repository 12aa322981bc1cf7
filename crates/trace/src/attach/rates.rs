//! The rates of the operations within an interval.

use std::mem;
use std::time::Duration;

use minijinja::context;
use serde_json::{Value, json};

use super::WatchedRings;
use super::rings::RingState;
use proactor_report::template;

/// What has happened on all rings in an interval.
#[derive(Debug)]
pub struct RingRates(Value);

impl WatchedRings {
    /// The rates since the last call, or since the start.
    pub fn rates(&mut self, span: Duration) -> RingRates {
        let now = RingState::total(self.rings.iter());
        let before = mem::replace(&mut self.before, RingState::total([&now].into_iter()));
        let recent = now.since(&before);
        let (submitted, completed) = recent.requests();
        let failures: u64 = recent.failures().map(|(.., count)| count).sum();
        let counted = self.with_unknown(json!(recent));
        RingRates(json!({
            "schema": "proactor.trace.attach.rates/1",
            "span_ns": span.as_nanos() as u64,
            "rings": self.rings.len(),
            "lost": self.lost,
            "submitted": submitted,
            "completed": completed,
            "failures": failures,
            "enters": counted["enters"],
            "sleeps": counted["sleeps"],
            "overflows": counted["overflows"],
            "ops": counted["ops"],
        }))
    }
}

impl RingRates {
    /// The counts of the interval as JSON.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// The rates per second as a table.
    pub fn text(&self) -> String {
        let seconds = self.0["span_ns"].as_f64().unwrap_or(0.0).max(1.0) / 1e9;
        let values = context! { seconds, ..minijinja::Value::from_serialize(&self.0) };
        template::fill(include_str!("rates.txt"), values)
    }
}
