//! The picture: for each model a lane for the server's own code and one for the kernel, all on one
//! axis of time. It is an SVG that needs nothing else, in the colours of day and night.

use super::axis::{Axis, micros, scenes};
use super::text::folded;
use super::{Kind, Phase, Report, Row, Scene, Step, Who};

/// Everything's width, and where the axis begins and how long it is.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 144.0;
const LENGTH: f64 = 792.0;
/// Above the first row, and each row's height.
const HEAD: f64 = 128.0;
const ROW: f64 = 94.0;
/// Below a row's top: the server's lane, the border, the kernel's lane, the names of the calls.
const CODE: f64 = 27.0;
const BORDER: f64 = 44.0;
const KERNEL: f64 = 49.0;
const NAMES: f64 = 81.0;
/// Lanes' heights, and about how wide a letter of a name is.
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

/// The report as an SVG of its own.
pub fn svg(report: &Report) -> String {
    let axis = Axis::of(report);
    let height = HEAD + report.models.len() as f64 * ROW + 78.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"t d\" font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" \
         font-size=\"13\">\n<title id=\"t\">One message through {} I/O models, as recorded</title>\n\
         <desc id=\"d\">{}</desc>\n<style>{STYLE}</style>\n\
         <defs><pattern id=\"h\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path class=\"hatch\" d=\"M0 0V6\" stroke-width=\"2\"/>\
         </pattern></defs>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n",
        scenes(report).count(),
        escape(&description(report)),
    );
    out += &header(report);
    let bottom = HEAD + report.models.len() as f64 * ROW;
    for (at, row) in report.models.iter().enumerate() {
        out += &row_of(row, axis, HEAD + at as f64 * ROW, at % 2 == 0);
    }
    out += &scale(axis, bottom);
    out + &footer(bottom) + "</svg>\n"
}

fn description(report: &Report) -> String {
    let rows = report.models.iter().map(|row| format!("{}: {}", row.model, row.lesson));
    rows.collect::<Vec<_>>().join(" ")
}

fn text(x: f64, y: f64, class: &str, more: &str, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{more}>{}</text>\n", escape(words))
}

fn bar(class: &str, x: f64, y: f64, width: f64, height: f64, tip: &str) -> String {
    // However short it was, it can be seen.
    let width = width.max(1.5);
    let tip = escape(tip);
    format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height}\" rx=\"2\"><title>{tip}</title></rect>\n"
    )
}

fn header(report: &Report) -> String {
    let title = " font-size=\"18\" font-weight=\"600\"";
    let mut out =
        text(24.0, 36.0, "ink", title, "Who waits, who copies: one message, and its echo");
    let how = format!(
        "{} bytes over loopback, recorded on {}: the median of {} runs each, all on one axis of time",
        report.size, report.kernel, report.runs
    );
    out += &text(24.0, 57.0, "dim", "", &how);
    let legend: [(&[&str], &str); 6] = [
        (&["code"], "own code"),
        (&["wait", "hatched"], "waits: no data yet"),
        (&["wake"], "data comes: is woken"),
        (&["copy"], "a call copies"),
        (&["own"], "the kernel copies by itself"),
        (&["ask"], "asks"),
    ];
    let mut x = 24.0;
    for (classes, words) in legend {
        for class in classes {
            let fill = if *class == "hatched" { " fill=\"url(#h)\"" } else { "" };
            out += &format!(
                "<rect class=\"{class}\"{fill} x=\"{x:.1}\" y=\"75\" width=\"22\" height=\"12\" rx=\"2\"/>\n"
            );
        }
        out += &text(x + 28.0, 86.0, "dim", " font-size=\"12\"", words);
        x += 28.0 + words.chars().count() as f64 * 6.3 + 14.0;
    }
    out += &format!("<path class=\"cross\" d=\"M{x:.1} 74v14\"/>\n");
    out + &text(x + 7.0, 86.0, "dim", " font-size=\"12\"", "a crossing")
}

