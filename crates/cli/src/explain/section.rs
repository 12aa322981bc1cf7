//! What the text and the picture have in common: the sections of a report, the axis of time, and
//! the names and signs of the phases.

use serde::Serialize;

use super::{Actor, CallPhase, CallTimeline, ExplainReport, ModelReport, PhaseKind, ServerCall};

/// The timelines of all models on one axis.
pub(super) struct Section<'a> {
    pub(super) title: String,
    pub(super) axis: Axis,
    /// The models, each with its timeline, or the reason why it has none.
    pub(super) rows: Vec<(&'a ModelReport, Result<&'a CallTimeline, &'a str>)>,
}

/// Returns the sections of a report, in their order.
pub(super) fn sections(report: &ExplainReport) -> Vec<Section<'_>> {
    let section = |title, timeline: fn(&ModelReport) -> Option<&CallTimeline>| {
        let rows = report.models.iter().map(|it| {
            let reason = it.refusal.as_deref().unwrap_or("one connection at a time");
            (it, timeline(it).ok_or(reason))
        });
        let axis = Axis::of(report.models.iter().filter_map(timeline));
        Section { title, axis, rows: rows.collect() }
    };
    let several = format!("{} connections, one message on each, sent at once", report.connections);
    let several = section(several, |it| it.several.as_ref());
    let single = section("One connection, one message".to_owned(), |it| it.single.as_ref());
    [several, single].into_iter().skip(usize::from(report.connections == 1)).collect()
}

/// How a phase is shown.
#[derive(Serialize)]
pub(super) struct PhaseStyle {
    pub(super) words: &'static str,
    /// The sign in the text.
    pub(super) sign: char,
    /// The layers of the bar in the picture: the class of each, and its part of the height. Half
    /// the height means: within this time, but no clock reading shows when exactly.
    pub(super) layers: &'static [(&'static str, f64)],
}

/// The phases in the order of the legend; the picture leaves the third out.
pub(super) const LEGEND: [(PhaseKind, Actor); 6] = [
    (PhaseKind::Waiting, Actor::Thread),
    (PhaseKind::Waking, Actor::Thread),
    (PhaseKind::WakingAndCopying, Actor::Thread),
    (PhaseKind::Copying, Actor::Thread),
    (PhaseKind::Copying, Actor::Kernel),
    (PhaseKind::WithoutData, Actor::Thread),
];

/// Returns how a phase is shown.
pub(super) fn style((kind, actor): (PhaseKind, Actor)) -> PhaseStyle {
    let (words, sign, layers): (_, _, &[_]) = match (kind, actor) {
        (PhaseKind::Waiting, _) => ("waits: no data", '░', &[("wait", 1.0), ("hatched", 1.0)]),
        (PhaseKind::Waking, _) => ("data arrives, thread wakes", '▒', &[("wake", 1.0)]),
        (PhaseKind::WithoutData, _) => ("system call without data", '·', &[("ask", 1.0)]),
        (PhaseKind::Copying, Actor::Thread) => ("the call copies", '█', &[("copy", 1.0)]),
        (PhaseKind::WakingAndCopying, Actor::Thread) => {
            ("thread wakes and copies in one call", '▓', &[("wake", 1.0), ("copy", 0.5)])
        }
        (PhaseKind::Copying, _) => ("the kernel copies", '◆', &[("wait", 1.0), ("own", 0.5)]),
        (PhaseKind::WakingAndCopying, _) => {
            ("the kernel copies", '◆', &[("wake", 1.0), ("own", 0.5)])
        }
    };
    PhaseStyle { words, sign, layers }
}

/// Describes a phase: its words, and its duration if that is known.
pub(super) fn describe(phase: &CallPhase) -> String {
    let words = style((phase.kind, phase.actor)).words;
    // A phase that began before the message is not measured.
    match phase.end.filter(|_| phase.begin >= 0) {
        Some(end) => format!("{words} {}", micros(end - phase.begin)),
        None => words.to_owned(),
    }
}

/// Counts the calls of a timeline.
pub(super) fn calls(timeline: &CallTimeline) -> String {
    match timeline.finished_calls() {
        Some(1) => "1 call".to_owned(),
        Some(calls) => format!("{calls} calls"),
        None => "calls without end".to_owned(),
    }
}

/// Words at a place of a line.
#[derive(Serialize)]
pub(super) struct PlacedWords {
    pub(super) at: f64,
    pub(super) words: String,
    /// What the call with this name does: `own`, `copy`, `ask` or `wait`.
    pub(super) class: &'static str,
}

/// Places the names of the calls below their begins.
pub(super) fn names(
    timeline: &CallTimeline,
    place: impl Fn(i64) -> f64,
    letter: f64,
    gap: f64,
    end: f64,
) -> Vec<PlacedWords> {
    let class = |call: &ServerCall| {
        let layers = call.phases.iter().flat_map(|it| style((it.kind, it.actor)).layers);
        let classes: Vec<&str> = layers.map(|(class, _)| *class).collect();
        ["own", "copy", "ask"].into_iter().find(|it| classes.contains(it)).unwrap_or("wait")
    };
    let names = timeline.groups().map(|(group, words)| {
        let at = place(group[0].begin);
        PlacedWords { at, words, class: class(&group[0]) }
    });
    spread(names.collect(), letter, gap, end)
}

/// Moves words behind the words before, and omits those that go beyond the end.
pub(super) fn spread(
    mut words: Vec<PlacedWords>,
    letter: f64,
    gap: f64,
    end: f64,
) -> Vec<PlacedWords> {
    let mut free = f64::MIN;
    words.retain_mut(|it| {
        it.at = it.at.max(free);
        let behind = it.at + it.words.chars().count() as f64 * letter;
        let fits = behind <= end;
        if fits {
            free = behind + gap;
        }
        fits
    });
    words
}

/// A range of time, in nanoseconds since the client began to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Axis {
    /// Returns an axis for all timelines, with a part of the waits around them.
    fn of<'a>(timelines: impl Iterator<Item = &'a CallTimeline>) -> Axis {
        let ends = timelines.map(|timeline| {
            let begins = timeline.calls.iter().map(|call| call.begin);
            begins.chain([timeline.received]).max().unwrap_or(0)
        });
        let mut ends: Vec<i64> = ends.collect();
        ends.sort_unstable();
        // A delayed model does not compress the others: its timeline goes beyond the end.
        let usual = ends.get(ends.len() / 2).copied().unwrap_or(0);
        let last = ends.last().copied().unwrap_or(0).min(usual * 2).max(1_000);
        Axis { from: -last / 6, to: last + last / 8 }
    }

    /// Returns the position on a line of this length. Times beyond an end are at the end.
    pub(super) fn place(self, at: i64, length: f64) -> f64 {
        let at = at.clamp(self.from, self.to);
        (at - self.from) as f64 / (self.to - self.from) as f64 * length
    }

    /// Returns round times, at most `most` of them.
    pub(super) fn ticks(self, most: i64) -> Vec<i64> {
        let span = self.to - self.from;
        let mut steps = (0..15).flat_map(|power| [1, 2, 5].map(|digit| digit * 10i64.pow(power)));
        let step = steps.find(|step| span / step <= most).unwrap_or(span);
        (self.from.div_euclid(step) + 1..=self.to / step).map(|n| n * step).collect()
    }
}

/// Formats nanoseconds as microseconds.
pub(super) fn micros(nanos: i64) -> String {
    let micros = nanos as f64 / 1e3;
    let digits = if micros.abs() < 10.0 { 1 } else { 0 };
    format!("{micros:.digits$} µs")
}
