//! A comparison as text, which depends on the results alone.

use minijinja::{Value, context};

use crate::plan::{PAIRS_FROM, SLICE};
use crate::results::{Comparison, ResultTable};
use proactor_report::template;

/// Returns a comparison as tables and sentences for people.
pub fn text(comparison: &Comparison) -> String {
    let rounds: Vec<_> = comparison.tables.iter().map(ResultTable::rounds_range).collect();
    let more = context! { rounds, slice_ms => SLICE.as_millis() as u64, pairs_from => PAIRS_FROM };
    let values = context! { ..more, ..Value::from_serialize(comparison) };
    template::fill(include_str!("render.txt"), values)
}
