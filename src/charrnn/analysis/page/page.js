// The page: what is chosen, the views, the keys, and the start.

const state = { cell: null, hypothesis: null, quantity: MAIN, stretch: false, at: 0, view: "text" };
const VIEWS = [["text", "Cells in text"], ["findings", "Findings"], ["causes", "Causes"],
  ["gates", "Gates"], ["births", "Learning"], ["notes", "How to read"]];
const KEYS = [
  ["/", "search for a cell or a hypothesis"], ["j, k", "next, previous cell of the table"],
  ["[, ]", "previous, next hypothesis"], ["l", "the same cell in the next layer"],
  ["b", "the best cell for the hypothesis in the next layer"], ["q", "the next quantity of the cell"],
  ["c", "full contrast"], ["u", "the label, by underlines"], ["p", "predictions under the text"],
  ["t", "to the text"], ["arrows, Home, End, Page", "move in the text; Ctrl for its ends"],
  ["Shift and these", "select"], ["s or Enter", "places like the selection"], ["Esc", "drop the selection"],
  ["1 to 6", "views"], ["d", "dark or light"], ["?", "this list"],
];

async function chooseHypothesis(name) {
  state.hypothesis = name;
  byId("hypothesis").value = name;
  const { kind, about, predicts } = hypotheses.get(name);
  byId("hypothesis-about").textContent =
    [about, predicts && !about.includes("looks ahead") ? "looks ahead" : "", kind].filter(Boolean).join(" · ");
  const finding = findings.get(name);
  const best = finding?.scored ? cellNamed.get(`${finding.layer}:${finding.cell}`) : null;
  const label = await labelOf(name);
  if (state.hypothesis !== name) return;
  state.cell = best ?? bestCell();
  paint.label = label;
  listCells({ all: false });
  await chooseCell(state.cell);
}

async function chooseCell(cell) {
  state.cell = cell;
  if (!quantitiesOf(cell).includes(state.quantity)) state.quantity = MAIN;
  const quantity = state.quantity;
  const trace = await traceOf(cell, quantity);
  if (state.cell !== cell || state.quantity !== quantity) return; // another was chosen meanwhile
  similar = null;
  repaint({ trace, ...scaleOf(trace, quantity) });
  describe();
  markChosen();
  lookAt(state.at);
  listSimilar();
}

// Colours: no value, or a gate half open, is blank.
function scaleOf(trace, quantity) {
  const centre = UNIT.has(quantity) ? 0.5 : 0;
  const most = trace.reduce((a, b) => Math.max(a, Math.abs(b - centre)), 1e-6);
  const unbounded = quantity === "c" || quantity === "a";
  return { centre, half: state.stretch || unbounded ? most : UNIT.has(quantity) ? 0.5 : 1 };
}

function describe() {
  const { cell, quantity, hypothesis } = state;
  const finding = findings.get(hypothesis);
  const isBest = finding?.scored && finding.layer === cell.layer && finding.cell === cell.cell;
  show(byId("shown"), `Cell ${cell.name}, `, make("span", { class: "glyph" }, quantity),
    isBest ? `: the best of ${thousands(cells.length)} for ${hypothesis}` : ` and ${hypothesis}`);
  show(byId("verdict"), isBest ? verdict(finding) : comparison(cell, hypothesis));
  const quantities = quantitiesOf(cell);
  byId("quantity").replaceChildren(...quantities.map((each) =>
    make("option", { value: each, selected: each === quantity }, each)));
  byId("quantity").disabled = quantities.length < 2;
  byId("quantity").title = quantities.length < 2 ? `This file has only ${MAIN} of this cell` : "(q)";
  show(byId("jumps"), jumps());
  legend();
}

function comparison(cell, hypothesis) {
  const score = scoreOf(hypothesis, cell);
  if (score === null) return `${hypothesis} was not scored.`;
  const [name, best] = bestOf[cell.index];
  const rest = name === hypothesis
    ? "there is nothing that it follows better." : `what it follows best is ${name}, ${signed(best)}.`;
  return `Its score on the other half of the text is ${signed(score)}, of −1 to 1; ${rest}`;
}

