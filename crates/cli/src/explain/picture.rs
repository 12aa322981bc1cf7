//! The report as SVG and as an HTML page: for each model a track for the server's code and one for
//! the kernel, on a common axis. Both need no network and no other file, and have a light and a
//! dark style. What is drawn stands in the templates `picture.svg` and `page.html`.

use minijinja::{AutoEscape, Environment, Value, context};

use super::section::{Axis, LEGEND, calls, describe, micros, names, sections, style};
use super::{CallPhase, CallTimeline, ExplainReport, PhaseKind, ServerCall};

/// The length of the axis in the template, and the approximate width of a letter of a name.
const LENGTH: f64 = 792.0;
const LETTER: f64 = 6.3;

/// Draws the report as SVG.
pub fn svg(report: &ExplainReport) -> String {
    let all = sections(report);
    let sections = all.iter().map(|section| {
        let rows = section.rows.iter().map(|(it, timeline)| {
            let tracks = timeline.ok().map(|timeline| tracks(timeline, section.axis));
            context! { model => it.model, summary => it.summary, refusal => timeline.err(), tracks }
        });
        let ticks = section.axis.ticks(10).into_iter().map(|at| (x(section.axis, at), micros(at)));
        context! {
            title => section.title,
            zero => x(section.axis, 0),
            ticks => ticks.collect::<Vec<_>>(),
            rows => rows.collect::<Vec<_>>(),
        }
    });
    let sections: Vec<Value> = sections.collect();
    // A legend with all phases is too wide.
    let legend = LEGEND.iter().filter(|(kind, _)| *kind != PhaseKind::WakingAndCopying);
    let legend: Vec<_> = legend.copied().map(style).collect();
    render(include_str!("picture.svg"), context! { report, sections, legend })
}

/// Formats the report as a page.
pub fn html(report: &ExplainReport) -> String {
    let (picture, calls) = (svg(report), super::text(report, usize::MAX));
    let version = env!("CARGO_PKG_VERSION");
    render(include_str!("page.html"), context! { report, picture, calls, version })
}

/// Fills a template. Every value is escaped.
fn render(template: &str, view: Value) -> String {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    templates.set_keep_trailing_newline(true);
    templates.render_str(template, view).expect("the template and its values are constants")
}

/// Returns a place on the axis of the template.
fn x(axis: Axis, at: i64) -> f64 {
    (axis.place(at, LENGTH) * 10.0).round() / 10.0
}

/// Returns what the template draws of a timeline.
fn tracks(timeline: &CallTimeline, axis: Axis) -> Value {
    let x = |at| x(axis, at);
    let is_shown = |at: &i64| (axis.from..axis.to).contains(at);
    // The shortest phase is visible.
    let width = |begin, end| (x(end) - x(begin)).max(1.5);
    let code = timeline.calls.windows(2).filter_map(|two| {
        let (begin, end) = (two[0].end?, two[1].begin);
        let tip = format!("server code: {}", micros(end - begin));
        (begin <= end).then(|| context! { x => x(begin), width => width(begin, end), tip })
    });
    let phases = timeline.phases().into_iter().map(|(call, phase)| {
        context! {
            x => x(phase.begin),
            width => width(phase.begin, phase.end.unwrap_or(axis.to)),
            tip => tip(call, phase),
            layers => style((phase.kind, phase.actor)).layers,
            sleeps => !matches!(phase.kind, PhaseKind::Copying | PhaseKind::WithoutData),
        }
    });
    let ends = timeline.calls.iter().flat_map(|call| [(Some(call.begin), true), (call.end, false)]);
    let switches = ends.filter_map(|(at, enters)| Some((x(at.filter(is_shown)?), enters)));
    let last = timeline.calls.iter().map(|call| call.end).max().flatten();
    let last = last.filter(|end| timeline.finished_calls().is_none() && is_shown(end));
    context! {
        calls => calls(timeline),
        reply => micros(timeline.received),
        received => Some(timeline.received).filter(is_shown).map(x),
        code => code.collect::<Vec<_>>(),
        phases => phases.collect::<Vec<_>>(),
        switches => switches.collect::<Vec<_>>(),
        names => names(timeline, x, LETTER, 8.0, LENGTH + 12.0),
        // A server that never sleeps makes further calls.
        goes_on => last.map(x),
    }
}

fn tip(call: &ServerCall, phase: &CallPhase) -> String {
    let result = call.result.map(|result| format!("\nreturns {result}")).unwrap_or_default();
    let mut tip = format!("{}: {}{result}", call.name, describe(phase));
    for (does, ops) in [("submits", &call.ops.submitted), ("completes", &call.ops.completed)] {
        if !ops.is_empty() {
            tip += &format!("\n{does} {}", ops.join(", "));
        }
    }
    tip
}
