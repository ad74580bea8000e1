// What the model said at the character under the pointer. Text goes in as text nodes, never as
// markup. A character n: data.ids[n], data.bits[n] (null where nothing stands before it),
// data.rank[n] and, for the likeliest, data.top[n] as [id, p, id, p, ...].

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
  const table = make("table", {}, make("caption", {}, "expected here, most likely first"));
  const likeliest = data.top[n];
  for (let k = 0; k < likeliest.length; k += 2) {
    table.append(row(likeliest[k], likeliest[k + 1], likeliest[k] === data.ids[n]));
  }
  const listed = likeliest.some((id, k) => k % 2 === 0 && id === data.ids[n]);
  if (!listed) table.append(row(data.ids[n], p, true));
  return table;
}

function show(n) {
  marks[here]?.classList.remove("here");
  marks[n].classList.add("here");
  here = n;
  const bits = data.bits[n];
  const place = `character ${(data.places[n]).toLocaleString("en-US")}`;
  const title = make("h2", {}, data.symbols[data.ids[n]], " ", make("small", {}, place));
  if (bits === null) {
    look.replaceChildren(title, make("p", { class: "quiet" }, "Nothing stands before it."));
    return;
  }
  const p = 2 ** -bits;
  const facts = make("dl");
  for (const [name, value] of [
    ["surprise", `${bits.toFixed(2)} bits`],
    ["p", p >= 0.001 ? p.toFixed(3) : p.toExponential(1)],
    ["guess", `no. ${data.rank[n]}`],
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
