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
    let head = [
        format!("Messages of {} B through each model, recorded on {}.", report.size, report.kernel),
        format!("Each line is the run with the median time of {}.", report.runs),
        "Time zero: the client begins to send.".to_owned(),
    ];
    let legend = LEGEND.map(style).map(|it| format!("{} {}", it.sign, it.words));
    let legend = [&legend[..], &["─ server code".to_owned()]].concat();
    let mut out = fold(&head, " ", width) + "\n\n" + &fold(&legend, "   ", width) + "\n";
    for section in sections(report) {
        out += &format!("\n{}\n\n", wrap(&section.title, width));
        out += &rows(&section, width - MARGIN);
    }
    out
}

/// Formats the scale and the models of a section, with lines of time of this length.
fn rows(section: &Section<'_>, length: usize) -> String {
    let column = |at| section.axis.place(at, length as f64).floor().min(length as f64 - 1.0);
    let ticks = section.axis.ticks(length as i64 / 8).into_iter();
    let ticks = ticks.map(|at| PlacedWords {
        at: column(at),
        words: format!("╷{}", micros(at)),
        class: "",
    });
    let ticks = spread(ticks.collect(), 1.0, 1.0, length as f64);
    let mut out = format!("{:MARGIN$}{}\n", "", line(&ticks));
    for (it, timeline) in &section.rows {
        let text = match timeline {
            Ok(timeline) => {
                let names = names(timeline, column, 1.0, 1.0, length as f64);
                let parts = fold(&parts(timeline), " · ", length);
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

fn bar(timeline: &CallTimeline, axis: Axis, length: usize) -> String {
    let column = |at| (axis.place(at, length as f64) as usize).min(length - 1);
    let mut cells = vec!['─'; length];
    if let Some(first) = timeline.calls.first() {
        // The time before belongs to an earlier message.
        cells[..column(first.begin)].fill(' ');
    }
    for (_, phase) in timeline.phases() {
        let from = column(phase.begin);
        // The shortest phase is visible.
        let to = phase.end.map_or(length, column).max(from + 1);
        cells[from..to].fill(style((phase.kind, phase.actor)).sign);
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
    words.iter().fold(String::new(), |mut line, PlacedWords { at, words, .. }| {
        line.extend(std::iter::repeat_n(' ', *at as usize - line.chars().count()));
        line + words
    })
}

/// Breaks a sentence into lines of at most `width` columns, where that is possible.
pub(crate) fn wrap(sentence: &str, width: usize) -> String {
    let words: Vec<String> = sentence.split_whitespace().map(str::to_owned).collect();
    fold(&words, " ", width)
}

/// Joins parts to lines of at most `width` columns, where that is possible.
fn fold(parts: &[String], between: &str, width: usize) -> String {
    let columns = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(between) + columns(part) <= width => {
                *line += &format!("{between}{part}");
            }
            _ if columns(part) > width && part.contains(' ') => {
                lines.extend(wrap(part, width).lines().map(str::to_owned));
            }
            _ => lines.push(part.clone()),
        }
    }
    lines.join("\n")
}
