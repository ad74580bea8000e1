// Saturation of the gates, and emergence of the findings during training.

function showGates(view) {
  const gates = [...new Set(study.saturation.map(({ gate }) => gate))];
  view.append(make("h2", {}, "Gates"));
  if (!gates.length) {
    return view.append(nothing("There are no gates with values from 0 to 1."));
  }
  view.append(
    make(
      "p",
      { class: "lead" },
      "Each dot is a gate of one unit. A gate at the right is nearly always closed (below 0.1), ",
      "and one at the top nearly always open (above 0.9). One near the origin is rarely either. ",
      "Click a dot to open its unit.",
    ),
    layerKey(),
    make("div", { class: "panels" }, gates.map(gatePanel)),
  );
  return undefined;
}

const layerKey = () =>
  make(
    "p",
    { class: "marks" },
    layers.map((layer) =>
      make(
        "span",
        { class: "sample" },
        make("span", { class: `dot s${layer % 6}` }),
        `layer ${layer}`,
      ),
    ),
  );

const GATES = {
  i: "input gate i",
  f: "forget gate f",
  o: "output gate o",
  r: "reset gate r",
  z: "update gate z",
  g: "candidate g",
  n: "candidate n",
};

function gatePanel(gate) {
  const chart = plot({
    width: 340,
    height: 340,
    x: [0, 1],
    y: [0, 1],
    name: GATES[gate] ?? gate,
    xLabel: "share of characters below 0.1",
    yLabel: "share of characters above 0.9",
  });
  const { node, X, Y } = chart;
  node.append(shape("path", { class: "rail", d: path([0, 1], [1, 0], chart) }));
  for (const { layer, left, right } of study.saturation.filter((each) => each.gate === gate)) {
    left.forEach((x, cell) =>
      node.append(
        shape(
          "circle",
          {
            class: `gate s${layer % 6}`,
            cx: X(x),
            cy: Y(right[cell]),
            r: 3,
            "data-cell": `${layer}:${cell}`,
          },
          shape(
            "title",
            {},
            `unit ${layer}:${cell}: nearly closed at ${percent(x)} of the characters, ` +
              `nearly open at ${percent(right[cell])}`,
          ),
        ),
      ),
    );
  }
  node.addEventListener("click", (event) => {
    const cell = cellNamed.get(event.target.closest("[data-cell]")?.dataset.cell);
    if (cell) openCell(cell);
  });
  return make("figure", {}, make("figcaption", {}, GATES[gate] ?? gate), node);
}

function showEmergence(view) {
  view.append(
    make("h2", {}, "Emergence"),
    make(
      "p",
      { class: "lead" },
      "Each plot shows the score of a finding’s unit at stored checkpoints, and the score of the ",
      "best unit at each checkpoint, on passages of the confirmation half. Where the two differ, ",
      "another unit followed the hypothesis better at that step.",
    ),
  );
  if (!study.emergence.length) return view.append(nothing("There is no score at any checkpoint."));
  view.append(
    make(
      "p",
      { class: "marks" },
      ...[
        ["dash solid", "unit of the finding"],
        ["dash dashed", "best unit at each checkpoint"],
      ].map(([dash, text]) =>
        make("span", { class: "sample" }, make("span", { class: dash }), text),
      ),
    ),
    make("div", { class: "panels" }, study.emergence.map(emergencePanel)),
  );
  return undefined;
}

function emergencePanel({ hypothesis, steps, score, best }) {
  const values = [...score, ...best].filter((value) => value !== null);
  const low = Math.min(
    findings.get(hypothesis) ? (CHANCE[findings.get(hypothesis).statistic] ?? 0) : 0,
    ...values,
  );
  const chart = plot({
    width: 340,
    height: 220,
    x: [steps[0] ?? 0, steps.at(-1) ?? 1],
    y: [low, Math.max(1, ...values)],
    xLabel: "training step",
    yLabel: "score",
    name: `${hypothesis} by training step`,
  });
  chart.node.append(curve(steps, best, "dashed", chart), curve(steps, score, "solid", chart));
  return make(
    "figure",
    {},
    make(
      "figcaption",
      {},
      `${hypothesis} · `,
      cellLink(findings.get(hypothesis).unit, hypothesis),
    ),
    chart.node,
  );
}
