// ---- The threads ---------------------------------------------------------------------------------

/** The rows of threads or child processes, if many recorded. */
const threadRows = all => all ? all.shown.map(({ info, bars }, index) => ({ info, parts: parts.threads?.[index], ...bars, phase: bars.bits.map(bits => bits >> PHASE), longest: longest(bars) })) : [];

const PHASES = [
  ['wait', 'asleep: in a call that waits (a receive copies at its end)'],
  ['copy', 'copying: in a send, or a receive that need not wait'],
  ['other', 'in another call: accept, close, …'],
];
const BETWEEN = ['handle', 'running, between two calls'];

/** The times that a thread, or all together, spent in each state. */
const timesOf = of => [of.waiting_ns, of.copying_ns, of.other_ns, of.between_ns];
const share = (part, all) => all > 0 ? `${(part / all * 100).toFixed(part / all < 0.1 ? 1 : 0)} %` : '–';
const sum = list => list.reduce((a, b) => a + b, 0);
const threadLabel = info => info.thread == null ? 'started before the recording'
  : info.process === info.thread && info.lane !== 'main' ? `process ${info.process}` : `thread ${info.thread}`;

function threadTiles() {
  const { all } = drawing.threads, times = timesOf(all), lived = sum(times);
  const capital = all.kind[0].toUpperCase() + all.kind.slice(1);
  return [
    [capital, count(all.count), `at most ${count(all.most)} at a time`],
    ['Of their time asleep', share(times[0], lived), 'in calls that wait'],
    ['Copying', share(times[1], lived), `${share(times[2], lived)} in other calls, ${share(times[3], lived)} between calls`],
  ];
}

function threadsTable() {
  const { all } = drawing.threads;
  $('threads-part').hidden = false;
  $('threads-title').textContent = `${all.kind === 'threads' ? 'Threads' : 'Processes'}, the busiest ${count(threads.length)} of ${count(all.count)}`;
  fill($('threads'), ['lane', 'thread', 'from', 'lived', 'calls', 'asleep', 'copying', 'other calls', 'between calls', 'awake'],
    threads.map(({ info }) => {
      const times = timesOf(info), lived = sum(times);
      return [info.lane, threadLabel(info), span(info.from_ns), span(info.until_ns - info.from_ns), count(info.calls), ...times.map(span), share(lived - times[0], lived)];
    }), [1]);
}

