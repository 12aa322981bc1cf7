//! A comparison as text, which depends on the results alone.

use std::time::{Duration, UNIX_EPOCH};

use minijinja::{Value, context};

use crate::plan::CROWD_FROM;
use crate::results::{Comparison, Measured, ResultTable};
use crate::verdict::MetricWords;
use proactor_report::Latencies;
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

/// Returns the times by which the rows are judged as an interval log of HdrHistogram, in
/// nanoseconds: a histogram of each row's valid blocks, whose tag is the number of the table and
/// the name.
pub fn interval_log(comparison: &Comparison) -> String {
    let mut named = Vec::new();
    let mut end = Duration::ZERO;
    for (number, table) in (1..).zip(&comparison.tables) {
        let slices = table.blocks.iter().flat_map(|block| block.rounds.iter().flatten());
        let ends = slices.map(|it| Duration::from_nanos(it.began_ns) + it.slice.wall);
        end = ends.max().unwrap_or_default().max(end);
        let rows = table.participants.iter().enumerate();
        for (at, row) in rows.filter(|(_, row)| row.measured.is_some()) {
            let mut times = Latencies::new();
            table.times(at).into_iter().for_each(|counts| times.record_counted(counts));
            // A tag has neither commas nor blanks.
            let name = row.spec.name.replace(|it: char| it == ',' || it.is_whitespace(), "_");
            named.push((format!("{number}.{name}"), times));
        }
    }
    let named: Vec<_> = named.iter().map(|(name, times)| (name.as_str(), times)).collect();
    let start = UNIX_EPOCH + Duration::from_secs(comparison.environment.began);
    proactor_report::interval_log(start, end, &named)
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
