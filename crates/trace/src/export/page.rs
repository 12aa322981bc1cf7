//! A trace as one HTML file: numbers, findings, the timeline of the loop or of the busiest threads,
//! the worst connections, and histograms. It needs no network and no other file.

mod data;
mod latest;

use std::io::{self, Write};

use minijinja::context;
use proactor_record::Trace;
use proactor_report::template;
use serde_json::json;

use crate::view::{ConnectionList, Cut, Doctor, Summary, TraceStats};
use data::PageData;

/// The default limit of connections on a page.
pub const PAGE_ROWS: usize = 48;

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
    let left_out = drawing.left_out(&list);
    let title = format!("{} – proactor trace", stats.source.model);
    let is_ring = stats.is_ring();
    let Doctor { health, findings, .. } = Doctor::new(stats.clone());
    let text = format!("{}\n\n{health}\n\n{list}", Summary { stats });
    let data = json!({
        "is_ring": is_ring,
        "health": health,
        "findings": findings,
        "connections": list.connections,
        "left_out": left_out,
        "drawing": drawing.json(&list),
    });
    let values = context! {
        title => escape(&title),
        style => include_str!("page/page.css"),
        threads => include_str!("page/threads.js"),
        script => include_str!("page/page.js"),
        text => escape(&text),
        // Within a script only `<` can end it.
        data => data.to_string().replace('<', "\\u003c"),
    };
    out.write_all(template::fill(include_str!("page/page.html"), values).as_bytes())?;
    Ok(left_out)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
