//! `trace conn c7.1`: one connection, step by step, without what repeats itself.

mod writer;

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::connection::{ConnectionStats, ConnectionTracker, Exchange, Measure};
use super::connection_list::ended;
use super::source::{Cut, Source};
use super::text::span;
use crate::event::events;
use proactor::keys::ConnId;
use proactor_record::Trace;
use proactor_report::histogram::Percentiles;
use proactor_report::{Latencies, units};
use writer::TimelineWriter;

/// So many abnormal steps are never folded.
const ABNORMAL: usize = 16;

/// The timeline of one connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionTimeline {
    /// The name and version of this JSON: `proactor.trace.connection/2`.
    pub schema: &'static str,
    /// Of what it is made.
    pub source: Source,
    /// How many tenants its slot had in this trace, this one included.
    pub tenants: u64,
    /// The connection in numbers.
    #[serde(flatten)]
    pub stats: ConnectionStats,
    /// From what to what a exchange is timed.
    pub measure: Measure,
    /// How long its exchanges took.
    pub answered: Percentiles,
    /// The slowest of them.
    pub slowest: Vec<Exchange>,
    /// The lines of the timeline.
    pub lines: Vec<TimelineLine>,
}

/// A line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineLine {
    /// A step of the connection.
    Step(Step),
    /// So many steps of so many exchanges are left out.
    Folded {
        /// Iterations, of which a part may be shown.
        exchanges: u64,
        /// The number of steps.
        steps: u64,
    },
}

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When: nanoseconds since recording began.
    pub at_ns: u64,
    /// The number of its exchange on the connection, from 1; 0 before the first.
    pub exchange: u64,
    /// The step in words.
    pub what: String,
    /// Whether it ends a span, and of how long: in nanoseconds, and of what.
    pub ends: Option<(u64, &'static str)>,
    /// Whether it begins a span.
    pub begins: bool,
    /// Whether it ought not to happen.
    pub abnormal: bool,
    /// Whether it is about a send.
    #[serde(skip)]
    pub sends: bool,
}

impl ConnectionTimeline {
    /// Of this connection: its slot and which tenant of it, or the first tenant there is; with its
    /// `slowest` exchanges, and with every step if `all`. `None` if the trace has no such
    /// connection.
    pub fn of(
        trace: &Trace,
        cut: &Cut,
        conn: (u32, Option<u32>),
        slowest: usize,
        all: bool,
    ) -> Option<ConnectionTimeline> {
        let wanted = Cut { conn: Some(conn), ..*cut };
        let is_wanted = |one: &ConnId| wanted.is_of(Some(*one));
        let conn = events(trace).filter_map(|event| event.conn).find(is_wanted)?;
        let cut = Cut { conn: Some((conn.slot(), Some(conn.generation()))), ..*cut };
        let mut tracker = ConnectionTracker::new(trace);
        let mut writer = TimelineWriter::new(conn, trace);
        let (mut answered, mut slow) = (Latencies::new(), Slowest::new(slowest));
        let mut tenants = HashSet::new();
        for event in events(trace) {
            if let Some(tenant) = event.conn.filter(|one| one.slot() == conn.slot()) {
                tenants.insert(tenant);
            }
            tracker.see(&event);
            writer.see(&event, &cut);
            for exchange in tracker.exchanges.drain(..).filter(|exchange| exchange.conn == conn) {
                writer.answered(&exchange);
                if cut.is_in_time(exchange.at_ns) {
                    answered.record(Duration::from_nanos(exchange.took_ns));
                    slow.see(exchange);
                }
            }
        }
        let measure = tracker.measure;
        let stats = tracker.finish().into_iter().find(|stats| stats.conn == conn)?;
        let from = stats.accepted_ns.unwrap_or(stats.first_ns);
        Some(ConnectionTimeline {
            schema: "proactor.trace.connection/2",
            source: Source::new(trace, &cut, from, stats.last_ns),
            tenants: tenants.len() as u64,
            stats,
            measure,
            answered: answered.percentiles(),
            slowest: slow.finish(),
            lines: fold(writer.steps, all),
        })
    }
}

/// The slowest exchanges so far. Bounded: of many, those that cannot be among them are forgotten.
struct Slowest {
    most: usize,
    exchanges: Vec<Exchange>,
}

impl Slowest {
    fn new(most: usize) -> Slowest {
        Slowest { most, exchanges: Vec::new() }
    }

    fn see(&mut self, exchange: Exchange) {
        self.exchanges.push(exchange);
        if self.exchanges.len() >= 2 * self.most.max(512) {
            self.keep();
        }
    }

    fn keep(&mut self) {
        self.exchanges
            .sort_by_key(|exchange| std::cmp::Reverse((exchange.took_ns, exchange.number)));
        self.exchanges.truncate(self.most);
    }

    /// Returns them, the slowest first.
    fn finish(mut self) -> Vec<Exchange> {
        self.keep();
        self.exchanges
    }
}

