//! A finding: a problem or a cost, its evidence and its remedy.

use std::fmt;

use serde::Serialize;

use super::chart::wrap;
use super::iterations::Moment;

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
    /// The remedy for it.
    pub fix: String,
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

/// Returns a moment as in `0.102345 s c7.1`.
fn moment(moment: &Moment) -> String {
    let mut text = format!("{:.6} s", moment.at_ns as f64 / 1e9);
    if let Some(conn) = moment.conn {
        text.push_str(&format!(" c{conn}"));
    }
    text
}
