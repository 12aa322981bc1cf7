//! The picture in letters.

use super::Report;

/// The report in letters.
pub fn text(report: &Report) -> String {
    format!("{report:#?}")
}
