// The state of the page, the choice of a hypothesis and a unit, and the initialization.

const state = { cell: null, hypothesis: null, quantity: null, stretch: false, at: 0, view: "text" };

// Chooses a hypothesis and a unit, by default the best unit for the hypothesis.
async function chooseHypothesis(name, cell = null) {
  state.hypothesis = name;
  state.cell = cell ?? cellFor(name);
  byId("hypothesis").value = name;
  const { kind, about, predicts } = hypotheses.get(name);
  byId("hypothesis-about").textContent = [
    about,
    predicts && !about.includes("looks ahead") ? "looks ahead" : "",
    kind === "controlled" ? "controls for other labels" : `${kind} label`,
  ]
    .filter(Boolean)
    .join(" · ");
  const label = await labelOf(name);
  if (state.hypothesis !== name) return; // the selection has changed
  paint.label = label;
  listCells({ all: false });
  await chooseCell(state.cell);
}

async function chooseCell(cell) {
  state.cell = cell;
  if (!quantitiesOf(cell).includes(state.quantity)) state.quantity = mainOf(cell);
  const quantity = state.quantity;
  const trace = await traceOf(cell, quantity);
  if (state.cell !== cell || state.quantity !== quantity) return; // the selection has changed
  similar = null;
  repaint({ trace, ...scaleOf(cell, trace, quantity) });
  describe();
  markChosen();
  listSimilar();
  fillView(VIEWS.find(({ name }) => name === state.view));
  remember();
  lookAt(state.at);
}

// Returns the center and half the range of the color scale. The center has no color: 0, or 0.5 for
// gates, or the mean of a unit of a transformer, which may be far from 0 everywhere.
function scaleOf(cell, trace, quantity) {
  const mean = () => trace.reduce((a, b) => a + b, 0) / N;
  const center = cell.kind ? mean() : UNIT.has(quantity) ? 0.5 : 0;
  const most = trace.reduce((a, b) => Math.max(a, Math.abs(b - center)), 1e-6);
  const unbounded = cell.kind || quantity === "c" || quantity === "a" || most > 1;
  return { center, half: state.stretch || unbounded ? most : UNIT.has(quantity) ? 0.5 : 1 };
}

function describe() {
  const { cell, quantity, hypothesis } = state;
  const finding = findings.get(hypothesis);
  const isBest = finding?.scored && finding.unit === cell.name;
  show(
    byId("shown"),
    `Unit ${cell.name}`,
    cell.kind ? null : [", ", make("span", { class: "glyph" }, quantity)],
    isBest ? `: best of ${thousands(cells.length)} units for ${hypothesis}` : `, for ${hypothesis}`,
  );
  show(byId("verdict"), isBest ? verdict(finding) : comparison(cell, hypothesis));
  const quantities = quantitiesOf(cell);
  byId("quantity").replaceChildren(
    ...quantities.map((each) => make("option", { value: each, selected: each === quantity }, each)),
  );
  byId("quantity").disabled = quantities.length < 2;
  byId("quantity").title =
    quantities.length < 2
      ? contentOf(cell)
      : "Quantity that colors the text (q)";
  show(byId("jumps"), jumps());
  legend();
}

function comparison(cell, hypothesis) {
  const score = scoreOf(hypothesis, cell);
  if (score === null) return `${hypothesis} was not scored.`;
  const [name, best] = bestOf[cell.index] ?? [];
  const rest = !name
    ? ""
    : name === hypothesis
      ? "It follows no other hypothesis better, among those that do not look ahead."
      : `Among hypotheses that do not look ahead, it follows ${name} best (${signed(best)}).`;
  return `Score ${signed(score)} on the confirmation half, on a scale from −1 to 1. ${rest}`;
}

function verdict(finding) {
  const bar = barOf(finding);
  const late = finding.lag
    ? `, ${Math.abs(finding.lag)} character ${finding.lag > 0 ? "late" : "early"}`
    : "";
  const threshold = bar === null ? "" : ` (threshold ${number(bar)})`;
  return [
    `Its ${finding.quantity} scores ${statistic(finding)} on the confirmation half${threshold}` +
      `${directionOf(finding)}${late}. `,
    (finding.significant ?? null) === null
      ? ""
      : make(
          "b",
          { class: finding.significant ? "yes" : "no" },
          finding.significant
            ? "✓ Significant."
            : finding.confounded
              ? "Not significant when controlling for its confounds."
              : "Not significant.",
        ),
  ];
}