function verdict(finding) {
  const bar = barOf(finding);
  const late = finding.lag ? `, ${Math.abs(finding.lag)} character ${finding.lag > 0 ? "late" : "early"}` : "";
  const said = `${finding.quantity} has ${statistic(finding)} on the other half of the text` +
    `${finding.direction < 0 ? ", low where it holds" : ""}${late}` +
    (bar === null ? ". " : `; to beat ${number(bar)}. `);
  return [said, (finding.survives ?? null) === null ? "" : make("b", { class: finding.survives ? "yes" : "no" },
    finding.survives ? "✓ Survives." : "Does not survive.")];
}

function jumps() {
  if (layers.length < 2) return [];
  const layer = nextLayer();
  const same = cellNamed.get(`${layer}:${state.cell.cell}`);
  const best = bestCell(layer);
  return [
    same ? button(`same cell in layer ${layer}: ${same.name}`, () => chooseCell(same), { title: "The same cell in the next layer (l)" }) : null,
    button(`best in layer ${layer}: ${best.name}`, () => chooseCell(best),
      { title: "The best cell for this hypothesis in the next layer (b)" }),
  ];
}

const nextLayer = () => layers[(layers.indexOf(state.cell.layer) + 1) % layers.length];

function legend() {
  const { centre, half } = paint;
  const kind = hypotheses.get(state.hypothesis).kind;
  const end = (value) => make("span", { class: "figure" }, number(value, Math.abs(value) < 1 ? 2 : 1));
  show(byId("legend"),
    make("span", { class: "glyph" }, state.quantity), end(centre - half),
    make("span", { class: "ramp", role: "img", "aria-label": "blue is low, orange is high" }),
    end(centre + half),
    make("span", { class: "held" }, paint.label ? [make("span", { class: "ch u4" }, "underlined"),
      ` ${state.hypothesis}${kind === "binary" ? "" : ", the thicker the more"}`] : "no label here"));
}

