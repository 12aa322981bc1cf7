//! What the kernel's events add to a part of a trace: the stages of completions (arrival → posted →
//! reaped → next enter), the time asleep in the enters, and what worker threads did.

use std::fmt;
use std::time::Duration;

use minijinja::{Value, context};
use proactor_record::{Content, RecordKind};
use proactor_report::histogram::Percentiles;
use proactor_report::{Latencies, template};
use serde::Serialize;

use super::source::Cut;
use crate::event::{Event, token_conn};
use crate::kernel::{Missing, Sidecar, Tracepoint};

/// The durations of the stages, and how often the kernel did what costs time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.delays/3")]
pub struct Delays {
    /// From the arrival of what an operation waited for to its completion being posted. Operations
    /// that did not wait are not included.
    #[serde(rename = "arrival_to_posted")]
    pub posting: Percentiles,
    /// From there to the reaping; with a clock per batch, to the end of the enter before it.
    #[serde(rename = "posted_to_reaped")]
    pub reaping: Percentiles,
    /// From there to the next enter, which submits the replies: the loop's own share.
    #[serde(rename = "reaped_to_enter")]
    pub handling: Percentiles,
    /// For how long of the enters the thread slept until something arrived, in nanoseconds: for the
    /// rest it woke up, or worked in the kernel. `None` if that is not recorded, and of one
    /// connection.
    pub asleep_ns: Option<u64>,
    /// Completions that were posted outside a full queue; `None` if the kernel does not trace them.
    pub overflowed: Option<u64>,
    /// Operations that were handed to a kernel worker thread; `None` as above.
    pub punted: Option<u64>,
    /// Reaped completions without a posting in the kernel's events.
    pub unmatched: u64,
    /// Events that the kernel lost.
    pub lost: u64,
    /// Tracepoints and fields that the kernel does not have.
    pub missing: Vec<Missing>,
}

/// Measures the stages of completions, event by event.
#[derive(Debug)]
pub(super) struct DelayCounter<'a> {
    sidecar: &'a Sidecar,
    posting: Latencies,
    reaping: Latencies,
    handling: Latencies,
    asleep: Option<u64>,
    unmatched: u64,
    /// When completions were reaped since the last enter.
    reaped: Vec<u64>,
}

impl<'a> DelayCounter<'a> {
    pub(super) fn new(sidecar: &'a Sidecar) -> DelayCounter<'a> {
        DelayCounter {
            sidecar,
            posting: Latencies::new(),
            reaping: Latencies::new(),
            handling: Latencies::new(),
            asleep: None,
            unmatched: 0,
            reaped: Vec::new(),
        }
    }

    pub(super) fn see(&mut self, event: &Event, cut: &Cut) {
        match event.what {
            Content::EnterBegin { .. } => {
                let reaped = self.reaped.drain(..);
                let handled = reaped.map(|at| Duration::from_nanos(event.at.saturating_sub(at)));
                handled.for_each(|took| self.handling.record(took));
            }
            Content::EnterEnd { .. } => {
                if let Some(asleep) = event.asleep.filter(|_| cut.conn.is_none()) {
                    self.asleep = Some(self.asleep.unwrap_or(0).saturating_add(asleep));
                }
            }
            Content::Lost(_) => self.reaped.clear(),
            _ => {}
        }
        if !event.raw.is(RecordKind::Cqe) || !cut.is_of(event.conn) {
            return;
        }
        self.reaped.push(event.at);
        let Some(posting) = event.posting else {
            self.unmatched += 1;
            return;
        };
        self.reaping.record(Duration::from_nanos(posting.waited(event.at)));
        posting.took().into_iter().for_each(|took| self.posting.record(Duration::from_nanos(took)));
    }

    pub(super) fn finish(self, cut: &Cut) -> Delays {
        let count = |tracepoint| {
            self.sidecar.count(tracepoint, |event| {
                cut.is_in_time(event.time) && cut.is_of(token_conn(event.user_data))
            })
        };
        Delays {
            posting: self.posting.percentiles(),
            reaping: self.reaping.percentiles(),
            handling: self.handling.percentiles(),
            asleep_ns: self.asleep,
            overflowed: count(Tracepoint::CqeOverflow),
            punted: count(Tracepoint::QueueAsyncWork),
            unmatched: self.unmatched,
            lost: self.sidecar.lost,
            missing: self.sidecar.missing.clone(),
        }
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notes: Vec<String> = self.missing.iter().map(Missing::to_string).collect();
        let values = context! { notes, ..Value::from_serialize(self) };
        f.write_str(template::fill(include_str!("delays.txt"), values).trim_end())
    }
}