fn row_of(row: &Row, axis: Axis, top: f64, banded: bool) -> String {
    let mut out = String::new();
    if banded {
        out += &format!(
            "<rect class=\"band\" x=\"12\" y=\"{top}\" width=\"936\" height=\"{ROW}\" rx=\"6\"/>\n"
        );
    }
    out += &text(24.0, top + 34.0, "ink", " font-size=\"15\" font-weight=\"600\"", row.model);
    out += &text(LEFT, top + 14.0, "dim", " font-size=\"12.5\"", row.lesson);
    let Some(scene) = &row.scene else {
        let why = format!("not here: {}", row.refusal.as_deref().unwrap_or("nothing was seen"));
        return out + &text(LEFT, top + 50.0, "ink", "", &why);
    };
    let count = match scene.calls_per_message() {
        Some(1) => "1 call".to_owned(),
        Some(calls) => format!("{calls} calls"),
        None => "calls without end".to_owned(),
    };
    out += &text(24.0, top + 52.0, "ink", " font-size=\"12\"", &count);
    let echo = format!("echo {}", micros(scene.received));
    out += &text(24.0, top + 68.0, "dim", " font-size=\"12\"", &echo);
    out += &format!(
        "<path class=\"border\" d=\"M{LEFT} {y}H{}\"/>\n",
        LEFT + LENGTH,
        y = top + BORDER
    );
    out += &arrival(scene, axis, top);
    out += &code(scene, axis, top);
    scene.calls.iter().for_each(|call| out += &call_of(call, axis, top));
    out + &names(scene, axis, top)
}

fn x(axis: Axis, at: i64) -> f64 {
    LEFT + axis.place(at, LENGTH)
}

/// The lines at which the message is sent and its echo is there.
fn arrival(scene: &Scene, axis: Axis, top: f64) -> String {
    let (sent, back) = (x(axis, 0), x(axis, scene.received));
    let mut out = format!(
        "<path class=\"arrive\" d=\"M{sent:.1} {}V{}\"/>\n",
        top + CODE - 4.0,
        top + NAMES - 12.0
    );
    if scene.received < axis.to {
        let tip = format!("The client has the echo after {}.", micros(scene.received));
        out += &format!(
            "<path class=\"reply\" d=\"M{:.1} {}h10l-5 7z\"><title>{tip}</title></path>\n",
            back - 5.0,
            top + CODE - 8.0
        );
    }
    out
}

/// The server's own lane: its code between calls, and asleep while it waits.
fn code(scene: &Scene, axis: Axis, top: f64) -> String {
    let mut out = String::new();
    for two in scene.calls.windows(2) {
        if let Some(end) = two[0].end {
            let (from, to) = (x(axis, end), x(axis, two[1].begin));
            let tip = format!(
                "The server’s own code, and what the recording takes: {}",
                micros(two[1].begin - end)
            );
            out += &bar("code", from, top + CODE, to - from, CODE_HEIGHT, &tip);
        }
    }
    for phase in phases(scene).filter(|phase| is_asleep(phase.kind)) {
        let (from, to) = (x(axis, phase.begin), x(axis, phase.end.unwrap_or(axis.to)));
        let y = top + CODE + CODE_HEIGHT / 2.0;
        out += &format!("<path class=\"sleep\" d=\"M{:.1} {y}H{to:.1}\"/>\n", from.min(to));
    }
    out
}

fn phases(scene: &Scene) -> impl Iterator<Item = &Phase> {
    scene.calls.iter().flat_map(|call| &call.phases)
}

fn is_asleep(kind: Kind) -> bool {
    matches!(kind, Kind::Waiting | Kind::Waking | Kind::WakingAndCopying)
}

