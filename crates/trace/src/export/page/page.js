'use strict';
// A failure is to be seen, also by who looks at the document and not at the console.
const root = document.documentElement;
root.dataset.errors = 0;
addEventListener('error', () => { root.dataset.errors++; });

// ---- What there is -------------------------------------------------------------------------------

const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const { health, drawing, roster } = data;

/** A packed column: Base64 of varints, seven bits a byte, the least first. */
function unpack(text) {
  const bytes = atob(text), values = [];
  for (let at = 0, value = 0, scale = 1; at < bytes.length; at++) {
    const byte = bytes.charCodeAt(at);
    value += (byte & 127) * scale;
    scale *= 128;
    if (byte < 128) { values.push(value); value = 0; scale = 1; }
  }
  return Float64Array.from(values);
}
/** A column of differences. */
function unpackAfter(text) {
  const values = unpack(text);
  for (let at = 1; at < values.length; at++) values[at] += values[at - 1];
  return values;
}
const signed = n => n % 2 ? -(n + 1) / 2 : n / 2;

const turns = {};
for (const name in drawing.turns) turns[name] = (name === 'at' || name === 'number' ? unpackAfter : unpack)(drawing.turns[name]);
const parts = {};
for (const name in drawing.parts) parts[name] = unpack(drawing.parts[name]);
const lanes = drawing.lanes.map((lane, index) => ({
  conn: lane.conn, life: roster.connections[index],
  at: unpackAfter(lane.at), lasted: unpack(lane.lasted), name: unpack(lane.name), bits: unpack(lane.bits),
  res: unpack(lane.res).map(signed),
}));
// The longest mark of a lane: what begins earlier than that before the view cannot reach into it.
for (const lane of lanes) lane.longest = lane.lasted.reduce((a, b) => Math.max(a, b), 0);
const ABNORMAL = 1, SPAN = 2, OUT = 4, UNENDED = 8, RESULT = 16, MANY = 32, QUIET = 64;
const threads = swimmers(drawing.threads);
// Many recorded: there is no one loop whose turns could be drawn.
const loop = drawing.threads ? null : health.turns;
const ring = health.turns ? health.turns.name === 'enter' : drawing.names.some(name => name.endsWith('submitted'));
const turnName = health.turns ? health.turns.name : 'turn';

