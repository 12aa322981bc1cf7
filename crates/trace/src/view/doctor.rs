//! `trace doctor`: what is wrong, how one sees it, and the way out.
//!
//! Each of the [checks](CHECKS) looks at the [`Digest`] and answers a finding or none.

use std::fmt;

use serde::Serialize;

use super::chart::wrap;
use super::checks::{CHECKS, Check};
use super::digest::Digest;
use super::source::Source;
use super::turns::Moment;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something does not work, or not for all.
    Wrong,
    /// It works, and costs more than it must.
    Costly,
    /// Worth to know; nothing has to be done.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is called.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// The numbers that show it.
    pub evidence: Vec<String>,
    /// When it happened first.
    pub first: Vec<Moment>,
    /// The way out.
    pub fix: String,
}

/// What was found, and what was looked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doctor {
    /// `proactor.trace.doctor/1`
    pub schema: &'static str,
    /// Of what it is made.
    pub source: Source,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// The names of all that was looked for here, and what each is.
    pub looked_for: Vec<(&'static str, &'static str)>,
}

impl Doctor {
    /// Looks for everything that can be seen in such a trace.
    pub fn new(digest: &Digest) -> Doctor {
        let checks = || CHECKS.iter().filter(|check| check.is_for(digest));
        let found = |check: &Check| {
            let mut finding = (check.look)(digest)?;
            finding.name = check.name;
            Some(finding)
        };
        let mut findings: Vec<Finding> = checks().filter_map(found).collect();
        findings.sort_by_key(|one| one.severity);
        Doctor {
            schema: "proactor.trace.doctor/1",
            source: digest.source.clone(),
            findings,
            looked_for: checks().map(|check| (check.name, check.about)).collect(),
        }
    }

    /// Whether anything is wrong or costly.
    pub fn is_ill(&self) -> bool {
        self.findings.iter().any(|one| one.severity != Severity::Note)
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.source)?;
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

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Wrong => "WRONG",
            Severity::Costly => "COSTLY",
            Severity::Note => "note",
        };
        write!(f, "{severity:<8}")?;
        lines(f, self.name, &self.what)?;
        for evidence in &self.evidence {
            write!(f, "\n        ")?;
            lines(f, "evidence", evidence)?;
        }
        if !self.first.is_empty() {
            let all: Vec<String> = self.first.iter().map(moment).collect();
            write!(f, "\n        ")?;
            lines(f, "first", &all.join(", "))?;
        }
        write!(f, "\n        ")?;
        lines(f, "fix", &self.fix)
    }
}

/// A word, and text beside it that stays in its column.
fn lines(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    write!(f, "{name:<18} ")?;
    f.write_str(&wrap(text, 88).join(&format!("\n{:27}", "")))
}

/// `0.102345 s c7.1`
fn moment(moment: &Moment) -> String {
    let mut text = format!("{:.6} s", moment.at_ns as f64 / 1e9);
    if let Some(conn) = moment.conn {
        text.push_str(&format!(" c{conn}"));
    }
    text
}
