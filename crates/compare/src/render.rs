//! A comparison as text, which depends on the results alone.

use minijinja::{Value, context};

use crate::plan::CROWD_FROM;
use crate::results::{Comparison, Measured, ResultTable};
use crate::verdict::MetricWords;
use proactor_report::template::{self, TextFormat};

/// Returns a comparison as tables and sentences for people.
pub fn text(comparison: &Comparison) -> String {
    fill(TextFormat::Text, include_str!("render.txt"), comparison)
}

/// Returns the same as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    fill(TextFormat::Markdown, include_str!("render.txt"), comparison)
}

/// Returns a line of comma-separated values for each row of each table, behind a heading.
pub fn csv(comparison: &Comparison) -> String {
    fill(TextFormat::Text, include_str!("csv.txt"), comparison)
}

fn fill(format: TextFormat, template: &str, comparison: &Comparison) -> String {
    let rules = &comparison.plan.rules;
    let say = |measured: &Measured| {
        let blocks_min = rules.blocks_min();
        let of = |words: MetricWords, ratio| Some(words.say(Option::as_ref(ratio)?, blocks_min));
        let cpu = of(MetricWords::cpu(rules), &measured.cpu_ratio)?;
        Some([cpu, of(MetricWords::rate(rules), &measured.rate_ratio)?])
    };
    let of_table = |table: &ResultTable| {
        let rows = table.participants.iter();
        let words: Vec<_> = rows.map(|row| say(row.measured.as_ref()?)).collect();
        let (blocks, void) = table.block_counts();
        let slice_ms = table.slice.as_millis() as u64;
        let is_crowd = table.load.all_connections() >= CROWD_FROM;
        context! { words, blocks, void, slice_ms, is_crowd, misses => table.control_misses() }
    };
    let more: Vec<Value> = comparison.tables.iter().map(of_table).collect();
    let values = context! { more };
    let values = context! { ..values, ..Value::from_serialize(comparison) };
    template::fill_as(format, template, values)
}
