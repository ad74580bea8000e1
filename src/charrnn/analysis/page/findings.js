// What was found: a row a hypothesis, the share of cells that follow one, and the notes.

const CHANCE = { auroc: 0.5, spearman: 0, semipartial: 0 };

// 0 for chance, 1 for perfect, whatever the statistic.
const effect = (finding, score) => {
  if (score === null || score === undefined) return null;
  const chance = CHANCE[finding.statistic];
  return (score - chance) / (1 - chance);
};
// By chance, and what the best cell of an untrained network reaches: both are to be beaten.
const chanceBar = ({ confirmation }) => confirmation.family_to_beat ?? confirmation.to_beat ?? null;
const untrainedBar = (finding) => finding.untrained ?? finding.untrained_baseline?.to_beat ?? null;

function barOf(finding) {
  const bars = [chanceBar(finding), untrainedBar(finding)].filter((bar) => bar !== null);
  return bars.length ? Math.max(...bars) : null;
}

function directionOf({ direction, kind }) {
  if (direction > 0) return "";
  return kind === "binary" ? ", low where it holds" : ", the lower the more";
}

function showFindings() {
  const rows = study.findings.map(findingRow);
  show(
    byId("view-findings"),
    make("h2", {}, "Findings"),
    make(
      "p",
      { class: "lead" },
      "For every hypothesis the cell that follows it best: chosen on one half of the text, scored ",
      "once on the other. A score counts where it passes both bars.",
    ),
    interpretable(),
    keyOfMarks(),
    make(
      "div",
      { class: "wide" },
      make(
        "table",
        { class: "findings" },
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            [
              "Hypothesis",
              "Cell",
              "Chance to perfect",
              "Score",
              "By chance",
              "Untrained",
              "Discovery",
              "p, family",
              "Last k",
              "Significant",
            ].map((text) => make("th", { scope: "col" }, text)),
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
          { class: "tag", title: "It looks at characters to come: no state" },
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
      make("td", { colspan: 9, class: "quiet" }, `not scored: ${finding.reason}`),
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
      cellLink(`${finding.layer}:${finding.cell}`, finding.hypothesis),
      make("div", { class: "quiet" }, finding.quantity),
    ),
    make("td", { class: "chart" }, findingStrip(finding)),
    make(
      "td",
      { class: "figure" },
      make("b", {}, number(confirmation.score, 3)),
      make("div", { class: "quiet" }, details),
    ),
    make("td", { class: "figure" }, number(chanceBar(finding), 3)),
    make(
      "td",
      { class: "figure" },
      number(untrainedBar(finding), 3),
      untrained ? make("div", { class: "quiet" }, `median\u00a0${number(untrained.score)}`) : null,
    ),
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

function verdictOf({ significant }) {
  if (significant === null || significant === undefined) return "–";
  return make("span", { class: significant ? "yes" : "no" }, significant ? "✓ yes" : "no");
}

function cellLink(name, hypothesis) {
  const cell = cellNamed.get(name);
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
    name: `${finding.hypothesis}: ${statistic(finding)}`,
    marks: [
      ...(finding.last_k ?? []).map(({ k, score }) =>
        mark(score, "last", `last ${k} characters`, `${k}`),
      ),
      mark(chanceBar(finding), "bar", "to beat by chance"),
      mark(untrainedBar(finding), "bar untrained", "to beat of untrained networks"),
      mark(untrained?.score, "median", "untrained, the median"),
      mark(discovery.score, "discovery", "discovery"),
      mark(confirmation.score, "confirmation", "confirmation"),
    ],
  });
}

function keyOfMarks() {
  const sample = (kind, text, letter) =>
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
  return make(
    "p",
    { class: "marks" },
    sample("confirmation", "confirmation"),
    sample("discovery", "discovery"),
    sample("bar", "to beat, by chance"),
    sample("bar untrained", "to beat, of untrained networks"),
    sample("median", "their median"),
    sample("last", "the last k characters alone", "4"),
  );
}

function interpretable() {
  const found = study.interpretable;
  if (!found) {
    return make(
      "p",
      { class: "quiet" },
      "How many cells follow some hypothesis was not counted: too few shifts.",
    );
  }
  const high = Math.max(0.1, Math.ceil(12 * found.high) / 10);
  const names = Object.entries(found.by_hypothesis)
    .filter(([, count]) => count)
    .sort((a, b) => b[1] - a[1]);
  const { node, X, Y } = plot({
    width: 420,
    height: 72,
    x: [0, 100 * Math.min(1, high)],
    y: [0, 1],
    xLabel: "% of cells, with the 95% interval",
    name: "share of cells",
    left: 14,
  });
  for (const text of node.querySelectorAll(".tick[text-anchor=end]")) text.remove();
  node.append(
    shape("line", {
      class: "interval",
      x1: X(100 * found.low),
      x2: X(100 * found.high),
      y1: Y(0.5),
      y2: Y(0.5),
    }),
    shape("circle", { class: "mark confirmation", cx: X(100 * found.share), cy: Y(0.5), r: 6 }),
  );
  return make(
    "div",
    { class: "fraction" },
    make(
      "p",
      { class: "big" },
      make("b", {}, percent(found.share, 1)),
      " of cells follow some hypothesis: ",
      `${found.count} of ${thousands(found.of)}, between ${percent(found.low, 1)} and ${percent(found.high, 1)}.`,
    ),
    node,
    names.length
      ? make(
          "p",
          { class: "quiet" },
          "By hypothesis: ",
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
      `Shown here: ${thousands(N)} characters, ${thousands(cells.length)} cells, `,
      `${thousands(Object.keys(traces.fine).length)} of them with all quantities; ${MAIN} in `,
      `${levels.join(" or ")} levels. Scores are from the whole text of `,
      `${thousands(study.text.characters)} characters. Layers and cells count from 0.`,
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
