// Details of the network at one character, and places where a unit behaves similarly.

const AROUND = 48; // number of characters on either side in the small plot
const MAX_SIMILAR = 12; // maximum number of similar places
let similar = null; // {start, stop, places: [{start, distance}]}

const UNIT = new Set(["i", "f", "o", "r", "z"]); // gates, with values between 0 and 1

async function lookAt(t) {
  const cell = state.cell;
  const names = quantitiesOf(cell);
  const values = await Promise.all(names.map((name) => traceOf(cell, name)));
  await readPredictions();
  if (cell !== state.cell || t !== state.at) return; // the selection has changed
  const symbol = symbolAt(t);
  const column = t - lines.indexOf(lines[t]);
  show(
    byId("look"),
    make(
      "h2",
      { class: "glyph" },
      visible(symbol),
      make("small", {}, ` U+${hex(points[t])} · line ${lines[t] + 1}, column ${column + 1}`),
    ),
    curveAround(t),
    make("h3", {}, `Unit ${cell.name} at this character`),
    make(
      "dl",
      { class: "values" },
      names.map((name, n) => quantityRow(name, values[n][t])),
    ),
    cell.name in traces.fine ? null : make("p", { class: "quiet" }, contentOf(cell)),
    labelRow(t),
    nextRows(t),
  );
}

const unitBar = (value) =>
  make("span", { class: "bar" }, make("span", { class: "high", "width%": value }));

// Returns a bar from the center to the left for negative values, and to the right for others.
const bothBar = (value, scale) =>
  make(
    "span",
    { class: "bar both" },
    make("span", {
      class: value < 0 ? "low" : "high",
      "width%": Math.min(0.5, Math.abs((0.5 * value) / scale)),
    }),
  );

function quantityRow(name, value) {
  return [
    make("dt", { class: name === state.quantity ? "shown-quantity" : null }, name),
    make(
      "dd",
      {},
      UNIT.has(name) ? unitBar(value) : bothBar(value, Math.max(1, Math.abs(value))),
      make("span", { class: "figure" }, number(value, 3)),
    ),
  ];
}

function labelRow(t) {
  if (!paint.label) {
    return make("p", { class: "quiet" }, `This page contains no labels for ${state.hypothesis}.`);
  }
  const value = paint.label[t];
  const kind = hypotheses.get(state.hypothesis).kind;
  const text = Number.isNaN(value)
    ? "undefined"
    : kind === "binary"
      ? value
        ? "true"
        : "false"
      : `${+value.toFixed(2)}`;
  return make("p", { class: "label-here" }, `Label ${state.hypothesis}: `, make("b", {}, text));
}

function nextRows(t) {
  const guesses = guessesOf(t);
  const nats = predictions.nats[t];
  const next = t + 1 < N ? visible(symbolAt(t + 1)) : null;
  const actual =
    next === null
      ? "The text ends here."
      : [
          "Actual next character: ",
          make("b", { class: "glyph" }, next),
          Number.isNaN(nats)
            ? ""
            : ` (p = ${percent(Math.exp(-nats), 1)}, loss ${number(nats)} nats)`,
        ];
  if (!hasNetwork) return make("p", {}, actual);
  return [
    make("h3", {}, "Predicted next character"),
    make(
      "ol",
      { class: "predictions" },
      guesses.map(({ symbol, p, came: isIt }) =>
        make(
          "li",
          { class: isIt ? "came" : null },
          make("b", { class: "glyph" }, visible(symbol)),
          make("span", { class: "bar" }, make("span", { class: "guess", "width%": p })),
          make("span", { class: "figure" }, percent(p, 1)),
        ),
      ),
    ),
    make("p", {}, actual),
  ];
}

