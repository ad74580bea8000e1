// Ablation and steering.

const nothing = (text) => make("p", { class: "quiet" }, text);

function showAblation() {
  show(
    byId("view-ablation"),
    make("h2", {}, "Ablation"),
    make(
      "p",
      { class: "lead" },
      "The increase of the loss with the cell clamped: where the hypothesis holds, and elsewhere. ",
      "Grey dots are control cells, clamped likewise.",
    ),
    study.ablations.length
      ? make("div", { class: "cards" }, study.ablations.map(ablationCard))
      : nothing("No cell was ablated."),
    make("h2", {}, "Steering"),
    make(
      "p",
      { class: "lead" },
      "Measures of sampled text with the cell clamped. ",
      "The upright line is the network without clamps; grey dots are control cells.",
    ),
    study.steering.length ? steeringCards() : nothing("No cell was steered."),
  );
}

function range(values, pad = 0.08) {
  const known = values.filter((value) => Number.isFinite(value));
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  const more = pad * (high - low || 1);
  return [low - more, high + more];
}

const controlMarks = (values, unit) =>
  values.map((value) => ({ value, kind: "control", title: `control ${number(value, 3)} ${unit}` }));

// A line of a card: a name, the result among its controls, the result as a figure.
function stripLine({ name, about, value, controls, unit, free, low, high, labelled, digits }) {
  const told = `${number(value, digits)} ${unit}`;
  const asItIs = { value: free, kind: "bar", title: `as it is: ${number(free, digits)} ${unit}` };
  return [
    make("span", {}, name, about ? make("span", { class: "quiet" }, ` ${about}`) : null),
    strip({
      low,
      high,
      at: ticks(low, high, 4),
      width: 360,
      labelled,
      name: `${name}: ${told}, beside ${controls.length} controls`,
      marks: [
        ...controlMarks(controls, unit),
        asItIs,
        { value, kind: "confirmation", title: told },
      ],
    }),
    make("span", { class: "figure" }, number(value, digits)),
  ];
}

const WAYS = {
  free: "as it is",
  zero: "held at zero",
  mean: "held at its mean",
  hold: "held where it was",
  low: "held low",
  high: "held high",
};

function ablationCard({ hypothesis, cell, setting, inside, outside, controls, p }) {
  const [low, high] = range([inside, outside, ...controls.inside, ...controls.outside]);
  const line = (name, value, others, labelled) =>
    stripLine({ name, value, controls: others, unit: "nats", low, high, labelled, digits: 3 });
  return make(
    "article",
    { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` and ${hypothesis}`),
    make(
      "div",
      { class: "strips" },
      line("inside", inside, controls.inside, false),
      line("elsewhere", outside, controls.outside, true),
    ),
    make(
      "p",
      { class: "quiet" },
      `nats per character, ${WAYS[setting ?? "zero"] ?? setting}`,
      p === null ? null : `; p ${number(p, 3)} against ${controls.inside.length} controls`,
    ),
  );
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
  return make(
    "article",
    { class: "card" },
    make("h3", {}, cellLink(cell, hypothesis), ` and ${hypothesis}`),
    make("div", { class: "measures" }, entries.map(measureOf)),
    make(
      "details",
      { open: index === 0 },
      make("summary", {}, "What it writes"),
      make(
        "div",
        { class: "excerpts" },
        shown.map(([setting, text]) =>
          make(
            "figure",
            {},
            make("figcaption", {}, WAYS[setting] ?? setting),
            make("pre", {}, safe(text)),
          ),
        ),
      ),
    ),
  );
}

function measureOf({ measure, unit, free, settings }) {
  const [low, high] = range([
    free,
    ...settings.flatMap(({ result, controls }) => [result, ...controls]),
  ]);
  return make(
    "div",
    {},
    make("p", {}, make("b", {}, measure), unit ? `, ${unit}` : "", `: ${number(free)} as it is`),
    make(
      "div",
      { class: "strips" },
      settings.map(({ setting, value, result, controls }, n) =>
        stripLine({
          name: WAYS[setting] ?? setting,
          about: number(value),
          value: result,
          controls,
          unit,
          free,
          low,
          high,
          labelled: n === settings.length - 1,
          digits: 2,
        }),
      ),
    ),
  );
}

// Line ends stay; other characters as in the text.
const safe = (text) => [...text].map((each) => (each === "\n" ? each : shownAs(each)[0])).join("");
