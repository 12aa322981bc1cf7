//! The report as SVG and as an HTML page: for each model a track for the server's code and one for
//! the kernel, on a common axis. Both need no network and no other file, and have a light and a
//! dark style. What is drawn stands in the templates `picture.svg` and `page.html`.

use minijinja::{AutoEscape, Environment, Value, context};

use super::section::{LEGEND, Section, calls, describe, micros, names, sections};
use super::{CallTimeline, ExplainReport};

/// The length of the axis in the template, and the approximate width of a letter of a name.
const LENGTH: f64 = 792.0;
const LETTER: f64 = 6.3;

/// Draws the report as SVG.
pub fn svg(report: &ExplainReport) -> String {
    let sections = sections(report).into_iter().map(|Section { title, axis, rows }| {
        let x = move |at: i64| (axis.place(at, LENGTH) * 10.0).round() / 10.0;
        // The shortest phase is visible.
        let width = move |begin, end: Option<i64>| (x(end.unwrap_or(axis.to)) - x(begin)).max(1.5);
        let rows = rows.into_iter().map(|(model, timeline)| {
            let tracks = timeline.ok().map(|timeline| tracks(timeline, x));
            context! { model, refusal => timeline.err(), tracks }
        });
        let (rows, ticks): (Vec<Value>, Vec<i64>) = (rows.collect(), axis.ticks(10).collect());
        let (x, width) = (Value::from_function(x), Value::from_function(width));
        context! { title, axis, ticks, rows, x, width }
    });
    let sections: Vec<Value> = sections.collect();
    render(include_str!("picture.svg"), context! { report, sections, legend => LEGEND })
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
    templates.add_filter("micros", micros);
    templates.render_str(template, view).expect("the template and its values are constants")
}

/// Returns what the template draws of a timeline.
fn tracks(timeline: &CallTimeline, x: impl Fn(i64) -> f64) -> Value {
    let phases = timeline.phases().into_iter();
    let phases = phases.map(|(call, phase)| context! { call, phase, words => describe(phase) });
    context! {
        timeline,
        calls => calls(timeline),
        phases => phases.collect::<Vec<_>>(),
        names => names(timeline, x, LETTER, 8.0, LENGTH + 12.0),
        // A server that never sleeps makes further calls.
        goes_on => timeline.finished_calls().is_none(),
    }
}