function jumps() {
  const hasExplanation = explanations && state.cell.name in explanations.units;
  const title = "Why this unit works (e)";
  return [
    hasExplanation ? button("explanation", () => visit("explanations"), { title }) : null,
    layers.length > 1 ? jumpsToLayer() : null,
  ];
}

function jumpsToLayer() {
  const layer = nextLayer();
  const same = sameInNextLayer();
  const best = bestCell(layer);
  return [
    same
      ? button(`same number in layer ${layer}: ${same.name}`, () => chooseCell(same), {
          title: "Unit with the same number in the next layer (l)",
        })
      : null,
    button(`best unit in layer ${layer}: ${best.name}`, () => chooseCell(best), {
      title: "Best unit of the next layer for this hypothesis (b)",
    }),
  ];
}

const nextLayer = () => layers[(layers.indexOf(state.cell.layer) + 1) % layers.length];
const sameInNextLayer = () =>
  cellNamed.get(`${nextLayer()}:${state.cell.kind}${state.cell.number}`);

function legend() {
  const { center, half } = paint;
  const kind = hypotheses.get(state.hypothesis).kind;
  const end = (value) =>
    make("span", { class: "figure" }, number(value, Math.abs(value) < 1 ? 2 : 1));
  show(
    byId("legend"),
    make("span", { class: "glyph" }, state.quantity),
    end(center - half),
    make("span", { class: "ramp", role: "img", "aria-label": "blue is low, orange is high" }),
    end(center + half),
    make(
      "span",
      { class: "held" },
      paint.label
        ? [
            make("span", { class: "ch u4" }, "underlined"),
            `: ${state.hypothesis}${kind === "binary" ? "" : " (thicker is higher)"}`,
          ]
        : "no labels for this hypothesis",
    ),
  );
}

const openHypothesis = (name, cell = null) => visit("text", () => chooseHypothesis(name, cell));

const openCell = (cell, hypothesis = null) =>
  hypotheses.has(hypothesis)
    ? openHypothesis(hypothesis, cell)
    : visit("text", () => chooseCell(cell));

// Returns the hypothesis shown first: the significant one with the best score, if possible one that
// does not look ahead. For a unit, it is one of those whose best unit it is, if there are any.
function clearest(cell = null) {
  const rank = (finding) =>
    !finding.scored
      ? -1
      : effect(finding, finding.confirmation.score) +
        (finding.significant ? 2 : 0) +
        (isState(hypotheses.get(finding.hypothesis)) ? 1 : 0);
  const own = [...findings.values()].filter(({ unit }) => !cell || unit === cell.name);
  return (
    own.sort((a, b) => rank(b) - rank(a))[0]?.hypothesis ??
    (cell ? bestOf[cell.index]?.[0] : null) ??
    [...hypotheses.keys()][0]
  );
}

function showHead() {
  const { model, text } = study;
  byId("run").textContent = study.run;
  if (hasNetwork) {
    // LSTM is an abbreviation, unlike transformer.
    const architecture = model.cell.replace(/^(rnn|gru|lstm)$/, (name) => name.toUpperCase());
    byId("about").textContent =
      `${model.layers} × ${model.hidden} ${architecture}, step ` +
      `${thousands(study.step)} · ${text.name}, loss ${number(text.nats, 3)} nats per character`;
  } else {
    byId("about").textContent = `states of ${thousands(cells.length)} units · ${text.name}`;
    byId("guesses").parentElement.hidden = true;
  }
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  addShortcuts(KEYS);
}

addShades();
addGuessShades();
showHead();
buildTabs();
buildChooser();
// What the page shows first, if the address names nothing else, is decoded together with the text.
const hypothesis = clearest();
const main = mainOf(cellFor(hypothesis));
await Promise.all([readText(), labelOf(hypothesis), traceOf(cellFor(hypothesis), main)]);
buildText(byId("text"));
const tab = new URLSearchParams(location.hash.slice(1)).get("tab");
openView(isView(tab) ? tab : "text");
watchControls();
watchText(byId("text"));
await follow();
document.documentElement.dataset.ready = "true";
await pause();
await divideAll();
for (const view of VIEWS) {
  await pause();
  fillView(view);
}
await lookAt(state.at);
document.documentElement.dataset.complete = "true";
