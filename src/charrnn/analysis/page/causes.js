// What a cell does: ablation and steering; and how the network is: gates, and when cells were born.

const nothing = (text) => make("p", { class: "quiet" }, text);

function showCauses() {
  byId("view-causes").append(
    make("h2", {}, "Ablation"),
    make("p", { class: "lead" }, "The loss when the cell is held at zero, minus the loss as it is. ",
      "Grey dots are other cells, held alike."),
    study.ablations.length ? make("div", { class: "cards" }, study.ablations.map(ablationCard))
      : nothing("No cell was ablated."),
    make("h2", {}, "Steering"),
    make("p", { class: "lead" }, "What the network writes while the cell is clamped."),
    ...(study.steering.length ? study.steering.map(steeringCard) : [nothing("No cell was steered.")]));
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

function ablationCard({ hypothesis, cell, inside, outside, controls, p }) {
  const [low, high] = range([inside, outside, ...controls.inside, ...controls.outside]);
  const line = (text, value, others, labelled) => [
    make("span", {}, text),
    strip({ low, high, at: ticks(low, high, 4), width: 320, labelled,
      name: `${text}: ${number(value, 3)} nats, ${others.length} controls`,
      marks: [...controlMarks(others, "nats"),
        { value, kind: "confirmation", title: `${cell}: ${number(value, 3)} nats` }] }),
    make("span", { class: "figure" }, signed(value, 3)),
  ];
  return make("article", { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` without ${hypothesis}`.replace("without", "and")),
    make("div", { class: "strips" },
      line("inside", inside, controls.inside, false), line("elsewhere", outside, controls.outside, true)),
    make("p", { class: "quiet" }, `nats per character; p ${number(p, 3)} against ${controls.inside.length} controls`));
}

const SETTINGS = { free: "As it is", zero: "Held at zero", low: "Held low", high: "Held high" };

function steeringCard({ hypothesis, cell, measure, unit, free, settings, excerpts }) {
  const all = settings.flatMap(({ result, controls }) => [result, ...controls]);
  const [low, high] = range([free, ...all]);
  const line = ({ setting, value, result, controls }, n) => [
    make("span", {}, SETTINGS[setting] ?? setting, make("span", { class: "quiet" }, ` ${number(value)}`)),
    strip({ low, high, at: ticks(low, high, 5), width: 420, labelled: n === settings.length - 1,
      name: `${setting}: ${number(result, 1)} ${unit}`,
      marks: [{ value: free, kind: "bar", title: `as it is: ${number(free, 1)} ${unit}` },
        ...controlMarks(controls, unit),
        { value: result, kind: "confirmation", title: `${number(result, 1)} ${unit}` }] }),
    make("span", { class: "figure" }, number(result, 1)),
  ];
  const shown = Object.entries(excerpts).filter(([, text]) => text);
  return make("article", { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` and ${hypothesis}`),
    make("p", {}, `${measure}, in ${unit}; the upright line is the network as it is, at ${number(free, 1)}.`),
    make("div", { class: "strips" }, settings.flatMap(line)),
    make("div", { class: "excerpts" }, shown.map(([setting, text]) => make("figure", {},
      make("figcaption", {}, SETTINGS[setting] ?? setting), make("pre", {}, safe(text))))));
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
