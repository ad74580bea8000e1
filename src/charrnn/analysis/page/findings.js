// The table of findings, the share of units that follow a hypothesis, and the notes.

const CHANCE = { auroc: 0.5, spearman: 0, semipartial: 0 };

// Maps a score of any statistic to a scale on which chance is 0 and a perfect score is 1.
const effect = (finding, score) => {
  if (score === null || score === undefined) return null;
  const chance = CHANCE[finding.statistic];
  return (score - chance) / (1 - chance);
};
// Thresholds that a significant finding exceeds: from shifted labels, and from untrained networks.
const chanceBar = ({ confirmation }) => confirmation.family_to_beat ?? confirmation.to_beat ?? null;
const untrainedBar = (finding) => finding.untrained ?? finding.untrained_baseline?.to_beat ?? null;

function barOf(finding) {
  const bars = [chanceBar(finding), untrainedBar(finding)].filter((bar) => bar !== null);
  return bars.length ? Math.max(...bars) : null;
}

function directionOf({ direction, kind }) {
  if (direction > 0) return "";
  return kind === "binary" ? ", low where the label is true" : ", falls as the label rises";
}

// Headings of the table and their tooltips.
const COLUMNS = [
  ["Hypothesis", "The property of each character that the label describes"],
  ["Unit", "Best unit on the discovery half (layer:number), and its quantity"],
  ["From chance to perfect", "All scores of the row on one scale"],
  ["Score", "Score on the confirmation half"],
  ["Shifted", "Threshold from shifted labels"],
  ...(hasNetwork
    ? [["Untrained", "Threshold from untrained networks, and the median of their scores"]]
    : []),
  ["Discovery", "Score on the discovery half"],
  ["Corrected p", "p-value on the confirmation half, corrected for the number of hypotheses"],
  ["Last k", "Scores of the baselines that see only the last k characters"],
  ["Significant", "Yes: exceeds all thresholds, and is not confounded"],
];

function showFindings(view) {
  const rows = study.findings.map(findingRow);
  show(
    view,
    make("h2", {}, "Findings"),
    make(
      "p",
      { class: "lead" },
      "The table shows the best unit for each hypothesis. The unit is selected on the discovery ",
      "half of the text and scored on the confirmation half. A finding is significant if, on both ",
      "halves, its score exceeds the threshold from shifted labels",
      hasNetwork ? " and that from untrained networks (the latter also on passages). " : ". ",
      "A hypothesis with confounds must also be significant when controlling for them.",
    ),
    interpretable(),
    keyOfMarks(),
    make(
      "div",
      { class: "wide" },
      make(
        "table",
        { class: "data findings" },
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            COLUMNS.map(([text, title]) => make("th", { scope: "col", title }, text)),
          ),
        ),
        make("tbody", {}, rows),
      ),
    ),
  );
}

function findingRow(finding) {
  const name = make(
    "th",
    { scope: "row" },
    button(finding.hypothesis, () => openHypothesis(finding.hypothesis), { class: "link" }),
    hypotheses.get(finding.hypothesis)?.predicts
      ? make(
          "span",
          {
            class: "tag",
            title: "Depends on later characters: a unit that follows it predicts the text",
          },
          "looks ahead",
        )
      : null,
    make("div", { class: "quiet" }, hypotheses.get(finding.hypothesis)?.about ?? ""),
  );
  if (!finding.scored) {
    return make(
      "tr",
      { class: "unscored" },
      name,
      make("td", { colspan: COLUMNS.length - 1, class: "quiet" }, `not scored: ${finding.reason}`),
    );
  }
  const { discovery, confirmation, untrained_baseline: untrained } = finding;
  const lastK = finding.last_k ?? [];
  const details = [
    STATISTICS[finding.statistic] + directionOf(finding),
    finding.lag ? `${Math.abs(finding.lag)} character ${finding.lag > 0 ? "late" : "early"}` : null,
  ]
    .filter(Boolean)
    .join(", ");
  return make(
    "tr",
    {},
    name,
    make(
      "td",
      {},
      cellLink(finding.unit, finding.hypothesis),
      finding.unit === finding.name ? null : make("div", { class: "quiet" }, finding.quantity),
    ),
    make("td", { class: "chart" }, findingStrip(finding)),
    make(
      "td",
      { class: "figure" },
      make("b", {}, number(confirmation.score, 3)),
      make("div", { class: "quiet" }, details),
    ),
    make("td", { class: "figure" }, number(chanceBar(finding), 3)),
    hasNetwork
      ? make(
          "td",
          { class: "figure" },
          number(untrainedBar(finding), 3),
          untrained
            ? make("div", { class: "quiet" }, `median\u00a0${number(untrained.score)}`)
            : null,
        )
      : null,
    make("td", { class: "figure" }, number(discovery.score, 3)),
    make("td", { class: "figure" }, number(confirmation.family_p, 3)),
    make(
      "td",
      { class: "figure" },
      make(
        "div",
        { class: "last" },
        lastK.map(({ k, score }) =>
          make("span", {}, make("span", { class: "quiet" }, `${k} `), number(score)),
        ),
      ),
    ),
    make("td", {}, verdictOf(finding)),
  );
}

function verdictOf({ significant, confounded }) {
  if (significant === null || significant === undefined) return "–";
  const text = significant ? "✓ yes" : confounded ? "confounded" : "no";
  const title = confounded ? "Significant, but not when controlling for its confounds" : "";
  return make("span", { class: significant ? "yes" : "no", title }, text);
}

