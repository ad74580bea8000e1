// How often networks that differ only in their seed have such units, by `charrnn rates`.

const BLOG = 0.05; // share of interpretable cells in the blog post, estimated by eye

const rateOf = (entry) =>
  entry
    ? [
        `${entry.count} of ${entry.of}`,
        make("div", { class: "quiet" }, `${percent(entry.low)} to ${percent(entry.high)}`),
      ]
    : "–";

// Returns the median, and the range, over networks.
function spreadOf(values, format, mark = "") {
  if (!values) return "–";
  const [low, middle, high] = [values.min, values.median, values.max].map(format);
  const first = mark && low === middle ? mark : "";
  return low === high
    ? mark + middle
    : [first + middle, make("div", { class: "quiet" }, `${mark}${low} to ${high}`)];
}
const fixed = (digits) => (value) => number(value, digits);
const whole = (value) => (Number.isInteger(value) ? thousands(value) : number(value, 1));

const ratesTable = (head, rows) =>
  make(
    "div",
    { class: "wide" },
    make(
      "table",
      { class: "data rates" },
      make(
        "thead",
        {},
        make("tr", {}, head.map((text) => make("th", { scope: "col" }, text))),
      ),
      make("tbody", {}, rows),
    ),
  );

const ratesRow = (name, values) =>
  make(
    "tr",
    {},
    make("th", { scope: "row" }, name),
    values.map((value) => make("td", { class: "figure" }, value)),
  );

function showRates(view) {
  const { groups, own, characters } = rates;
  const group = groups[own];
  const names = groups.map(({ label }, n) => (n === own ? `${label} (this network’s group)` : label));
  const size = group.networks.length;
  const families = [...new Set(groups.flatMap((each) => Object.keys(each.families)))];
  show(
    view,
    make("h2", {}, "Rates"),
    make(
      "p",
      { class: "lead" },
      size > 1
        ? `This network is one of ${size} networks (${safe(group.label)}) that differ only in their ` +
            "seed. "
        : `No network that differs from this one (${safe(group.label)}) only in its seed was studied. `,
      families.length
        ? "The table shows the number of networks with a significant unit, and the 95% interval " +
            "of their share, for all networks on this text. "
        : "",
      `The networks were studied on ${thousands(characters)} characters of held-out text, so the `,
      "scores may differ from those in the tab Findings.",
    ),
    families.length
      ? ratesTable(
          ["Networks with a significant unit for", ...names.map(safe)],
          families.map((name) => ratesRow(name, groups.map((each) => rateOf(each.families[name])))),
        )
      : null,
    make("h2", {}, "Hypotheses"),
    make(
      "p",
      { class: "lead" },
      `The table shows the results of ${safe(group.label)}, the group of this network. The score is `,
      "that of the best unit of each network. The step is that of the first scored checkpoint at ",
      "which the best unit exceeds the threshold, in networks in which it is significant; ≤ means ",
      "that no earlier one was scored, except for step 0. The loss is that of the network at this ",
      "step. AUROC is drawn as 2 AUROC − 1. Dots beyond the threshold do not count if the finding ",
      "is confounded, or if the score on the discovery half or on passages is below its threshold.",
    ),
    make(
      "p",
      { class: "marks" },
      sampleMark("confirmation", "this network"),
      sampleMark("control", "another network"),
      sampleMark("bar", "threshold (median)"),
    ),
    ratesTable(
      [
        ...["Hypothesis", "Networks", "From chance to perfect (0 to 1)", "Score", "Threshold"],
        ...["Units in a network", "Step", "Loss, nats"],
      ],
      Object.entries(group.hypotheses).map(hypothesisRow),
    ),
    make("h2", {}, "Share of units that follow a hypothesis"),
    make(
      "p",
      { class: "lead" },
      "Each dot is a network. Hypotheses that look ahead do not count. The vertical line is the ",
      "blog’s estimate, about 5%.",
    ),
    make("div", { class: "strips" }, shareStrips(names)),
  );
}

function hypothesisRow([name, entry]) {
  const bar = entry.threshold.median;
  const { step, nats, at_first: first, count } = entry.emergence;
  const part = count && count < entry.count ? ` (${count} networks)` : "";
  const mark = (score, kind, about) => ({
    value: effect(entry, score),
    kind,
    title: `${about} ${number(score, 3)}`,
  });
  const { networks } = rates.groups[rates.own];
  const chart = strip({
    low: 0,
    high: 1,
    at: [0, 0.5, 1],
    name: `${name}: ${entry.of} networks, median ${number(entry.score.median, 3)}`,
    marks: [
      mark(bar, "bar", "threshold"),
      ...ownLast(
        entry.scores.map((score, n) =>
          n === rates.network
            ? mark(score, "confirmation", "this network")
            : mark(score, "control", safe(networks[n].run)),
        ),
      ),
    ],
  });
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row" },
      hypotheses.has(name)
        ? button(name, () => openHypothesis(name), { class: "link" })
        : safe(name),
    ),
    make("td", { class: "figure" }, rateOf(entry)),
    make("td", { class: "chart" }, chart),
    make("td", { class: "figure" }, spreadOf(entry.score, fixed(3))),
    make("td", { class: "figure" }, number(bar, 3)),
    make("td", { class: "figure" }, spreadOf(entry.units, whole)),
    make("td", { class: "figure" }, spreadOf(step, whole, first ? "≤ " : ""), part),
    make("td", { class: "figure" }, spreadOf(nats, fixed(2))),
  );
}

// Puts the mark of this network last, so that no other one covers it.
const ownLast = (marks) =>
  [...marks].sort((a, b) => (a.kind === "confirmation") - (b.kind === "confirmation"));

function shareStrips(names) {
  const every = rates.groups.flatMap(({ networks }) => networks.map(({ share }) => share));
  const high = Math.max(2 * BLOG, ...every);
  return rates.groups.map(({ shares, networks }, n) => {
    const marks = networks.map(({ run, share }, k) => {
      const isOwn = n === rates.own && k === rates.network;
      return {
        value: share === null ? null : 100 * share,
        kind: isOwn ? "confirmation" : "control",
        title: `${isOwn ? "this network" : safe(run)}: ${percent(share, 1)}`,
      };
    });
    return [
      make("span", {}, safe(names[n])),
      strip({
        low: 0,
        high: 100 * high,
        at: ticks(0, 100 * high, 4),
        width: 360,
        labeled: n === rates.groups.length - 1,
        name: `${names[n]}: share of units that follow a hypothesis, in percent`,
        marks: [{ value: 100 * BLOG, kind: "bar", title: "blog post: about 5%" }, ...ownLast(marks)],
      }),
      make("span", { class: "figure" }, shares ? `median ${percent(shares.median, 1)}` : "–"),
    ];
  });
}
