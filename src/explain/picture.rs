//! placeholder
use super::Report;
/// x
pub fn svg(report: &Report) -> String { format!("{report:?}") }
