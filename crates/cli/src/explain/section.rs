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
    let connections = report.options.connections;
    let several = format!("{connections} connections, one message on each, sent at once");
    let several = section(several, |it| it.several.as_ref());
    let single = section("One connection, one message".to_owned(), |it| it.single.as_ref());
    [several, single].into_iter().skip(usize::from(connections == 1)).collect()
}

/// How a phase is shown: its words, its sign in the text, and the class of a call that has it.
pub(super) type PhaseStyle = (PhaseKind, Actor, &'static str, char, &'static str);

/// The phases in the order of the legend. What the kernel copies by itself is shown in one way,
/// whether the thread is woken meanwhile or not.
pub(super) const LEGEND: [PhaseStyle; 6] = [
    (PhaseKind::Waiting, Actor::Thread, "waits: no data", '░', "wait"),
    (PhaseKind::Waking, Actor::Thread, "data arrives, thread wakes", '▒', "wait"),
    (
        PhaseKind::WakingAndCopying,
        Actor::Thread,
        "thread wakes and copies in one call",
        '▓',
        "copy",
    ),
    (PhaseKind::Copying, Actor::Thread, "the call copies", '█', "copy"),
    (PhaseKind::Copying, Actor::Kernel, "the kernel copies", '◆', "own"),
    (PhaseKind::WithoutData, Actor::Thread, "system call without data", '·', "ask"),
];

/// Returns how a phase is shown.
pub(super) fn style(phase: &CallPhase) -> PhaseStyle {
    let kind = if phase.actor == Actor::Kernel { PhaseKind::Copying } else { phase.kind };
    let mut styles = LEGEND.into_iter();
    styles.find(|it| (it.0, it.1) == (kind, phase.actor)).expect("every phase is in the legend")
}

/// Describes a phase: its words, and its duration if that is known.
pub(super) fn describe(phase: &CallPhase) -> String {
    let (_, _, words, ..) = style(phase);
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
        let has = |class: &&str| call.phases.iter().any(|phase| style(phase).4 == *class);
        ["own", "copy", "ask"].into_iter().find(has).unwrap_or("wait")
    };
    let names = timeline.groups().map(|(group, words)| {
        let at = place(group[0].begin);
        PlacedWords { at, words, class: class(&group[0]) }
    });
    spread(names, letter, gap, end)
}

/// Moves words behind the words before, and omits those that go beyond the end.
pub(super) fn spread(
    words: impl Iterator<Item = PlacedWords>,
    letter: f64,
    gap: f64,
    end: f64,
) -> Vec<PlacedWords> {
    let mut free = f64::MIN;
    let placed = words.filter_map(|it| {
        let at = it.at.max(free);
        let behind = at + it.words.chars().count() as f64 * letter;
        (behind <= end).then(|| {
            free = behind + gap;
            PlacedWords { at, ..it }
        })
    });
    placed.collect()
}

/// A range of time, in nanoseconds since the client began to send.
#[derive(Debug, Clone, Copy, Serialize)]
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
    pub(super) fn ticks(self, most: i64) -> impl Iterator<Item = i64> {
        let span = self.to - self.from;
        let mut steps = (0..15).flat_map(|power| [1, 2, 5].map(|digit| digit * 10i64.pow(power)));
        let step = steps.find(|step| span / step <= most).unwrap_or(span);
        (self.from.div_euclid(step) + 1..=self.to / step).map(move |n| n * step)
    }
}

/// Formats nanoseconds as microseconds.
pub(super) fn micros(nanos: i64) -> String {
    let micros = nanos as f64 / 1e3;
    let digits = if micros.abs() < 10.0 { 1 } else { 0 };
    format!("{micros:.digits$} µs")
}