const whole = [drawing.from, drawing.from + Math.max(health.source.span_ns, 1000)];
const busy = (() => {
  let from = Infinity, to = -Infinity;
  for (const life of roster.connections) { from = Math.min(from, life.accepted_ns ?? life.first_ns); to = Math.max(to, life.last_ns); }
  if (!(to > from)) return whole;
  const margin = (to - from) * 0.01;
  return [Math.max(whole[0], from - margin), Math.min(whole[1], to + margin)];
})();

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
const moment = ns => `${(ns / 1e9).toFixed(9)} s`;

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
  $('title').textContent = `${source.model} – a trace of process ${source.pid}`;
  $('source').textContent = [source.detail, `${count(source.written)} records, ${count(source.lost)} lost, over ${span(source.span_ns)}`,
    `clock: ${source.clock}${source.level ? `, read per ${source.level}` : ''}`, source.kernel && `kernel ${source.kernel}`].filter(Boolean).join(' · ');
  $('notes').append(...source.uncertain.map(text => element('li', text)));
  $('left-out').append(...data.left_out.map(text => element('li', text)));

  const verdict = $('verdict');
  verdict.classList.toggle('bad', health.verdict.startsWith('not well'));
  verdict.append(element('b', health.verdict.replace(' (see `trace doctor`)', '')), ' ', element('span', health.hint && `– ${health.hint}`));
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
  const share = all && health.source.span_ns ? all.inside_ns / health.source.span_ns : null;
  const list = [
    ['Messages', count(messages), `${bytes(health.bytes_in)} in, ${bytes(health.bytes_out)} out`],
    ['Connections', count(health.connections), `at most ${count(health.connections_max)} at a time`],
    health.calls != null && messages && ['System calls per message', digits(health.calls / messages), `${count(health.calls)} in all`],
    all && [ring ? 'Completions per enter' : 'Reports per wait', digits(all.batches.mean), `at most ${count(all.batches.max)}, of ${count(all.count)} ${turnName}s`],
    share != null && ['Time in the kernel', `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`, 'asleep and awake'],
    ...(drawing.threads ? threadTiles() : []),
    ['Answered, p50', span(health.answered.p50_ns), `p99 ${span(health.answered.p99_ns)}`],
    all && ring && ['In flight', count(all.in_flight_max), 'at most'],
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
  const lane = drawing.threads ? [...PHASES.map(([color, , text]) => [color, text, '']), [BETWEEN[0], BETWEEN[2], '']]
    : [['kernel', `in the kernel (${turnName}): asleep or at work`, ''], ['handle', 'handling', ''],
      ['batch', ring ? 'completions of each enter' : 'reports of each wait', ''], ring && ['flight', 'operations in flight', '']];
  const all = [...lane, ['armed', ring ? 'receive armed' : 'receive called', ''], ['in', 'bytes came', 'tick'],
    ['out', ring ? 'send: submitted to reaped' : 'send', ''],
    health.ops.some(op => op.implied) && ['quiet', 'quiet send: it ended somewhere within', ''], ['bad', 'abnormal', 'tick']];
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
    const most = Math.max(...rows.map(row => row[1]), 1), box = element('div', null, 'chart'), table = element('table');
    table.setAttribute('aria-label', title);
    for (const [name, n] of rows) {
      const row = element('tr'), head = element('th', name), bar = element('td'), patch = element('span', null, 'fill');
      head.scope = 'row';
      patch.style.cssText = `width:${n / most * 100}%;background:var(--${color})`;
      if (!n) patch.style.visibility = 'hidden';
      bar.append(patch);
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
    chart(ring ? 'Completions per enter' : 'Reports per wait', `mean ${digits(batches.mean)}, at most ${count(batches.max)}`, 'batch', bins(batches.bins));
    if (ring) chart('Submissions per enter', `mean ${digits(submitted.mean)}, at most ${count(submitted.max)}`, 'flight', bins(submitted.bins));
  }
  for (const op of health.ops) {
    // Of a few the table says enough.
    if (op.octaves.reduce((all, one) => all + one.count, 0) < 10) continue;
    const by = new Map(op.octaves.map(one => [one.from_ns, one.count])), rows = [];
    const last = op.octaves.at(-1).from_ns;
    for (let from = op.octaves[0].from_ns; from <= last; from = from ? from * 2 : 1000) rows.push([from ? span(from) : '< 1 µs', by.get(from) ?? 0]);
    const { p50_ns, p99_ns, max_ns } = op.ages ?? {};
    const note = `p50 ${span(p50_ns)}, p99 ${span(p99_ns)}, max ${span(max_ns)}. ` + (op.on_ring ? 'An age ends when the completion was reaped: an upper bound, no latency.' : op.may_sleep ? 'From the begin of the call to its end, asleep and awake.' : 'From the begin of the call to its end.');
    chart(`${op.op}: ${op.on_ring ? 'age' : 'time'}`, note, op.op.startsWith('send') ? 'out' : 'in', rows);
  }
  if (!$('charts').children.length) $('charts').append(element('p', 'Nothing here was timed.'));
}

