//! `trace doctor`: how the loop does, what is wrong with it, and the remedy.

use std::fmt;

use serde::Serialize;

use super::checks::{checks, findings};
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
    pub fn new(stats: TraceStats) -> Doctor {
        let findings = findings(&stats);
        let looked_for = checks(&stats).map(|&(name, about, ..)| (name, about)).collect();
        let health = Health::new(stats, &findings);
        Doctor { schema: "proactor.trace.doctor/2", health, findings, looked_for }
    }

    /// The findings that are a problem or a cost.
    pub fn ills(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|one| one.severity != Severity::Note)
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n", self.health)?;
        let count = |severity| self.findings.iter().filter(|one| one.severity == severity).count();
        let [wrong, costly, notes] = [Severity::Wrong, Severity::Costly, Severity::Note].map(count);
        match self.findings.len() {
            0 => f.write_str("nothing found")?,
            _ => write!(f, "{wrong} wrong, {costly} costly, {notes} to note")?,
        }
        self.findings.iter().try_for_each(|finding| write!(f, "\n\n{finding}"))?;
        f.write_str("\n\nlooked for:")?;
        self.looked_for.iter().try_for_each(|(name, about)| {
            let mark = if self.findings.iter().any(|one| one.name == *name) { '!' } else { ' ' };
            write!(f, "\n {mark} {name:<18} {about}")
        })
    }
}
