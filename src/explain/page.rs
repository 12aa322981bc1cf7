//! placeholder
use super::Report;
/// x
pub fn html(report: &Report) -> String { format!("{report:?}") }
