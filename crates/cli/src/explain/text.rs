//! The report as text: a line of time per model, on a common axis.

use super::section::{
    Axis, LEGEND, PlacedWords, Section, calls, describe, micros, names, sections, spread, style,
};
use super::{CallTimeline, ExplainReport};

/// Columns left of the line of time.
const MARGIN: usize = 15;
/// The widest and the narrowest output, in columns.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;

/// Formats the report as text, in `width` columns or in 100 if that is less.
pub fn text(report: &ExplainReport, width: usize) -> String {
    let width = width.clamp(NARROWEST, WIDEST);
    let (size, runs, kernel) = (report.options.size, report.options.runs, &report.kernel);
    let head = [
        format!("Messages of {size} B through each model, recorded on {kernel}."),
        format!("Each line is the run with the median time of {runs}."),
        "Time zero: the client begins to send.".to_owned(),
    ];
    let legend = LEGEND.iter().map(|(_, _, words, sign, _)| format!("{sign} {words}"));
    let legend = fold(legend.chain(["─ server code".to_owned()]), "   ", width);
    let mut out = format!("{}\n\n{legend}\n", fold(head, " ", width));
    for section in sections(report) {
        out += &format!("\n{}\n\n", wrap(&section.title, width));
        out += &rows(&section, width - MARGIN);
    }
    out
}

/// Formats the scale and the models of a section, with lines of time of this length.
fn rows(section: &Section<'_>, length: usize) -> String {
    let column = |at| column(section.axis, at, length) as f64;
    let ticks = section.axis.ticks(length as i64 / 8);
    let ticks = ticks.map(|at| PlacedWords {
        at: column(at),
        words: format!("╷{}", micros(at)),
        class: "",
    });
    let mut out = format!("{:MARGIN$}{}\n", "", line(&spread(ticks, 1.0, 1.0, length as f64)));
    for (it, timeline) in &section.rows {
        let text = match timeline {
            Ok(timeline) => {
                let names = names(timeline, column, 1.0, 1.0, length as f64);
                let parts = fold(parts(timeline), " · ", length);
                [bar(timeline, section.axis, length), line(&names), wrap(it.summary, length), parts]
                    .join("\n")
            }
            Err(reason) => wrap(&format!("not shown: {reason}"), length),
        };
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        out += &format!("{:MARGIN$}{}\n\n", it.model, lines.join(&format!("\n{:MARGIN$}", "")));
    }
    out
}

fn column(axis: Axis, at: i64, length: usize) -> usize {
    (axis.place(at, length as f64) as usize).min(length - 1)
}

fn bar(timeline: &CallTimeline, axis: Axis, length: usize) -> String {
    let column = |at| column(axis, at, length);
    let mut cells = vec!['─'; length];
    if let Some(first) = timeline.calls.first() {
        // The time before belongs to an earlier message.
        cells[..column(first.begin)].fill(' ');
    }
    for (_, phase) in timeline.phases() {
        let from = column(phase.begin);
        // The shortest phase is visible.
        let to = phase.end.map_or(length, column).max(from + 1);
        cells[from..to].fill(style(phase).3);
    }
    cells.iter().collect()
}

/// Returns the replies, and the calls with the duration of each phase.
fn parts(timeline: &CallTimeline) -> Vec<String> {
    let [reply, least, most] =
        [timeline.received, timeline.spread.0, timeline.spread.1].map(micros);
    let mut parts = vec![format!("reply after {reply} ({least} to {most})"), calls(timeline)];
    parts.extend(timeline.groups().map(|(group, name)| {
        let phases: Vec<String> =
            group.iter().flat_map(|call| &call.phases).map(describe).collect();
        match phases.len() {
            1..=3 => format!("{name}: {}", phases.join(", ")),
            _ => name,
        }
    }));
    if !timeline.asleep.is_empty() {
        parts.push(format!("other threads sleep in {}", timeline.asleep.join(", ")));
    }
    parts
}

/// Formats words at their columns.
fn line(words: &[PlacedWords]) -> String {
    words.iter().fold(String::new(), |line, PlacedWords { at, words, .. }| {
        format!("{line:width$}{words}", width = *at as usize)
    })
}

/// Breaks a sentence into lines of at most `width` columns, where that is possible.
pub(crate) fn wrap(sentence: &str, width: usize) -> String {
    fold(sentence.split_whitespace().map(str::to_owned), " ", width)
}

/// Joins parts to lines of at most `width` columns, where that is possible.
fn fold(parts: impl IntoIterator<Item = String>, between: &str, width: usize) -> String {
    let columns = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(between) + columns(&part) <= width => {
                *line += &format!("{between}{part}");
            }
            _ if columns(&part) > width && part.contains(' ') => {
                lines.extend(wrap(&part, width).lines().map(str::to_owned));
            }
            _ => lines.push(part),
        }
    }
    lines.join("\n")
}
