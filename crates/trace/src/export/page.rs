//! A trace as one HTML file: numbers, findings, the timeline of the loop or of the busiest threads,
//! the worst connections, and histograms. It needs no network and no other file.

mod data;
mod latest;

use std::io::{self, Write};

use proactor_record::Trace;
use proactor_report::units;
use serde_json::json;

use crate::view::{ConnectionList, Cut, Doctor, Summary, TraceStats};
use data::PageData;

/// The default limit of connections on a page.
pub const PAGE_ROWS: usize = 48;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const THREADS: &str = include_str!("page/threads.js");
const SCRIPT: &str = include_str!("page/page.js");

/// Writes a part of a trace as a page, with a row for each of the `most` worst connections. Returns
/// what was left out, one sentence each.
///
/// # Errors
/// `out` cannot be written to.
pub fn page(
    trace: &Trace,
    cut: &Cut,
    most: usize,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let stats = TraceStats::of(trace, cut);
    let list = ConnectionList::new(stats.clone(), most);
    let drawing = PageData::of(trace, cut, &list, stats.lanes.clone());
    let mut left_out = drawing.left_out();
    if list.left_out > 0 {
        let drawn = list.connections.len() as u64;
        let without = format!(
            "{} {} no row: the {drawn} worst {}, those with errors and those with the slowest \
             exchanges",
            units::plural(list.left_out, "connection"),
            units::agree(list.left_out, "has", "have"),
            units::agree(drawn, "has", "have")
        );
        left_out.insert(0, without);
    }
    let title = format!("{} – proactor trace", stats.source.model);
    let is_ring = stats.is_ring();
    let Doctor { health, findings, .. } = Doctor::new(stats.clone());
    let text = format!("{}\n\n{health}\n\n{list}", Summary::new(stats));
    let data = json!({
        "is_ring": is_ring,
        "health": health,
        "findings": findings,
        "connections": list.connections,
        "left_out": left_out,
        "drawing": drawing.json(&list),
    });
    // The template has placeholders as {{name}}.
    let (begin, rest) = PAGE.split_once("{{").expect("a placeholder");
    out.write_all(begin.as_bytes())?;
    for part in rest.split("{{") {
        let (name, rest) = part.split_once("}}").expect("a closed placeholder");
        let value = match name {
            "title" => escape(&title),
            "style" => STYLE.to_owned(),
            "threads" => THREADS.to_owned(),
            "script" => SCRIPT.to_owned(),
            "text" => escape(&text),
            // Within a script only `<` can end it.
            "data" => data.to_string().replace('<', "\\u003c"),
            _ => unreachable!("no other placeholder"),
        };
        write!(out, "{value}{rest}")?;
    }
    Ok(left_out)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
