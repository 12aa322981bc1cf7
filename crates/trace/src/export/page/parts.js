// ---- The parts -----------------------------------------------------------------------------------

// Where the page does not have the marks themselves it has, for each of many parts of the time, how
// many there were. They are drawn lower and paler than marks, and as wide as they are.

/** What of the view is drawn as parts, and what mark by mark: lists of times. */
function divided() {
  const inView = ([from, to]) => [Math.max(from, view[0]), Math.min(to, view[1])];
  const some = list => list.map(inView).filter(([from, to]) => to > from);
  if (!drawing.detail) return { coarse: [], fine: [view] };
  // Where a part has less than two pixels, parts show as much as marks would.
  const pixels = parts.step / (view[1] - view[0]) * (canvas.clientWidth - gutter());
  if (pixels < 2) return { coarse: [view], fine: [] };
  return { coarse: some([[-Infinity, detail[0]], [detail[1], Infinity]]), fine: some([detail]) };
}

const partAt = t => Math.min(Math.max(Math.floor((t - parts.from) / parts.step), 0), parts.messages.length - 1);
const isCoarse = t => divided().coarse.some(([from, to]) => t >= from && t <= to);

/** Calls `see` for each part within these times: with its number, and its begin and end in pixels of the drawing. */
function eachPart(times, left, see) {
  const scale = (canvas.clientWidth - left) / (view[1] - view[0]);
  for (const [from, to] of times) {
    for (let part = partAt(from), last = partAt(to); part <= last; part++) {
      const begin = parts.from + part * parts.step;
      see(part, (Math.max(begin, from) - view[0]) * scale, (Math.min(begin + parts.step, to) - view[0]) * scale);
    }
  }
}

/** The greatest number of messages of a connection in a part: the scale of all connections. */
const mostInPart = (...list) => list.reduce((most, row) => row ? [...row.received, ...row.sent].reduce((a, b) => Math.max(a, b), most) : most, 1);
/** A row of a connection, or of all others: messages above and below the line. */
function drawParts(ctx, row, times, most, top, left) {
  const middle = top + ROW / 2, columns = canvas.clientWidth - left;
  const ups = new Float64Array(columns + 1), downs = new Float64Array(columns + 1), others = new Uint8Array(columns + 1), bad = new Uint8Array(columns + 1);
  let seen = 0;
  eachPart(times, left, (part, begin, end) => {
    const up = row.received[part], down = row.sent[part], other = row.other[part], abnormal = row.abnormal[part];
    if (!up && !down && !other && !abnormal) return;
    seen++;
    // Several parts in a pixel: the greatest.
    for (let x = Math.floor(begin), last = Math.max(x + 1, Math.ceil(end)); x < last && x <= columns; x++) {
      ups[x] = Math.max(ups[x], up);
      downs[x] = Math.max(downs[x], down);
      if (other) others[x] = 1;
    }
    if (abnormal) bad[Math.min(Math.max(Math.floor((begin + end) / 2), 0), columns)] = 1;
  });
  const tall = n => Math.max(2, Math.sqrt(n / most) * BAND);
  const all = (color, alpha, list, box) => {
    ctx.fillStyle = color;
    ctx.globalAlpha = alpha;
    ctx.beginPath();
    list.forEach((n, x) => { if (n) ctx.rect(left + x, ...box(n, x)); });
    ctx.fill();
    ctx.globalAlpha = 1;
  };
  all(colors.muted, 0.5, others, () => [middle - 1, 1, 2]);
  all(colors.in, 0.6, ups, n => [middle - tall(n), 1, tall(n)]);
  all(colors.out, 0.6, downs, n => [middle, 1, tall(n)]);
  all(colors.bad, 1, bad, () => [top, 2.5, ROW - 2]);
  return seen;
}

/** The strip below the axis: where there is every mark, and where there are counts. */
function drawStrip(ctx, left, { coarse, fine }) {
  ctx.font = `10px ${colors.sans}`;
  const strip = (times, color, text, from = 0) => {
    for (const [begin, end] of times) {
      const x = xOf(begin), over = xOf(end), at = Math.max(x, from) + 5;
      ctx.fillStyle = color;
      ctx.fillRect(x, AXIS + 1, Math.max(over - x, 2), STRIP - 3);
      ctx.fillStyle = colors.ink;
      if (ctx.measureText(text).width + 5 < over - at) ctx.fillText(text, at, AXIS + STRIP / 2);
    }
  };
  strip(coarse, colors.line, `counts of each ${span(parts.step)}`, fine.length ? 0 : xOf(detail[1]));
  strip(fine, colors.armed, 'every mark');
  // From afar, where there would be marks.
  if (!fine.length) strip([detail], colors.armed, '');
}

/** The lines about the messages of a row at this time. */
function underParts(row, t) {
  const part = partAt(t), other = row.other[part], abnormal = row.abnormal[part];
  const lines = [`${plural(row.received[part], 'message')} received, ${count(row.sent[part])} sent within ${span(parts.step)}`];
  if (other) lines.push(plural(other, 'other event'));
  if (abnormal) lines.push(`${count(abnormal)} abnormal`);
  return [...lines, `from ${moments(parts.from + part * parts.step)}`];
}

/** The lines about the loop at this time. */
function underLoopParts(t) {
  const part = partAt(t), of = parts.loop;
  const lines = [`<b>${plural(of.iterations[part], 'iteration')}</b> <span>within ${span(parts.step)}, from ${moments(parts.from + part * parts.step)}</span>`];
  lines.push(`${waitName} ${span(of.inside[part])}${of.calls[part] ? `, other calls ${span(of.calls[part])}` : ''}, ${loopWords().own} ${span(of.own[part])}`);
  lines.push(`at most ${ring ? `${plural(of.returned[part], 'completion')} each, ${count(of.in_flight[part])} in flight` : `${plural(of.returned[part], 'ready descriptor')} each`}`);
  return lines;
}