/** A thread: each pixel's time by state; the name of a call that is wide enough. */
function drawThread(ctx, row, top, left, width, { coarse, fine }) {
  const { info } = row, columns = Math.ceil(width - left), scale = (width - left) / (view[1] - view[0]);
  const from = (Math.max(info.from_ns, view[0]) - view[0]) * scale, to = (Math.min(info.until_ns, view[1]) - view[0]) * scale;
  if (to < 0 || from > columns) return 0;
  const states = PHASES.map(() => new Float64Array(columns));
  const first = lower(row.at, view[0] - row.longest), last = lower(row.at, view[1]), bad = [], wide = [];
  let drawn = 0;
  const spread = (into, begin, end, share) => {
    begin = Math.max(begin, 0); end = Math.min(end, columns);
    for (let x = Math.floor(begin); x < end; x++) into[x] += (Math.min(end, x + 1) - Math.max(begin, x)) * share;
  };
  eachPart(coarse, left, (part, begin, end) => row.parts.times.forEach((times, phase) => {
    spread(states[phase], begin, end, times[part] / parts.step);
    drawn += times[part] > 0;
  }));
  const [begins, ends] = fine[0] ? fine[0].map(t => (t - view[0]) * scale) : [columns, 0];
  for (let at = first; at < last; at++) {
    const begin = Math.max((row.at[at] - view[0]) * scale, begins), end = Math.min((row.at[at] + row.lasted[at] - view[0]) * scale, ends);
    if (end < begin) continue;
    drawn++;
    spread(states[row.phase[at]], begin, end, 1);
    if (row.bits[at] & ABNORMAL) bad.push(left + end);
    if (end - begin > 34) wide.push([begin, end, drawing.names[row.name[at]], row.phase[at]]);
  }
  // The time between calls is the background; waiting is drawn above, other calls below.
  ctx.fillStyle = colors.handle;
  ctx.fillRect(left + from, top, Math.max(to - from, 1), THREAD_ROW);
  let x = Math.floor(from);
  const heights = x => {
    const lived = Math.min(to, x + 1) - Math.max(from, x), all = lived > 0 ? states.map(state => state[x] / lived) : [0, 0, 0];
    // A small share of a pixel is visible as well.
    const own = all[0] < 1 - 1e-9 ? 1 : 0, small = n => n > 0 ? Math.max(n * THREAD_ROW, 1) : 0;
    const [copy, other] = [small(all[1]), small(all[2])];
    return [Math.max(0, Math.min(all[0] * THREAD_ROW, THREAD_ROW - copy - other - own)), copy, other].map(Math.round);
  };
  while (x < to) {
    const [wait, copy, other] = heights(x);
    let end = x + 1;
    while (end < to) { const next = heights(end); if (next[0] !== wait || next[1] !== copy || next[2] !== other) break; end++; }
    const right = Math.min(end, to), begin = Math.max(x, from);
    const block = (color, y, height) => { if (height > 0) { ctx.fillStyle = color; ctx.fillRect(left + begin, top + y, right - begin, height); } };
    block(colors.wait, 0, wait);
    block(colors.copy, THREAD_ROW - copy - other, copy);
    block(colors.other, THREAD_ROW - other, other);
    x = end;
  }
  ctx.font = `10px ${colors.sans}`;
  for (const [begin, end, name, phase] of wide) {
    if (ctx.measureText(name).width + 8 > end - begin) continue;
    ctx.fillStyle = phase === 0 ? colors.ink : colors.bg;
    ctx.fillText(name, left + begin + 4, top + THREAD_ROW / 2 + 0.5);
  }
  ctx.fillStyle = colors.bad;
  for (const x of bad) ctx.fillRect(x - 1, top - 1, 2, THREAD_ROW + 2);
  return drawn;
}

/** The lines about a thread's state under the pointer. */
function underThread(row, t, near) {
  const { info } = row, times = timesOf(info), lived = sum(times);
  const lines = [`<b>${info.lane}</b> <span>${threadLabel(info)}, ${share(times[0], lived)} of its time asleep</span>`];
  if (t < info.from_ns - near || t > info.until_ns + near) return null;
  if (isCoarse(t)) return [...lines, `within ${span(parts.step)}, from ${moments(parts.from + partAt(t) * parts.step)}:`, ...PHASES.map(([, name], phase) => `${span(row.parts.times[phase][partAt(t)])} ${name}`)];
  // A short call is found near the pointer; one under it takes precedence.
  let best = -1, distance = Infinity;
  for (let at = lower(row.at, t - Math.max(near, row.longest)), last = lower(row.at, t + near); at < last; at++) {
    const away = Math.max(0, row.at[at] - t, t - row.at[at] - row.lasted[at]);
    if (away <= near / 2 && away < distance) { distance = away; best = at; }
  }
  if (best < 0) return [...lines, BETWEEN[1]];
  const bits = row.bits[best], res = row.res[best], name = drawing.names[row.name[best]];
  const came = bits & UNENDED ? 'not ended' : !(bits & RESULT) ? '' : res < 0 ? `result ${res}` : `${count(res)}${bits & BYTES ? ' B' : ''}`;
  lines.push(`<b>${name}</b> ${came}${bits & ABNORMAL ? ' – abnormal' : ''}`, PHASES[row.phase[best]][1]);
  lines.push(`at ${moments(row.at[best])}, for ${span(row.lasted[best])}`);
  return lines;
}

