// ---- The heat maps -------------------------------------------------------------------------------

const CELL = 11;

/** The strength of a colour by a count: each power of ten is a step, so that one of many thousands is seen. */
const strength = (n, most) => n ? 0.22 + 0.78 * Math.log10(n) / Math.max(Math.log10(most), 1) : 0;

/** How long operations took over the time: a row for each power of two, the slowest on top. */
function heatmaps() {
  for (const map of data.heatmaps) {
    const box = element('div', null, 'chart'), sheet = element('canvas'), note = element('p');
    const rows = map.rows.slice().reverse(), most = Math.max(...rows.flatMap(row => row.counts));
    const samples = rows.flatMap(row => row.counts).reduce((a, b) => a + b, 0);
    const name = { reply: 'from receive to reply', enter: 'enter: asleep or at work', wait: 'wait: asleep until something is ready' }[map.of] ?? `${map.of}: ${ring ? 'age' : 'time'}`;
    const hint = `${count(samples)} in all, at most ${count(most)} in a cell; a tenth is a shade paler. Choose a column to see it in the timeline.`;
    const summary = rows.map(row => `${octaveName(row.from_ns)}: ${count(row.counts.reduce((a, b) => a + b, 0))}`).join(', ');
    sheet.setAttribute('role', 'img');
    sheet.setAttribute('aria-label', `${name}, over the time: ${summary}`);
    note.textContent = hint;
    box.append(element('h3', name), sheet, note);
    $('heatmaps').append(box);
    const columns = rows[0].counts.length, left = 58;
    const at = event => [Math.floor((event.offsetX - left) / (sheet.clientWidth - left) * columns), Math.floor(event.offsetY / CELL)];
    const paint = () => {
      const ctx = sized(sheet, rows.length * CELL), wide = (sheet.clientWidth - left) / columns;
      ctx.font = `10px ${colors.sans}`;
      ctx.textBaseline = 'middle';
      ctx.textAlign = 'right';
      rows.forEach((row, y) => {
        ctx.fillStyle = colors.panel;
        ctx.fillRect(left, y * CELL, sheet.clientWidth - left, CELL - 1);
        ctx.fillStyle = colors.muted;
        ctx.fillText(octaveName(row.from_ns), left - 6, y * CELL + CELL / 2);
        ctx.fillStyle = colors.in;
        row.counts.forEach((n, x) => { ctx.globalAlpha = strength(n, most); if (n) ctx.fillRect(left + x * wide, y * CELL, Math.max(wide - 0.5, 1), CELL - 1); });
        ctx.globalAlpha = 1;
      });
    };
    painted.push(paint);
    sheet.addEventListener('pointermove', event => {
      const [x, y] = at(event), row = rows[y], from = whole[0] + x * map.step_ns;
      note.textContent = row && x >= 0 && x < columns ? `${count(row.counts[x])} of ${octaveName(row.from_ns)} within ${span(map.step_ns)} from ${moments(from)}` : hint;
    });
    sheet.addEventListener('pointerleave', () => { note.textContent = hint; });
    sheet.addEventListener('click', event => {
      const [x] = at(event);
      if (x < 0) return;
      setView(whole[0] + x * map.step_ns, whole[0] + (x + 1) * map.step_ns);
      $('timeline-title').scrollIntoView();
    });
  }
  $('heatmaps-part').hidden = !data.heatmaps.length;
}

/** What is painted anew when the size or the colours change. */
const painted = [];
const octaveName = from => from ? `${span(from)} +` : '< 1 µs';
