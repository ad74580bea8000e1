// What a cell does: ablation and steering; and how the network is: gates, and when cells were born.

const nothing = (text) => make("p", { class: "quiet" }, text);

function showCauses() {
  show(byId("view-causes"),
    make("h2", {}, "Ablation"),
    make("p", { class: "lead" }, "The loss when the cell is held, minus the loss as it is: where the ",
      "hypothesis holds, and elsewhere. Grey dots are other cells, held alike."),
    study.ablations.length ? make("div", { class: "cards" }, study.ablations.map(ablationCard))
      : nothing("No cell was ablated."),
    make("h2", {}, "Steering"),
    make("p", { class: "lead" }, "What the network writes while the cell is held. ",
      "The upright line is the network as it is, grey dots are other cells held alike."),
    study.steering.length ? steeringCards() : nothing("No cell was steered."));
}

function range(values, pad = 0.08) {
  const known = values.filter((value) => Number.isFinite(value));
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  const more = pad * (high - low || 1);
  return [low - more, high + more];
}

const controlMarks = (values, unit) => values.map((value) =>
  ({ value, kind: "control", title: `control ${number(value, 3)} ${unit}` }));

// A line of a card: a name, the result among its controls, the result as a figure.
function stripLine({ name, about, value, controls, unit, free, low, high, labelled, digits }) {
  const told = `${number(value, digits)} ${unit}`;
  const asItIs = { value: free, kind: "bar", title: `as it is: ${number(free, digits)} ${unit}` };
  return [
    make("span", {}, name, about ? make("span", { class: "quiet" }, ` ${about}`) : null),
    strip({ low, high, at: ticks(low, high, 4), width: 360, labelled,
      name: `${name}: ${told}, beside ${controls.length} controls`,
      marks: [...controlMarks(controls, unit), asItIs, { value, kind: "confirmation", title: told }] }),
    make("span", { class: "figure" }, number(value, digits)),
  ];
}

const WAYS = {
  free: "as it is", zero: "held at zero", mean: "held at its mean", hold: "held where it was",
  low: "held low", high: "held high",
};

function ablationCard({ hypothesis, cell, setting, inside, outside, controls, p }) {
  const [low, high] = range([inside, outside, ...controls.inside, ...controls.outside]);
  const line = (name, value, others, labelled) =>
    stripLine({ name, value, controls: others, unit: "nats", low, high, labelled, digits: 3 });
  return make("article", { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` and ${hypothesis}`),
    make("div", { class: "strips" },
      line("inside", inside, controls.inside, false), line("elsewhere", outside, controls.outside, true)),
    make("p", { class: "quiet" }, `nats per character, ${WAYS[setting ?? "zero"] ?? setting}`,
      p === null ? null : `; p ${number(p, 3)} against ${controls.inside.length} controls`));
}

// Entries of one cell for one hypothesis are one card: they tell of the same texts.
function steeringCards() {
  const cards = new Map();
  for (const entry of study.steering) {
    const key = `${entry.cell} ${entry.hypothesis}`;
    cards.set(key, [...(cards.get(key) ?? []), entry]);
  }
  return [...cards.values()].map(steeringCard);
}

function steeringCard(entries, index) {
  const { hypothesis, cell, excerpts } = entries[0];
  const shown = Object.entries(excerpts).filter(([, text]) => text);
  return make("article", { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` and ${hypothesis}`),
    make("div", { class: "measures" }, entries.map(measureOf)),
    make("details", { open: index === 0 }, make("summary", {}, "What it writes"),
      make("div", { class: "excerpts" }, shown.map(([setting, text]) => make("figure", {},
        make("figcaption", {}, WAYS[setting] ?? setting), make("pre", {}, safe(text)))))));
}

function measureOf({ measure, unit, free, settings }) {
  const [low, high] = range([free, ...settings.flatMap(({ result, controls }) => [result, ...controls])]);
  return make("div", {},
    make("p", {}, make("b", {}, measure), unit ? `, ${unit}` : "", `: ${number(free)} as it is`),
    make("div", { class: "strips" }, settings.map(({ setting, value, result, controls }, n) =>
      stripLine({
        name: WAYS[setting] ?? setting, about: number(value), value: result, controls, unit, free,
        low, high, labelled: n === settings.length - 1, digits: 2,
      }))));
}

