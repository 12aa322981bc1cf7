//! `trace doctor`: how the loop does, what is wrong with it, and the remedy.

use std::fmt;

use serde::Serialize;

use super::checks::{CHECKS, findings};
use super::finding::{Finding, Severity};
use super::health::Health;
use super::stats::TraceStats;

/// The state of the loop, the findings, and the checks that were made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doctor {
    /// The name and version of this JSON: `proactor.trace.doctor/2`.
    pub schema: &'static str,
    /// The numbers and the verdict.
    #[serde(flatten)]
    pub health: Health,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The names of the checks that this trace allows, and what each looks for.
    pub looked_for: Vec<(&'static str, &'static str)>,
}

impl Doctor {
    /// Makes all checks that such a trace allows.
    pub fn new(stats: &TraceStats) -> Doctor {
        let checks = CHECKS.iter().filter(|check| check.is_for(stats));
        Doctor {
            schema: "proactor.trace.doctor/2",
            health: Health::new(stats.clone()),
            findings: findings(stats),
            looked_for: checks.map(|check| (check.name, check.about)).collect(),
        }
    }

    /// Whether a finding is a problem or a cost.
    pub fn is_ill(&self) -> bool {
        self.findings.iter().any(|one| one.severity != Severity::Note)
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.health)?;
        let count = |severity| self.findings.iter().filter(|one| one.severity == severity).count();
        if self.findings.is_empty() {
            write!(f, "\nnothing found")?;
        } else {
            write!(
                f,
                "\n{} wrong, {} costly, {} to note",
                count(Severity::Wrong),
                count(Severity::Costly),
                count(Severity::Note)
            )?;
        }
        for finding in &self.findings {
            write!(f, "\n\n{finding}")?;
        }
        write!(f, "\n\nlooked for:")?;
        for (name, about) in &self.looked_for {
            let mark = if self.findings.iter().any(|one| one.name == *name) { '!' } else { ' ' };
            write!(f, "\n {mark} {name:<18} {about}")?;
        }
        Ok(())
    }
}
