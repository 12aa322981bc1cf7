//! The texts of the views: templates beside the code, filled from the values that the JSON has.

use minijinja::Value;
use proactor_report::template;

/// What several texts use.
const MACROS: &str = include_str!("macros.txt");

/// Fills a template. The line-end at its end is not of the text.
pub(super) fn fill(template: &str, values: Value) -> String {
    let mut text = template::fill(&format!("{MACROS}{template}"), values);
    text.truncate(text.strip_suffix('\n').map_or(text.len(), str::len));
    text
}
