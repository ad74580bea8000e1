// The data of the page, and the decoding of its numbers. Nothing here changes the display.

const readBlock = (id) => JSON.parse(document.getElementById(id).textContent);
const study = readBlock("study");
const excerpt = readBlock("excerpt");
const explanations = readBlock("explanations"); // {weights, units}, or null if there can be none
const { rates } = readBlock("rates"); // of networks that differ only in their seed, or null
const traces = readBlock("traces"); // of all units, without their codes
const first = document.getElementById("first").textContent; // the codes of the best units
let rest = null; // all other codes, which are most of the page
let predictions = null; // {topIds, topP, nats}, decoded when they are first shown

async function inflate(text, Type) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = binary.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

const hasNetwork = study.model !== null; // otherwise only states are known, from a file
let points = null; // the code point of each of the N characters
let N = 0;
let lines = null; // index of the line that contains each character

async function readText() {
  points = await inflate(excerpt.text, Uint32Array);
  N = points.length;
  lines = new Uint32Array(N);
  for (let t = 1; t < N; t++) lines[t] = lines[t - 1] + (points[t - 1] === 10 ? 1 : 0);
}

// Returns the codes of a trace. The page shows its best units before the browser has read the rest,
// which follows the script.
async function codesOf({ at: [start, stop] }) {
  if (stop <= first.length) return first.slice(start, stop);
  if (rest === null) {
    if (document.readyState === "loading") {
      await new Promise((done) => document.addEventListener("DOMContentLoaded", done));
    }
    rest = document.getElementById("rest").textContent;
  }
  return rest.slice(start - first.length, stop - first.length);
}

async function readPredictions() {
  if (predictions) return;
  const topIds = await inflate(excerpt.top_ids, Uint16Array);
  const topP = await inflate(excerpt.top_p, Uint16Array);
  predictions = { topIds, topP, nats: await inflate(excerpt.nats, Float32Array) };
}

// `kind` is the only quantity of a unit, and empty if it has several.
const cells = study.units.map((name, index) => {
  const [, layer, kind, number] = /^(\d+):([a-z]*)(\d+)$/.exec(name);
  return { index, name, kind, layer: Number(layer), number: Number(number) };
});
const cellNamed = new Map(cells.map((each) => [each.name, each]));
const layers = [...new Set(cells.map((each) => each.layer))];
const mainOf = (cell) => cell.kind || (traces.main === "c" ? "tanh(c)" : traces.main);

function quantitiesOf(cell) {
  const fine = traces.fine[cell.name];
  return [mainOf(cell), ...(fine ? study.quantities.filter((name) => name in fine) : [])];
}

const unpacked = new Map();

// Returns a quantity of a unit after each character: float32 [N].
async function traceOf(cell, quantity) {
  const key = `${cell.name} ${quantity}`;
  if (!unpacked.has(key)) {
    const isMain = quantity === mainOf(cell);
    const packed = isMain ? traces.coarse[cell.index] : traces.fine[cell.name][quantity];
    unpacked.set(key, await unpack(packed));
  }
  return unpacked.get(key);
}

async function unpack(packed) {
  const codes = await inflate(await codesOf(packed), Uint8Array);
  const step = (packed.high - packed.low) / (packed.levels - 1);
  const values = new Float32Array(codes.length);
  for (let t = 0, code = 0; t < codes.length; t++) {
    code = packed.steps ? (code + codes[t]) & 255 : codes[t];
    values[t] = packed.low + code * step;
  }
  return values;
}

const labels = new Map();

// Returns a label as float32 [N], NaN where it is undefined; null if the page does not contain it.
// A hypothesis that controls for others, "a | b", has the label of a.
async function labelOf(whole) {
  const name = whole in excerpt.labels ? whole : whole.split(" | ")[0];
  if (!(name in excerpt.labels)) return null;
  if (!labels.has(name)) labels.set(name, await inflate(excerpt.labels[name], Float32Array));
  return labels.get(name);
}

const hypotheses = new Map(study.hypotheses.map((each) => [each.name, each]));
const findings = new Map(study.findings.map((each) => [each.hypothesis, each]));
for (const name of findings.keys()) {
  if (!hypotheses.has(name)) {
    hypotheses.set(name, { name, kind: findings.get(name).kind, about: "", predicts: false });
  }
}
const scoreOf = (name, cell) => study.scores[name]?.[cell.index] ?? null;

// The hypothesis that each unit follows best: [name, score] or null. Hypotheses that look ahead are
// excluded, because most units predict line ends; so are those that control for others.
const isState = ({ kind, predicts }) => kind !== "controlled" && !predicts;
const states = Object.keys(study.scores).filter((name) => isState(hypotheses.get(name)));
const bestOf = cells.map((cell) => {
  let best = null;
  for (const name of states) {
    const score = scoreOf(name, cell);
    if (score !== null && (!best || Math.abs(score) > Math.abs(best[1]))) best = [name, score];
  }
  return best;
});

const symbolAt = (t) => String.fromCodePoint(points[t]);

// Returns the text from `start` to `stop` on one line.
function passage(start, stop) {
  let text = "";
  for (let t = Math.max(0, start); t < Math.min(N, stop); t++) text += shownAs(symbolAt(t))[0];
  return text;
}
