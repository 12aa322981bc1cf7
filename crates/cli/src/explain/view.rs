//! The report for people: as text, as SVG and as an HTML page. What is shown stands in the
//! templates `text.txt`, `picture.svg` and `page.html`. This gives them the places on a line of
//! time, which is the same for all models of a section, and the names and signs of the phases.
//!
//! Picture and page need no network and no other file, and have a light and a dark style.

use minijinja::{Value, context};
use serde::Serialize;

use super::{
    CallPhase, CallTimeline, ExplainOptions, ExplainReport, ModelReport, PhaseKind, ServerCall,
};
use proactor_report::{template, units};

/// Columns of the text left of the line of time.
const MARGIN: usize = 15;
/// The widest and the narrowest text, in columns.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;

/// How a template places times and words on a line.
#[derive(Clone, Copy)]
struct LineOfTime {
    length: f64,
    /// The last end of a word.
    end: f64,
    /// The approximate width of a letter, and the least distance of two words.
    letter: f64,
    gap: f64,
    /// The maximum number of times in the scale.
    ticks: i64,
    round: fn(f64) -> f64,
}

/// Draws the report as SVG.
pub fn svg(report: &ExplainReport) -> String {
    let round = |place: f64| (place * 10.0).round() / 10.0;
    let (length, ticks) = (792.0, 10);
    let line = LineOfTime { length, end: 804.0, letter: 6.3, gap: 8.0, ticks, round };
    template::fill(include_str!("picture.svg"), view(report, line))
}

/// Formats the report as a page.
pub fn html(report: &ExplainReport) -> String {
    let (picture, calls) = (svg(report), text(report, usize::MAX));
    let version = env!("CARGO_PKG_VERSION");
    template::fill(include_str!("page.html"), context! { report, picture, calls, version })
}

/// Formats the report as text, in `width` columns or in 100 if that is less.
pub fn text(report: &ExplainReport, width: usize) -> String {
    let width = width.clamp(NARROWEST, WIDEST);
    let (length, ticks) = ((width - MARGIN) as f64, (width - MARGIN) as i64 / 8);
    let (letter, gap, round) = (1.0, 1.0, f64::floor);
    let line = LineOfTime { length, end: length, letter, gap, ticks, round };
    let fold = Value::from_function(fold);
    let values = context! { width, margin => MARGIN, fold, ..view(report, line) };
    template::fill(include_str!("text.txt"), values)
}

/// Returns what a template shows of a report: its sections, each with the models on one axis.
fn view(report: &ExplainReport, line: LineOfTime) -> Value {
    let section = |title: &str, timeline: fn(&ModelReport) -> Option<&CallTimeline>| {
        let axis = Axis::of(report.models.iter().filter_map(timeline));
        let x = move |at: i64| (line.round)(axis.place(at, line.length));
        // The shortest phase is visible.
        let width = move |begin, end: Option<i64>| (x(end.unwrap_or(axis.to)) - x(begin)).max(1.5);
        let rows = report.models.iter().map(|model| {
            let refusal = model.refusal.as_deref().unwrap_or("one connection at a time");
            context! { model, refusal, tracks => timeline(model).map(|it| tracks(it, line, x)) }
        });
        let ticks = axis.ticks(line.ticks);
        let scale = ticks.iter().map(|&at| (x(at), format!("╷{}", micros(at)), ""));
        context! {
            title,
            axis,
            ticks,
            scale => placed(scale, line),
            rows => rows.collect::<Vec<_>>(),
            x => Value::from_function(x),
            width => Value::from_function(width),
        }
    };
    let ExplainOptions { connections, size, large, .. } = report.options;
    let [size, large_size] = [size, large].map(|size| units::bytes(size as f64));
    let several = format!("{connections} connections, one message of {size} on each, sent at once");
    let several = (connections > 1).then(|| section(&several, |it| it.several.as_ref()));
    let title = |size: &str| format!("One connection, one message of {size}");
    let single = section(&title(&size), |it| it.single.as_ref());
    let large = (large > 0).then(|| section(&title(&large_size), |it| it.large.as_ref()));
    let sections: Vec<Value> = several.into_iter().chain([single]).chain(large).collect();
    context! { report, sections, legend => LEGEND, micros => Value::from_function(micros) }
}

/// Returns what a template shows of a timeline.
fn tracks(timeline: &CallTimeline, line: LineOfTime, x: impl Fn(i64) -> f64) -> Value {
    let phases = timeline.phases();
    let mut cells = vec!['─'; line.length as usize];
    let column = |at| (x(at) as usize).min(line.length as usize - 1);
    // The time before the first call belongs to an earlier message.
    let first = timeline.calls.first().map_or(0, |call| column(call.begin));
    cells[..first].fill(' ');
    for (_, phase) in &phases {
        let from = column(phase.begin);
        let to = phase.end.map_or(cells.len(), column).max(from + 1);
        cells[from..to].fill(style(phase).2);
    }
    let class = |call: &ServerCall| {
        let has = |class: &&str| call.phases.iter().any(|phase| style(phase).3 == *class);
        ["own", "copy", "ask"].into_iter().find(has).unwrap_or("wait")
    };
    let names = timeline.groups();
    let names = names.map(|(group, name)| (x(group[0].begin), name, class(&group[0])));
    let groups = timeline.groups().map(|(group, name)| {
        let phases = group.iter().flat_map(|call| &call.phases).map(describe);
        context! { name, phases => phases.collect::<Vec<_>>() }
    });
    // Between the quartiles of fewer runs may be all of them, or one.
    let (low, high) = timeline.quartiles;
    let quartiles = (timeline.runs >= 4).then(|| format!("{} to {}", micros(low), micros(high)));
    let phases = phases.iter();
    let phases = phases.map(|(call, phase)| context! { call, phase, words => describe(phase) });
    context! {
        timeline,
        calls => timeline.finished_calls(),
        quartiles,
        bar => cells.iter().collect::<String>(),
        names => placed(names, line),
        groups => groups.collect::<Vec<_>>(),
        phases => phases.collect::<Vec<_>>(),
    }
}