// Returns a link to a unit, or to the unit of a feature column such as 1:h37.
function cellLink(name, hypothesis = null) {
  const [, layer, unit] = /^(\d+):[a-z]+(\d+)$/.exec(name) ?? [];
  const cell = cellNamed.get(name) ?? cellNamed.get(`${layer}:${unit}`);
  return cell ? button(name, () => openCell(cell, hypothesis), { class: "link cell" }) : name;
}

function findingStrip(finding) {
  const mark = (score, kind, about, text) => ({
    value: effect(finding, score),
    kind,
    text,
    title: `${about} ${number(score, 3)}`,
  });
  const { discovery, confirmation, untrained_baseline: untrained } = finding;
  return strip({
    low: 0,
    high: 1,
    at: [0, 0.5, 1],
    height: 38,
    name: `${finding.hypothesis}: ${statistic(finding)}`,
    marks: [
      ...(finding.last_k ?? []).map(({ k, score }) =>
        mark(score, "last", `last ${k} characters`, `${k}`),
      ),
      mark(chanceBar(finding), "bar", "threshold from shifted labels"),
      mark(untrainedBar(finding), "bar untrained", "threshold from untrained networks"),
      mark(untrained?.score, "median", "median of untrained networks"),
      mark(discovery.score, "discovery", "discovery half"),
      mark(confirmation.score, "confirmation", "confirmation half"),
    ],
  });
}

// Returns a mark of a strip with its meaning, for a key.
const sampleMark = (kind, text, letter) =>
  make(
    "span",
    { class: "sample" },
    strip({
      low: 0,
      high: 1,
      width: 30,
      name: text,
      marks: [{ value: 0.5, kind, title: text, text: letter }],
    }),
    text,
  );

const keyOfMarks = () =>
  make(
    "p",
    { class: "marks" },
    sampleMark("confirmation", "score, confirmation half"),
    sampleMark("discovery", "score, discovery half"),
    sampleMark("bar", "threshold from shifted labels"),
    hasNetwork ? sampleMark("bar untrained", "threshold from untrained networks") : null,
    hasNetwork ? sampleMark("median", "median of untrained networks") : null,
    sampleMark("last", "last-k baseline, here k = 4", "4"),
  );

function interpretable() {
  const follow = study.interpretable;
  if (!follow) {
    return make(
      "p",
      { class: "quiet" },
      "The share of units that follow a hypothesis was not computed: there are too few shifts or ",
      "untrained networks. Use at least 19 of each (--shifts, --untrained).",
    );
  }
  const high = Math.max(0.1, Math.ceil(12 * follow.high) / 10);
  const names = Object.entries(follow.by_hypothesis)
    .filter(([, count]) => count)
    .sort((a, b) => b[1] - a[1]);
  const { node, X, Y } = plot({
    width: 420,
    height: 72,
    x: [0, 100 * Math.min(1, high)],
    y: [0, 1],
    xLabel: "% of units, with the 95% interval",
    name: "share of units that follow a hypothesis",
    left: 14,
  });
  for (const text of node.querySelectorAll(".tick[text-anchor=end]")) text.remove();
  node.append(
    shape("line", {
      class: "interval",
      x1: X(100 * follow.low),
      x2: X(100 * follow.high),
      y1: Y(0.5),
      y2: Y(0.5),
    }),
    shape("circle", { class: "mark confirmation", cx: X(100 * follow.share), cy: Y(0.5), r: 6 }),
  );
  return make(
    "div",
    { class: "fraction" },
    make(
      "p",
      { class: "big" },
      make("b", {}, percent(follow.share, 1)),
      " of units follow a hypothesis that does not look ahead: ",
      `${follow.count} of ${thousands(follow.of)} `,
      `(95% interval ${percent(follow.low, 1)} to ${percent(follow.high, 1)})`,
      hasNetwork ? "." : ", compared with shifted labels only.",
    ),
    node,
    names.length
      ? make(
          "p",
          { class: "quiet" },
          "Units by hypothesis, including those that look ahead: ",
          names.map(([name, count]) => `${name} ${count}`).join(", "),
          ".",
        )
      : null,
  );
}

function showNotes() {
  const levels = [...new Set(traces.coarse.map((trace) => trace.levels))].sort((a, b) => a - b);
  show(
    byId("notes"),
    make(
      "ul",
      {},
      study.notes.map((note) => make("li", {}, note)),
    ),
    make(
      "p",
      {},
      `This page contains ${thousands(N)} characters and ${thousands(cells.length)} units, `,
      `${thousands(Object.keys(traces.fine).length)} of them with all quantities in 256 levels. `,
      `The main quantity of a unit has ${levels.join(" or ")} levels. Scores are computed on all `,
      `${thousands(study.text.characters)} characters`,
      hasNetwork
        ? ", except for those of untrained networks and of earlier checkpoints, which read only " +
            "passages of the text. Layers and units are numbered from 0."
        : ".",
    ),
  );
  show(
    byId("hypotheses"),
    [...hypotheses.values()].map(({ name, kind, about }) => [
      make("dt", {}, name),
      make("dd", {}, about, make("span", { class: "quiet" }, ` (${kind})`)),
    ]),
  );
}
