//! The pictures as SVG: for each model a track for the server's code and one for the kernel, on a
//! common axis. The SVG is self-contained and has a light and a dark style.

use super::axis::{Axis, micros};
use super::text::calls;
use super::timeline::words;
use super::{
    Actor, CallPhase, CallTimeline, ExplainReport, PhaseKind, PictureRow, Section, ServerCall,
    sections,
};

/// The width of the picture, and the begin and the length of the axis.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 144.0;
const LENGTH: f64 = 792.0;
/// The height of the legend, of a section's title and scale, and of a row.
const HEAD: f64 = 98.0;
const TITLE: f64 = 50.0;
const SCALE: f64 = 34.0;
const ROW: f64 = 94.0;
/// Places below the top of a row: the code track, the border, the kernel track, the names.
const CODE: f64 = 27.0;
const BORDER: f64 = 44.0;
const KERNEL: f64 = 49.0;
const NAMES: f64 = 81.0;
/// The heights of the tracks, and the approximate width of a letter of a name.
const CODE_HEIGHT: f64 = 12.0;
const KERNEL_HEIGHT: f64 = 18.0;
const LETTER: f64 = 6.3;

const STYLE: &str = "
.paper{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.band{fill:#f6f8fa}.grid{stroke:#d1d9e0;stroke-width:1}
.border{stroke:#818b98;stroke-width:1;stroke-dasharray:4 4}.cross{stroke:#cf222e;stroke-width:1.5}.head{fill:#cf222e}
.code{fill:#0969da}.sleep{stroke:#818b98;stroke-width:1.5;stroke-dasharray:1 4;stroke-linecap:round}
.wait{fill:#e6eaef}.hatch{stroke:#b7bfc8}.wake{fill:#ffe3b0}.copy{fill:#e08700}.own{fill:#1a9e4b}.ask{fill:#8250df}
.arrive{stroke:#0969da;stroke-width:1.5}.reply{fill:#0969da}.t-copy{fill:#9a5b00}.t-own{fill:#116329}.t-ask{fill:#6639ba}.t-wait{fill:#59636e}
@media(prefers-color-scheme:dark){
.paper{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9198a1}.band{fill:#151b23}.grid{stroke:#2a313c}
.border{stroke:#656c76}.cross{stroke:#ff7b72}.head{fill:#ff7b72}.code{fill:#4493f8}.sleep{stroke:#656c76}
.wait{fill:#212830}.hatch{stroke:#414954}.wake{fill:#5c4414}.copy{fill:#e3a008}.own{fill:#3fb950}.ask{fill:#ab7df8}
.arrive{stroke:#4493f8}.reply{fill:#4493f8}.t-copy{fill:#e3b341}.t-own{fill:#56d364}.t-ask{fill:#be8fff}.t-wait{fill:#9198a1}}
";

/// Draws the report as SVG.
pub fn svg(report: &ExplainReport) -> String {
    let sections = sections(report);
    let heights = sections.iter().map(|section| TITLE + section.rows.len() as f64 * ROW + SCALE);
    let height = HEAD + heights.sum::<f64>() + 40.0;
    let summaries = report.models.iter().map(|it| format!("{}: {}", it.model, it.summary));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"t d\" font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" \
         font-size=\"13\">\n<title id=\"t\">Messages through {} I/O models, as recorded</title>\n\
         <desc id=\"d\">{}</desc>\n<style>{STYLE}</style>\n\
         <defs><pattern id=\"h\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path class=\"hatch\" d=\"M0 0V6\" stroke-width=\"2\"/>\
         </pattern></defs>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n",
        report.models.len(),
        escape(&summaries.collect::<Vec<_>>().join(" ")),
    );
    out += &header(report);
    let mut top = HEAD;
    for section in &sections {
        top = draw(section, top, &mut out);
    }
    out += &footer(top);
    out + "</svg>\n"
}

/// Draws a section, and returns its lower end.
fn draw(section: &Section<'_>, top: f64, out: &mut String) -> f64 {
    let Section { title, rows, axis } = section;
    *out += &text(24.0, top + 24.0, "ink", " font-size=\"15\" font-weight=\"600\"", title);
    let small = " font-size=\"11.5\"";
    let first = top + TITLE;
    *out += &text(x(*axis, 0), first - 8.0, "reply", small, "▏the client sends");
    let end = " font-size=\"11.5\" text-anchor=\"end\"";
    *out += &text(LEFT + LENGTH, first - 8.0, "reply", end, "▼ the client has the last reply");
    for (at, row) in rows.iter().enumerate() {
        *out += &draw_row(row, *axis, first + at as f64 * ROW, at % 2 == 0);
    }
    let bottom = first + rows.len() as f64 * ROW;
    for tick in axis.ticks(10) {
        let at = x(*axis, tick);
        if tick != 0 {
            *out += &format!("<path class=\"grid\" d=\"M{at:.1} {bottom}v6\"/>\n");
        }
        let words = if tick == 0 { "0".to_owned() } else { micros(tick) };
        let middle = " font-size=\"11.5\" text-anchor=\"middle\"";
        *out += &text(at, bottom + 20.0, "dim", middle, &words);
    }
    bottom + SCALE
}

fn text(x: f64, y: f64, class: &str, more: &str, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{more}>{}</text>\n", escape(words))
}

fn bar(class: &str, x: f64, y: f64, width: f64, height: f64, tip: &str) -> String {
    // The shortest phase is visible.
    let width = width.max(1.5);
    let tip = escape(tip);
    format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height}\" rx=\"2\"><title>{tip}</title></rect>\n"
    )
}

fn header(report: &ExplainReport) -> String {
    let title = " font-size=\"18\" font-weight=\"600\"";
    let mut out = text(24.0, 36.0, "ink", title, "Where each I/O model waits, and what copies");
    let how = format!(
        "{} bytes per message over loopback, recorded on {}: the run with the median time of {}",
        report.size, report.kernel, report.runs
    );
    out += &text(24.0, 57.0, "dim", "", &how);
    let legend: [(&[&str], &str); 6] = [
        (&["code"], "server code"),
        (&["wait", "hatched"], words(PhaseKind::Waiting, Actor::Thread)),
        (&["wake"], words(PhaseKind::Waking, Actor::Thread)),
        (&["copy"], words(PhaseKind::Copying, Actor::Thread)),
        (&["own"], words(PhaseKind::Copying, Actor::Kernel)),
        (&["ask"], words(PhaseKind::WithoutData, Actor::Thread)),
    ];
    let mut x = 24.0;
    for (classes, words) in legend {
        for class in classes {
            let fill = if *class == "hatched" { " fill=\"url(#h)\"" } else { "" };
            out += &format!(
                "<rect class=\"{class}\"{fill} x=\"{x:.1}\" y=\"75\" width=\"18\" height=\"12\" \
                 rx=\"2\"/>\n"
            );
        }
        out += &text(x + 23.0, 86.0, "dim", " font-size=\"12\"", words);
        x += 23.0 + words.chars().count() as f64 * 5.8 + 12.0;
    }
    out += &format!("<path class=\"cross\" d=\"M{x:.1} 74v14\"/>\n");
    out + &text(x + 5.0, 86.0, "dim", " font-size=\"12\"", "user/kernel switch")
}

fn draw_row(row: &PictureRow<'_>, axis: Axis, top: f64, banded: bool) -> String {
    let mut out = String::new();
    if banded {
        out += &format!(
            "<rect class=\"band\" x=\"12\" y=\"{top}\" width=\"936\" height=\"{ROW}\" rx=\"6\"/>\n"
        );
    }
    out += &text(24.0, top + 34.0, "ink", " font-size=\"15\" font-weight=\"600\"", row.model);
    out += &text(LEFT, top + 14.0, "dim", " font-size=\"12.5\"", row.summary);
    let timeline = match row.timeline {
        Ok(timeline) => timeline,
        Err(reason) => {
            return out + &text(LEFT, top + 50.0, "ink", "", &format!("not shown: {reason}"));
        }
    };
    out += &text(24.0, top + 52.0, "ink", " font-size=\"12\"", &calls(timeline));
    let reply = format!("reply {}", micros(timeline.received));
    out += &text(24.0, top + 68.0, "dim", " font-size=\"12\"", &reply);
    out += &format!(
        "<path class=\"border\" d=\"M{LEFT} {y}H{}\"/>\n",
        LEFT + LENGTH,
        y = top + BORDER
    );
    out += &arrival(timeline, axis, top);
    out += &code(timeline, axis, top);
    for (call, phase) in timeline.phases() {
        out += &draw_phase(call, phase, axis, top);
    }
    timeline.calls.iter().for_each(|call| out += &switches(call, axis, top));
    out + &names(timeline, axis, top)
}

fn x(axis: Axis, at: i64) -> f64 {
    LEFT + axis.place(at, LENGTH)
}

/// Draws when the message was sent, and when the reply arrived.
fn arrival(timeline: &CallTimeline, axis: Axis, top: f64) -> String {
    let (sent, back) = (x(axis, 0), x(axis, timeline.received));
    let mut out = format!(
        "<path class=\"arrive\" d=\"M{sent:.1} {}V{}\"/>\n",
        top + CODE - 4.0,
        top + NAMES - 12.0
    );
    if timeline.received < axis.to {
        let tip = format!("The client has the last reply after {}.", micros(timeline.received));
        out += &format!(
            "<path class=\"reply\" d=\"M{:.1} {}h10l-5 7z\"><title>{tip}</title></path>\n",
            back - 5.0,
            top + CODE - 8.0
        );
    }
    out
}

/// Draws the code track: the server's code between its calls, and a dotted line while it waits.
fn code(timeline: &CallTimeline, axis: Axis, top: f64) -> String {
    let mut out = String::new();
    for two in timeline.calls.windows(2) {
        let Some(end) = two[0].end.filter(|&end| end <= two[1].begin) else { continue };
        let (from, to) = (x(axis, end), x(axis, two[1].begin));
        let tip = format!("server code: {}", micros(two[1].begin - end));
        out += &bar("code", from, top + CODE, to - from, CODE_HEIGHT, &tip);
    }
    let waits =
        |phase: &CallPhase| !matches!(phase.kind, PhaseKind::Copying | PhaseKind::WithoutData);
    for (_, phase) in timeline.phases().into_iter().filter(|(_, phase)| waits(phase)) {
        let (from, to) = (x(axis, phase.begin), x(axis, phase.end.unwrap_or(axis.to)));
        let y = top + CODE + CODE_HEIGHT / 2.0;
        out += &format!("<path class=\"sleep\" d=\"M{:.1} {y}H{to:.1}\"/>\n", from.min(to));
    }
    out
}

/// Draws a phase on the kernel track. Half the height means: within this time, but no clock reading
/// shows when exactly.
fn draw_phase(call: &ServerCall, phase: &CallPhase, axis: Axis, top: f64) -> String {
    let mut out = String::new();
    let (from, to) = (x(axis, phase.begin), x(axis, phase.end.unwrap_or(axis.to)));
    let tip = tip(call, phase);
    let mut put = |class: &str, part: f64| {
        let y = top + KERNEL + KERNEL_HEIGHT * (1.0 - part);
        out += &bar(class, from, y, to - from, KERNEL_HEIGHT * part, &tip);
    };
    match (phase.kind, phase.actor) {
        (PhaseKind::Waiting, _) => {
            put("wait", 1.0);
            put("hatched\" fill=\"url(#h)", 1.0);
        }
        (PhaseKind::Waking, _) => put("wake", 1.0),
        (PhaseKind::WakingAndCopying, actor) => {
            put("wake", 1.0);
            put(if actor == Actor::Kernel { "own" } else { "copy" }, 0.5);
        }
        (PhaseKind::Copying, Actor::Kernel) => {
            put("wait", 1.0);
            put("own", 0.5);
        }
        (PhaseKind::Copying, Actor::Thread) => put("copy", 1.0),
        (PhaseKind::WithoutData, _) => put("ask", 1.0),
    }
    out
}

/// Draws the switches between user mode and the kernel, at both ends of a call.
fn switches(call: &ServerCall, axis: Axis, top: f64) -> String {
    let mut out = String::new();
    let ends = [(Some(call.begin), true), (call.end, false)];
    for (at, down) in ends {
        let Some(at) = at.filter(|at| (axis.from..axis.to).contains(at)) else { continue };
        let (at, y) = (x(axis, at), top + CODE + CODE_HEIGHT);
        let head = if down { (y + 12.0, -5.0) } else { (y - 2.0, 5.0) };
        out += &format!("<path class=\"cross\" d=\"M{at:.1} {y:.1}v10\"/>");
        out += &format!(
            "<path class=\"head\" d=\"M{at:.1} {:.1}l-2.5 {d}h5z\"/>\n",
            head.0,
            d = head.1
        );
    }
    out
}

fn tip(call: &ServerCall, phase: &CallPhase) -> String {
    let length = phase.length().map(|length| format!(", {}", micros(length))).unwrap_or_default();
    let result = call.result.map(|result| format!("\nreturns {result}")).unwrap_or_default();
    let ops = |does: &str, ops: &[String]| match ops {
        [] => String::new(),
        ops => format!("\n{does} {}", ops.join(", ")),
    };
    let (submits, completes) = (ops("submits", &call.submitted), ops("completes", &call.completed));
    format!("{}: {}{length}{result}{submits}{completes}", call.name, phase.words())
}

/// Draws the names of the calls below their begins, or behind the name before.
fn names(timeline: &CallTimeline, axis: Axis, top: f64) -> String {
    let (mut out, mut free) = (String::new(), LEFT);
    for (call, name) in timeline.labels() {
        let width = name.chars().count() as f64 * LETTER;
        let at = x(axis, call.begin).max(free);
        if call.begin >= axis.to || at + width > LEFT + LENGTH + 12.0 {
            continue;
        }
        out += &text(at, top + NAMES, colour(call), " font-size=\"11.5\"", &name);
        free = at + width + 8.0;
    }
    if timeline.received >= axis.to {
        let words = format!("reply after {} →", micros(timeline.received));
        let place = " font-size=\"11.5\" text-anchor=\"end\"";
        out += &text(LEFT + LENGTH - 4.0, top + CODE - 4.0, "reply", place, &words);
    }
    let last = timeline.calls.iter().map(|call| call.end).max().flatten();
    let waits = timeline.calls.iter().any(|call| call.end.is_none());
    if let Some(end) = last.filter(|&end| end < axis.to && !waits) {
        out += &text(x(axis, end) + 6.0, top + KERNEL + 13.0, "t-ask", "", "… and so on");
    }
    out
}

fn colour(call: &ServerCall) -> &'static str {
    let has = |kinds: &[PhaseKind]| call.phases.iter().any(|phase| kinds.contains(&phase.kind));
    if call.phases.iter().any(|phase| phase.actor == Actor::Kernel) {
        "t-own"
    } else if has(&[PhaseKind::Copying, PhaseKind::WakingAndCopying]) {
        "t-copy"
    } else if has(&[PhaseKind::WithoutData]) {
        "t-ask"
    } else {
        "t-wait"
    }
}

fn footer(top: f64) -> String {
    let lines = [
        "Upper track: the server’s code; the time of the recorder is taken out. Lower track: the \
         kernel, in the call that is named below.",
        "Half height: within that time; no clock reading shows when exactly. This is not a \
         benchmark: `proactor compare` measures.",
    ];
    let line = |(at, words): (usize, &&str)| {
        text(24.0, top + 10.0 + 17.0 * at as f64, "dim", " font-size=\"11.5\"", words)
    };
    lines.iter().enumerate().map(line).collect()
}

/// Escapes text for XML.
pub(super) fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other control character.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
