// HTML elements and number formats. Text is inserted as text nodes, never as markup.

const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--") || name === "width%") setStyle(node, name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function setStyle(node, name, value) {
  if (name === "width%") node.style.width = `${100 * value}%`;
  else node.style.setProperty(name, value);
}

const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const show = (node, ...children) => fill(node, {}, (node.replaceChildren(), children));
const button = (text, onclick, attributes = {}) =>
  make("button", { type: "button", onclick, ...attributes }, text);

// Fill the dialog #keys with a list of pairs [keys, text].
function addShortcuts(shortcuts) {
  const list = shortcuts.flatMap(([keys, text]) => [make("dt", {}, keys), make("dd", {}, text)]);
  byId("keys").append(
    make("h2", {}, "Keyboard shortcuts"),
    make("dl", {}, list),
    button("Close", () => byId("keys").close(), { autofocus: true }),
  );
}

function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits);
const percent = (p, digits = 0) => `${number(100 * p, digits)}%`;
// Returns a whole number with commas. This is much faster than toLocaleString.
const thousands = (value) => `${value}`.replace(/\B(?=(\d{3})+$)/g, ",");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
