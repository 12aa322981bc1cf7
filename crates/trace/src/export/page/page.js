'use strict';
// Errors are counted in the document, where a test can read them.
const root = document.documentElement;
root.dataset.errors = 0;
addEventListener('error', () => { root.dataset.errors++; });

// ---- Data ---------------------------------------------------------------------------------------

const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const { health, drawing, connections } = data;

// A list of iterations or bars is an object of columns.
const { iterations, parts } = drawing;
const { of } = data;
/** The longest bar of a row: no bar that begins earlier reaches into the view. */
const longest = bars => bars.lasted.reduce((a, b) => Math.max(a, b), 0);
const conns = drawing.conns.map(({ conn, bars }, index) => ({ id: conn, stats: connections[index], parts: parts.conns?.[index], ...bars, longest: longest(bars) }));
const ABNORMAL = 1, SPAN = 2, OUTBOUND = 4, UNENDED = 8, RESULT = 16, MULTISHOT = 32, IMPLIED = 64, BYTES = 128, PHASE = 8;
const threads = threadRows(drawing.threads);
// With many threads there is no single loop to draw.
const loop = drawing.threads ? null : health.iterations;
const ring = data.is_ring;
const waitName = health.iterations ? health.iterations.name : 'iteration';

const whole = [parts.from, parts.from + Math.max(health.source.span_ns, 1000)];
/** The time of which the page has every mark. */
const detail = drawing.detail ?? [-Infinity, Infinity];
const mostOfConns = mostInPart(...parts.conns ?? []), mostOfOthers = mostInPart(parts.others);
// A bit more than the stretch, so that its ends are seen.
const busy = (([from, to]) => { const margin = (to - from) * 0.02; return [Math.max(whole[0], from - margin), Math.min(whole[1], to + margin)]; })(drawing.opens);

// ---- Words ---------------------------------------------------------------------------------------

