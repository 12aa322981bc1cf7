//! The pictures as text: a line of time per model, on a common axis.

use super::axis::{Axis, micros};
use super::timeline::words;
use super::{Actor, CallPhase, CallTimeline, ExplainReport, PhaseKind, PictureRow, sections};

/// Columns left of the line of time.
const MARGIN: usize = 15;
/// The widest and the narrowest output, in columns.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;

/// The signs of the phases, in the order of the legend.
const SIGNS: [(PhaseKind, Actor, char); 6] = [
    (PhaseKind::Waiting, Actor::Thread, '░'),
    (PhaseKind::Waking, Actor::Thread, '▒'),
    (PhaseKind::WakingAndCopying, Actor::Thread, '▓'),
    (PhaseKind::Copying, Actor::Thread, '█'),
    (PhaseKind::Copying, Actor::Kernel, '◆'),
    (PhaseKind::WithoutData, Actor::Thread, '·'),
];

/// Formats the report as text, in `width` columns or in 100 if that is less.
pub fn text(report: &ExplainReport, width: usize) -> String {
    let width = width.clamp(NARROWEST, WIDEST);
    let canvas = Canvas { line: width - MARGIN };
    let head = [
        format!("Messages of {} B through each model, recorded on {}.", report.size, report.kernel),
        format!("Each line is the run with the median time of {}.", report.runs),
        "Time zero: the client begins to send.".to_owned(),
    ];
    let legend = SIGNS.map(|(kind, actor, sign)| format!("{sign} {}", words(kind, actor)));
    let legend: Vec<String> = legend.into_iter().chain(["─ server code".to_owned()]).collect();
    let mut out = fold(&head, " ", width).join("\n") + "\n\n";
    out += &(fold(&legend, "   ", width).join("\n") + "\n");
    for section in sections(report) {
        let title = fold(&words_of(&section.title), " ", width).join("\n");
        out += &format!("\n{title}\n\n");
        out += &format!("{:MARGIN$}{}\n", "", canvas.scale(section.axis));
        section.rows.iter().for_each(|row| out += &canvas.row(row, section.axis));
    }
    out
}

/// The place of a line of time.
#[derive(Clone, Copy)]
struct Canvas {
    /// Its length in columns.
    line: usize,
}

impl Canvas {
    fn row(self, row: &PictureRow<'_>, axis: Axis) -> String {
        let mut lines = match row.timeline {
            Ok(timeline) => vec![self.bar(timeline, axis), self.labels(timeline, axis)],
            Err(reason) => fold(&words_of(&format!("not shown: {reason}")), " ", self.line),
        };
        if let Ok(timeline) = row.timeline {
            lines.extend(fold(&words_of(row.summary), " ", self.line));
            lines.extend(fold(&parts(timeline), " · ", self.line));
            lines.retain(|line| !line.is_empty());
        }
        format!("{:MARGIN$}{}\n\n", row.model, lines.join(&format!("\n{:MARGIN$}", "")))
    }

    fn scale(self, axis: Axis) -> String {
        let mut line = TextLine::new(self.line);
        for tick in axis.ticks(self.line as i64 / 8) {
            line.put(self.column(axis, tick), &format!("╷{}", micros(tick)));
        }
        line.text
    }

    fn column(self, axis: Axis, at: i64) -> usize {
        (axis.place(at, self.line as f64) as usize).min(self.line - 1)
    }

    fn bar(self, timeline: &CallTimeline, axis: Axis) -> String {
        let mut cells = vec!['─'; self.line];
        if let Some(first) = timeline.calls.first() {
            // The time before belongs to an earlier message.
            cells[..self.column(axis, first.begin)].fill(' ');
        }
        for (_, phase) in timeline.phases() {
            let from = self.column(axis, phase.begin);
            let to = phase.end.map_or(self.line, |end| self.column(axis, end));
            // The shortest phase is visible.
            let to = to.max(from + 1).min(self.line);
            cells[from..to].fill(sign(phase));
        }
        cells.iter().collect()
    }

    /// Puts the names of the calls below their begins, or behind the name before.
    fn labels(self, timeline: &CallTimeline, axis: Axis) -> String {
        let mut line = TextLine::new(self.line);
        for (call, name) in timeline.labels() {
            line.put(self.column(axis, call.begin), &name);
        }
        line.text
    }
}

fn sign(phase: &CallPhase) -> char {
    let copies = phase.kind == PhaseKind::WakingAndCopying && phase.actor == Actor::Kernel;
    let kind = if copies { PhaseKind::Copying } else { phase.kind };
    let found = SIGNS.iter().find(|(it, actor, _)| (*it, *actor) == (kind, phase.actor));
    found.map_or('─', |&(_, _, sign)| sign)
}

/// Returns the replies, and the calls with the duration of each phase.
fn parts(timeline: &CallTimeline) -> Vec<String> {
    let (least, most) = timeline.spread;
    let reply = micros(timeline.received);
    let mut parts = vec![
        format!("reply after {reply} ({} to {})", micros(least), micros(most)),
        calls(timeline),
    ];
    for (group, (_, label)) in timeline.groups().zip(timeline.labels()) {
        let phases: Vec<String> = group.iter().flat_map(|call| &call.phases).map(phase).collect();
        parts.push(match phases.len() {
            1..=3 => format!("{label}: {}", phases.join(", ")),
            _ => label,
        });
    }
    if !timeline.asleep.is_empty() {
        parts.push(format!("other threads sleep in {}", timeline.asleep.join(", ")));
    }
    parts
}

/// Counts the calls of a timeline.
pub(super) fn calls(timeline: &CallTimeline) -> String {
    match timeline.finished_calls() {
        Some(1) => "1 call".to_owned(),
        Some(calls) => format!("{calls} calls"),
        None => "calls without end".to_owned(),
    }
}

fn phase(phase: &CallPhase) -> String {
    let length = phase.length().map(|length| format!(" {}", micros(length))).unwrap_or_default();
    format!("{}{length}", phase.words())
}

fn words_of(sentence: &str) -> Vec<String> {
    sentence.split_whitespace().map(str::to_owned).collect()
}

/// Joins parts to lines of at most `width` columns, where that is possible.
pub(crate) fn fold(parts: &[String], between: &str, width: usize) -> Vec<String> {
    let columns = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(between) + columns(part) <= width => {
                line.push_str(between);
                line.push_str(part);
            }
            _ if columns(part) > width && part.contains(' ') => {
                lines.extend(fold(&words_of(part), " ", width));
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

/// A line of words, each at its column or behind the word before.
struct TextLine {
    text: String,
    used: usize,
    width: usize,
}

impl TextLine {
    fn new(width: usize) -> TextLine {
        TextLine { text: String::new(), used: 0, width }
    }

    /// Puts a word at this column, if it fits.
    fn put(&mut self, at: usize, word: &str) {
        let at = if self.used == 0 { at } else { at.max(self.used + 1) };
        let columns = word.chars().count();
        if at + columns <= self.width {
            self.text.extend(std::iter::repeat_n(' ', at - self.used));
            self.text.push_str(word);
            self.used = at + columns;
        }
    }
}
