//! The picture in letters: a line of time for each model, aligned under one another.

use super::axis::{Axis, micros};
use super::{Kind, Phase, Report, Row, Scene, Step, Who};

/// Columns before the line of time, and of it.
const MARGIN: usize = 15;
const LINE: usize = 84;

/// The report in letters, in no more than 100 columns.
pub fn text(report: &Report) -> String {
    let axis = Axis::of(report);
    let mut out = format!(
        "One message of {} B through each model, and its echo: really made, on {}.\n\
         Of {} messages each, the one whose echo took the median time. Zero: the client begins to send.\n\n\
         ░ waits: no data   ▒ data comes, is woken   ▓ is woken, and the data copied, in one call\n\
         █ copies           ◆ the kernel copies by itself        · asks        ─ the server's own code\n\n",
        report.size, report.kernel, report.runs
    );
    out += &format!("{:MARGIN$}{}\n", "", scale(axis));
    for row in &report.models {
        out += &one(row, axis);
    }
    out
}

fn one(row: &Row, axis: Axis) -> String {
    let mut out = format!("{:MARGIN$}", row.model);
    match (&row.scene, &row.refusal) {
        (Some(scene), _) => {
            out += &bar(scene, axis);
            let lines = [labels(scene, axis), row.lesson.to_owned()];
            let lines = lines.into_iter().chain(wrap(&parts(scene)));
            lines.for_each(|line| out += &format!("\n{:MARGIN$}{line}", ""));
        }
        (None, why) => {
            let why = format!("not here: {}", why.as_deref().unwrap_or("nothing was seen"));
            let words: Vec<String> = why.split_whitespace().map(str::to_owned).collect();
            out += &fold(&words, " ").join(&format!("\n{:MARGIN$}", ""));
        }
    }
    out + "\n\n"
}

fn scale(axis: Axis) -> String {
    let mut line = Line::new();
    for tick in axis.ticks() {
        let at = column(axis, tick);
        line.put(at, &format!("╷{}", micros(tick)));
    }
    line.text()
}

fn column(axis: Axis, at: i64) -> usize {
    (axis.place(at, LINE as f64) as usize).min(LINE - 1)
}

fn bar(scene: &Scene, axis: Axis) -> String {
    let mut cells = ['─'; LINE];
    if let Some(first) = scene.calls.first() {
        // What came before is not shown: it was no part of this message.
        cells[..column(axis, first.begin)].fill(' ');
    }
    for phase in scene.calls.iter().flat_map(|call| &call.phases) {
        let from = column(axis, phase.begin);
        let to = phase.end.map_or(LINE, |end| column(axis, end));
        // However short, it is there.
        let to = to.max(from + 1).min(LINE);
        cells[from..to].fill(sign(phase));
    }
    cells.iter().collect()
}

fn sign(phase: &Phase) -> char {
    match (phase.kind, phase.who) {
        (Kind::Waiting, _) => '░',
        (Kind::Waking, _) => '▒',
        (Kind::WakingAndCopying | Kind::Copying, Who::Kernel) => '◆',
        (Kind::WakingAndCopying, _) => '▓',
        (Kind::Copying, _) => '█',
        (Kind::Asking, _) => '·',
    }
}

/// The calls' names below where they begin, or as near behind as there is room.
fn labels(scene: &Scene, axis: Axis) -> String {
    let mut line = Line::new();
    for call in folded(&scene.calls) {
        let name = match call {
            [one] => one.label(),
            tries => format!("{} tries", tries.len()),
        };
        line.put(column(axis, call[0].begin), &name);
    }
    line.text()
}

/// Many calls in a row that only ask are one entry; else a call is one.
pub(super) fn folded(calls: &[Step]) -> impl Iterator<Item = &[Step]> {
    let asks = |call: &Step| call.phases.iter().all(|phase| phase.kind == Kind::Asking);
    calls
        .chunk_by(move |a, b| asks(a) && asks(b))
        .flat_map(|group| if group.len() > 3 { group.chunks(group.len()) } else { group.chunks(1) })
}

/// Call by call: who did what, for how long.
fn parts(scene: &Scene) -> Vec<String> {
    let (least, most) = scene.spread;
    let mut parts =
        vec![format!("echo {} ({} to {})", micros(scene.received), micros(least), micros(most))];
    for call in folded(&scene.calls) {
        let phases: Vec<String> = call.iter().flat_map(|call| &call.phases).map(phase).collect();
        match call {
            [one] => parts.push(format!("{}: {}", one.label(), phases.join(", "))),
            tries => parts.push(format!("{} tries", tries.len())),
        }
    }
    if !scene.asleep.is_empty() {
        parts.push(format!("others asleep in {}", scene.asleep.join(", ")));
    }
    parts
}

fn phase(phase: &Phase) -> String {
    let who = if phase.who == Who::Kernel { "kernel " } else { "" };
    let length = phase.length().map(|length| format!(" {}", micros(length))).unwrap_or_default();
    let within =
        if phase.kind == Kind::Copying && phase.who == Who::Kernel { " within" } else { "" };
    format!("{who}{}{within}{length}", phase.kind.words())
}

fn wrap(parts: &[String]) -> Vec<String> {
    fold(parts, " · ")
}

/// Lines of no more than the line of time, broken between parts.
fn fold(parts: &[String], between: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line)
                if line.chars().count() + between.chars().count() + part.chars().count()
                    <= LINE =>
            {
                line.push_str(between);
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

/// A line of words, each at its place or behind the one before.
struct Line {
    text: String,
    width: usize,
}

impl Line {
    fn new() -> Line {
        Line { text: String::new(), width: 0 }
    }

    /// Puts a word there, if it still fits.
    fn put(&mut self, at: usize, word: &str) {
        let at = if self.width == 0 { at } else { at.max(self.width + 1) };
        let width = word.chars().count();
        if at + width <= LINE {
            self.text.extend(std::iter::repeat_n(' ', at - self.width));
            self.text.push_str(word);
            self.width = at + width;
        }
    }

    fn text(self) -> String {
        self.text
    }
}
