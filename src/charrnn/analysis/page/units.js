// Units: their names, as in sampling/clamps.py, and their values after every token of the text.

const NAME = /^([0-9]{1,9}):([a-z]?)([0-9]{1,9})$/;
const LAG = 5; // tokens
const REHEARSAL = 3e8; // multiplications that are spent on a text from which units are suggested
const BLOCK = 256; // tokens for which memory is allocated at a time
const WIDTH = run.layers * cell.fields.length * H; // values after a token
const history = []; // blocks of values, as 8-bit integers from -127 (for -1) to 127 (for 1)
const peaks = new Float64Array(WIDTH); // greatest absolute value of each quantity so far

// Returns LAYER:UNIT, with a letter if the quantity is not the one that the name means without it.
const nameOf = ({ layer, quantity, unit }) =>
  `${layer}:${quantity === cell.fields.at(-1) ? "" : quantity}${unit}`;
const columnOf = ({ layer, quantity, unit }) =>
  (layer * cell.fields.length + cell.fields.indexOf(quantity)) * H + unit;

// Returns {layer, quantity, unit}; throws an error that says what is wrong with the name. Without a
// letter, the quantity is c for an LSTM and h for other cells.
function parseUnit(text) {
  const match = NAME.exec(text.trim());
  if (!match) throw new Error("use LAYER:UNIT, for example 0:7");
  const [layer, quantity, unit] = [+match[1], match[2] || cell.fields.at(-1), +match[3]];
  if (layer >= run.layers) {
    throw new Error(`no layer ${layer}: the last layer is ${run.layers - 1}`);
  }
  if (!cell.fields.includes(quantity)) {
    throw new Error(`no quantity ${quantity}: use one of ${cell.fields.join(", ")}`);
  }
  if (unit >= H) throw new Error(`no unit ${unit}: the last unit is ${H - 1}`);
  return { layer, quantity, unit };
}

// Returns the unit with the same quantity that is `by` places further in the order of all units.
function neighbor({ layer, quantity, unit }, by) {
  const count = run.layers * H;
  const place = (layer * H + unit + by + count) % count;
  return { layer: Math.floor(place / H), quantity, unit: place % H };
}

// Stores the carry after token t. The quantity c is stored as tanh(c), because it is unbounded.
function record(t, carry) {
  const block = (history[Math.floor(t / BLOCK)] ??= new Int8Array(BLOCK * WIDTH));
  const start = (t % BLOCK) * WIDTH;
  let column = 0;
  for (const state of carry) {
    for (const name of cell.fields) {
      for (const value of state[name]) {
        if (Math.abs(value) > peaks[column]) peaks[column] = Math.abs(value);
        const bounded = name === "c" ? Math.tanh(value) : clamp(value, -1, 1);
        block[start + column++] = Math.round(127 * bounded);
      }
    }
  }
}

// Returns the stored value of a unit after token t, from -1 to 1.
const recorded = (t, unit) =>
  history[Math.floor(t / BLOCK)][(t % BLOCK) * WIDTH + columnOf(unit)] / 127;

// Writes a text that is not shown, and returns the `count` units that vary most and change slowly
// in it: those with the greatest autocovariance, as tanh(c) or h.
function suggested(count) {
  const size = Object.values(params)
    .flatMap(Object.values)
    .reduce((sum, { values }) => sum + values.length, 0);
  const length = clamp(Math.round(REHEARSAL / size), 60, 400);
  const settings = { temperature: 1, topK: null, topP: 1, seed: 0 };
  let state = apply(tokenizer.default_id, initialCarry());
  for (let t = 0; t < length; t++) {
    state = apply(sampled(state.logits, settings, t), state.carry);
    record(t, state.carry);
  }
  const units = Array.from({ length: run.layers * H }, (_, place) =>
    neighbor(parseUnit("0:0"), place),
  );
  const times = Array.from({ length }, (_, t) => t);
  const scored = units.map((unit) => {
    const values = times.map((t) => recorded(t, unit));
    const mean = values.reduce((a, b) => a + b) / length;
    const products = times.slice(LAG).map((t) => (values[t] - mean) * (values[t - LAG] - mean));
    return { unit, score: products.reduce((a, b) => a + b) };
  });
  scored.sort((a, b) => b.score - a.score);
  return scored.slice(0, count).map(({ unit }) => unit);
}