// Plots the unit over the characters around t; shading shows the label.
function curveAround(t) {
  const width = 280;
  const height = 74;
  const start = clamp(t - AROUND, 0, Math.max(0, N - 2 * AROUND));
  const stop = Math.min(N, start + 2 * AROUND + 1);
  const X = (s) => ((s - start + 0.5) / (stop - start)) * width;
  const Y = (v) => height / 2 - clamp((v - paint.center) / paint.half, -1, 1) * (height / 2 - 5);
  const node = shape("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "plot curve",
    role: "img",
    "aria-label": `${state.quantity} around this character`,
  });
  const wide = width / (stop - start);
  for (let s = start, end; paint.label && s < stop; s = end) {
    const value = paint.label[s];
    for (end = s + 1; end < stop && paint.label[end] === value;) end++;
    if (value > 0) {
      node.append(
        shape("rect", {
          class: "held",
          x: X(s) - wide / 2,
          width: wide * (end - s),
          y: 0,
          height,
          opacity: (0.4 * value) / paint.high,
        }),
      );
    }
  }
  let d = "";
  for (let s = start; s < stop; s++) {
    d += `${s > start ? "L" : "M"}${X(s).toFixed(1)} ${Y(paint.trace[s]).toFixed(1)}`;
  }
  node.append(
    shape("line", { class: "grid", x1: 0, x2: width, y1: height / 2, y2: height / 2 }),
    shape("line", { class: "here", x1: X(t), x2: X(t), y1: 0, y2: height }),
    shape("path", { class: "line", d }),
    shape("circle", { class: "here", cx: X(t), cy: Y(paint.trace[t]), r: 3.5 }),
  );
  return node;
}

// Returns the places where the trace of the unit is most similar to its trace in the span. The
// measure is the root mean square difference, in standard deviations of the unit. Places overlap
// neither each other nor the span.
function findSimilar([start, stop], values) {
  const length = stop - start;
  const mean = values.reduce((a, b) => a + b, 0) / N;
  const spread = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / N) || 1;
  const distances = [];
  for (let s = 0; s + length <= N; s++) {
    let sum = 0;
    for (let n = 0; n < length; n++) sum += (values[s + n] - values[start + n]) ** 2;
    distances.push({ start: s, distance: Math.sqrt(sum / length) / spread });
  }
  distances.sort((a, b) => a.distance - b.distance);
  const places = [];
  const isFree = (s) =>
    Math.abs(s - start) >= length && places.every((place) => Math.abs(s - place.start) >= length);
  for (const each of distances) {
    if (places.length === MAX_SIMILAR) break;
    if (isFree(each.start)) places.push(each);
  }
  return places;
}

function showSimilar() {
  if (!span) return;
  const [start, stop] = span;
  similar = { start, stop, places: findSimilar(span, paint.trace) };
  listSimilar();
}

function listSimilar() {
  const pane = byId("similar");
  const count = span ? span[1] - span[0] : 0;
  const find = span
    ? button(`Find places similar to these ${thousands(count)} characters (s)`, showSimilar, {
        id: "find",
      })
    : null;
  if (!similar) {
    show(
      pane,
      make("h3", {}, "Similar places"),
      find ??
        make(
          "p",
          { class: "quiet" },
          "Select text, with the mouse or with Shift and the arrow keys, to find places where ",
          "this unit behaves similarly.",
        ),
    );
    return;
  }
  const length = similar.stop - similar.start;
  const entry = ({ start, distance }) =>
    make(
      "li",
      {},
      button(
        [
          make("span", { class: "figure" }, number(distance)),
          make(
            "span",
            { class: "where" },
            passage(start - 8, start),
            make("mark", {}, passage(start, start + Math.min(length, 60))),
            length > 60 ? "…" : passage(start + length, start + length + 12),
          ),
        ],
        () => jumpTo(start, start + length),
      ),
    );
  show(
    pane,
    make("h3", {}, `Places where unit ${state.cell.name} behaves as in this one`),
    make(
      "p",
      { class: "where" },
      make("mark", {}, passage(similar.start, Math.min(similar.stop, similar.start + 60))),
    ),
    make("ol", { class: "places" }, similar.places.map(entry)),
    similar.places.length ? null : make("p", {}, "The text is too short to contain another place."),
    make(
      "p",
      { class: "quiet" },
      "Numbers are root mean square differences, in standard deviations of the unit.",
    ),
    find,
  );
}

function jumpTo(start, stop) {
  setSpan([start, stop]);
  goTo(start);
}

// Moves the caret to a character in the middle of the view.
function goTo(t) {
  setCaret(t, "center");
  state.at = t;
  remember();
  lookAt(t);
}
