//! A finding: a problem or a cost, its evidence and its remedy.

use std::fmt;

use serde::Serialize;

use super::iterations::Moment;
use super::text::wrap;

/// How bad a finding is.
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

/// Something that the doctor has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is called.
    pub name: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// The numbers that show it.
    pub evidence: Vec<String>,
    /// When it happened first.
    pub first: Vec<Moment>,
    /// The remedy for it.
    pub fix: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Wrong => "WRONG",
            Severity::Costly => "COSTLY",
            Severity::Note => "note",
        };
        let first: Vec<String> = self.first.iter().map(moment).collect();
        let first = first.join(", ");
        let mut lines = vec![(self.name, &*self.what)];
        lines.extend(self.evidence.iter().map(|evidence| ("evidence", &**evidence)));
        lines.extend([("first", &*first), ("fix", self.fix)]);
        // The text beside a name stays in its column.
        let lines = lines.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| {
            format!("{name:<18} {}", wrap(text, 88).join(&format!("\n{:27}", "")))
        });
        write!(f, "{severity:<8}{}", lines.collect::<Vec<_>>().join("\n        "))
    }
}

/// Returns a moment as in `0.102345 s c7.1`.
fn moment(moment: &Moment) -> String {
    let conn = moment.conn.map_or(String::new(), |conn| format!(" c{conn}"));
    format!("{:.6} s{conn}", moment.at_ns as f64 / 1e9)
}
