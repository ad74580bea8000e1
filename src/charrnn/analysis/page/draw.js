// Plots.

function ticks(low, high, about = 5) {
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= raw);
  const values = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) {
    values.push(Number((n * step).toPrecision(12)));
  }
  return values;
}

const short = (value) =>
  Math.abs(value) >= 1000 ? `${+(value / 1000).toPrecision(3)}k` : `${value}`.replace("-", "−");

// Returns an SVG with axes as `node`, and X and Y, which map values to coordinates in it.
// `xTicks` are pairs of a value and its text.
function plot({ width, height, x, y, xLabel, yLabel, name, ...more }) {
  const { left = 44, bottom = 40, top = 8 } = more;
  const xTicks = more.xTicks ?? ticks(...x).map((value) => [value, short(value)]);
  const right = 12;
  const X = (v) => left + ((v - x[0]) / (x[1] - x[0] || 1)) * (width - left - right);
  const Y = (v) => height - bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (height - bottom - top);
  const node = shape("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "plot",
    role: "img",
    "aria-label": name,
  });
  for (const [value, text] of xTicks) {
    node.append(
      shape("line", { class: "grid", x1: X(value), x2: X(value), y1: top, y2: height - bottom }),
      shape(
        "text",
        { class: "tick", x: X(value), y: height - bottom + 16, "text-anchor": "middle" },
        text,
      ),
    );
  }
  for (const value of ticks(...y, 4)) {
    node.append(
      shape("line", { class: "grid", x1: left, x2: width - right, y1: Y(value), y2: Y(value) }),
      shape(
        "text",
        { class: "tick", x: left - 7, y: Y(value) + 4, "text-anchor": "end" },
        short(value),
      ),
    );
  }
  node.append(
    shape(
      "text",
      {
        class: "axis",
        x: (left + width - right) / 2,
        y: height - 4,
        "text-anchor": "middle",
      },
      xLabel,
    ),
  );
  if (yLabel) {
    const middle = (top + height - bottom) / 2;
    node.append(
      shape(
        "text",
        {
          class: "axis",
          x: 12,
          y: middle,
          "text-anchor": "middle",
          transform: `rotate(-90 12 ${middle})`,
        },
        yLabel,
      ),
    );
  }
  return { node, X, Y };
}

const path = (xs, ys, { X, Y }) =>
  xs.map((x, n) => `${n ? "L" : "M"}${X(x).toFixed(1)} ${Y(ys[n]).toFixed(1)}`).join("");

// Returns a line through the points whose y is known: solid, dashed, thin or dotted.
function curve(xs, ys, style, chart) {
  const known = [...xs.keys()].filter((n) => ys[n] !== null);
  const pick = (values) => known.map((n) => values[n]);
  return shape("path", { class: `line ${style}`, d: path(pick(xs), pick(ys), chart) });
}

// Returns an SVG with values on one horizontal axis, for tables. `marks` are {value, kind, title,
// text}. Values outside [low, high] are drawn at the nearer end. Ticks are drawn only for `at`.
function strip({ low, high, marks, at = [], name, width = 260, height = 26, labeled = false }) {
  const X = (v) => 8 + ((clamp(v, low, high) - low) / (high - low || 1)) * (width - 16);
  const y = height - 13; // position of the rail; the numbers of `last` marks are above it
  const tall = height + (labeled ? 15 : 0);
  const node = shape("svg", {
    viewBox: `0 0 ${width} ${tall}`,
    class: "strip",
    role: "img",
    "aria-label": name,
  });
  node.append(
    shape("line", { class: "rail", x1: 8, x2: width - 8, y1: y, y2: y }),
  );
  for (const value of at) {
    node.append(
      shape("line", { class: "grid", x1: X(value), x2: X(value), y1: y - 10, y2: y + 10 }),
    );
    if (labeled) {
      node.append(
        shape(
          "text",
          { class: "tick", x: X(value), y: height + 10, "text-anchor": "middle" },
          short(value),
        ),
      );
    }
  }
  const known = marks.filter(({ value }) => value !== null && value !== undefined);
  const numbers = known.filter(({ kind }) => kind === "last").sort((a, b) => a.value - b.value);
  let free = -Infinity; // smallest x at which a number does not cover the previous one
  for (const mark of numbers) {
    const x = Math.max(free, X(mark.value));
    free = x + 6 * mark.text.length + 3;
    node.append(markOf(mark, x, y));
  }
  for (const mark of known) {
    if (mark.kind !== "last") node.append(markOf(mark, X(mark.value), y));
  }
  return node;
}

function markOf({ kind, title, text }, x, y) {
  const inside = [shape("title", {}, title)];
  if (kind.startsWith("bar")) {
    return shape("line", { class: `mark ${kind}`, x1: x, x2: x, y1: y - 9, y2: y + 9 }, inside);
  }
  if (kind === "median") {
    return shape("path", { class: "mark median", d: `M${x} ${y - 5}l5 5l-5 5l-5 -5z` }, inside);
  }
  if (kind === "last") {
    return shape(
      "text",
      { class: "mark last", x, y: Math.max(9, y - 13), "text-anchor": "middle" },
      inside,
      text,
    );
  }
  return shape(
    "circle",
    { class: `mark ${kind}`, cx: x, cy: y, r: kind === "control" ? 3 : 5 },
    inside,
  );
}
