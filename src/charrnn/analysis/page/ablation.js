// Ablation, interchanges and steering.

const nothing = (text) => make("p", { class: "quiet" }, text);

function showAblation(view) {
  show(
    view,
    make("h2", {}, "Ablation"),
    make(
      "p",
      { class: "lead" },
      "Each card shows the increase of the loss when a unit is clamped. Inside means where the ",
      "label is true, or in the top quarter of its values if it is graded. Gray dots are control ",
      "units, clamped in the same way.",
    ),
    study.ablations.length
      ? make("div", { class: "cards" }, study.ablations.map(ablationCard))
      : nothing("No unit was ablated."),
    make("h2", {}, "Interchanges"),
    make(
      "p",
      { class: "lead" },
      "Each card shows how far the predictions move toward the other label when the unit gets the ",
      "state that it has at another character: one with the other label, or, for comparison, one ",
      "with the same label. The vertical line marks how far the predictions differ between the two ",
      "labels. Gray dots are control units.",
    ),
    study.interchanges.length
      ? make("div", { class: "cards" }, study.interchanges.map(interchangeCard))
      : nothing("No states were interchanged."),
    make("h2", {}, "Steering"),
    make(
      "p",
      { class: "lead" },
      "Each card shows measures of text that is sampled with a unit clamped: to zero (in a ",
      "transformer: its mean), low (its 5th percentile) or high (its 95th). The vertical line ",
      "marks the network without clamps. Gray dots are control units.",
    ),
    study.steering.length ? steeringCards() : nothing("No unit was steered."),
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
  values.map((value) => ({
    value,
    kind: "control",
    title: `control unit: ${number(value, 3)} ${unit}`,
  }));

// Returns a line of a card: a name, a strip with the result and its controls, and the result. `bar`
// is a value to compare with, and its meaning.
function stripLine({ name, about, value, controls, unit, bar, low, high, labeled, digits }) {
  const result = `${number(value, digits)} ${unit}`;
  const bars = bar
    ? [{ value: bar[0], kind: "bar", title: `${bar[1]}: ${number(bar[0], digits)} ${unit}` }]
    : [];
  return [
    make("span", {}, name, about ? make("span", { class: "quiet" }, ` (${about})`) : null),
    strip({
      low,
      high,
      at: ticks(low, high, 4),
      width: 360,
      labeled,
      name: `${name}: ${result}, with ${controls.length} control units`,
      marks: [
        ...controlMarks(controls, unit),
        ...bars,
        { value, kind: "confirmation", title: result },
      ],
    }),
    make("span", { class: "figure" }, number(value, digits)),
  ];
}

const SETTINGS = {
  free: "not clamped",
  zero: "clamped to zero",
  mean: "clamped to its mean",
  hold: "frozen at its last value",
  low: "clamped low",
  high: "clamped high",
};

// Returns a card about the unit and the hypothesis of an entry.
const cardOf = ({ cell, hypothesis }, ...content) =>
  make(
    "article",
    { class: "card" },
    make("h3", {}, "Unit ", cellLink(cell, hypothesis), `, ${hypothesis}`),
    content,
  );

const pOf = ({ p, p_corrected: corrected }, controls) =>
  p === null
    ? ""
    : `p = ${number(p, 2)} against ${controls.length} control units, ` +
      `${number(corrected, 2)} corrected for the number of hypotheses.`;

function ablationCard(entry) {
  const { setting, inside, outside, controls } = entry;
  const [low, high] = range([inside, outside, ...controls.inside, ...controls.outside]);
  const digits = high - low < 0.01 ? 5 : 3;
  const line = (name, value, others, labeled) =>
    stripLine({ name, value, controls: others, unit: "nats", low, high, labeled, digits });
  return cardOf(
    entry,
    make(
      "div",
      { class: "strips" },
      line("inside", inside, controls.inside, false),
      line("elsewhere", outside, controls.outside, true),
    ),
    make(
      "p",
      { class: "quiet" },
      `In nats per character; the unit is ${SETTINGS[setting ?? "zero"] ?? setting}. `,
      pOf(entry, controls.inside),
    ),
  );
}

function interchangeCard(entry) {
  const { moved, same, full, share, controls } = entry;
  const [low, high] = range([moved, same, full, ...controls]);
  const digits = high - low < 0.01 ? 5 : 3;
  const line = (name, value, others, labeled) =>
    stripLine({
      name,
      value,
      controls: others,
      unit: "nats",
      bar: [full, "difference between the labels"],
      low,
      high,
      labeled,
      digits,
    });
  return cardOf(
    entry,
    make(
      "div",
      { class: "strips" },
      line("other label", moved, controls, false),
      line("same label", same, [], true),
    ),
    make(
      "p",
      { class: "quiet" },
      `In nats, over ${entry.pairs} pairs of characters. `,
      share === null
        ? "No share: the difference between the labels is below 0.05 nats. "
        : `Share of the difference between the labels: ${percent(share)}. `,
      pOf(entry, controls),
    ),
  );
}

// Entries of one unit and one hypothesis share a card, because they measure the same texts.
function steeringCards() {
  const cards = new Map();
  for (const entry of study.steering) {
    const key = `${entry.cell} ${entry.hypothesis}`;
    cards.set(key, [...(cards.get(key) ?? []), entry]);
  }
  return [...cards.values()].map(steeringCard);
}

function steeringCard(entries, index) {
  const { excerpts } = entries[0];
  const shown = Object.entries(excerpts).filter(([, text]) => text);
  return cardOf(
    entries[0],
    make("div", { class: "measures" }, entries.map(measureOf)),
    make(
      "details",
      { open: index === 0 },
      make("summary", {}, "Sampled text"),
      make(
        "div",
        { class: "excerpts" },
        shown.map(([setting, text]) =>
          make(
            "figure",
            {},
            make("figcaption", {}, SETTINGS[setting] ?? setting),
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
    make(
      "p",
      {},
      make("b", {}, measure),
      unit ? ` (${unit})` : "",
      `: ${number(free)} without clamps`,
    ),
    make(
      "div",
      { class: "strips" },
      settings.map(({ setting, value, result, controls }, n) =>
        stripLine({
          name: SETTINGS[setting] ?? setting,
          about: setting === "zero" ? null : number(value),
          value: result,
          controls,
          unit,
          bar: [free, SETTINGS.free],
          low,
          high,
          labeled: n === settings.length - 1,
          digits: 2,
        }),
      ),
    ),
  );
}

// Returns the text with line ends unchanged and other characters shown as in the text view.
const safe = (text) => [...text].map((each) => (each === "\n" ? each : shownAs(each)[0])).join("");
