// How often networks that differ only in their seed have such units, by `charrnn rates`.

const BLOG = 0.05; // share of interpretable cells in the blog post, estimated by eye

const rateOf = (entry) =>
  entry
    ? [
        `${entry.count} of ${entry.of}`,
        make("div", { class: "quiet" }, `${percent(entry.low)} to ${percent(entry.high)}`),
      ]
    : "–";

function spreadOf(values, digits) {
  if (!values) return "–";
  const [low, middle, high] = [values.min, values.median, values.max].map((value) =>
    digits === undefined ? thousands(value) : number(value, digits),
  );
  return low === high
    ? middle
    : [middle, make("div", { class: "quiet" }, `${low} to ${high}`)];
}

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
  const names = groups.map(({ label }, n) => (n === own ? `${label} (this one)` : label));
  const families = [...new Set(groups.flatMap((each) => Object.keys(each.families)))];
  show(
    view,
    make("h2", {}, "Rates"),
    make(
      "p",
      { class: "lead" },
      `This network is one of ${group.networks.length} (${safe(group.label)}) that differ only in `,
      "their seed. The table shows in how many of them a unit follows line length, quotes, and so ",
      "on, with the 95% interval of their share, and the same for other networks on this text. ",
      `All were studied on ${thousands(characters)} characters of held-out text, so the scores `,
      "may differ from those in the tab Findings.",
    ),
    families.length
      ? ratesTable(
          ["Unit", ...names.map(safe)],
          families.map((name) => ratesRow(name, groups.map((each) => rateOf(each.families[name])))),
        )
      : null,
    make("h2", {}, "Hypotheses"),
    make(
      "p",
      { class: "lead" },
      `The best unit of each network, for the ${group.networks.length} networks like this one. `,
      "The step is that of the first scored checkpoint at which it exceeds the threshold, in ",
      "networks in which it is significant; the loss is that of the network at this step.",
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
        ...["Hypothesis", "Networks", "From chance to perfect", "Score", "Threshold"],
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
  const mark = (score, kind, about) => ({
    value: effect(entry, score),
    kind,
    title: `${about} ${number(score, 3)}`,
  });
  const others = entry.scores.filter((_, n) => n !== rates.network);
  const score = entry.scores[rates.network];
  const chart = strip({
    low: 0,
    high: 1,
    at: [0, 0.5, 1],
    name: `${name}: ${others.length + 1} networks, median ${number(entry.score.median, 3)}`,
    marks: [
      ...others.map((each) => mark(each, "control", "another network")),
      mark(bar, "bar", "threshold"),
      mark(score, "confirmation", "this network"),
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
    make("td", { class: "figure" }, spreadOf(entry.score, 3)),
    make("td", { class: "figure" }, number(bar, 3)),
    make("td", { class: "figure" }, spreadOf(entry.units, 0)),
    make("td", { class: "figure" }, spreadOf(entry.emergence.step)),
    make("td", { class: "figure" }, spreadOf(entry.emergence.nats, 2)),
  );
}

function shareStrips(names) {
  const known = rates.groups.map(({ networks }) => networks.map(({ share }) => share));
  const high = Math.max(2 * BLOG, ...known.flat());
  return rates.groups.map(({ shares }, n) => {
    const marks = known[n].map((share, k) => {
      const isOwn = n === rates.own && k === rates.network;
      return {
        value: share === null ? null : 100 * share,
        kind: isOwn ? "confirmation" : "control",
        title: `${isOwn ? "this" : "another"} network: ${percent(share, 1)}`,
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
        marks: [{ value: 100 * BLOG, kind: "bar", title: "blog post: about 5%" }, ...marks],
      }),
      make("span", { class: "figure" }, shares ? `median ${percent(shares.median, 1)}` : "–"),
    ];
  });
}
