//! `trace doctor`: how the loop does, what is wrong with it, and the remedy.

use std::fmt;

use minijinja::context;
use serde::Serialize;

use super::checks::{Finding, Severity, checks, findings};
use super::stats::TraceStats;
use super::text::fill;

/// What limits a loop that has no problem.
const HINT: &str = include_str!("hint.txt");

/// The state of the loop, the findings, and the checks that were made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.doctor/2")]
pub struct Doctor {
    /// The numbers and the verdict.
    #[serde(flatten)]
    pub health: Health,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The names of the checks that this trace allows, and what each looks for.
    pub looked_for: Vec<(&'static str, &'static str)>,
}

/// The numbers of a loop, and a verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// `healthy`, or the names of the findings.
    pub verdict: String,
    /// What limits the loop; empty if there is a problem.
    pub hint: String,
    /// All numbers of the trace.
    #[serde(flatten)]
    pub stats: TraceStats,
}

impl Doctor {
    /// Makes all checks that such a trace allows.
    pub fn new(stats: TraceStats) -> Doctor {
        let findings = findings(&stats);
        let looked_for = checks(&stats).map(|&(name, about, ..)| (name, about)).collect();
        let ills: Vec<_> = ills(&findings).map(|one| one.name).collect();
        let is_judged =
            stats.iterations.is_some() || stats.source.has_no_loop() && !stats.ops.is_empty();
        let verdict = match ills.len() {
            0 if is_judged => "healthy".to_owned(),
            0 => "nothing can be said: the trace has no iteration".to_owned(),
            _ => format!("unhealthy: {}", ills.join(", ")),
        };
        let hint = if ills.is_empty() { fill(HINT, stats.values()) } else { String::new() };
        let health = Health { verdict, hint, stats };
        Doctor { health, findings, looked_for }
    }

    /// The findings that are a problem or a cost.
    pub fn ills(&self) -> impl Iterator<Item = &Finding> {
        ills(&self.findings)
    }
}

fn ills(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|one| one.severity != Severity::Note)
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Health { verdict, hint, stats } = self;
        f.write_str(&fill(include_str!("health.txt"), context! { verdict, hint, ..stats.values() }))
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Doctor { health, findings, looked_for, .. } = self;
        let values = context! { health => health.to_string(), findings, looked_for };
        f.write_str(&fill(include_str!("doctor.txt"), values))
    }
}
