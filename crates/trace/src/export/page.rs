//! A trace as one HTML file: numbers, findings, the timeline of the loop or of the busiest threads,
//! the worst connections, and histograms. It needs no network and no other file.

mod data;
mod parts;
mod stretch;

use std::io::{self, Write};

use minijinja::context;
use proactor_report::template;
use serde_json::{Value, json};

use crate::trace_file::TraceFile;
use crate::view::{ConnectionList, Cut, Doctor, Heatmap, ListOrder, Summary, TraceStats};
use data::PageData;

/// The default limit of connections on a page.
pub const PAGE_ROWS: usize = 48;

/// Writes a part of a trace as a page, with a row for each of the `most` worst connections; `file`
/// is the name of the trace, for its title. Returns what was left out, one sentence each.
///
/// # Errors
/// `out` cannot be written to.
pub fn page(
    trace: &TraceFile,
    cut: &Cut,
    most: usize,
    file: &str,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let stats = TraceStats::of(trace, cut);
    let list = ConnectionList::new(stats.clone(), most, ListOrder::Worst);
    let drawing = PageData::of(trace, cut, &stats, &list);
    let left_out = drawing.left_out(&list);
    let title = format!("{file}: {} – proactor trace", stats.source.model);
    let of = origin(trace, cut, file);
    let is_ring = stats.is_ring();
    let maps = Heatmap::all(trace, cut, &stats);
    // A few samples are no map, and where another took the time it says nothing of this program.
    let is_own = |map: &&Heatmap| {
        map.samples >= 200
            && stats.ops.iter().all(|row| row.op.name() != map.of || !row.waits_for_others())
    };
    let heatmaps = maps
        .iter()
        .filter(is_own)
        .map(|map| json!({ "of": map.of, "step_ns": map.step_ns, "rows": map.rows }));
    let heatmaps: Vec<Value> = heatmaps.collect();
    let Doctor { health, findings, .. } = Doctor::new(stats.clone());
    let map = maps.first().map_or(String::new(), |map| format!("\n\n{map}"));
    let text = format!("{}\n\n{health}{map}\n\n{list}", Summary { stats });
    let data = json!({
        "is_ring": is_ring,
        "of": of,
        "health": health,
        "findings": findings,
        "connections": list.connections,
        "heatmaps": heatmaps,
        "left_out": left_out,
        "drawing": drawing.json(&list),
    });
    let values = context! {
        title => escape(&title),
        style => include_str!("page/page.css"),
        heatmap => include_str!("page/heatmap.js"),
        parts => include_str!("page/parts.js"),
        threads => include_str!("page/threads.js"),
        script => include_str!("page/page.js"),
        text => escape(&text),
        // Within a script only `<` can end it.
        data => data.to_string().replace('<', "\\u003c"),
    };
    out.write_all(template::fill(include_str!("page/page.html"), values).as_bytes())?;
    Ok(left_out)
}

/// What the page is of: the recording, and the part of it.
fn origin(trace: &TraceFile, cut: &Cut, file: &str) -> Value {
    let header = &trace.header;
    let recorded = trace.records.last().map_or(0, |last| header.nanos(last.time));
    json!({
        "file": file,
        "host": header.get("host"),
        "version": header.get("version"),
        // More than a double has digits for.
        "wall_ns": header.wall_nanos.to_string(),
        "recorded_ns": recorded,
        "part": match cut {
            Cut { since: None, until: None, .. } if trace.first > 0 => "last",
            Cut { since: None, until: None, .. } => "whole",
            _ => "part",
        },
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
