// The text, in rows. A row is plain text until it comes into view, and then has one element per
// character. Rows are styled when they are in view. So neither the first paint nor the cost of a
// color change depends on the length of the text.

const MAX_ROW = 400; // maximum number of characters in a row; longer lines are wrapped
const GUESS_STEPS = 8; // number of shades of predictions
const BUSY = 8; // maximum ms of work without a pause while the page is idle

const paint = {
  trace: null, // until the first unit is chosen
  label: null,
  center: 0,
  half: 1,
  underline: true,
  guesses: false,
  high: 1,
};
let caret = 0;
let span = null; // selected characters: [start, stop)
const rows = [];
const rowOf = []; // of each character
const marks = []; // the element of each character in rows that are not plain text any more
const bases = []; // the classes of each of these elements that do not change
const glyphs = new Map(); // the visible form and the class of each code point
const seen = new Set();
let stamp = 0;

function addGuessShades() {
  for (let n = 1; n <= GUESS_STEPS; n++) {
    const part = (100 * n) / GUESS_STEPS;
    addRule(`.g${n}{background:color-mix(in oklab,var(--guess) ${part}%,transparent)}`);
  }
}

function glyphAt(t) {
  const point = points[t];
  if (!glyphs.has(point)) glyphs.set(point, shownAs(symbolAt(t)));
  return glyphs.get(point);
}

function buildText(pane) {
  let text = "";
  for (let t = 0; t < N; t++) {
    let row = rows.at(-1);
    if (!row || points[t - 1] === 10 || t - row.start >= MAX_ROW) {
      if (row) row.node.textContent = text;
      const node = make("div", { class: "line" });
      row = node.row = { node, start: t, stop: t, stamp: -1, isPlain: true, guesses: false };
      rows.push(row);
      text = "";
    }
    text += glyphAt(t)[0];
    rowOf.push(row);
    row.stop = t + 1;
  }
  if (rows.length) rows.at(-1).node.textContent = text;
  pane.append(...rows.map(({ node }) => node));
  const watch = new IntersectionObserver(rowsMoved, { rootMargin: "200px", scrollMargin: "200px" });
  for (const each of rows) watch.observe(each.node);
}

// Replaces the plain text of a row by one element per character.
function divide(row) {
  if (!row.isPlain) return;
  row.isPlain = false;
  for (let t = row.start; t < row.stop; t++) {
    const [text, kind] = glyphAt(t);
    const mark = document.createElement("span");
    mark.textContent = text;
    mark.at = t;
    mark.className = kind ? `ch ${kind}` : "ch";
    bases[t] = mark.className;
    marks[t] = mark;
  }
  row.node.replaceChildren(...marks.slice(row.start, row.stop));
}

function markAt(t) {
  divide(rowOf[t]);
  return marks[t];
}

const pause = () => new Promise((done) => setTimeout(done));

// Divides all rows, with pauses, so that they can be selected and searched without a change.
async function divideAll() {
  let start = performance.now();
  for (const row of rows) {
    divide(row);
    if (performance.now() - start < BUSY) continue;
    await pause();
    start = performance.now();
  }
}

function rowsMoved(entries) {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      seen.add(target.row);
      if (paint.trace) refresh(target.row);
    } else {
      seen.delete(target.row);
      dropGuesses(target.row);
    }
  }
}

// Applies a change of the settings to the visible rows.
function repaint(change) {
  Object.assign(paint, change);
  if (paint.label) paint.high = paint.label.reduce((a, b) => (b > a ? b : a), 1);
  stamp++;
  for (const row of seen) refresh(row);
}

function paintAll() {
  for (const row of rows) refresh(row);
}

function refresh(row) {
  divide(row);
  if (row.stamp !== stamp) {
    for (let t = row.start; t < row.stop; t++) marks[t].className = dress(t);
    row.stamp = stamp;
  }
  if (paint.guesses && !row.guesses) addGuesses(row);
  if (!paint.guesses) dropGuesses(row);
}

function dress(t) {
  let name = `${bases[t]} ${shade(t)}`;
  if (paint.underline && paint.label) name += ` ${underlined(paint.label[t])}`;
  if (span && t >= span[0] && t < span[1]) name += " sel";
  return t === caret ? `${name} caret` : name;
}