/// Leaves out what repeats itself: the steps of all exchanges but the first and the last, unless
/// they are abnormal.
fn fold(steps: Vec<Step>, all: bool) -> Vec<TimelineLine> {
    let last = steps.last().map_or(0, |step| step.exchange);
    let (mut lines, mut abnormal) = (Vec::new(), 0);
    let mut hidden: (HashSet<u64>, u64) = Default::default();
    for step in steps {
        abnormal += usize::from(step.abnormal);
        let shown = all
            || step.exchange <= 1
            || step.exchange == last
            || (step.abnormal && abnormal <= ABNORMAL);
        if shown {
            let (exchanges, steps) = std::mem::take(&mut hidden);
            if steps > 0 {
                lines.push(TimelineLine::Folded { exchanges: exchanges.len() as u64, steps });
            }
            lines.push(TimelineLine::Step(step));
        } else {
            hidden.0.insert(step.exchange);
            hidden.1 += 1;
        }
    }
    if hidden.1 > 0 {
        lines.push(TimelineLine::Folded { exchanges: hidden.0.len() as u64, steps: hidden.1 });
    }
    lines
}

impl fmt::Display for ConnectionTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let zero = stats.accepted_ns.unwrap_or(stats.first_ns);
        writeln!(f, "{}\n", self.source)?;
        self.head(f)?;
        if let Some(at) = stats.accepted_ns {
            writeln!(f, "{}  accepted", offset(at, zero))?;
        }
        self.steps(f, zero)?;
        if !self.slowest.is_empty() {
            writeln!(f, "slowest exchanges:")?;
            for slow in &self.slowest {
                writeln!(f, "{}", slow_exchange(slow, zero, self.measure))?;
            }
        }
        write!(f, "verdict: {}{}", ended(stats), self.checked())
    }
}

impl ConnectionTimeline {
    /// Writes the connection in numbers.
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let file = stats.file.map_or(String::new(), |file| format!("  file {file}"));
        writeln!(
            f,
            "c{}{file}  {}  {} in {}, out {}  {}",
            stats.conn,
            units::nanos(stats.lived_ns()),
            units::plural(stats.messages, "msg"),
            units::bytes(stats.bytes_in as f64),
            units::bytes(stats.bytes_out as f64),
            receives(stats),
        )?;
        if self.tenants > 1 {
            writeln!(f, "one of {} tenants of its slot", units::count(self.tenants))?;
        }
        Ok(())
    }

    fn steps(&self, f: &mut fmt::Formatter<'_>, zero: u64) -> fmt::Result {
        // Whether a span has begun that has not ended.
        let mut open = false;
        for lines in &self.lines {
            match lines {
                TimelineLine::Step(step) => writeln!(f, "{}", self.step(step, zero, &mut open))?,
                TimelineLine::Folded { exchanges, steps } => {
                    open = false;
                    let (exchanges, steps) =
                        (units::plural(*exchanges, "exchange"), units::plural(*steps, "step"));
                    let words = format!("{exchanges} folded, {steps} (--all shows them)");
                    writeln!(f, "{:>13}  … {words}", "")?;
                }
            }
        }
        Ok(())
    }

    /// What is known of its operations.
    fn checked(&self) -> &'static str {
        if !self.stats.faults.is_empty() {
            ""
        } else if self.source.lost > 0 {
            "   (what is here is in order; records are missing)"
        } else if self.stats.closed_ns.is_some() {
            "   every operation ended once ✓"
        } else {
            "   nothing ended twice ✓"
        }
    }

    fn step(&self, step: &Step, zero: u64, open: &mut bool) -> String {
        let mark = if step.begins {
            *open = true;
            if step.ends.is_some() { '┤' } else { '┐' }
        } else if step.ends.is_some() {
            *open = false;
            '┘'
        } else if *open {
            '│'
        } else {
            ' '
        };
        let mut text = format!("{}  {:<36} {mark}", offset(step.at_ns, zero), step.what);
        if let Some((nanos, what)) = step.ends {
            text.push_str(&format!(" {what} {}", span(Some(nanos))));
            if step.exchange == 1 && what == "turnaround" && self.answered.samples > 1 {
                let (p50, p99) = (span(self.answered.p50_ns), span(self.answered.p99_ns));
                let all = units::count(self.answered.samples);
                text.push_str(&format!("   ({all} of these: p50 {p50}  p99 {p99};"));
                text.push_str(&format!(" {})", self.measure.words()));
            }
        }
        if step.abnormal {
            text.push_str("  !");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn receives(stats: &ConnectionStats) -> String {
    let failed = units::count(stats.out_of_buffers);
    if stats.would_block > 0 || stats.receives > stats.messages {
        return format!(
            "{} asked, {} found nothing, {failed} no buffer",
            units::plural(stats.receives, "receive"),
            units::count(stats.would_block)
        );
    }
    match stats.receives {
        0 => "armed before what is here".to_owned(),
        n => format!("recv armed {}, {failed} ENOBUFS", units::times(n)),
    }
}

fn slow_exchange(slow: &Exchange, zero: u64, measure: Measure) -> String {
    let mut text = format!(
        "{}  #{:<8} took {}",
        offset(slow.at_ns, zero),
        slow.number,
        span(Some(slow.took_ns))
    );
    if matches!(measure, Measure::Completed | Measure::Taken) {
        text.push_str(&format!("   completion {} of its iteration", slow.position));
    }
    text
}

/// Right-aligned, as `+289.2 µs`.
fn offset(at: u64, zero: u64) -> String {
    let text = format!("+{}", units::nanos(at.saturating_sub(zero)));
    format!("{text:>13}")
}
