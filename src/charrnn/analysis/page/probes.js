// Sparse linear probes: their scores by the number of features.

// The bases of the probes, and the classes of their lines.
const PROBES = [
  ["units", "feature columns", "solid"],
  ["rotated", "directions of random rotations (median, and range of all rotations)", "dashed"],
  ["components", "principal components", "thin"],
  ["control", "feature columns, for control labels", "dotted"],
];

function showProbes(view) {
  show(
    view,
    make("h2", {}, "Probes"),
    make(
      "p",
      { class: "lead" },
      "Each plot shows how well a linear probe of k features of the state predicts a label. The ",
      "probe is fitted on the discovery half and scored on the confirmation half. If units are ",
      "special, k feature columns score higher than k directions of a random rotation of the same ",
      "state. A control label is a random function of the last two characters.",
    ),
    study.probes.length ? probesOf(study.probes) : nothing("No hypothesis was probed."),
  );
}

const probesOf = (entries) => [
  make(
    "p",
    { class: "marks" },
    PROBES.map(([, text, dash]) =>
      make("span", { class: "sample" }, make("span", { class: `dash ${dash}` }), text),
    ),
  ),
  make("div", { class: "panels" }, entries.map(probePanel)),
  make("h2", {}, "Scores"),
  make("div", { class: "wide" }, probeTable(entries)),
];

// A transformer has probes of several kinds of units.
const subjectOf = ({ hypothesis, quantities }) =>
  cells[0].kind ? `${hypothesis}, ${quantities.join(", ")}` : hypothesis;

function probePanel(entry) {
  const finding = findings.get(entry.hypothesis);
  const chance = CHANCE[finding.statistic];
  const values = [...PROBES.map(([key]) => key), "rotated_low", "rotated_high"]
    .flatMap((key) => entry[key])
    .filter((value) => value !== null);
  const chart = plot({
    width: 340,
    height: 220,
    x: [0, Math.log2(entry.k.at(-1))],
    xTicks: entry.k.map((k) => [Math.log2(k), `${k}`]),
    y: [Math.min(chance, ...values), Math.max(1, ...values)],
    xLabel: "k, number of features",
    yLabel: STATISTICS[finding.statistic],
    name: `${subjectOf(entry)}: score by number of features`,
  });
  const known = entry.k.map((k, n) => n).filter((n) => entry.rotated_low[n] !== null);
  const band = [
    ...known.map((n) => [n, entry.rotated_low[n]]),
    ...known.map((n) => [n, entry.rotated_high[n]]).reverse(),
  ];
  chart.node.append(
    shape("path", {
      class: "band",
      d: path(
        band.map(([n]) => Math.log2(entry.k[n])),
        band.map(([, value]) => value),
        chart,
      ),
    }),
    ...PROBES.map(([key, , dash]) => curve(entry.k.map(Math.log2), entry[key], dash, chart)),
  );
  const [best] = entry.columns[0];
  return make(
    "figure",
    {},
    make(
      "figcaption",
      {},
      button(subjectOf(entry), () => openHypothesis(entry.hypothesis), { class: "link" }),
      best ? [" · ", cellLink(best, entry.hypothesis)] : null,
    ),
    chart.node,
  );
}

function probeTable(entries) {
  const rows = [...PROBES.map(([key]) => key), "selectivity"];
  const row = (entry, key, n) =>
    make(
      "tr",
      {},
      n ? null : make("th", { scope: "rowgroup", rowspan: rows.length }, subjectOf(entry)),
      make("td", {}, key),
      entry[key].map((value) => make("td", { class: "figure" }, number(value, 3))),
    );
  return make(
    "table",
    { class: "data" },
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        ["Hypothesis", "Probe", ...entries[0].k.map((k) => `k = ${k}`)].map((text) =>
          make("th", { scope: "col" }, text),
        ),
      ),
    ),
    entries.map((entry) => make("tbody", {}, rows.map((key, n) => row(entry, key, n)))),
  );
}