function tables() {
  const some = n => n ? count(n) : '';
  const ages = row => ['p50_ns', 'p90_ns', 'p99_ns', 'p99_9_ns', 'max_ns'].map(name => row.ages ? span(row.ages[name]) : '');
  const errors = all => Object.entries(all).map(([name, n]) => `${count(n)} ${name}`).join(', ');
  fill($('ops'), ['operation', ring ? 'submitted' : 'called', ring ? 'completions' : 'returned', 'ok', ring ? 'quiet' : 'would block', 'short', 'eof', 'errors', ring ? 'age: p50' : 'took: p50', 'p90', 'p99', 'p99.9', 'max', 'in flight'],
    health.ops.map(row => [row.op + (row.multishot ? '*' : ''), count(row.begun), count(row.ended), count(row.ok), some(row.on_ring ? row.implied : row.would_block), some(row.short), some(row.eof), errors(row.errors), ...ages(row), some(row.in_flight)]));
  const ended = life => life.faults.length ? `out of order: ${life.faults.join('; ')}`
    : typeof life.ending === 'object' ? `broken: ${life.ending.broken}`
    : { open: 'open', peer_first: 'clean, peer first', we_first: 'clean, we first' }[life.ending];
  const go = life => {
    const button = element('button', life.conn);
    button.type = 'button';
    button.addEventListener('click', () => { $('search').value = life.conn; find(true); $('lanes').focus(); });
    return button;
  };
  fill($('connections'), ['connection', 'opened', 'lived', 'messages', 'in', 'out', 'answered: mean', 'slowest', 'receives', 'ENOBUFS', 'short', 'ended'],
    roster.connections.map(life => [go(life), span(life.accepted_ns ?? life.first_ns), span(life.last_ns - (life.accepted_ns ?? life.first_ns)), count(life.messages), bytes(life.bytes_in), bytes(life.bytes_out),
      life.exchanges ? span(life.exchanges_ns / life.exchanges) : '–', span(life.slowest_ns), count(life.receives), some(life.out_of_buffers), some(life.short), ended(life)]), [11]);
  $('conns').append(...lanes.map(lane => { const option = element('option'); option.value = lane.conn; return option; }));
}

// ---- The timeline --------------------------------------------------------------------------------

const overview = $('overview'), canvas = $('lanes'), tip = $('tip');
const AXIS = 24, LOOP = 30, BATCH = 40, FLIGHT = 30, GAP = 8, ROW = 22, BAND = 8, SWIM = 16;
let view = busy.slice(), chosen = null, colors = {}, pointer = null, queued = false, selection = null;

