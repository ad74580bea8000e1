// The network, with the names and the lines of models/cells.py and models/rnn.py.
//
// Vectors are Float64Arrays. A matrix is {values, columns}, with its rows one after another in a
// Float32Array. All products are computed in float64.

const readBlock = (id) => JSON.parse(document.getElementById(id).textContent);
const run = readBlock("run");

function unpack({ shape, data }) {
  const codes = atob(data);
  const bytes = new Uint8Array(codes.length);
  for (let n = 0; n < codes.length; n++) bytes[n] = codes.charCodeAt(n);
  return { values: new Float32Array(bytes.buffer), columns: shape.at(-1) };
}

const params = Object.fromEntries(
  Object.entries(readBlock("weights")).map(([layer, arrays]) => [
    layer,
    Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, unpack(array)])),
  ]),
);
const V = run.tokenizer.texts.length;
const H = run.hidden;

function vector(length, f) {
  const y = new Float64Array(length);
  for (let k = 0; k < length; k++) y[k] = f(k);
  return y;
}

const row = ({ values, columns }, n) => values.subarray(n * columns, (n + 1) * columns);
const split = (x, count) =>
  Array.from({ length: count }, (_, n) => row({ values: x, columns: x.length / count }, n));
const sigmoid = (x) => vector(x.length, (k) => 1 / (1 + Math.exp(-x[k])));
const tanh = (x) => vector(x.length, (k) => Math.tanh(x[k]));

// Returns x @ W + b. This loop takes nearly all the time; four rows at once save a third of it.
function dot(x, W, b) {
  const { values, columns } = W;
  const y = Float64Array.from(b);
  let d = 0;
  for (; d + 4 <= x.length; d += 4) {
    const x0 = x[d];
    const x1 = x[d + 1];
    const x2 = x[d + 2];
    const x3 = x[d + 3];
    for (let k = 0, i = d * columns; k < columns; k++, i++) {
      y[k] +=
        x0 * values[i] +
        x1 * values[i + columns] +
        (x2 * values[i + 2 * columns] + x3 * values[i + 3 * columns]);
    }
  }
  for (; d < x.length; d++) {
    for (let k = 0, i = d * columns; k < columns; k++, i++) y[k] += x[d] * values[i];
  }
  return y;
}

// Returns x @ W_xh + b_h. An id selects a row of W_xh, because it stands for a one-hot vector.
function project({ W_xh, b_h }, x) {
  if (typeof x !== "number") return dot(x, W_xh, b_h.values);
  const W_x = row(W_xh, x);
  return vector(W_x.length, (k) => W_x[k] + b_h.values[k]);
}

function rnn(params, state, x) {
  return { state: { h: tanh(dot(state.h, params.W_hh, project(params, x))) }, gates: {} };
}

function gru(params, state, x) {
  const [x_r, x_z, x_n] = split(project(params, x), 3);
  const [h_r, h_z, h_n] = split(dot(state.h, params.W_hh, new Float64Array(3 * H)), 3);
  const b_hn = params.b_hn.values;
  const r = sigmoid(vector(H, (k) => x_r[k] + h_r[k]));
  const z = sigmoid(vector(H, (k) => x_z[k] + h_z[k]));
  const a = vector(H, (k) => h_n[k] + b_hn[k]);
  const n = tanh(vector(H, (k) => x_n[k] + r[k] * a[k]));
  const h = vector(H, (k) => (1 - z[k]) * n[k] + z[k] * state.h[k]);
  return { state: { h }, gates: { r, z, n, a } };
}

function lstm(params, state, x) {
  const [x_i, x_f, x_g, x_o] = split(dot(state.h, params.W_hh, project(params, x)), 4);
  const [i, f, g, o] = [sigmoid(x_i), sigmoid(x_f), tanh(x_g), sigmoid(x_o)];
  const c = vector(H, (k) => f[k] * state.c[k] + i[k] * g[k]);
  const h = vector(H, (k) => o[k] * Math.tanh(c[k]));
  return { state: { h, c }, gates: { i, f, g, o } };
}

// `fields` are the quantities of a state. `output` recomputes h after c has been clamped.
const CELLS = {
  rnn: { step: rnn, fields: ["h"], output: (state) => state },
  gru: { step: gru, fields: ["h"], output: (state) => state },
  lstm: {
    step: lstm,
    fields: ["h", "c"],
    output: ({ c }, { o }) => ({ h: vector(H, (k) => o[k] * Math.tanh(c[k])), c }),
  },
};
const cell = CELLS[run.cell];

// Returns the state `after` a step with the clamped entries replaced. `clamps` of this layer are
// {quantity, unit, value}. If the value is NaN, the entry keeps its value from `before` the step.
function clamped(before, after, gates, clamps) {
  const put = (state, quantity) => {
    const values = Float64Array.from(state[quantity]);
    for (const { quantity: name, unit, value } of clamps) {
      if (name === quantity) values[unit] = Number.isNaN(value) ? before[quantity][unit] : value;
    }
    return { ...state, [quantity]: values };
  };
  const inner = cell.fields.slice(1);
  if (clamps.some(({ quantity }) => inner.includes(quantity))) {
    after = cell.output(inner.reduce(put, after), gates);
  }
  return put(after, "h");
}

const initialCarry = () =>
  Array.from({ length: run.layers }, () =>
    Object.fromEntries(cell.fields.map((name) => [name, new Float64Array(H)])),
  );

// Reads one id: returns the logits of the next token [V], and the carry after it. The id of the end
// of a document resets the carry before it is read. `clamps` are {layer, quantity, unit, value}.
function apply(id, carry, clamps = []) {
  if (id === run.tokenizer.end_id) carry = initialCarry();
  let x = params.embed ? row(params.embed.W_e, id) : id;
  const after = carry.map((before, n) => {
    let { state, gates } = cell.step(params[`layer_${n}`], before, x);
    const own = clamps.filter(({ layer }) => layer === n);
    if (own.length) state = clamped(before, state, gates, own);
    const below = x;
    x = run.residual && n ? vector(H, (k) => state.h[k] + below[k]) : state.h;
    return state;
  });
  const { W_hy, b_y } = params.head;
  return { logits: dot(x, W_hy, b_y.values), carry: after };
}