function buildTabs() {
  for (const [name, text] of VIEWS) {
    byId("tabs").append(button(text, () => openView(name), {
      role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`,
    }));
  }
  byId("tabs").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const at = VIEWS.findIndex(([name]) => name === state.view);
    openView(VIEWS[(at + move + VIEWS.length) % VIEWS.length][0]);
    byId(`tab-${state.view}`).focus();
  });
}

function openView(name) {
  state.view = name;
  for (const [each] of VIEWS) {
    const isShown = each === name;
    byId(`view-${each}`).classList.toggle("open", isShown);
    byId(`tab-${each}`).setAttribute("aria-selected", isShown);
    byId(`tab-${each}`).tabIndex = isShown ? 0 : -1;
  }
}

function openHypothesis(name) {
  openView("text");
  chooseHypothesis(name);
}

async function openCell(cell, hypothesis = null) {
  openView("text");
  if (hypothesis && hypotheses.has(hypothesis)) await chooseHypothesis(hypothesis);
  await chooseCell(cell);
}

function step(list, item, by) {
  return list[clamp(list.indexOf(item) + by, 0, list.length - 1)];
}

function nextQuantity() {
  const names = quantitiesOf(state.cell);
  state.quantity = names[(names.indexOf(state.quantity) + 1) % names.length];
  chooseCell(state.cell);
}

function toggle(id) {
  byId(id).checked = !byId(id).checked;
  byId(id).dispatchEvent(new Event("change"));
}

const ACTIONS = {
  "/": () => { openView("text"); byId("search").focus(); },
  j: () => chooseCell(step(listed(), state.cell, 1)),
  k: () => chooseCell(step(listed(), state.cell, -1)),
  "]": () => chooseHypothesis(step([...hypotheses.keys()], state.hypothesis, 1)),
  "[": () => chooseHypothesis(step([...hypotheses.keys()], state.hypothesis, -1)),
  l: () => chooseCell(cellNamed.get(`${nextLayer()}:${state.cell.cell}`) ?? state.cell),
  b: () => chooseCell(bestCell(nextLayer())),
  q: nextQuantity,
  c: () => toggle("stretch"),
  u: () => toggle("underline"),
  p: () => toggle("guesses"),
  t: () => { openView("text"); byId("text").focus(); },
  s: showSimilar,
  d: switchTheme,
  "?": () => byId("keys").showModal(),
  Escape: () => { setSpan(null); similar = null; listSimilar(); },
};

function pressed(event) {
  const isTyping = event.target.matches("input[type=search], select");
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping || byId("keys").open) {
    if (isTyping && event.key === "Escape") event.target.blur();
    return;
  }
  if (/^[1-6]$/.test(event.key)) openView(VIEWS[event.key - 1][0]);
  else if (Object.hasOwn(ACTIONS, event.key)) ACTIONS[event.key]();
  else return;
  event.preventDefault();
}

let anchor = null; // where a selection by keys began

function textKeys(event) {
  const next = event.altKey || event.metaKey ? null : moved(event.key, event.ctrlKey);
  if (event.key === "Enter") showSimilar();
  if (next === null) return;
  event.preventDefault();
  if (event.shiftKey) anchor ??= caret;
  else anchor = null;
  setCaret(next);
  if (anchor !== null) setSpan([Math.min(anchor, next), Math.max(anchor, next) + 1]);
  else setSpan(null);
  state.at = caret;
  lookAt(caret);
  listSimilar();
}

function watchText(pane) {
  pane.addEventListener("keydown", textKeys);
  pane.addEventListener("pointermove", (event) => {
    const at = markIn(event.target);
    if (at !== null && at !== state.at) lookAt((state.at = at));
  });
  pane.addEventListener("pointerleave", () => lookAt((state.at = caret)));
  pane.addEventListener("pointerup", (event) => {
    anchor = null;
    const at = markIn(event.target);
    if (at !== null) setCaret(at, null);
    setSpan(selectedByMouse());
    listSimilar();
  });
}

function watchControls() {
  byId("quantity").addEventListener("change", (event) => {
    state.quantity = event.target.value;
    chooseCell(state.cell);
  });
  byId("stretch").addEventListener("change", (event) => {
    state.stretch = event.target.checked;
    chooseCell(state.cell);
  });
  byId("underline").addEventListener("change", (event) => repaint({ underline: event.target.checked }));
  byId("guesses").addEventListener("change", (event) => {
    const top = marks[caret].getBoundingClientRect().top;
    byId("text").classList.toggle("guessing", event.target.checked);
    repaint({ guesses: event.target.checked });
    // The lines move apart: what is read stays where it is.
    byId("text").scrollTop += marks[caret].getBoundingClientRect().top - top;
  });
  byId("theme").addEventListener("click", switchTheme);
  byId("help").addEventListener("click", ACTIONS["?"]);
  document.addEventListener("keydown", pressed);
  addEventListener("beforeprint", paintAll);
}

const isDark = () => (document.documentElement.dataset.theme ??
  (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function switchTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

function showHead() {
  const { model, text } = study;
  byId("run").textContent = study.run;
  byId("about").textContent = `${model.layers} × ${model.hidden} ${model.cell.toUpperCase()}, step ` +
    `${thousands(study.step)} · ${text.name}, ${number(text.nats, 3)} nats per character`;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("keys").append(make("h2", {}, "Keys"),
    make("dl", {}, KEYS.flatMap(([keys, text]) => [make("dt", {}, keys), make("dd", {}, text)])),
    button("Close", () => byId("keys").close(), { autofocus: true }));
}

addShades();
showHead();
buildTabs();
buildText(byId("text"));
buildChooser();
showFindings();
showCauses();
showGates();
showBirths();
showNotes();
watchControls();
watchText(byId("text"));
openView("text");
// The first that survives is what there is to see.
const surviving = study.findings.find((finding) => finding.survives) ?? study.findings[0];
paint.trace = new Float32Array(N);
await chooseHypothesis(surviving?.hypothesis ?? [...hypotheses.keys()][0]);
document.documentElement.dataset.ready = "true";
