// The part of the address after #, which names what the page shows and can be copied as a link, for
// example #unit=1:227&hypothesis=line-position&tab=findings.

const WAIT = 300; // ms after the last change; browsers limit how often an address may change
const MAX_SHOWN = 40; // number of characters of a wrong value that a message repeats
let due = null; // timer of the next change of the address
let isFollowing = false; // whether the page is changing to what the address names

// Returns the part after # for what is shown. The defaults of all but the unit are left out.
function address() {
  const parts = { unit: state.cell.name, hypothesis: state.hypothesis };
  if (state.quantity !== mainOf(state.cell)) parts.quantity = state.quantity;
  if (state.view !== "text") parts.tab = state.view;
  if (caret > 0) parts.character = caret;
  return `#${new URLSearchParams(parts)}`.replaceAll("%3A", ":");
}

// Changes the address with a method of `history`.
function writeAddress(method) {
  clearTimeout(due);
  byId("problem").textContent = "";
  if (state.cell && address() !== location.hash) history[method](null, "", address());
}

function remember() {
  clearTimeout(due);
  if (!isFollowing) due = setTimeout(writeAddress, WAIT, "replaceState");
}

// Shows what the address names. A name that does not exist is reported in one line. Without a unit
// and a hypothesis, the chosen ones remain.
async function follow() {
  isFollowing = true;
  const asked = new URLSearchParams(location.hash.slice(1));
  const problems = [];
  const read = (key, isKnown, known) => {
    const value = asked.get(key);
    if (value === null || isKnown(value)) return value;
    problems.push(`This page has no ${key} ${safe(value.slice(0, MAX_SHOWN))}: ${known}.`);
    return null;
  };
  const units = `its units are ${cells[0].name} to ${cells.at(-1).name}`;
  const unit = cellNamed.get(read("unit", (name) => cellNamed.has(name), units)) ?? null;
  const names = "choose one from the list";
  const hypothesis = read("hypothesis", (name) => hypotheses.has(name), names);
  const tabs = `its tabs are ${VIEWS.map(({ name }) => name).join(", ")}`;
  const view = read("tab", isView, tabs) ?? "text";
  const last = `the text has the characters 0 to ${N - 1}`;
  const at = Number(read("character", (text) => /^\d+$/.test(text) && text < N, last));
  const cell = unit ?? (hypothesis ? null : state.cell);
  const shown = hypothesis ?? (unit ? clearest(unit) : (state.hypothesis ?? clearest()));
  state.quantity = null;
  await chooseHypothesis(shown, cell);
  const own = quantitiesOf(state.cell);
  const quantity = read("quantity", (name) => own.includes(name), `use ${own.join(", ")}`);
  if (quantity && quantity !== state.quantity) {
    state.quantity = quantity;
    await chooseCell(state.cell);
  }
  openView(view);
  if (at !== caret) goTo(at);
  isFollowing = false;
  clearTimeout(due);
  byId("problem").textContent = problems[0] ?? "";
}