// Line ends stay; other characters as in the text.
const safe = (text) => [...text].map((each) => (each === "\n" ? each : shownAs(each)[0])).join("");

function showGates() {
  const view = byId("view-gates");
  view.append(make("h2", {}, "Gates"), make("p", { class: "lead" },
    "A dot is a gate of a cell. To the right: nearly always shut (below 0.1). To the top: nearly ",
    "always open (above 0.9). At the origin: in between, or moving. A click opens the cell."));
  const gates = [...new Set(study.saturation.map(({ gate }) => gate))];
  if (!gates.length) return view.append(nothing("This network has no gates that saturate."));
  view.append(layerKey(), make("div", { class: "panels" }, gates.map(gatePanel)));
  return undefined;
}

const layerKey = () => make("p", { class: "marks" }, layers.map((layer) =>
  make("span", { class: "sample" }, make("span", { class: `dot s${layer % 6}` }), `layer ${layer}`)));

const GATES = { i: "input gate i", f: "forget gate f", o: "output gate o", r: "reset gate r", z: "update gate z" };

function gatePanel(gate) {
  const chart = plot({ width: 340, height: 340, x: [0, 1], y: [0, 1], name: GATES[gate] ?? gate,
    xLabel: "fraction of time below 0.1", yLabel: "fraction of time above 0.9" });
  const { node, X, Y } = chart;
  node.append(shape("path", { class: "rail", d: path([0, 1], [1, 0], chart) }));
  for (const { layer, left, right } of study.saturation.filter((each) => each.gate === gate)) {
    left.forEach((x, cell) => node.append(shape("circle", {
      class: `gate s${layer % 6}`, cx: X(x), cy: Y(right[cell]), r: 3, "data-cell": `${layer}:${cell}`,
    }, shape("title", {}, `${layer}:${cell} shut ${percent(x)}, open ${percent(right[cell])}`))));
  }
  node.addEventListener("click", (event) => {
    const cell = cellNamed.get(event.target.closest("[data-cell]")?.dataset.cell);
    if (cell) openCell(cell);
  });
  return make("figure", {}, make("figcaption", {}, GATES[gate] ?? gate), node);
}

function showBirths() {
  const view = byId("view-births");
  view.append(make("h2", {}, "When cells learned it"), make("p", { class: "lead" },
    "The score of the cell that is best in the end, at the steps that were kept, and of whichever ",
    "cell was best at that step: where the two part, another cell had it first."));
  if (!study.births.length) return view.append(nothing("No earlier steps were kept."));
  view.append(
    make("p", { class: "marks" },
      make("span", { class: "sample" }, make("span", { class: "dash solid" }), "the cell"),
      make("span", { class: "sample" }, make("span", { class: "dash" }), "the best at that step")),
    make("div", { class: "panels" }, study.births.map(birthPanel)));
  return undefined;
}

function birthPanel({ hypothesis, column, steps, score, best }) {
  const at = steps.map((step, n) => [step, score[n], best[n]]);
  const line = (index, kind, chart) => {
    const known = at.filter((row) => row[index] !== null);
    return shape("path", { class: kind, d: path(known.map((row) => row[0]), known.map((row) => row[index]), chart) });
  };
  const values = [...score, ...best].filter((value) => value !== null);
  const low = Math.min(findings.get(hypothesis) ? CHANCE[findings.get(hypothesis).statistic] ?? 0 : 0, ...values);
  const chart = plot({ width: 340, height: 220, x: [steps[0] ?? 0, steps.at(-1) ?? 1], y: [low, Math.max(1, ...values)],
    xLabel: "training step", yLabel: "score", name: `${hypothesis} by training step` });
  chart.node.append(line(2, "line best", chart), line(1, "line", chart));
  const [layer, rest] = column.split(":");
  return make("figure", {}, make("figcaption", {},
    `${hypothesis} · `, cellLink(`${layer}:${rest.replace(/\D+/, "")}`, hypothesis)), chart.node);
}