const digits = n => Number(n.toPrecision(3)).toString();
function span(ns) {
  if (ns == null) return '–';
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${digits(ns / 1e3)} µs`;
  if (ns < 1e9) return `${digits(ns / 1e6)} ms`;
  return `${digits(ns / 1e9)} s`;
}
const count = n => n == null ? '–' : n.toLocaleString('en-US');
const bytes = n => n < 1e3 ? `${n} B` : n < 1e6 ? `${digits(n / 1e3)} kB` : n < 1e9 ? `${digits(n / 1e6)} MB` : `${digits(n / 1e9)} GB`;
const plural = (n, thing) => `${count(n)} ${thing}${n === 1 ? '' : 's'}`;
const moment = ns => `${(ns / 1e9).toFixed(9)} s`;
/** A moment by the wall clock of the host, in UTC: its date, and its time with six digits. */
function wall(ns) {
  const at = BigInt(of.wall_ns) + BigInt(Math.round(ns)), iso = new Date(Number(at / 1000000n)).toISOString();
  return [iso.slice(0, 10), `${iso.slice(11, 19)}.${String(at % 1000000000n).padStart(9, '0').slice(0, 6)}`];
}
/** A moment by both clocks. */
const moments = ns => `${moment(ns)} (${wall(ns)[1]} UTC)`;

/** What the loop's time is called. Of a readiness model, the kernel works in the calls as well. */
const polls = health.source.model === 'nonblocking';
/** Whether the kernel's events say how long enters slept. */
const slept = health.kernel?.asleep_ns != null;
const loopWords = () => ring ? { inside: slept ? 'in the enter: waking up or at work' : 'in the enter: asleep or at work', own: 'handling' }
  : { inside: polls ? 'between two passes: asleep only with --idle-sleep' : 'in the wait: asleep until something is ready', own: drawing.timed ? 'own code' : 'calls and own code' };

function element(name, text, className) {
  const node = document.createElement(name);
  if (text != null) node.textContent = text;
  if (className) node.className = className;
  return node;
}
/** Fills a table: a header, rows; cells are texts or nodes. Columns in `text` are left-aligned. */
function fill(table, header, rows, text = []) {
  const line = (cells, name) => {
    const row = element('tr');
    cells.forEach((cell, at) => {
      const node = element(name, cell instanceof Node ? null : cell, text.includes(at) ? 'text' : '');
      if (name === 'th') node.scope = 'col';
      if (cell instanceof Node) node.append(cell);
      row.append(node);
    });
    return row;
  };
  const head = element('thead'), body = element('tbody');
  head.append(line(header, 'th'));
  body.append(...rows.map(row => line(row, 'td')));
  table.replaceChildren(head, body);
}

function words() {
  const { source } = health;
  const until = source.from_ns + source.span_ns, length = span(source.span_ns), all = span(of.recorded_ns);
  const part = { whole: `all ${all}`, last: `the last ${length} of ${all}: the records before are overwritten`,
    part: `${length} of ${all}, from ${span(source.from_ns)} on` }[of.part];
  $('title').textContent = `${source.model} – a trace of process ${source.pid}${of.host ? ` on ${of.host}` : ''}`;
  const days = wall(source.from_ns)[0];
  $('origin').textContent = [of.file, `${days} ${wall(source.from_ns)[1].slice(0, 12)} to ${wall(until)[1].slice(0, 12)} UTC`, part,
    of.version && `recorded by proactor ${of.version}`, source.kernel && `kernel ${source.kernel}`].filter(Boolean).join(' · ');
  $('source').textContent = [source.detail, `${plural(source.written, 'record')}, ${source.lost ? `${count(source.lost)} of them not here` : 'none lost'}`,
    `clock: ${source.clock}${source.level ? `, read per ${source.level}` : ''}`].filter(Boolean).join(' · ');
  $('notes').append(...source.uncertain.map(text => element('li', text)));
  $('left-out').append(...data.left_out.map(text => element('li', text)));

  const verdict = $('verdict');
  verdict.classList.toggle('bad', data.findings.some(one => one.severity !== 'note'));
  verdict.append(element('b', health.verdict), ' ', element('span', health.hint && `– ${health.hint}`));
  for (const one of data.findings) {
    const box = element('div', null, `finding ${one.severity}`), list = element('ul');
    list.append(...one.evidence.map(text => element('li', text)));
    box.append(element('b', one.name), ` – ${one.what}`, list, element('p', one.fix));
    $('findings').append(box);
  }
}

function tiles() {
  const { messages } = health, all = loop;
  const abnormal = parts.abnormal.reduce((a, b) => a + b, 0);
  const share = ns => `${(ns / health.source.span_ns * 100).toFixed(ns / health.source.span_ns < 0.1 ? 1 : 0)} %`;
  const calls = health.ops.filter(op => !op.on_ring).reduce((sum, op) => sum + (op.together_ns ?? 0), 0);
  const list = [
    ['Messages', count(messages), `${bytes(health.bytes_in)} in, ${bytes(health.bytes_out)} out`],
    ['Connections', count(health.connections), `at most ${count(health.connections_max)} at a time`],
    health.calls != null && messages && ['System calls per message', digits(health.calls / messages), `${count(health.calls)} in all`],
    all && [ring ? 'Completions per enter' : 'Ready descriptors per wait', digits(all.batches.mean), `at most ${count(all.batches.max)}, of ${plural(all.count, waitName)}`],
    all && health.source.span_ns && [`Time in ${waitName}s`, share(all.inside_ns), slept ? `asleep until data came: ${share(health.kernel.asleep_ns)}` : loopWords().inside.replace(/.*: /, '')],
    health.kernel && ['Posted to reaped, p50', span(health.kernel.posted_to_reaped.p50_ns), `p99 ${span(health.kernel.posted_to_reaped.p99_ns)}`],
    all && !ring && health.source.span_ns && (drawing.timed ? ['Time in other calls', share(calls), 'recv, send, …: in the kernel too'] : ['Time in other calls', '–', 'recorded by --trace-clock=record']),
    ...(drawing.threads ? threadTiles() : []),
    ['Turnaround, p50', span(health.answered.p50_ns), `p99 ${span(health.answered.p99_ns)}`],
    all && ring && ['In flight', `${health.source.overwritten ? '≥ ' : ''}${count(all.in_flight_max)}`, health.source.overwritten ? 'at most, and what began before' : 'at most'],
    health.buffers && health.buffers.fewest != null && ['Free buffers', count(health.buffers.fewest), `at least, of ${count(health.buffers.most)}`],
    ['Abnormal', count(abnormal), abnormal ? 'press n in the timeline' : 'nothing'],
  ];
  for (const [name, value, small] of list.filter(Boolean)) {
    const box = element('div'), dd = element('dd', value);
    dd.append(element('small', small));
    box.append(element('dt', name), dd);
    $('tiles').append(box);
  }
}

function legend() {
  const loopItems = drawing.threads ? [...PHASES.map(([color, text]) => [color, text, '']), [BETWEEN[0], BETWEEN[1], '']]
    : [[ring ? 'kernel' : 'wait', loopWords().inside, ''], slept && ['wait', 'in the enter: asleep', ''], !ring && drawing.timed && ['copy', 'in other calls: recv, send, …', ''], ['handle', loopWords().own, ''],
      ['batch', ring ? 'completions of each enter' : 'ready descriptors of each wait', ''], ring && ['flight', 'operations in flight', '']];
  const all = [...loopItems, ['armed', ring ? 'receive armed' : 'receive called', ''], ['in', 'bytes received', 'tick'],
    ['out', ring ? 'send: submitted to reaped' : 'send', ''],
    health.kernel && ['wait', 'completion posted and not reaped', ''],
    health.ops.some(op => op.implied) && ['implied', 'send without a completion: it ended within this time', ''], ['bad', 'abnormal', 'tick'],
    drawing.detail && ['in', 'messages of each part, where there are no marks', 'pale']];
  for (const [color, text, shape] of all.filter(Boolean)) {
    const item = element('li'), patch = element('i', null, shape);
    patch.style.background = `var(--${color})`;
    item.append(patch, text);
    $('legend').append(item);
  }
}

/** Distributions: each a chart that is a table. */
function charts() {
  const chart = (title, note, color, rows) => {
    // So that one is seen near many thousands.
    const most = Math.max(...rows.map(row => row[1]), 1), length = n => n && Math.log10(n * 2) / Math.log10(most * 2) * 100;
    const lines = [...Array(Math.floor(Math.log10(most)) + 1).keys()].map(power => length(10 ** power))
      .map(at => `linear-gradient(90deg, transparent calc(${at}% - 1px), var(--line) calc(${at}% - 1px) ${at}%, transparent ${at}%)`);
    const box = element('div', null, 'chart'), table = element('table');
    table.setAttribute('aria-label', title);
    for (const [name, n] of rows) {
      const row = element('tr'), head = element('th', name), bar = element('td', null, 'bin'), patch = element('span', null, 'fill');
      head.scope = 'row';
      patch.style.cssText = `width:${length(n)}%;background:var(--${color})`;
      if (!n) patch.style.visibility = 'hidden';
      bar.append(patch);
      // A line at 1, at 10, at 100, …
      bar.style.background = lines.join();
      row.append(head, bar, element('td', count(n)));
      table.append(row);
    }
    box.append(element('h3', title), table, element('p', note));
    $('charts').append(box);
  };
  const binName = bin => bin < 2 ? `${bin}` : `${2 ** (bin - 1)}–${2 ** bin - 1}`;
  const bins = list => list.map((n, bin) => [binName(bin), n]);
  if (loop) {
    const { batches, submitted } = loop;
    chart(ring ? 'Completions per enter' : 'Ready descriptors per wait', `mean ${digits(batches.mean)}, at most ${count(batches.max)}`, 'batch', bins(batches.bins));
    if (ring) chart('Submissions per enter', `mean ${digits(submitted.mean)}, at most ${count(submitted.max)}`, 'flight', bins(submitted.bins));
  }
  for (const op of health.ops) {
    // The table is enough for a few.
    if (op.octaves.reduce((all, one) => all + one.count, 0) < 10) continue;
    const by = new Map(op.octaves.map(one => [one.from_ns, one.count])), rows = [];
    const last = op.octaves.at(-1).from_ns;
    for (let from = op.octaves[0].from_ns; from <= last; from = from ? from * 2 : 1000) rows.push([from ? span(from) : '< 1 µs', by.get(from) ?? 0]);
    const { p50_ns, p99_ns, max_ns } = op.ages ?? {};
    const note = `p50 ${span(p50_ns)}, p99 ${span(p99_ns)}, max ${span(max_ns)}. ` + (op.on_ring ? 'An age ends when the completion is reaped: it is an upper bound of the latency.' : op.may_sleep ? 'From the start of the call to its end, asleep and awake.' : 'From the start of the call to its end.');
    chart(`${op.op}: ${op.on_ring ? 'age' : 'time'}`, note, op.op.startsWith('send') ? 'out' : 'in', rows);
  }
  if (!$('charts').children.length) $('charts').append(element('p', 'No durations were recorded.'));
}

/** Whether a connection was accepted before what is here. */
const isEarlier = stats => stats.accepted_ns == null && of.part !== 'whole';

function tables() {
  const some = n => n ? count(n) : '';
  const ages = row => ['p50_ns', 'p90_ns', 'p99_ns', 'p99_9_ns', 'max_ns'].map(name => row.ages ? span(row.ages[name]) : '');
  const errors = all => Object.entries(all).map(([name, n]) => `${count(n)} ${name}`).join(', ');
  fill($('ops'), ['operation', ring ? 'submitted' : 'called', ring ? 'completions' : 'returned', 'ok', ring ? 'no completion' : 'would block', 'short', 'eof', 'errors', ring ? 'age: p50' : 'took: p50', 'p90', 'p99', 'p99.9', 'max', 'in flight'],
    health.ops.map(row => [row.op + (row.multishot ? '*' : ''), count(row.begun), count(row.ended), count(row.ok), some(row.on_ring ? row.implied : row.would_block), some(row.short), some(row.eof), errors(row.errors), ...ages(row), some(row.in_flight)]));
  const ended = stats => stats.faults.length ? `out of order: ${stats.faults.join('; ')}`
    : typeof stats.ending === 'object' ? `broken: ${stats.ending.broken}`
    : { open: 'open', peer_first: 'clean, peer first', we_first: 'clean, we first' }[stats.ending];
  const go = stats => {
    const button = element('button', stats.conn);
    button.type = 'button';
    button.addEventListener('click', () => { $('search').value = stats.conn; find(true); $('timeline').focus(); });
    return button;
  };
  fill($('connections'), ['connection', 'opened', 'lived', 'messages', 'in', 'out', 'turnaround: mean', 'slowest', 'receives', 'ENOBUFS', 'short', 'ended'],
    connections.map(stats => [go(stats), isEarlier(stats) ? 'before' : span(stats.accepted_ns ?? stats.first_ns), `${isEarlier(stats) ? '> ' : ''}${span(stats.last_ns - (stats.accepted_ns ?? stats.first_ns))}`, count(stats.messages), bytes(stats.bytes_in), bytes(stats.bytes_out),
      stats.exchanges ? span(stats.exchanges_ns / stats.exchanges) : '–', span(stats.slowest_ns), count(stats.receives), some(stats.out_of_buffers), some(stats.short), ended(stats)]), [11]);
  $('conns').append(...conns.map(conn => { const option = element('option'); option.value = conn.id; return option; }));
}

// ---- The timeline --------------------------------------------------------------------------------

const overview = $('overview'), canvas = $('timeline'), tip = $('tip');
const AXIS = 24, STRIP = drawing.detail ? 16 : 0, LOOP = 30, BATCH = 40, FLIGHT = 30, GAP = 8, ROW = 22, BAND = 8, THREAD_ROW = 16;
let view = busy.slice(), chosen = null, colors = {}, pointer = null, queued = false, selection = null;

const gutter = () => canvas.clientWidth < 560 ? 62 : 96;
const rows = (() => {
  let top = AXIS + STRIP;
  const place = height => { const at = top; top += height + GAP; return at; };
  const all = { loop: loop ? place(LOOP) : null, batch: loop ? place(BATCH) : null, flight: loop && ring ? place(FLIGHT) : null };
  all.threads = threads.length ? place(threads.length * (THREAD_ROW + 2)) : null;
  all.conns = top + 2;
  all.others = parts.others ? all.conns + conns.length * ROW : null;
  all.end = all.conns + (conns.length + (parts.others ? 1 : 0)) * ROW + 6;
  return all;
})();
const xOf = t => gutter() + (t - view[0]) / (view[1] - view[0]) * (canvas.clientWidth - gutter());
const tOf = x => view[0] + (x - gutter()) / (canvas.clientWidth - gutter()) * (view[1] - view[0]);

/** The first index whose value is no less. */
function lower(values, value) {
  let from = 0, to = values.length;
  while (from < to) { const mid = (from + to) >> 1; if (values[mid] < value) from = mid + 1; else to = mid; }
  return from;
}

function setView(from, to) {
  const most = whole[1] - whole[0], least = Math.min(500, most);
  let width = Math.min(Math.max(to - from, least), most);
  let begin = (from + to - width) / 2;
  begin = Math.min(Math.max(begin, whole[0]), whole[1] - width);
  view = [begin, begin + width];
  redraw();
}
const zoom = (factor, at = (view[0] + view[1]) / 2) => setView(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
const move = share => { const by = (view[1] - view[0]) * share; setView(view[0] + by, view[1] + by); };

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; draw(); });
}

function sized(node, height) {
  const scale = devicePixelRatio || 1, width = node.clientWidth;
  node.style.height = `${height}px`;
  if (node.width !== Math.round(width * scale) || node.height !== Math.round(height * scale)) {
    node.width = Math.round(width * scale);
    node.height = Math.round(height * scale);
  }
  const ctx = node.getContext('2d');
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

function readColors() {
  const style = getComputedStyle(root);
  for (const name of ['bg', 'panel', 'ink', 'muted', 'line', 'kernel', 'handle', 'in', 'armed', 'out', 'implied', 'bad', 'batch', 'flight', 'wait', 'copy', 'other']) colors[name] = style.getPropertyValue(`--${name}`).trim();
  colors.sans = style.getPropertyValue('--sans').trim();
  colors.mono = style.getPropertyValue('--mono').trim();
}

function draw() {
  drawOverview();
  scales = [];
  const ctx = sized(canvas, rows.end), width = canvas.clientWidth, left = gutter();
  ctx.fillStyle = colors.panel;
  ctx.fillRect(left, 0, width - left, rows.end);
  axis(ctx, width);
  names(ctx, left);
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, AXIS, width - left, rows.end);
  ctx.clip();
  const split = divided();
  if (drawing.detail) drawStrip(ctx, left, split);
  const drawn = { iterations: loop ? drawLoop(ctx, left, width, split) : 0, threads: 0, calls: 0, marks: 0, parts: 0, conns: 0 };
  threads.forEach((row, index) => {
    const calls = drawThread(ctx, row, rows.threads + index * (THREAD_ROW + 2), left, width, split);
    drawn.calls += calls;
    drawn.threads += calls > 0;
  });
  conns.forEach((conn, index) => {
    const top = rows.conns + index * ROW;
    ctx.globalAlpha = chosen == null || chosen === index ? 1 : 0.25;
    drawLine(ctx, conn.stats, top + ROW / 2, left, width);
    const cells = conn.parts ? drawParts(ctx, conn.parts, split.coarse, mostOfConns, top, left) : 0;
    const marks = drawConn(ctx, conn, top, left, width, split.fine[0]);
    ctx.globalAlpha = 1;
    drawn.marks += marks;
    drawn.parts += cells;
    drawn.conns += marks + cells > 0;
  });
  if (parts.others) drawn.parts += drawParts(ctx, parts.others, [view], mostOfOthers, rows.others, left);
  if (pointer && pointer.x >= left) { ctx.fillStyle = colors.muted; ctx.fillRect(pointer.x, AXIS, 1, rows.end); }
  if (selection) { ctx.globalAlpha = 0.2; ctx.fillStyle = colors.in; ctx.fillRect(Math.min(...selection), AXIS, Math.abs(selection[1] - selection[0]), rows.end); }
  ctx.restore();
  writeScales(ctx, left);
  // The numbers of what is drawn, for screen readers and tests.
  Object.assign(canvas.dataset, drawn);
  $('range').textContent = `${span(view[1] - view[0])} from ${moments(view[0])}`;
  const first = drawing.threads ? `${plural(drawn.calls, 'call')} of ${drawn.threads} ${drawing.threads.all.kind}` : plural(drawn.iterations, 'iteration');
  canvas.setAttribute('aria-label', `Timeline: ${first}, ${plural(drawn.marks, 'mark')} and counts of ${plural(drawn.parts, 'part')} on ${plural(drawn.conns, 'connection')}, ${$('range').textContent}`);
  if ($('iterations-details').open) iterationsTable();
  remember();
}

function axis(ctx, width) {
  const left = gutter(), length = view[1] - view[0], about = length / Math.max(2, Math.floor((width - left) / 110));
  const power = 10 ** Math.floor(Math.log10(about)), step = [1, 2, 5, 10].map(n => n * power).find(n => n >= about);
  const [unit, name] = step >= 1e8 ? [1e9, 's'] : step >= 1e5 ? [1e6, 'ms'] : step >= 100 ? [1e3, 'µs'] : [1, 'ns'];
  const places = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  ctx.font = `11px ${colors.sans}`;
  ctx.textBaseline = 'middle';
  ctx.textAlign = 'left';
  for (let t = Math.ceil(view[0] / step) * step; t < view[1]; t += step) {
    const x = xOf(t);
    ctx.fillStyle = colors.line;
    ctx.fillRect(Math.round(x), 0, 1, rows.end);
    const text = `${(t / unit).toLocaleString('en-US', { minimumFractionDigits: places, maximumFractionDigits: places })} ${name}`;
    if (x + 6 + ctx.measureText(text).width > width) continue;
    ctx.fillStyle = colors.muted;
    ctx.fillText(text, x + 5, AXIS / 2);
  }
}

function names(ctx, left) {
  const name = (text, top, height, font = colors.sans, color = colors.ink) => {
    ctx.font = `12px ${font}`;
    ctx.fillStyle = color;
    ctx.fillText(text, 0, top + height / 2, left - 6);
  };
  if (loop) {
    name(`loop r${health.source.lane}`, rows.loop, LOOP);
    name(ring ? 'completions' : 'ready', rows.batch + 8, BATCH);
    if (ring) name('in flight', rows.flight + 8, FLIGHT);
  }
  threads.forEach(({ info }, index) => {
    const top = rows.threads + index * (THREAD_ROW + 2);
    name(info.lane, top, THREAD_ROW, colors.mono);
    if (left < 80 || info.thread == null) return;
    ctx.font = `10px ${colors.mono}`;
    ctx.fillStyle = colors.muted;
    ctx.textAlign = 'right';
    ctx.fillText(info.thread, left - 6, top + THREAD_ROW / 2, left - 42);
    ctx.textAlign = 'left';
  });
  if (parts.others) name('others', rows.others, ROW, colors.mono, colors.muted);
  conns.forEach((conn, index) => name(conn.id, rows.conns + index * ROW, ROW, colors.mono, chosen == null || chosen === index ? colors.ink : colors.muted));
}

/** The loop: each pixel's share of time in the enter or wait, in calls, and in neither. */
function drawLoop(ctx, left, width, { coarse, fine }) {
  const [from, to] = fine[0] ?? [0, -1];
  const first = fine.length ? Math.max(0, lower(iterations.at, from) - 1) : 0, last = fine.length ? lower(iterations.at, to) : 0;
  const columns = Math.ceil(width - left), scale = (width - left) / (view[1] - view[0]);
  const array = (value = 0) => new Float64Array(columns).fill(value);
  const inside = array(), asleep = array(), calls = array(), own = array(), bad = array();
  const batches = { marks: array(-1), parts: array(-1) }, flying = array(-1);
  const spread = (into, from, to, share) => {
    from = Math.max(from, 0); to = Math.min(to, columns);
    for (let x = Math.floor(from); x < to; x++) into[x] += (Math.min(to, x + 1) - Math.max(from, x)) * share;
  };
  eachPart(coarse, left, (part, begin, end) => {
    const all = parts.loop;
    for (const [into, times] of [[inside, all.inside], [asleep, all.asleep], [calls, all.calls], [own, all.own]]) spread(into, begin, end, times[part] / parts.step);
    for (let x = Math.max(Math.floor(begin), 0); x < Math.min(end, columns); x++) {
      if (all.iterations[part]) batches.parts[x] = Math.max(batches.parts[x], all.returned[part]);
      if (all.iterations[part]) flying[x] = Math.max(flying[x], all.in_flight[part]);
      if (parts.abnormal[part]) bad[x] = 1;
    }
  });
  const clip = t => (Math.min(Math.max(t, from), to) - view[0]) * scale;
  for (let at = first; at < last; at++) {
    const back = iterations.at[at] + iterations.inside[at], outside = iterations.outside[at];
    const share = outside ? iterations.calls[at] / outside : 0;
    spread(inside, clip(iterations.at[at]), clip(back), 1);
    if (slept && iterations.inside[at]) spread(asleep, clip(iterations.at[at]), clip(back), (iterations.asleep?.[at] ?? 0) / iterations.inside[at]);
    spread(calls, clip(back), clip(back + outside), share);
    spread(own, clip(back), clip(back + outside), 1 - share);
    const x = Math.floor((back - view[0]) * scale);
    if (x < 0 || x >= columns || back > to) continue;
    batches.marks[x] = Math.max(batches.marks[x], iterations.returned[at]);
    flying[x] = Math.max(flying[x], iterations.in_flight[at]);
    if (iterations.abnormal[at]) bad[x] = 1;
  }
  for (let x = 0; x < columns; x++) {
    let bottom = rows.loop + LOOP;
    // A small share of a pixel is visible as well.
    for (const [color, share] of [['handle', own[x]], ['copy', calls[x]]]) {
      const tall = share > 0.001 ? Math.max(Math.min(share, 1) * LOOP, 1.5) : 0;
      bottom -= tall;
      if (tall) { ctx.fillStyle = colors[color]; ctx.fillRect(left + x, bottom, 1, tall); }
    }
    const tall = Math.min(Math.min(inside[x], 1) * LOOP + 1, bottom - rows.loop);
    if (inside[x] > 0) { ctx.fillStyle = colors[ring ? 'kernel' : 'wait']; ctx.fillRect(left + x, rows.loop, 1, tall); }
    if (asleep[x] > 0) { ctx.fillStyle = colors.wait; ctx.fillRect(left + x, rows.loop, 1, tall * Math.min(asleep[x] / inside[x], 1)); }
    if (bad[x]) { ctx.fillStyle = colors.bad; ctx.fillRect(left + x - 1, rows.loop - 4, 3, LOOP + 4); }
  }
  if (last - first < (width - left) / 12) separate(ctx, left, width, first, last);
  const most = [...batches.marks, ...batches.parts].reduce((a, b) => Math.max(a, b), 1), mostFlying = flying.reduce((a, b) => Math.max(a, b), 1);
  const barWidth = Math.max(1, Math.min(4, (width - left) / Math.max(1, last - first) / 3));
  ctx.globalAlpha = 0.6;
  bars(ctx, left, batches.parts, most, rows.batch, BATCH, colors.batch, 1);
  ctx.globalAlpha = 1;
  bars(ctx, left, batches.marks, most, rows.batch, BATCH, colors.batch, barWidth);
  scales.push([most, rows.batch]);
  if (ring) steps(ctx, left, flying, mostFlying, rows.flight, FLIGHT, colors.flight);
  return last - first;
}

/** If iterations are wide enough: the borders between them and the duration of each enter. */
function separate(ctx, left, width, first, last) {
  ctx.font = `11px ${colors.sans}`;
  for (let at = first; at < last; at++) {
    const from = xOf(iterations.at[at]), to = xOf(iterations.at[at] + iterations.inside[at]);
    ctx.fillStyle = colors.bg;
    ctx.fillRect(from - 0.5, rows.loop, 1, LOOP);
    const text = `${waitName} ${span(iterations.inside[at])}`, shown = Math.max(from, left);
    if (Math.min(to, width) - shown > ctx.measureText(text).width + 12) { ctx.fillStyle = colors.ink; ctx.fillText(text, shown + 6, rows.loop + LOOP / 2); }
  }
}

/** The maximum of each scale, written beside it when the rest is drawn. */
let scales = [];
function writeScales(ctx, left) {
  ctx.font = `10px ${colors.sans}`;
  ctx.fillStyle = colors.muted;
  ctx.textAlign = 'right';
  for (const [most, top] of scales) ctx.fillText(count(most), left - 4, top + 4);
  ctx.textAlign = 'left';
}

function bars(ctx, left, values, most, top, height, color, width) {
  ctx.fillStyle = color;
  values.forEach((n, x) => { if (n > 0) { const tall = Math.max(1, n / most * height); ctx.fillRect(left + x, top + height - tall, width, tall); } });
  ctx.fillStyle = colors.line;
  ctx.fillRect(left, top + height, values.length, 1);
}

function steps(ctx, left, values, most, top, height, color) {
  ctx.strokeStyle = color;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  let y = null;
  values.forEach((n, x) => {
    if (n < 0) return;
    const now = top + height - n / most * (height - 2);
    if (y == null) ctx.moveTo(left + x, now); else { ctx.lineTo(left + x, y); ctx.lineTo(left + x, now); }
    y = now;
  });
  if (y != null) ctx.lineTo(left + values.length, y);
  ctx.stroke();
  ctx.fillStyle = colors.line;
  ctx.fillRect(left, top + height, values.length, 1);
  scales.push([most, top]);
}

/** The line of a connection, as long as it is open. */
function drawLine(ctx, stats, middle, left, width) {
  const begin = isEarlier(stats) ? whole[0] : stats.accepted_ns ?? stats.first_ns;
  const from = Math.max(xOf(begin), left), to = Math.min(xOf(stats.closed_ns ?? stats.last_ns), width);
  if (to >= from) { ctx.fillStyle = colors.line; ctx.fillRect(from, middle - 0.5, Math.max(to - from, 1), 1); }
}

/** A connection within these times: receives above the line, sends below it. What is abnormal is drawn everywhere. */
function drawConn(ctx, conn, top, left, width, times) {
  const middle = top + ROW / 2, begin = times ? Math.max(xOf(times[0]), left) : width, over = times ? Math.min(xOf(times[1]), width) : left;
  const first = lower(conn.at, view[0] - conn.longest), last = lower(conn.at, view[1]);
  const isDrawn = (x, end) => end >= begin - 1 && x <= over;
  const abnormal = [];
  let drawn = 0, lastIn = -1, lastOut = -1;
  // Armed receives are drawn below their completions.
  for (let at = first; at < last; at++) {
    const bits = conn.bits[at];
    if (!(bits & SPAN) || bits & OUTBOUND) continue;
    const x = xOf(conn.at[at]), end = xOf(conn.at[at] + conn.lasted[at]);
    if (!isDrawn(x, end)) continue;
    ctx.fillStyle = colors.armed;
    ctx.fillRect(Math.max(x, begin), middle - BAND - 0.5, Math.max(Math.min(end, over) - Math.max(x, begin), 1), BAND);
  }
  for (let at = first; at < last; at++) {
    const bits = conn.bits[at], x = xOf(conn.at[at]), end = xOf(conn.at[at] + conn.lasted[at]);
    if (bits & ABNORMAL && end >= left - 1) abnormal.push(bits & SPAN ? end : x);
    if (!isDrawn(x, end)) continue;
    drawn++;
    if (conn.waited?.[at]) {
      const reaped = bits & SPAN ? end : x, posted = Math.max(xOf(conn.at[at] + (bits & SPAN ? conn.lasted[at] : 0) - conn.waited[at]), begin);
      ctx.fillStyle = colors.wait;
      ctx.fillRect(posted, bits & OUTBOUND ? middle + BAND - 1.5 : middle - BAND - 0.5, Math.max(reaped - posted, 0), 2);
    }
    if (bits & OUTBOUND) {
      if (bits & SPAN) {
        const wide = Math.max(end - x, 1.5);
        if (x + wide <= lastOut + 1) continue;
        // A send without a completion ended at an unknown time within its bar.
        ctx.fillStyle = bits & IMPLIED ? colors.implied : colors.out;
        ctx.fillRect(x, middle + 0.5, wide, BAND);
        ctx.fillStyle = colors.out;
        ctx.fillRect(x, middle + 0.5, Math.min(wide, 2), BAND);
        lastOut = x + wide;
      } else {
        ctx.fillStyle = colors.muted;
        ctx.fillRect(x - 1, middle + 1.5, 2, BAND - 2);
      }
    } else {
      const tick = bits & SPAN ? end : x;
      if (bits & (UNENDED | (bits & SPAN ? MULTISHOT : 0)) || !(bits & RESULT) || (tick - lastIn < 0.5 && conn.res[at] > 0)) continue;
      // A receive without bytes is a pale tick.
      ctx.fillStyle = conn.res[at] > 0 ? colors.in : colors.muted;
      ctx.fillRect(tick - 1, middle - BAND - 0.5, 2, BAND);
      lastIn = tick;
    }
  }
  ctx.fillStyle = colors.bad;
  for (const x of abnormal) { ctx.fillRect(x - 1, top, 2.5, ROW - 2); ctx.beginPath(); ctx.moveTo(x - 4, top); ctx.lineTo(x + 5, top); ctx.lineTo(x + 0.5, top + 6); ctx.fill(); }
  return drawn;
}

function drawOverview() {
  const height = 44, ctx = sized(overview, height), left = gutter(), width = overview.clientWidth - left;
  ctx.fillStyle = colors.panel;
  ctx.fillRect(left, 0, width, height);
  // Columns of two pixels or more: as many parts together as that takes.
  const together = Math.ceil(parts.messages.length / (width / 2)), sums = list => list.reduce((all, n, at) => { const x = Math.floor(at / together); all[x] = (all[x] ?? 0) + n; return all; }, []);
  const messages = sums(parts.messages), abnormal = sums(parts.abnormal), most = messages.reduce((a, b) => Math.max(a, b), 1), wide = width / parts.messages.length * together;
  messages.forEach((n, at) => {
    if (n) { const tall = Math.max(2, Math.sqrt(n / most) * (height - 8)); ctx.fillStyle = colors.in; ctx.globalAlpha = 0.6; ctx.fillRect(left + at * wide, height - tall, wide + 0.3, tall); }
    ctx.globalAlpha = 1;
    if (abnormal[at]) { ctx.fillStyle = colors.bad; ctx.fillRect(left + at * wide, 0, Math.max(wide, 2), 6); }
  });
  ctx.fillStyle = colors.ink;
  ctx.font = `12px ${colors.sans}`;
  ctx.textBaseline = 'middle';
  ctx.fillText('messages', 0, height / 2, left - 6);
  const x = t => left + (t - whole[0]) / (whole[1] - whole[0]) * width;
  const from = x(view[0]), to = Math.max(x(view[1]), from + 3);
  ctx.globalAlpha = 0.55;
  ctx.fillStyle = colors.bg;
  ctx.fillRect(left, 0, from - left, height);
  ctx.fillRect(to, 0, left + width - to, height);
  ctx.globalAlpha = 1;
  ctx.strokeStyle = colors.ink;
  ctx.lineWidth = 1.5;
  ctx.strokeRect(from + 0.75, 0.75, Math.max(to - from - 1.5, 1), height - 1.5);
}

// ---- Details --------------------------------------------------------------------------------------

/** The lines about what is under the pointer. */
function under(x, y) {
  const t = tOf(x), near = tOf(x + 5) - t;
  const line = Math.floor((y - rows.conns) / ROW);
  if (parts.others && line === conns.length) return ['<b>others</b>', ...underParts(parts.others, t)];
  if (y >= rows.conns && line >= 0 && line < conns.length) return underConn(conns[line], t, near, y - rows.conns - line * ROW >= ROW / 2);
  const index = Math.floor((y - rows.threads) / (THREAD_ROW + 2));
  if (threads.length && y >= rows.threads && index < threads.length) return underThread(threads[index], t, near);
  if (!loop || y < AXIS) return null;
  if (isCoarse(t)) return underLoopParts(t);
  const at = lower(iterations.at, t + 1) - 1;
  if (at < 0 || t > iterations.at[at] + iterations.inside[at] + iterations.outside[at]) return null;
  const lines = [`<b>iteration ${count(iterations.number[at])}</b> <span>at ${moments(iterations.at[at])}</span>`, `${waitName} ${span(iterations.inside[at])}${slept ? `, ${span(iterations.asleep?.[at] ?? 0)} of it asleep` : ''}${iterations.calls[at] ? `, other calls ${span(iterations.calls[at])}` : ''}, ${loopWords().own} ${span(iterations.outside[at] - iterations.calls[at])}`];
  lines.push(ring ? `${plural(iterations.taken[at], 'submission')} taken, ${plural(iterations.returned[at], 'completion')}, ${count(iterations.in_flight[at])} in flight` : plural(iterations.returned[at], 'ready descriptor'));
  if (iterations.abnormal[at]) lines.push('contains something abnormal');
  return lines;
}

function underConn(conn, t, near, out) {
  const from = lower(conn.at, t - Math.max(near, conn.longest)), to = lower(conn.at, t + near);
  let best = -1, distance = Infinity;
  for (let at = from; at < to; at++) {
    const bits = conn.bits[at];
    if (!!(bits & OUTBOUND) !== out) continue;
    const end = conn.at[at] + conn.lasted[at];
    if (isCoarse(t) && !(bits & ABNORMAL)) continue;
    // A tick takes precedence over the armed receive around it.
    const away = bits & SPAN ? (t < conn.at[at] - near || t > end + near ? Infinity : !(bits & OUTBOUND) ? near * 0.9 : Math.max(0, conn.at[at] - t, t - end)) : Math.abs(t - conn.at[at]);
    if (away <= near && away < distance) { distance = away; best = at; }
  }
  const lines = [`<b>${conn.id}</b> <span>${plural(conn.stats.messages, 'message')}, slowest exchange ${span(conn.stats.slowest_ns)}</span>`];
  if (best < 0) return conn.parts && isCoarse(t) ? [...lines, ...underParts(conn.parts, t)] : lines;
  const bits = conn.bits[best], name = drawing.names[conn.name[best]], res = conn.res[best];
  const came = bits & UNENDED ? 'not ended' : !(bits & RESULT) ? '' : res < 0 ? `result ${res}` : bits & SPAN && bits & MULTISHOT ? '' : `${count(res)}${bits & BYTES ? ' B' : ''}`;
  lines.push(`<b>${name}</b> ${came}${bits & ABNORMAL ? ' – abnormal' : ''}`);
  lines.push(`at ${moments(conn.at[best])}${bits & SPAN ? `, ${bits & IMPLIED ? 'ended within' : 'for'} ${span(conn.lasted[best])}${bits & MULTISHOT ? ', many completions' : ''}` : ''}`);
  if (conn.waited?.[best]) lines.push(`${conn.took?.[best] ? `posted ${span(conn.took[best])} after the arrival, ` : ''}reaped ${span(conn.waited[best])} after it was posted`);
  return lines;
}

function hover() {
  const lines = pointer && pointer.x >= gutter() ? under(pointer.x, pointer.y) : null;
  tip.hidden = !lines;
  if (!lines) return;
  tip.innerHTML = lines.join('<br>');
  const right = pointer.x + 16 + tip.offsetWidth > canvas.clientWidth;
  tip.style.left = `${right ? Math.max(0, pointer.x - 14 - tip.offsetWidth) : pointer.x + 16}px`;
  tip.style.top = `${canvas.offsetTop + pointer.y + 14}px`;
}

function iterationsTable() {
  const first = Math.max(0, lower(iterations.at, view[0]) - 1), last = lower(iterations.at, view[1]), shown = Math.min(last, first + 200);
  const list = [];
  for (let at = first; at < shown; at++) list.push([count(iterations.number[at]), moment(iterations.at[at]), span(iterations.inside[at]), span(iterations.calls[at]), span(iterations.outside[at] - iterations.calls[at]), count(iterations.taken[at]), count(iterations.returned[at]), count(iterations.in_flight[at]), iterations.abnormal[at] ? 'abnormal' : '']);
  if (shown < last) list.push([`… and ${count(last - shown)} more: zoom in`]);
  if (isCoarse(view[0]) || isCoarse(view[1])) list.push([`Outside of ${moment(detail[0])} to ${moment(detail[1])} the page has counts only.`]);
  fill($('iterations'), ['iteration', 'begins', waitName, 'other calls', loopWords().own, 'taken', 'returned', 'in flight', ''], list);
}

/** Moves to the next abnormal event after the middle of the view. */
function nextAbnormal() {
  const middle = (view[0] + view[1]) / 2 + 1;
  let found = Infinity, first = Infinity;
  const see = t => { first = Math.min(first, t); if (t > middle) found = Math.min(found, t); };
  iterations.abnormal?.forEach((is, at) => { if (is) see(iterations.at[at] + iterations.inside[at]); });
  for (const conn of conns) conn.bits.forEach((bits, at) => { if (bits & ABNORMAL) see(conn.at[at] + (bits & SPAN ? conn.lasted[at] : 0)); });
  Object.entries(parts.abnormal).forEach(([part, n]) => { const t = parts.from + (+part + 0.5) * parts.step; if (n && drawing.detail && (t < detail[0] || t > detail[1])) see(t); });
  const at = found < Infinity ? found : first;
  $('search-said').textContent = at < Infinity ? '' : 'Nothing abnormal is drawn.';
  if (at < Infinity) { const width = Math.min(view[1] - view[0], Math.max(2e6, drawing.detail ? parts.step * 3 : 0)); setView(at - width / 2, at + width / 2); }
}

function find(go) {
  const text = $('search').value.trim().replace(/^c?/, text => text && 'c');
  const wanted = text && !text.startsWith('c') ? `c${text}` : text;
  let index = conns.findIndex(conn => conn.id === wanted);
  if (index < 0 && wanted) index = conns.findIndex(conn => conn.id.startsWith(`${wanted}.`));
  chosen = index < 0 ? null : index;
  $('search-said').textContent = wanted && index < 0 ? `${wanted} has no row: ${conns.length === 1 ? 'it is not the worst connection' : `it is not among the ${count(conns.length)} worst connections`}, or does not exist.` : '';
  if (go && chosen != null) {
    const { stats } = conns[chosen], from = stats.accepted_ns ?? stats.first_ns, margin = (stats.last_ns - from) * 0.02 + 1000;
    setView(from - margin, stats.last_ns + margin);
    const y = canvas.getBoundingClientRect().top + rows.conns + chosen * ROW;
    if (y < 0 || y > innerHeight - ROW) scrollBy({ top: y - innerHeight / 2 });
  }
  redraw();
}

// ---- Navigation -----------------------------------------------------------------------------------

const actions = {
  in: () => zoom(0.5), out: () => zoom(2), whole: () => setView(...whole), busy: () => setView(...busy), next: nextAbnormal,
};
document.querySelectorAll('[data-do]').forEach(button => button.addEventListener('click', actions[button.dataset.do]));
const keys = {
  '+': actions.in, '=': actions.in, '-': actions.out, '0': actions.whole, b: actions.busy, n: nextAbnormal,
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), PageUp: () => move(-0.9), PageDown: () => move(0.9),
  Home: () => setView(whole[0], whole[0] + view[1] - view[0]), End: () => setView(whole[1] - view[1] + view[0], whole[1]),
};
canvas.addEventListener('keydown', event => {
  const action = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
  if (action) { event.preventDefault(); action(); }
});
canvas.addEventListener('wheel', event => {
  // The plain wheel scrolls the page.
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  if (event.offsetX < gutter() || !(sideways || event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  const pixels = event.deltaMode === 1 ? 16 : 1;
  if (sideways && !event.ctrlKey) move((event.deltaX || event.deltaY) * pixels / canvas.clientWidth);
  else zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * pixels * 0.0025))), tOf(event.offsetX));
}, { passive: false });
canvas.addEventListener('dblclick', event => zoom(0.25, tOf(event.offsetX)));

let drag = null;
canvas.addEventListener('pointerdown', event => {
  if (event.button || event.offsetX < gutter()) return;
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.offsetX, view: view.slice(), selects: event.shiftKey };
  canvas.classList.add('dragging');
});
canvas.addEventListener('pointermove', event => {
  pointer = { x: event.offsetX, y: event.offsetY };
  if (drag?.selects) selection = [drag.x, event.offsetX];
  else if (drag) {
    const by = (drag.x - event.offsetX) / (canvas.clientWidth - gutter()) * (drag.view[1] - drag.view[0]);
    setView(drag.view[0] + by, drag.view[1] + by);
  }
  hover();
  redraw();
});
const release = () => {
  if (selection && Math.abs(selection[1] - selection[0]) > 4) setView(tOf(Math.min(...selection)), tOf(Math.max(...selection)));
  selection = drag = null;
  canvas.classList.remove('dragging');
  redraw();
};
canvas.addEventListener('pointerup', release);
canvas.addEventListener('pointercancel', release);
canvas.addEventListener('pointerleave', () => { pointer = null; hover(); redraw(); });

let brush = null;
const overviewTime = event => whole[0] + Math.max(0, Math.min(1, (event.offsetX - gutter()) / (overview.clientWidth - gutter()))) * (whole[1] - whole[0]);
overview.addEventListener('pointerdown', event => { overview.setPointerCapture(event.pointerId); brush = overviewTime(event); });
overview.addEventListener('pointermove', event => { if (brush != null && overviewTime(event) !== brush) { const now = overviewTime(event); setView(Math.min(brush, now), Math.max(brush, now)); } });
overview.addEventListener('pointerup', event => {
  // A click moves the view there and keeps its width.
  if (brush != null && overviewTime(event) === brush) { const half = (view[1] - view[0]) / 2; setView(brush - half, brush + half); }
  brush = null;
});

$('search').addEventListener('input', () => find(false));
$('search').addEventListener('keydown', event => { if (event.key === 'Enter') find(true); });
$('iterations-details').addEventListener('toggle', redraw);
/** Draws all anew, at once: in other colours or another size. */
const repaint = () => { readColors(); draw(); painted.forEach(paint => paint()); };
addEventListener('resize', repaint);
for (const media of ['(prefers-color-scheme: dark)', 'print']) matchMedia(media).addEventListener('change', repaint);

// The address has the part in view, as a link to it: #t=from-to&c=c7.1
let remembering = null;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const text = `#t=${Math.round(view[0])}-${Math.round(view[1])}${chosen != null ? `&c=${conns[chosen].id}` : ''}`;
    try { history.replaceState(null, '', text); } catch { /* some browsers forbid this for files */ }
  }, 300);
}
function recall() {
  const given = new URLSearchParams(location.hash.slice(1)), times = (given.get('t') ?? '').split('-').map(Number);
  if (given.get('c')) { $('search').value = given.get('c'); find(false); }
  if (times.length === 2 && times[1] > times[0]) setView(...times);
}
addEventListener('hashchange', recall);

readColors();
words();
tiles();
legend();
heatmaps();
charts();
tables();
if (threads.length) threadsTable();
$('iterations-details').hidden = !loop;
recall();
repaint();
root.dataset.ready = 'yes';
