// Shows the predictions of the model for the token under the pointer. Text is inserted as text
// nodes, never as markup. Token n has data.ids[n], data.bits[n] (null for the first token
// of a document), data.rank[n], and data.top[n], the most probable tokens as [id, p, id, p, ...].

const data = JSON.parse(document.getElementById("scores").textContent);
const text = document.getElementById("text");
const look = document.getElementById("look");
const marks = [...text.querySelectorAll("i")];
marks.forEach((mark, n) => (mark.at = n));
let here = -1;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const percent = (p) => (p >= 0.001 ? `${(100 * p).toFixed(1)}%` : "<0.1%");

function row(id, p, came) {
  return make(
    "tr",
    came ? { class: "came" } : {},
    make("td", {}, data.symbols[id]),
    make("td", {}, make("meter", { value: p })),
    make("td", {}, percent(p)),
  );
}

function expected(n, p) {
  const table = make("table", {}, make("caption", {}, "predicted here, most probable first"));
  const predictions = data.top[n];
  for (let k = 0; k < predictions.length; k += 2) {
    table.append(row(predictions[k], predictions[k + 1], predictions[k] === data.ids[n]));
  }
  const listed = predictions.some((id, k) => k % 2 === 0 && id === data.ids[n]);
  if (!listed) table.append(row(data.ids[n], p, true));
  return table;
}

function show(n) {
  marks[here]?.classList.remove("here");
  marks[n].classList.add("here");
  here = n;
  const bits = data.bits[n];
  const place = `${data.unit} ${(data.places[n]).toLocaleString("en-US")}`;
  const title = make("h2", {}, data.symbols[data.ids[n]], " ", make("small", {}, place));
  if (bits === null) {
    const reason = "The first token of a document has no prediction.";
    look.replaceChildren(title, make("p", { class: "quiet" }, reason));
    return;
  }
  const p = 2 ** -bits;
  const facts = make("dl");
  for (const [name, value] of [
    ["surprisal", `${bits.toFixed(2)} bits`],
    ["probability", p >= 0.001 ? p.toFixed(3) : p.toExponential(1)],
    ["rank", `${data.rank[n]}`],
  ]) {
    facts.append(make("dt", {}, name), make("dd", {}, value));
  }
  look.replaceChildren(title, facts, expected(n, p));
}

text.addEventListener("pointerover", (event) => {
  if (event.target.at !== undefined) show(event.target.at);
});
text.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !marks.length) return;
  event.preventDefault();
  show(Math.min(marks.length - 1, Math.max(0, here + step)));
  marks[here].scrollIntoView({ block: "nearest" });
});
