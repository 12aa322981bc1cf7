//! The picture as one page that needs nothing else: no network, no other file.

use super::axis::micros;
use super::picture::{escape, svg};
use super::{Report, Row, Scene, Step};

const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d1d9e0;--tip:#1f2328;--on-tip:#fff}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#f0f6fc;--dim:#9198a1;--line:#2a313c;--tip:#f0f6fc;--on-tip:#1f2328}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}h1{font-size:24px;margin:0 0 8px}h2{font-size:18px;margin:32px 0 8px}
p{max-width:76ch;margin:8px 0}.picture{overflow-x:auto;margin:16px 0}.picture svg{display:block;min-width:760px;width:100%;height:auto}
.picture rect:has(title):hover{filter:brightness(1.12);stroke:currentColor}
details{border-top:1px solid var(--line);padding:8px 0}summary{cursor:pointer;font-weight:600}summary span{font-weight:400;color:var(--dim)}
.table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
td,th{padding:3px 20px 3px 0;text-align:left;vertical-align:top}th{color:var(--dim);font-weight:400}td.n{text-align:right}
#tip{position:fixed;display:none;max-width:340px;padding:6px 10px;border-radius:6px;background:var(--tip);color:var(--on-tip);font-size:13px;white-space:pre-line;pointer-events:none;z-index:2}
";

/// Titles of the picture become tips that come at once and stay by the pointer.
const SCRIPT: &str = "
const tip = document.getElementById('tip');
for (const title of document.querySelectorAll('.picture rect > title, .picture path > title')) {
  const part = title.parentNode, words = title.textContent;
  part.setAttribute('aria-label', words);
  title.remove();
  part.addEventListener('pointermove', (event) => {
    tip.textContent = words;
    tip.style.display = 'block';
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8)) + 'px';
    tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - height - 8)) + 'px';
  });
  part.addEventListener('pointerleave', () => { tip.style.display = 'none'; });
}
";

/// The report as a page.
pub fn html(report: &Report) -> String {
    let rows: String = report.models.iter().map(details).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>Who waits, who copies: one message through each I/O model</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>One message through each I/O model</h1>\n\
         <p>A receive has two phases. First the server <b>waits</b> until bytes have come; then they \
         are <b>copied</b> from the kernel’s buffer into its own. The models differ in who waits, \
         where, and for how many at once; and all but io_uring make a call of their own in which the \
         bytes are copied.</p>\n\
         <p>Nothing here is drawn by hand. Each server ran alone in its process, and waited; a client \
         sent {size} bytes and timed the echo; each system call was timed from within, just before \
         and just after it. Shown is, of {runs} runs, the one whose echo took the median time.</p>\n\
         <div class=\"picture\">\n{svg}</div>\n<h2>Call by call</h2>\n{rows}\
         <h2>How to read it</h2>\n\
         <p>Zero is when the client began to send, on the clock that both sides read. A call that slept \
         then and has the bytes when it returns was woken and copied in between: no reading of a clock \
         divides the two. What a ring copies by itself ends when the ring says so (a receive) or when the \
         client has the echo (a send), at the latest. Recording takes its time between calls, so \
         most of what is the server’s own code here is the recorder’s.</p>\n\
         <p>It is no benchmark: one message at a time says little of many at once, and whatever else \
         ran on the machine is in the times. <code>proactor compare</code> measures.</p>\n\
         <p>{kernel}, proactor {version}.</p>\n</main>\n<div id=\"tip\" role=\"status\"></div>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        size = report.size,
        runs = report.runs,
        svg = svg(report),
        kernel = escape(&report.kernel),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn details(row: &Row) -> String {
    let (lesson, model) = (escape(row.lesson), row.model);
    let inside = match (&row.scene, &row.refusal) {
        (Some(scene), _) => table(scene),
        (None, why) => {
            format!("<p>Not here: {}</p>\n", escape(why.as_deref().unwrap_or("nothing was seen")))
        }
    };
    format!("<details><summary>{model} <span>{lesson}</span></summary>\n{inside}</details>\n")
}

fn table(scene: &Scene) -> String {
    let (least, most) = scene.spread;
    let rows: String = scene.calls.iter().map(lines).collect();
    let asleep = match &scene.asleep[..] {
        [] => String::new(),
        calls => format!(" Others of the server slept all the while, in {}.", calls.join(", ")),
    };
    format!(
        "<p>The client has the echo after {}; of all runs, after {} to {}.{asleep}</p>\n\
         <div class=\"table\"><table><tr><th>call</th><th>began at</th><th>what</th><th>who</th>\
         <th>for</th><th>answer</th></tr>\n{rows}</table></div>\n",
        micros(scene.received),
        micros(least),
        micros(most)
    )
}

/// A line for each phase of a call.
fn lines(call: &Step) -> String {
    let mut out = String::new();
    for (at, phase) in call.phases.iter().enumerate() {
        let first = at == 0;
        let name = if first { escape(&call.label()) } else { String::new() };
        let answer = call.result.filter(|_| first).map(|it| it.to_string()).unwrap_or_default();
        let began = if phase.begin < 0 { "before".to_owned() } else { micros(phase.begin) };
        let length = phase.length().map(micros);
        let length =
            length.unwrap_or_else(|| if phase.end.is_none() { "still" } else { "" }.to_owned());
        let who = match phase.who {
            super::Who::Thread => "the thread",
            super::Who::Kernel => "the kernel",
        };
        out += &format!(
            "<tr><td>{name}</td><td class=\"n\">{began}</td><td>{}</td><td>{who}</td>\
             <td class=\"n\">{length}</td><td class=\"n\">{answer}</td></tr>\n",
            phase.kind.words()
        );
    }
    out
}
