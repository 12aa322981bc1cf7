//! `trace doctor`: how the loop does, what is wrong with it, and the remedy.

use std::fmt;

use minijinja::context;
use serde::Serialize;

use super::checks::{CHECKS, Finding, Severity, checks, findings};
use super::not_visible::{NotVisible, not_visible};
use super::stats::TraceStats;
use super::text::fill;

/// What limits a loop that has no problem.
const HINT: &str = include_str!("hint.txt");

/// The state of the loop, the findings, and the checks that were made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.doctor/3")]
pub struct Doctor {
    /// The numbers and the verdict.
    #[serde(flatten)]
    pub health: Health,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The names of the checks that this trace allows, and what each looks for.
    pub looked_for: Vec<(&'static str, &'static str)>,
    /// What this trace cannot show, though it may be wrong.
    pub not_visible: Vec<NotVisible>,
}

/// The numbers of a loop, and a verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// The names of the findings, or that nothing was found; and what is not visible.
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
        Doctor::without(stats, &[])
    }

    /// The same, without those of these names.
    pub fn without(stats: TraceStats, ignored: &[String]) -> Doctor {
        let (mut findings, checks) = (findings(&stats), checks(&stats));
        let is_ignored = |name: &str| ignored.iter().any(|one| one == name);
        findings.retain(|one| !is_ignored(one.name));
        let looked_for = checks.map(|&(name, about, ..)| (name, about));
        let looked_for = looked_for.filter(|(name, _)| !is_ignored(name)).collect();
        let not_visible = not_visible(&stats);
        let ills: Vec<_> = ills(&findings).map(|one| one.name).collect();
        let is_judged = is_judged(&stats);
        let unseen: Vec<_> = not_visible.iter().map(|one| one.name).collect();
        let verdict = match ills.len() {
            0 if is_judged && unseen.is_empty() => "nothing found".to_owned(),
            0 if is_judged => {
                format!("nothing found; not visible from here: {}", unseen.join(", "))
            }
            0 => "nothing can be said: the trace has no iteration".to_owned(),
            _ => format!("unhealthy: {}", ills.join(", ")),
        };
        let hint = if ills.is_empty() { fill(HINT, stats.values()) } else { String::new() };
        let health = Health { verdict, hint, stats };
        Doctor { health, findings, looked_for, not_visible }
    }

    /// The names of all findings.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CHECKS.iter().map(|(name, ..)| *name)
    }

    /// Whether there is a finding at least this bad; `None` if nothing can be said.
    pub fn fails(&self, severity: Severity) -> Option<bool> {
        let fails = self.findings.iter().any(|one| one.severity <= severity);
        (fails || is_judged(&self.health.stats)).then_some(fails)
    }
}

/// Whether there is anything to judge.
fn is_judged(stats: &TraceStats) -> bool {
    let has_ops = stats.source.has_no_loop() || stats.source.is_attached();
    stats.iterations.is_some() || has_ops && !stats.ops.is_empty()
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
        let Doctor { health, findings, looked_for, not_visible } = self;
        let values = context! { health => health.to_string(), findings, looked_for, not_visible };
        f.write_str(&fill(include_str!("doctor.txt"), values))
    }
}
