//! The pictures as an HTML page that needs no network and no other file.

use super::ExplainReport;
use super::picture::{escape, svg};
use super::text::text;

const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d1d9e0;--tip:#1f2328;--on-tip:#fff}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#f0f6fc;--dim:#9198a1;--line:#2a313c;--tip:#f0f6fc;--on-tip:#1f2328}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}h1{font-size:24px;margin:0 0 8px}h2{font-size:18px;margin:32px 0 8px}
p{max-width:76ch;margin:8px 0}.picture{overflow-x:auto;margin:16px 0}.picture svg{display:block;min-width:760px;width:100%;height:auto}
.picture rect:has(title):hover{filter:brightness(1.12);stroke:currentColor}
pre{overflow-x:auto;font:12px/1.35 ui-monospace,monospace}
#tip{position:fixed;display:none;max-width:340px;padding:6px 10px;border-radius:6px;background:var(--tip);color:var(--on-tip);font-size:13px;white-space:pre-line;pointer-events:none;z-index:2}
";

/// Replaces the titles of the picture by tips that follow the pointer.
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

/// Formats the report as a page.
pub fn html(report: &ExplainReport) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>Where each I/O model waits, and what copies</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Messages through each I/O model</h1>\n\
         <p>A receive has two phases. First the server <b>waits</b> until bytes have arrived; then \
         they are <b>copied</b> from the kernel’s buffer into its own. The models differ in the call \
         that waits, and in the number of connections that one call waits for. In all models but \
         io_uring, the server makes a call to copy.</p>\n\
         <p>Everything shown is recorded. Each server ran alone in its process, and waited; a client \
         sent {size} bytes per connection and timed the replies; each system call was timed just \
         before and just after it. Of {runs} runs, the one with the median time is shown. The time \
         of the recorder between the calls was measured, and is taken out.</p>\n\
         <div class=\"picture\">\n{svg}</div>\n<h2>Call by call</h2>\n\
         <pre>{calls}</pre>\n\
         <h2>How to read it</h2>\n\
         <p>Time zero is when the client began to send, on the clock that both sides read. A call \
         that slept then, and returns with the bytes, was woken and copied in between: no clock \
         reading divides the two. A copy of the kernel ends, at the latest, when the ring reports it \
         (a receive) or when the client has the reply (a send).</p>\n\
         <p>This is not a benchmark: other work of the machine is in the times. \
         <code>proactor compare</code> measures.</p>\n\
         <p>{kernel}, proactor {version}.</p>\n</main>\n<div id=\"tip\" role=\"status\"></div>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        size = report.size,
        runs = report.runs,
        svg = svg(report),
        calls = escape(&text(report, usize::MAX)),
        kernel = escape(&report.kernel),
        version = env!("CARGO_PKG_VERSION"),
    )
}