/// How a phase is shown: its words, its sign in the text, and the class of a call that has it.
type PhaseStyle = (PhaseKind, &'static str, char, &'static str);

/// The phases in the order of the legend.
const LEGEND: [PhaseStyle; 8] = [
    (PhaseKind::Waiting, "waits: no data", '░', "wait"),
    (PhaseKind::Waking, "data arrives, thread wakes", '▒', "wait"),
    (PhaseKind::WakingAndReceiving, "thread wakes and copies, inside its recv", '▓', "copy"),
    (PhaseKind::Receiving, "recv: copy", '█', "copy"),
    (PhaseKind::Sending, "send: copy + TCP", '▆', "copy"),
    (PhaseKind::ReceivingInEnter, "thread wakes and copies, inside its enter", '◆', "own"),
    (PhaseKind::SendingInEnter, "send inside its enter: copy + TCP", '◇', "own"),
    (PhaseKind::WithoutData, "system call without data", '·', "ask"),
];

/// Returns how a phase is shown.
fn style(phase: &CallPhase) -> PhaseStyle {
    let mut styles = LEGEND.into_iter();
    styles.find(|it| it.0 == phase.kind).expect("every phase is in the legend")
}

/// Describes a phase: its words, and its duration if that is known.
fn describe(phase: &CallPhase) -> String {
    let (_, words, ..) = style(phase);
    // The name of the call stands before it already.
    let words = ["recv: ", "send: "].iter().find_map(|it| words.strip_prefix(it)).unwrap_or(words);
    // A phase that began before the message is not measured.
    match phase.end.filter(|_| phase.begin >= 0) {
        Some(end) => format!("{words} {}", micros(end - phase.begin)),
        None => words.to_owned(),
    }
}

/// Words on a line: their place, and the class of the call that they name.
type PlacedWords = (f64, String, &'static str);

/// Moves words behind the words before, and omits those that go beyond the end of the line.
fn placed(words: impl Iterator<Item = PlacedWords>, line: LineOfTime) -> Vec<PlacedWords> {
    let mut free = f64::MIN;
    let placed = words.filter_map(|(at, words, class)| {
        let at = at.max(free);
        let behind = at + words.chars().count() as f64 * line.letter;
        (behind <= line.end).then(|| {
            free = behind + line.gap;
            (at, words, class)
        })
    });
    placed.collect()
}

/// A range of time, in nanoseconds since the client began to send.
#[derive(Debug, Clone, Copy, Serialize)]
struct Axis {
    from: i64,
    to: i64,
}

impl Axis {
    /// Returns an axis for all timelines, with a part of the waits around them.
    fn of<'a>(timelines: impl Iterator<Item = &'a CallTimeline>) -> Axis {
        let ends = timelines.map(|it| {
            it.calls.iter().map(|call| call.begin).chain([it.received]).max().unwrap_or(0)
        });
        let mut ends: Vec<i64> = ends.collect();
        ends.sort_unstable();
        // A delayed model does not compress the others: its timeline goes beyond the end.
        let usual = ends.get(ends.len() / 2).copied().unwrap_or(0);
        let last = ends.last().copied().unwrap_or(0).min(usual * 2).max(1_000);
        Axis { from: -last / 6, to: last + last / 8 }
    }

    /// Returns the position on a line of this length. Times beyond an end are at the end.
    fn place(self, at: i64, length: f64) -> f64 {
        let at = at.clamp(self.from, self.to);
        (at - self.from) as f64 / (self.to - self.from) as f64 * length
    }

    /// Returns round times, at most `most` of them.
    fn ticks(self, most: i64) -> Vec<i64> {
        let span = self.to - self.from;
        let mut steps = (0..15).flat_map(|power| [1, 2, 5].map(|digit| digit * 10i64.pow(power)));
        let step = steps.find(|step| span / step <= most).unwrap_or(span);
        (self.from.div_euclid(step) + 1..=self.to / step).map(|n| n * step).collect()
    }
}

/// Formats nanoseconds as microseconds.
fn micros(nanos: i64) -> String {
    let micros = nanos as f64 / 1e3;
    let digits = if micros.abs() < 10.0 { 1 } else { 0 };
    format!("{micros:.digits$} µs")
}

/// Joins the lines of a text to lines of at most `width` columns, where that is possible: a line
/// that is longer is cut between its words.
fn fold(text: &str, between: &str, width: usize) -> String {
    let columns = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for part in text.lines() {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(between) + columns(part) <= width => {
                *line += &format!("{between}{part}");
            }
            _ if columns(part) > width && part.contains(' ') => {
                let folded = fold(&part.replace(' ', "\n"), " ", width);
                lines.extend(folded.lines().map(str::to_owned));
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines.join("\n")
}