const shade = (t) =>
  paint.trace ? shadeOf((paint.trace[t] - paint.center) / paint.half) : "";

// Returns the class of an underline, which is thicker for larger values of the label.
function underlined(value) {
  if (Number.isNaN(value)) return "unknown";
  return value > 0 ? `u${Math.ceil((4 * value) / paint.high)}` : "";
}

function addGuesses(row) {
  for (let t = row.start; t < row.stop; t++) marks[t].append(guessesAt(t));
  row.guesses = true;
}

function dropGuesses(row) {
  if (!row.guesses) return;
  for (let t = row.start; t < row.stop; t++) marks[t].lastElementChild.remove();
  row.guesses = false;
}

function guessesAt(t) {
  const stack = make("span", { class: "guesses", "aria-hidden": "true" });
  for (const { symbol, p, came } of guessesOf(t)) {
    const shade = Math.round(GUESS_STEPS * p);
    stack.append(
      make("i", { class: `${shade ? `g${shade}` : ""}${came ? " came" : ""}` }, visible(symbol)),
    );
  }
  return stack;
}

// Returns the most probable characters after character t; omits those with probability 0.
function guessesOf(t) {
  const next = t + 1 < N ? symbolAt(t + 1) : null;
  const guesses = [];
  const { topIds, topP } = predictions;
  const count = topIds.length / N;
  for (let n = 0; n < count; n++) {
    const p = topP[t * count + n] / 65535;
    const symbol = excerpt.symbols[topIds[t * count + n]];
    if (p > 0) guesses.push({ symbol, p, came: symbol === next });
  }
  return guesses;
}

function redress(start, stop) {
  for (let t = Math.max(0, start); t < Math.min(N, stop); t++) markAt(t).className = dress(t);
}

function setCaret(t, block = "nearest") {
  const before = caret;
  caret = clamp(t, 0, N - 1);
  redress(before, before + 1);
  redress(caret, caret + 1);
  if (block) markAt(caret).scrollIntoView({ block, inline: "nearest" });
}

function setSpan(next) {
  const before = span;
  span = next && next[1] > next[0] ? next : null;
  for (const each of [before, span]) if (each) redress(...each);
}

// Returns the character above or below on the screen.
function vertical(t, direction) {
  const from = markAt(t).getBoundingClientRect();
  let best = t;
  let lineTop = null; // vertical position of the adjacent line
  for (let s = t + direction; s >= 0 && s < N; s += direction) {
    const box = markAt(s).getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 4) continue;
    if (lineTop !== null && Math.abs(box.top - lineTop) >= 4) break;
    const isNearer =
      lineTop === null ||
      Math.abs(box.left - from.left) <
        Math.abs(markAt(best).getBoundingClientRect().left - from.left);
    if (isNearer) best = s;
    lineTop = box.top;
  }
  return best;
}

function moved(key, ctrl) {
  const row = rowOf[caret];
  const moves = {
    ArrowLeft: () => caret - 1,
    ArrowRight: () => caret + 1,
    ArrowUp: () => vertical(caret, -1),
    ArrowDown: () => vertical(caret, 1),
    Home: () => (ctrl ? 0 : row.start),
    End: () => (ctrl ? N - 1 : row.stop - 1),
    PageUp: () => rows[Math.max(0, rows.indexOf(row) - 15)].start,
    PageDown: () => rows[Math.min(rows.length - 1, rows.indexOf(row) + 15)].start,
  };
  return key in moves ? clamp(moves[key](), 0, N - 1) : null;
}

// Returns the characters selected with the mouse: [start, stop), or null.
function selectedByMouse() {
  const selection = getSelection();
  if (selection.isCollapsed || !selection.rangeCount) return null;
  const range = selection.getRangeAt(0);
  const start = markIn(range.startContainer);
  const stop = markIn(range.endContainer);
  return start === null || stop === null ? null : [start, stop + (range.endOffset ? 1 : 0)];
}

function markIn(node) {
  const mark = (node.nodeType === 3 ? node.parentElement : node).closest?.(".ch");
  return mark ? mark.at : null;
}
