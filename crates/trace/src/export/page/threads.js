// ---- The threads ---------------------------------------------------------------------------------

/** Who recorded, if they are many: threads, or children. Each has a lane of its own. */
function swimmers(all) {
  return all ? all.shown.map(one => {
    const lane = { stint: one.stint, at: unpackAfter(one.at), res: unpack(one.res).map(signed) };
    for (const name of ['lasted', 'name', 'whose', 'phase', 'bits']) lane[name] = unpack(one[name]);
    lane.longest = lane.lasted.reduce((a, b) => Math.max(a, b), 0);
    return lane;
  }) : [];
}

const PHASES = [
  ['wait', 'waits', 'asleep: in a call that waits (a receive copies at its end)'],
  ['copy', 'copies', 'copying: in a send, or a receive that need not wait'],
  ['other', 'works', 'in another call: accept, close, …'],
];
const BETWEEN = ['handle', 'runs', 'running, between two calls'];

/** What of its time one of them, or all together, spent in each state. */
const spent = of => [of.waiting_ns, of.copying_ns, of.other_ns, of.between_ns];
const share = (part, all) => all > 0 ? `${(part / all * 100).toFixed(part / all < 0.1 ? 1 : 0)} %` : '–';
const sum = list => list.reduce((a, b) => a + b, 0);
const personOf = stint => stint.thread == null ? 'who began before this'
  : stint.process === stint.thread && stint.lane !== 'main' ? `process ${stint.process}` : `thread ${stint.thread}`;

function threadTiles() {
  const { all } = drawing.threads, times = spent(all), lived = sum(times);
  const capital = all.kind[0].toUpperCase() + all.kind.slice(1);
  return [
    [capital, count(all.count), `at most ${count(all.most)} at a time`],
    ['Of their time asleep', share(times[0], lived), 'in calls that wait'],
    ['Copying', share(times[1], lived), `${share(times[2], lived)} in other calls, ${share(times[3], lived)} in none`],
  ];
}

function threadsTable() {
  const { all } = drawing.threads;
  $('threads-part').hidden = false;
  $('threads-title').textContent = `${all.kind === 'threads' ? 'Threads' : 'Processes'}, the busiest ${count(threads.length)} of ${count(all.count)}`;
  fill($('threads'), ['lane', 'who', 'from', 'lived', 'calls', 'asleep', 'copying', 'other calls', 'between calls', 'awake'],
    threads.map(({ stint }) => {
      const times = spent(stint), lived = sum(times);
      return [stint.lane, personOf(stint), span(stint.from_ns), span(stint.until_ns - stint.from_ns), count(stint.calls), ...times.map(span), share(lived - times[0], lived)];
    }), [1]);
}

/** A thread: each pixel's time by what it was spent on; where a call is wide enough, its name. */
function drawThread(pen, lane, top, left, width) {
  const { stint } = lane, columns = Math.ceil(width - left), scale = (width - left) / (view[1] - view[0]);
  const from = (Math.max(stint.from_ns, view[0]) - view[0]) * scale, to = (Math.min(stint.until_ns, view[1]) - view[0]) * scale;
  if (to < 0 || from > columns) return 0;
  const parts = PHASES.map(() => new Float64Array(columns));
  const first = lower(lane.at, view[0] - lane.longest), last = lower(lane.at, view[1]), bad = [], wide = [];
  let drawn = 0;
  for (let at = first; at < last; at++) {
    const begin = Math.max((lane.at[at] - view[0]) * scale, 0), end = Math.min((lane.at[at] + lane.lasted[at] - view[0]) * scale, columns);
    if (end < 0) continue;
    drawn++;
    const into = parts[lane.phase[at]];
    for (let x = Math.floor(begin); x < end; x++) into[x] += Math.min(end, x + 1) - Math.max(begin, x);
    if (lane.bits[at] & ABNORMAL) bad.push(left + end);
    if (end - begin > 34) wide.push([begin, end, drawing.names[lane.name[at]], lane.phase[at]]);
  }
  // It lives: what is in no call is its own. On top what it waits, below what it does.
  pen.fillStyle = colors.handle;
  pen.fillRect(left + from, top, Math.max(to - from, 1), SWIM);
  let x = Math.floor(from);
  const heights = x => {
    const lived = Math.min(to, x + 1) - Math.max(from, x), all = lived > 0 ? parts.map(part => part[x] / lived) : [0, 0, 0];
    // What takes a little of a pixel's time is to be seen, too.
    const own = all[0] < 1 - 1e-9 ? 1 : 0, small = n => n > 0 ? Math.max(n * SWIM, 1) : 0;
    const [copy, other] = [small(all[1]), small(all[2])];
    return [Math.max(0, Math.min(all[0] * SWIM, SWIM - copy - other - own)), copy, other].map(Math.round);
  };
  while (x < to) {
    const [wait, copy, other] = heights(x);
    let end = x + 1;
    while (end < to) { const next = heights(end); if (next[0] !== wait || next[1] !== copy || next[2] !== other) break; end++; }
    const right = Math.min(end, to), begin = Math.max(x, from);
    const block = (color, y, height) => { if (height > 0) { pen.fillStyle = color; pen.fillRect(left + begin, top + y, right - begin, height); } };
    block(colors.wait, 0, wait);
    block(colors.copy, SWIM - copy - other, copy);
    block(colors.other, SWIM - other, other);
    x = end;
  }
  pen.font = `10px ${colors.sans}`;
  for (const [begin, end, name, phase] of wide) {
    if (pen.measureText(name).width + 8 > end - begin) continue;
    pen.fillStyle = phase === 0 ? colors.ink : colors.bg;
    pen.fillText(name, left + begin + 4, top + SWIM / 2 + 0.5);
  }
  pen.fillStyle = colors.bad;
  for (const x of bad) pen.fillRect(x - 1, top - 1, 2, SWIM + 2);
  return drawn;
}

/** What a thread is at under the pointer, in lines. */
function underThread(lane, t, near) {
  const { stint } = lane, times = spent(stint), lived = sum(times);
  const lines = [`<b>${stint.lane}</b> <span>${personOf(stint)}, ${share(times[0], lived)} of its time asleep</span>`];
  if (t < stint.from_ns - near || t > stint.until_ns + near) return null;
  // A short call is found beside the pointer; one around it wins.
  let best = -1, distance = Infinity;
  for (let at = lower(lane.at, t - Math.max(near, lane.longest)), last = lower(lane.at, t + near); at < last; at++) {
    const away = Math.max(0, lane.at[at] - t, t - lane.at[at] - lane.lasted[at]);
    if (away <= near / 2 && away < distance) { distance = away; best = at; }
  }
  if (best < 0) return [...lines, BETWEEN[2]];
  const bits = lane.bits[best], res = lane.res[best], name = drawing.names[lane.name[best]];
  const came = bits & UNENDED ? 'not over' : !(bits & RESULT) ? '' : res < 0 ? `result ${res}` : `${count(res)}${/^(recv|send)/.test(name) ? ' B' : ''}`;
  lines.push(`<b>${name}</b> ${drawing.names[lane.whose[best]]} ${came}${bits & ABNORMAL ? ' – abnormal' : ''}`, PHASES[lane.phase[best]][2]);
  lines.push(`at ${moment(lane.at[best])}, for ${span(lane.lasted[best])}`);
  return lines;
}

