//! A finding: a problem or a cost, its evidence and its remedy.

use serde::Serialize;

use super::iterations::Moment;

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
    pub fix: String,
}