const gutter = () => canvas.clientWidth < 560 ? 62 : 96;
const rows = (() => {
  let top = AXIS;
  const place = height => { const at = top; top += height + GAP; return at; };
  const all = { loop: loop ? place(LOOP) : null, batch: loop ? place(BATCH) : null, flight: loop && ring ? place(FLIGHT) : null };
  all.threads = threads.length ? place(threads.length * (SWIM + 2)) : null;
  all.conns = top + 2;
  all.end = all.conns + lanes.length * ROW + 6;
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

function look(from, to) {
  const most = whole[1] - whole[0], least = Math.min(500, most);
  let width = Math.min(Math.max(to - from, least), most);
  let begin = (from + to - width) / 2;
  begin = Math.min(Math.max(begin, whole[0]), whole[1] - width);
  view = [begin, begin + width];
  redraw();
}
const zoom = (factor, at = (view[0] + view[1]) / 2) => look(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
const move = share => { const by = (view[1] - view[0]) * share; look(view[0] + by, view[1] + by); };

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
  const pen = node.getContext('2d');
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function readColors() {
  const style = getComputedStyle(root);
  for (const name of ['bg', 'panel', 'ink', 'muted', 'line', 'kernel', 'handle', 'in', 'armed', 'out', 'quiet', 'bad', 'batch', 'flight', 'wait', 'copy', 'other']) colors[name] = style.getPropertyValue(`--${name}`).trim();
  colors.sans = style.getPropertyValue('--sans').trim();
  colors.mono = style.getPropertyValue('--mono').trim();
}

function draw() {
  drawOverview();
  scales = [];
  const pen = sized(canvas, rows.end), width = canvas.clientWidth, left = gutter();
  pen.fillStyle = colors.panel;
  pen.fillRect(left, 0, width - left, rows.end);
  axis(pen, width);
  names(pen, left);
  pen.save();
  pen.beginPath();
  pen.rect(left, AXIS, width - left, rows.end);
  pen.clip();
  const drawn = { turns: loop ? drawLoop(pen, left, width) : 0, threads: 0, calls: 0, marks: 0, lanes: 0 };
  threads.forEach((lane, index) => {
    const calls = drawThread(pen, lane, rows.threads + index * (SWIM + 2), left, width);
    drawn.calls += calls;
    drawn.threads += calls > 0;
  });
  lanes.forEach((lane, index) => {
    const marks = drawLane(pen, lane, rows.conns + index * ROW, left, width);
    drawn.marks += marks;
    drawn.lanes += marks > 0;
  });
  if (pointer && pointer.x >= left) { pen.fillStyle = colors.muted; pen.fillRect(pointer.x, AXIS, 1, rows.end); }
  if (selection) { pen.globalAlpha = 0.2; pen.fillStyle = colors.in; pen.fillRect(Math.min(...selection), AXIS, Math.abs(selection[1] - selection[0]), rows.end); }
  pen.restore();
  writeScales(pen, left);
  // For who cannot see it: what is drawn, in numbers.
  Object.assign(canvas.dataset, drawn);
  $('range').textContent = `${span(view[1] - view[0])} from ${moment(view[0])}`;
  const first = drawing.threads ? `${drawn.calls} calls of ${drawn.threads} ${drawing.threads.all.kind}` : `${drawn.turns} turns`;
  canvas.setAttribute('aria-label', `Timeline: ${first} and ${drawn.marks} marks on ${drawn.lanes} connections, ${$('range').textContent}`);
  if ($('turns-details').open) turnsTable();
  remember();
}

function axis(pen, width) {
  const left = gutter(), length = view[1] - view[0], about = length / Math.max(2, Math.floor((width - left) / 110));
  const power = 10 ** Math.floor(Math.log10(about)), step = [1, 2, 5, 10].map(n => n * power).find(n => n >= about);
  const [unit, name] = step >= 1e8 ? [1e9, 's'] : step >= 1e5 ? [1e6, 'ms'] : step >= 100 ? [1e3, 'µs'] : [1, 'ns'];
  const places = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  pen.font = `11px ${colors.sans}`;
  pen.textBaseline = 'middle';
  pen.textAlign = 'left';
  for (let t = Math.ceil(view[0] / step) * step; t < view[1]; t += step) {
    const x = xOf(t);
    pen.fillStyle = colors.line;
    pen.fillRect(Math.round(x), 0, 1, rows.end);
    const text = `${(t / unit).toLocaleString('en-US', { minimumFractionDigits: places, maximumFractionDigits: places })} ${name}`;
    if (x + 6 + pen.measureText(text).width > width) continue;
    pen.fillStyle = colors.muted;
    pen.fillText(text, x + 5, AXIS / 2);
  }
}

function names(pen, left) {
  const name = (text, top, height, font = colors.sans, color = colors.ink) => {
    pen.font = `12px ${font}`;
    pen.fillStyle = color;
    pen.fillText(text, 0, top + height / 2, left - 6);
  };
  if (loop) {
    name(`loop r${health.source.lane}`, rows.loop, LOOP);
    name(ring ? 'completions' : 'reports', rows.batch + 8, BATCH);
    if (ring) name('in flight', rows.flight + 8, FLIGHT);
  }
  threads.forEach(({ stint }, index) => {
    const top = rows.threads + index * (SWIM + 2);
    name(stint.lane, top, SWIM, colors.mono);
    if (left < 80 || stint.thread == null) return;
    pen.font = `10px ${colors.mono}`;
    pen.fillStyle = colors.muted;
    pen.textAlign = 'right';
    pen.fillText(stint.thread, left - 6, top + SWIM / 2, left - 42);
    pen.textAlign = 'left';
  });
  lanes.forEach((lane, index) => name(lane.conn, rows.conns + index * ROW, ROW, colors.mono, chosen == null || chosen === index ? colors.ink : colors.muted));
}

/** The loop: what of each pixel's time was spent in the kernel and in handling. */
function drawLoop(pen, left, width) {
  const first = Math.max(0, lower(turns.at, view[0]) - 1), last = lower(turns.at, view[1]);
  const columns = Math.ceil(width - left), scale = (width - left) / (view[1] - view[0]);
  const inside = new Float64Array(columns), outside = new Float64Array(columns);
  const brought = new Float64Array(columns).fill(-1), flying = new Float64Array(columns).fill(-1), bad = new Uint8Array(columns);
  const spread = (into, from, to) => {
    from = Math.max((from - view[0]) * scale, 0); to = Math.min((to - view[0]) * scale, columns);
    for (let x = Math.floor(from); x < to; x++) into[x] += Math.min(to, x + 1) - Math.max(from, x);
  };
  let most = 1, mostFlying = 1;
  for (let at = first; at < last; at++) {
    const back = turns.at[at] + turns.inside[at];
    spread(inside, turns.at[at], back);
    spread(outside, back, back + turns.outside[at]);
    const x = Math.floor((back - view[0]) * scale);
    if (x < 0 || x >= columns) continue;
    brought[x] = Math.max(brought[x], turns.brought[at]);
    flying[x] = Math.max(flying[x], turns.in_flight[at]);
    most = Math.max(most, turns.brought[at]);
    mostFlying = Math.max(mostFlying, turns.in_flight[at]);
    if (turns.abnormal[at]) bad[x] = 1;
  }
  for (let x = 0; x < columns; x++) {
    const within = Math.min(inside[x], 1) * LOOP, handling = outside[x] > 0 ? Math.max(Math.min(outside[x], 1) * LOOP, 2) : 0;
    if (within > 0) { pen.fillStyle = colors.kernel; pen.fillRect(left + x, rows.loop, 1, Math.min(within + 1, LOOP - handling)); }
    if (handling) { pen.fillStyle = colors.handle; pen.fillRect(left + x, rows.loop + LOOP - handling, 1, handling); }
    if (bad[x]) { pen.fillStyle = colors.bad; pen.fillRect(left + x - 1, rows.loop - 4, 3, LOOP + 4); }
  }
  if (last - first < (width - left) / 12) separate(pen, left, width, first, last);
  const barWidth = Math.max(1, Math.min(4, (width - left) / Math.max(1, last - first) / 3));
  bars(pen, left, brought, most, rows.batch, BATCH, colors.batch, barWidth);
  if (ring) steps(pen, left, flying, mostFlying, rows.flight, FLIGHT, colors.flight);
  return last - first;
}

/** Where turns are wide enough: the border between two, and each enter's length. */
function separate(pen, left, width, first, last) {
  pen.font = `11px ${colors.sans}`;
  for (let at = first; at < last; at++) {
    const from = xOf(turns.at[at]), to = xOf(turns.at[at] + turns.inside[at]);
    pen.fillStyle = colors.bg;
    pen.fillRect(from - 0.5, rows.loop, 1, LOOP);
    const text = `${turnName} ${span(turns.inside[at])}`, shown = Math.max(from, left);
    if (Math.min(to, width) - shown > pen.measureText(text).width + 12) { pen.fillStyle = colors.ink; pen.fillText(text, shown + 6, rows.loop + LOOP / 2); }
  }
}

/** What the top of a lane stands for; written beside it when all is drawn. */
let scales = [];
function writeScales(pen, left) {
  pen.font = `10px ${colors.sans}`;
  pen.fillStyle = colors.muted;
  pen.textAlign = 'right';
  for (const [most, top] of scales) pen.fillText(count(most), left - 4, top + 4);
  pen.textAlign = 'left';
}

function bars(pen, left, values, most, top, height, color, width) {
  pen.fillStyle = color;
  values.forEach((n, x) => { if (n > 0) { const tall = Math.max(1, n / most * height); pen.fillRect(left + x, top + height - tall, width, tall); } });
  pen.fillStyle = colors.line;
  pen.fillRect(left, top + height, values.length, 1);
  scales.push([most, top]);
}

function steps(pen, left, values, most, top, height, color) {
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.beginPath();
  let y = null;
  values.forEach((n, x) => {
    if (n < 0) return;
    const now = top + height - n / most * (height - 2);
    if (y == null) pen.moveTo(left + x, now); else { pen.lineTo(left + x, y); pen.lineTo(left + x, now); }
    y = now;
  });
  if (y != null) pen.lineTo(left + values.length, y);
  pen.stroke();
  pen.fillStyle = colors.line;
  pen.fillRect(left, top + height, values.length, 1);
  scales.push([most, top]);
}

/** A connection: above the line what comes in, below it what goes out. */
function drawLane(pen, lane, top, left, width) {
  const { life } = lane, middle = top + ROW / 2;
  pen.globalAlpha = chosen == null || lanes[chosen] === lane ? 1 : 0.25;
  const from = Math.max(xOf(life.accepted_ns ?? life.first_ns), left), to = Math.min(xOf(life.closed_ns ?? life.last_ns), width);
  if (to >= from) { pen.fillStyle = colors.line; pen.fillRect(from, middle - 0.5, Math.max(to - from, 1), 1); }
  const first = lower(lane.at, view[0] - lane.longest), last = lower(lane.at, view[1]);
  const abnormal = [];
  let drawn = 0, lastIn = -1, lastOut = -1;
  // What is armed lies below what comes.
  for (let at = first; at < last; at++) {
    const bits = lane.bits[at];
    if (!(bits & SPAN) || bits & OUT) continue;
    const x = xOf(lane.at[at]), end = xOf(lane.at[at] + lane.lasted[at]);
    if (end < left) continue;
    pen.fillStyle = colors.armed;
    pen.fillRect(Math.max(x, left), middle - BAND - 0.5, Math.max(Math.min(end, width) - Math.max(x, left), 1), BAND);
  }
  for (let at = first; at < last; at++) {
    const bits = lane.bits[at], x = xOf(lane.at[at]), end = xOf(lane.at[at] + lane.lasted[at]);
    if (end < left - 1) continue;
    drawn++;
    if (bits & ABNORMAL) abnormal.push(bits & SPAN ? end : x);
    if (bits & OUT) {
      if (bits & SPAN) {
        const wide = Math.max(end - x, 1.5);
        if (x + wide <= lastOut + 1) continue;
        // A quiet send has no completion: when it was over is known to lie somewhere within.
        pen.fillStyle = bits & QUIET ? colors.quiet : colors.out;
        pen.fillRect(x, middle + 0.5, wide, BAND);
        pen.fillStyle = colors.out;
        pen.fillRect(x, middle + 0.5, Math.min(wide, 2), BAND);
        lastOut = x + wide;
      } else {
        pen.fillStyle = colors.muted;
        pen.fillRect(x - 1, middle + 1.5, 2, BAND - 2);
      }
    } else {
      const tick = bits & SPAN ? end : x;
      if (bits & (UNENDED | (bits & SPAN ? MANY : 0)) || !(bits & RESULT) || (tick - lastIn < 0.5 && lane.res[at] > 0)) continue;
      // What brought nothing is a pale tick.
      pen.fillStyle = lane.res[at] > 0 ? colors.in : colors.muted;
      pen.fillRect(tick - 1, middle - BAND - 0.5, 2, BAND);
      lastIn = tick;
    }
  }
  pen.fillStyle = colors.bad;
  for (const x of abnormal) { pen.fillRect(x - 1, top, 2.5, ROW - 2); pen.beginPath(); pen.moveTo(x - 4, top); pen.lineTo(x + 5, top); pen.lineTo(x + 0.5, top + 6); pen.fill(); }
  pen.globalAlpha = 1;
  return drawn;
}

function drawOverview() {
  const height = 44, pen = sized(overview, height), left = gutter(), width = overview.clientWidth - left;
  pen.fillStyle = colors.panel;
  pen.fillRect(left, 0, width, height);
  const most = parts.messages.reduce((a, b) => Math.max(a, b), 1), wide = width / parts.messages.length;
  parts.messages.forEach((n, at) => {
    if (n) { const tall = Math.max(2, Math.sqrt(n / most) * (height - 8)); pen.fillStyle = colors.in; pen.globalAlpha = 0.6; pen.fillRect(left + at * wide, height - tall, wide + 0.3, tall); }
    pen.globalAlpha = 1;
    if (parts.abnormal[at]) { pen.fillStyle = colors.bad; pen.fillRect(left + at * wide, 0, Math.max(wide, 2), 6); }
  });
  pen.fillStyle = colors.ink;
  pen.font = `12px ${colors.sans}`;
  pen.textBaseline = 'middle';
  pen.fillText('messages', 0, height / 2, left - 6);
  const x = t => left + (t - whole[0]) / (whole[1] - whole[0]) * width;
  const from = x(view[0]), to = Math.max(x(view[1]), from + 3);
  pen.globalAlpha = 0.55;
  pen.fillStyle = colors.bg;
  pen.fillRect(left, 0, from - left, height);
  pen.fillRect(to, 0, left + width - to, height);
  pen.globalAlpha = 1;
  pen.strokeStyle = colors.ink;
  pen.lineWidth = 1.5;
  pen.strokeRect(from + 0.75, 0.75, Math.max(to - from - 1.5, 1), height - 1.5);
}

// ---- Reading it ----------------------------------------------------------------------------------

/** What is under the pointer, in lines. */
function under(x, y) {
  const t = tOf(x), near = tOf(x + 5) - t;
  const line = Math.floor((y - rows.conns) / ROW);
  if (y >= rows.conns && line >= 0 && line < lanes.length) return underLane(lanes[line], t, near, y - rows.conns - line * ROW >= ROW / 2);
  const swimmer = Math.floor((y - rows.threads) / (SWIM + 2));
  if (threads.length && y >= rows.threads && swimmer < threads.length) return underThread(threads[swimmer], t, near);
  if (!loop || y < AXIS) return null;
  const at = lower(turns.at, t + 1) - 1;
  if (at < 0 || t > turns.at[at] + turns.inside[at] + turns.outside[at]) return null;
  const lines = [`<b>turn ${count(turns.number[at])}</b> <span>at ${moment(turns.at[at])}</span>`, `${turnName} ${span(turns.inside[at])}, handling ${span(turns.outside[at])}`];
  lines.push(ring ? `${count(turns.taken[at])} submissions taken, ${count(turns.brought[at])} completions, ${count(turns.in_flight[at])} in flight` : `${count(turns.brought[at])} reports`);
  if (turns.abnormal[at]) lines.push('something abnormal in it');
  return lines;
}

function underLane(lane, t, near, out) {
  const from = lower(lane.at, t - Math.max(near, lane.longest)), to = lower(lane.at, t + near);
  let best = -1, distance = Infinity;
  for (let at = from; at < to; at++) {
    const bits = lane.bits[at];
    if (!!(bits & OUT) !== out) continue;
    const end = lane.at[at] + lane.lasted[at];
    // A tick wins over what is armed around it.
    const away = bits & SPAN ? (t < lane.at[at] - near || t > end + near ? Infinity : !(bits & OUT) ? near * 0.9 : Math.max(0, lane.at[at] - t, t - end)) : Math.abs(t - lane.at[at]);
    if (away <= near && away < distance) { distance = away; best = at; }
  }
  const lines = [`<b>${lane.conn}</b> <span>${count(lane.life.messages)} messages, slowest answer ${span(lane.life.slowest_ns)}</span>`];
  if (best < 0) return lines;
  const bits = lane.bits[best], name = drawing.names[lane.name[best]], res = lane.res[best];
  const came = bits & UNENDED ? 'not over' : !(bits & RESULT) ? '' : res < 0 ? `result ${res}` : bits & SPAN && bits & MANY ? '' : `${count(res)}${/recv|send/.test(name) ? ' B' : ''}`;
  lines.push(`<b>${name}</b> ${came}${bits & ABNORMAL ? ' – abnormal' : ''}`);
  lines.push(`at ${moment(lane.at[best])}${bits & SPAN ? `, ${bits & QUIET ? 'over within' : 'for'} ${span(lane.lasted[best])}${bits & MANY ? ', many completions' : ''}` : ''}`);
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

function turnsTable() {
  const first = Math.max(0, lower(turns.at, view[0]) - 1), last = lower(turns.at, view[1]), shown = Math.min(last, first + 200);
  const list = [];
  for (let at = first; at < shown; at++) list.push([count(turns.number[at]), moment(turns.at[at]), span(turns.inside[at]), span(turns.outside[at]), count(turns.taken[at]), count(turns.brought[at]), count(turns.in_flight[at]), turns.abnormal[at] ? 'abnormal' : '']);
  if (shown < last) list.push([`… and ${count(last - shown)} more: zoom in`]);
  fill($('turns'), ['turn', 'begins', turnName, 'handling', 'taken', 'brought', 'in flight', ''], list);
}

/** To the next moment after the view's middle at which something is abnormal. */
function nextAbnormal() {
  const middle = (view[0] + view[1]) / 2 + 1;
  let found = Infinity, first = Infinity;
  const see = t => { first = Math.min(first, t); if (t > middle) found = Math.min(found, t); };
  turns.abnormal?.forEach((is, at) => { if (is) see(turns.at[at] + turns.inside[at]); });
  for (const lane of lanes) lane.bits.forEach((bits, at) => { if (bits & ABNORMAL) see(lane.at[at] + (bits & SPAN ? lane.lasted[at] : 0)); });
  const at = found < Infinity ? found : first;
  $('search-said').textContent = at < Infinity ? '' : 'Nothing abnormal is drawn.';
  if (at < Infinity) { const width = Math.min(view[1] - view[0], 2e6); look(at - width / 2, at + width / 2); }
}

function find(go) {
  const text = $('search').value.trim().replace(/^c?/, text => text && 'c');
  const wanted = text && !text.startsWith('c') ? `c${text}` : text;
  let index = lanes.findIndex(lane => lane.conn === wanted);
  if (index < 0 && wanted) index = lanes.findIndex(lane => lane.conn.startsWith(`${wanted}.`));
  chosen = index < 0 ? null : index;
  $('search-said').textContent = wanted && index < 0 ? `${wanted} has no lane here: it is none of the ${count(lanes.length)} worst, or there is no such connection.` : '';
  if (go && chosen != null) {
    const { life } = lanes[chosen], from = life.accepted_ns ?? life.first_ns, margin = (life.last_ns - from) * 0.02 + 1000;
    look(from - margin, life.last_ns + margin);
    const y = canvas.getBoundingClientRect().top + rows.conns + chosen * ROW;
    if (y < 0 || y > innerHeight - ROW) scrollBy({ top: y - innerHeight / 2 });
  }
  redraw();
}

// ---- Moving about --------------------------------------------------------------------------------

const actions = {
  in: () => zoom(0.5), out: () => zoom(2), whole: () => look(...whole), busy: () => look(...busy), next: nextAbnormal,
};
document.querySelectorAll('[data-do]').forEach(button => button.addEventListener('click', actions[button.dataset.do]));
const keys = {
  '+': actions.in, '=': actions.in, '-': actions.out, '0': actions.whole, b: actions.busy, n: nextAbnormal,
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), PageUp: () => move(-0.9), PageDown: () => move(0.9),
  Home: () => look(whole[0], whole[0] + view[1] - view[0]), End: () => look(whole[1] - view[1] + view[0], whole[1]),
};
canvas.addEventListener('keydown', event => {
  const action = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
  if (action) { event.preventDefault(); action(); }
});
canvas.addEventListener('wheel', event => {
  if (event.offsetX < gutter()) return;
  event.preventDefault();
  const pixels = event.deltaMode === 1 ? 16 : 1;
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX || event.deltaY) * pixels / canvas.clientWidth);
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
    look(drag.view[0] + by, drag.view[1] + by);
  }
  hover();
  redraw();
});
const release = () => {
  if (selection && Math.abs(selection[1] - selection[0]) > 4) look(tOf(Math.min(...selection)), tOf(Math.max(...selection)));
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
overview.addEventListener('pointermove', event => { if (brush != null && overviewTime(event) !== brush) { const now = overviewTime(event); look(Math.min(brush, now), Math.max(brush, now)); } });
overview.addEventListener('pointerup', event => {
  // A click moves the view there as wide as it is.
  if (brush != null && overviewTime(event) === brush) { const half = (view[1] - view[0]) / 2; look(brush - half, brush + half); }
  brush = null;
});

$('search').addEventListener('input', () => find(false));
$('search').addEventListener('keydown', event => { if (event.key === 'Enter') find(true); });
$('turns-details').addEventListener('toggle', redraw);
addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColors(); redraw(); });

// The part in view is in the address, to be kept or passed on: #t=from-to&c=c7.1
let remembering = null;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const text = `#t=${Math.round(view[0])}-${Math.round(view[1])}${chosen != null ? `&c=${lanes[chosen].conn}` : ''}`;
    try { history.replaceState(null, '', text); } catch { /* some browsers forbid it for a file */ }
  }, 300);
}
function recall() {
  const given = new URLSearchParams(location.hash.slice(1)), times = (given.get('t') ?? '').split('-').map(Number);
  if (given.get('c')) { $('search').value = given.get('c'); find(false); }
  if (times.length === 2 && times[1] > times[0]) look(...times);
}
addEventListener('hashchange', recall);

readColors();
words();
tiles();
legend();
charts();
tables();
if (threads.length) threadsTable();
$('turns-details').hidden = !loop;
recall();
draw();
root.dataset.ready = 'yes';