/// The kernel's lane: what happens in a call, and the crossings on both ends.
fn call_of(call: &Step, axis: Axis, top: f64) -> String {
    let mut out = String::new();
    for phase in &call.phases {
        let (from, to) = (x(axis, phase.begin), x(axis, phase.end.unwrap_or(axis.to)));
        let tip = tip(call, phase);
        let mut put = |class: &str, y: f64, height: f64| {
            out += &bar(class, from, top + y, to - from, height, &tip);
        };
        match (phase.kind, phase.who) {
            (Kind::Waiting, _) => {
                put("wait", KERNEL, KERNEL_HEIGHT);
                put("hatched\" fill=\"url(#h)", KERNEL, KERNEL_HEIGHT);
            }
            (Kind::Waking, _) => put("wake", KERNEL, KERNEL_HEIGHT),
            // Woken and copied: nobody can say where the one ends, so both are drawn, one on
            // another.
            (Kind::WakingAndCopying, who) => {
                let copy = if who == Who::Kernel { "own" } else { "copy" };
                put("wake", KERNEL, KERNEL_HEIGHT);
                put(copy, KERNEL + KERNEL_HEIGHT / 2.0, KERNEL_HEIGHT / 2.0);
            }
            // Done by then; when within, only the kernel knows.
            (Kind::Copying, Who::Kernel) => {
                put("wait", KERNEL, KERNEL_HEIGHT);
                put("own", KERNEL + KERNEL_HEIGHT / 2.0, KERNEL_HEIGHT / 2.0);
            }
            (Kind::Copying, Who::Thread) => put("copy", KERNEL, KERNEL_HEIGHT),
            (Kind::Asking, _) => put("ask", KERNEL, KERNEL_HEIGHT),
        }
    }
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

fn tip(call: &Step, phase: &Phase) -> String {
    let what = match (phase.kind, phase.who) {
        (Kind::Waiting, _) => "phase one: sleeps, as there is no data",
        (Kind::Waking, _) => "the data comes and the thread is woken; nothing is copied yet",
        (Kind::WakingAndCopying, Who::Kernel) => {
            "the data comes, the kernel copies it by itself and wakes the thread"
        }
        (Kind::WakingAndCopying, Who::Thread) => {
            "the data comes, the thread is woken and copies it, within the call that waited"
        }
        (Kind::Copying, Who::Kernel) => {
            "phase two: the kernel copies, of its own accord; at most until the client has it"
        }
        (Kind::Copying, Who::Thread) => "phase two: the thread copies, in a call for just that",
        (Kind::Asking, _) => "asks or says something, and returns at once",
    };
    let length = phase.length().map(|length| format!(", {}", micros(length))).unwrap_or_default();
    let answer = call.result.map(|result| format!("\nthe call answers {result}"));
    let took = |does: &str, what: &[String]| match what {
        [] => String::new(),
        what => format!("\n{does}: {}", what.join(", ")),
    };
    format!(
        "{}: {what}{length}{}{}{}",
        call.name,
        answer.unwrap_or_default(),
        took("submits", &call.submitted),
        took("brings back", &call.completed)
    )
}

/// The calls' names below where they begin, or as near behind as there is room.
fn names(scene: &Scene, axis: Axis, top: f64) -> String {
    let (mut out, mut free) = (String::new(), LEFT);
    for call in folded(&scene.calls) {
        let name = match call {
            [one] => one.label(),
            tries => format!("{} tries", tries.len()),
        };
        let width = name.chars().count() as f64 * LETTER;
        let at = x(axis, call[0].begin).max(free);
        if call[0].begin >= axis.to || at + width > LEFT + LENGTH + 12.0 {
            continue;
        }
        out += &text(at, top + NAMES, colour(&call[0]), " font-size=\"11.5\"", &name);
        free = at + width + 8.0;
    }
    if scene.received >= axis.to {
        let words = format!("echo after {} →", micros(scene.received));
        let place = " font-size=\"11.5\" text-anchor=\"end\"";
        out += &text(LEFT + LENGTH - 4.0, top + CODE - 4.0, "reply", place, &words);
    }
    let last = scene.calls.last().and_then(|last| last.end);
    if let Some(end) = last.filter(|&end| end < axis.to) {
        out += &text(x(axis, end) + 6.0, top + KERNEL + 13.0, "t-ask", "", "… and so on");
    }
    out
}

fn colour(call: &Step) -> &'static str {
    let kinds = |kind, who| call.phases.iter().any(|phase| phase.kind == kind && phase.who == who);
    if call.phases.iter().any(|phase| phase.who == Who::Kernel) {
        "t-own"
    } else if kinds(Kind::Copying, Who::Thread) || kinds(Kind::WakingAndCopying, Who::Thread) {
        "t-copy"
    } else if kinds(Kind::Asking, Who::Thread) {
        "t-ask"
    } else {
        "t-wait"
    }
}

fn scale(axis: Axis, bottom: f64) -> String {
    let mut out = String::new();
    for tick in axis.ticks() {
        let at = x(axis, tick);
        if tick != 0 {
            out += &format!("<path class=\"grid\" d=\"M{at:.1} {bottom}v6\"/>\n");
        }
        let words = if tick == 0 { "0".to_owned() } else { micros(tick) };
        out +=
            &text(at, bottom + 20.0, "dim", " font-size=\"11.5\" text-anchor=\"middle\"", &words);
    }
    let zero = x(axis, 0);
    let words = "▏the client sends";
    out + &text(zero, HEAD - 8.0, "reply", " font-size=\"11.5\"", words)
        + &text(
            LEFT + LENGTH,
            HEAD - 8.0,
            "reply",
            " font-size=\"11.5\" text-anchor=\"end\"",
            "▼ the client has the echo",
        )
}

fn footer(bottom: f64) -> String {
    let lines = [
        "Upper lane: the server’s own code, with what the recording takes. Lower lane: the kernel, in \
         the call that is named below.",
        "Half height: it was copied within that time; when exactly, no clock of the server’s can tell. \
         One message at a time: no benchmark.",
    ];
    let line = |(at, words): (usize, &&str)| {
        text(24.0, bottom + 44.0 + 17.0 * at as f64, "dim", " font-size=\"11.5\"", words)
    };
    lines.iter().enumerate().map(line).collect()
}

/// What XML takes as text.
pub(super) fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other control characters.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
