// Why the chosen unit works: its explanation by `charrnn cells --explain`, if the page has one.

const ROLES = {
  resets: "resets the unit",
  toggles: "toggles the unit",
  steps: "steps the unit",
};

function showExplanations(view) {
  const result = explanations.units[state.cell.name];
  const shown = result ? explanationOf(result) : howToExplain();
  show(view, make("h2", {}, `Unit ${state.cell.name}`), shown, explainedUnits());
}

function howToExplain() {
  const command =
    `charrnn cells ${quoted(study.run)} --explain ${state.cell.name} --step ${study.step}`;
  return [
    make(
      "p",
      { class: "lead" },
      "This page has no explanation of this unit. The command below finds out which characters ",
      "reset, switch or advance the unit, where its gates come from, and what reads it, and adds ",
      "the explanation to this page. Run it, and reload the page.",
    ),
    make("pre", { class: "command" }, safe(command)),
    make(
      "p",
      { class: "quiet" },
      "If this page is not in the folder cells of the run, add --out with the folder of this page.",
    ),
  ];
}

// Returns an argument of a command as a shell reads it.
const quoted = (text) =>
  /^[\w./:=,@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

function explainedUnits() {
  const entries = Object.entries(explanations.units);
  if (!entries.length) return null;
  return [
    make("h2", {}, "Explained units"),
    make(
      "ul",
      {},
      entries.map(([name, { summary }]) =>
        make(
          "li",
          {},
          button(name, () => chooseCell(cellNamed.get(name)), {
            class: "link cell",
            "aria-current": name === state.cell.name ? "true" : null,
          }),
          ` ${safe(summary)}`,
        ),
      ),
    ),
  ];
}

function explanationOf(result) {
  const { r2, text, memory, minimum_memory: least } = result;
  const kept =
    memory === null
      ? "the state does not decay"
      : `1/e of the state is left after ${number(memory, 1)} characters`;
  return [
    make("p", { class: "summary" }, safe(result.summary)),
    make(
      "p",
      { class: "lead" },
      `An account of the unit sees only the characters. Its R2 is ${number(r2.confirmation, 3)} `,
      `on the confirmation half and ${number(r2.discovery, 3)} on the discovery half of `,
      `${thousands(text.characters)} characters of ${safe(text.name)}; an explanation needs at `,
      `least ${r2.minimum}. Without events, ${kept}; an explanation needs at least ${least}.`,
    ),
    excerptChart(result),
    make("h2", {}, "Account"),
    accountTable(result),
    make("h2", {}, "Characters"),
    characterTable(result),
    make("h2", {}, "What the gates come from"),
    make(
      "p",
      { class: "lead" },
      "The pre-activation of a gate is a sum of terms, one for each source. The table shows the ",
      "sources with the largest shares of its variance. A share is negative if the source ",
      "counteracts the others.",
    ),
    make("div", { class: "panels" }, gateSources(result.gates)),
    make("h2", {}, "What reads the unit"),
    readers(result),
    make("h2", {}, "Edit of the weights"),
    result.edit
      ? editOf(result)
      : nothing(safe(result.edit_reason) || "Only explained units are edited."),
  ];
}

// The state of the unit and its account, with the text below.
function excerptChart({ excerpt: { text, unit, account }, events, state: name }) {
  const symbols = [...text];
  const values = [...unit, ...account];
  const height = 250;
  const bottom = 46;
  const chart = plot({
    width: 60 + 9 * symbols.length,
    height,
    bottom,
    x: [-0.5, symbols.length - 0.5],
    xTicks: [],
    y: [Math.min(...values), Math.max(...values)],
    xLabel: "the beginning of the confirmation half",
    yLabel: name,
    name: `${name} after each character, and its account`,
  });
  const roles = new Map(events.map(({ character, role }) => [character, role]));
  symbols.forEach((symbol, n) => {
    const x = chart.X(n);
    const role = roles.get(symbol);
    if (role) {
      const title = shape("title", {}, `${visible(symbol)} ${ROLES[role]}`);
      const ends = { x1: x, x2: x, y1: 8, y2: height - bottom };
      chart.node.append(shape("line", { class: "event", ...ends }, title));
    }
    chart.node.append(
      shape("text", { class: "glyph", x, y: height - bottom + 13, "text-anchor": "middle" },
        visible(symbol)),
    );
  });
  const places = symbols.map((_, n) => n);
  chart.node.append(
    curve(places, unit, "solid", chart),
    curve(places, account, "dashed", chart),
  );
  return [
    make(
      "p",
      { class: "marks" },
      [
        ["dash solid", "the unit"],
        ["dash dashed", "its account, simulated from the start of the text"],
        ...(events.length ? [["dash event", "an event of the account"]] : []),
      ].map(([dash, about]) =>
        make("span", { class: "sample" }, make("span", { class: dash }), about),
      ),
    ),
    make("div", { class: "wide" }, chart.node),
  ];
}

// Returns a table with a heading row; an entry of a row is the content of a cell, or a cell.
function dataTable(headings, rows) {
  const asCell = (entry) =>
    entry?.matches?.("td") ? entry : make("td", { class: "figure" }, entry);
  return make(
    "div",
    { class: "wide rows" },
    make(
      "table",
      { class: "data" },
      make("thead", {}, make("tr", {}, headings.map((each) => make("th", { scope: "col" }, each)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map(asCell)))),
    ),
  );
}

const glyphCell = (symbol) => make("td", { class: "glyph" }, visible(symbol));
const stepOf = (name, { factor, offset }) =>
  `${number(factor, 3)} ${name} ${offset < 0 ? "−" : "+"} ${number(Math.abs(offset), 3)}`;

function accountTable({ state: name, events, others }) {
  return dataTable(
    ["Character", "Effect", "Count", `${name} after it`, `Mean ${name} after it`, "sd"],
    [
      ...events.map((each) => [
        glyphCell(each.character),
        ROLES[each.role],
        thousands(each.count),
        stepOf(name, each),
        number(each.level, 3),
        number(each.spread, 3),
      ]),
      [
        make("td", {}, "any other"),
        others.change === null ? "" : `changes it by ${signed(others.change, 3)} on average`,
        "",
        stepOf(name, others),
        "",
        "",
      ],
    ],
  );
}

function characterTable({ state: name, keep, characters, spread }) {
  // Events change the unit much more than other characters, so their bars are cut off.
  const isEvent = ({ role }) => role in ROLES;
  const others = characters.filter((each) => !isEvent(each));
  const scale = Math.max(...others.map(({ change }) => Math.abs(change)), 1e-9);
  return [
    make(
      "p",
      { class: "lead" },
      `Each step is ${name}′ = ${keep} ${name} + added. The means at each character, the most `,
      `frequent first. The standard deviation of ${name} is ${number(spread, 3)}. Bars of events `,
      "are cut off.",
    ),
    dataTable(
      [
        ...["Character", "Effect", "Count", keep, "Added"],
        ...[`Change of ${name}`, "Mean", "sd", `Mean ${name} after it`],
      ],
      characters.map((each) => [
        glyphCell(each.character),
        each.role,
        thousands(each.count),
        number(each.keep, 3),
        number(each.added, 3),
        make("td", { class: "bars" }, bothBar(each.change, scale)),
        signed(each.change, 3),
        number(each.change_spread, 3),
        number(each.level, 3),
      ]),
    ),
  ];
}

function gateSources(gates) {
  const shares = gates.flatMap(({ sources }) => sources.map(({ share }) => Math.abs(share)));
  const scale = Math.max(...shares, 1e-9);
  const row = ({ source, share }) => [cellLink(source), share, percent(share)];
  return gates.map(({ gate, mean, sources }) =>
    barList(`${GATES[gate] ?? gate}, mean ${number(mean)}`, sources.map(row), scale),
  );
}

// Returns bars with names and values: rows are [name, value, text].
function barList(title, rows, scale) {
  return make(
    "figure",
    {},
    make("figcaption", {}, title),
    rows.length
      ? make(
          "dl",
          { class: "values bar-list" },
          rows.map(([name, value, text]) => [
            make("dt", {}, name),
            make("dd", {}, bothBar(value, scale), make("span", { class: "figure" }, text)),
          ]),
        )
      : nothing("none"),
  );
}

function readers({ readers: { units, logits, saturated, spread }, layer }) {
  const effects = (entries, name) =>
    entries.map((each) => [name(each), each.effect, signed(each.effect)]);
  const glyph = ({ character }) => make("span", { class: "glyph" }, visible(character));
  const raised = logits ? effects(logits.raised, glyph) : [];
  const lowered = logits ? effects(logits.lowered, glyph) : [];
  const gates = effects(units, ({ reader }) => cellLink(reader));
  const most = (rows) => Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-9);
  const logitScale = most([...raised, ...lowered]);
  return [
    make(
      "p",
      { class: "lead" },
      `Changes per standard deviation of h (${number(spread, 3)}). `,
      logits ? null : `The logits do not read layer ${layer}. `,
      saturated === null
        ? null
        : `|tanh(c)| is above 0.95 at ${percent(saturated)} of the characters, where h hardly ` +
            "changes with c.",
    ),
    make(
      "div",
      { class: "panels" },
      logits ? barList("logits that it raises", raised, logitScale) : null,
      logits ? barList("logits that it lowers", lowered, logitScale) : null,
      barList("gates that it changes most", gates, most(gates)),
    ),
  ];
}

function editOf({ state: name, edit }) {
  const { quantity, response, predicted, measured, alone, levels, means } = edit;
  const [[first, low], [last, high]] = [response.after_line_end, response.at_line_end];
  const length = (title, { plain, edited, ratio: change, low: from = null, high: to = null }) => [
    make("td", {}, title),
    number(plain, 1),
    number(edited, 1),
    number(change, 3),
    from === null ? "" : `${number(from, 3)} to ${number(to, 3)}`,
  ];
  return [
    make(
      "p",
      { class: "lead" },
      `In the edited network, ${safe(edit.edited)}: ${safe(edit.where)}, the mean ${quantity} is `,
      `${number(means[1], 4)} instead of ${number(means[0], 4)}. The prediction comes from the account, without samples of the network.`,
    ),
    dataTable(
      ["Mean length of a line", "Network", "Edited", "Ratio", "95% interval"],
      [
        length("predicted", predicted),
        length("measured in samples", measured),
        length(`if the unit alone ended lines, at ${name} = ${number(last)}`, alone),
      ],
    ),
    make(
      "div",
      { class: "panels" },
      editPanel(`Mean ${name} in a line`, {
        lines: [
          [levels.plain.map((_, n) => n), levels.plain, "solid"],
          [levels.edited.map((_, n) => n), levels.edited, "dashed"],
        ],
        level: last,
        xLabel: "characters since the line end",
        yLabel: name,
        about: [
          ["dash solid", "account"],
          ["dash dashed", "account of the edited unit"],
          ["dash dotted", `mean ${name} at line ends`],
        ],
      }),
      editPanel("P(line end) with the unit clamped", {
        lines: [[response.states, response.p, "solid"]],
        from: 0,
        xLabel: `${name} of the unit`,
        yLabel: "mean P(line end)",
        about: [
          [
            null,
            `${number(low, 4)} as after a line end (${number(first)}), ` +
              `${number(high, 4)} as at line ends (${number(last)})`,
          ],
        ],
      }),
    ),
  ];
}

function editPanel(title, { lines: curves, level = null, from = null, about, ...labels }) {
  const xs = curves.flatMap(([x]) => x);
  const ys = [...curves.flatMap(([, y]) => y), level, from].filter((value) => value !== null);
  const chart = plot({
    width: 340,
    height: 220,
    left: 56,
    x: [Math.min(...xs), Math.max(...xs)],
    y: [Math.min(...ys), Math.max(...ys)],
    name: title,
    ...labels,
  });
  chart.node.append(...curves.map(([x, y, dash]) => curve(x, y, dash, chart)));
  if (level !== null) {
    const ends = [Math.min(...xs), Math.max(...xs)];
    chart.node.append(curve(ends, [level, level], "dotted", chart));
  }
  return make(
    "figure",
    {},
    make("figcaption", {}, title),
    chart.node,
    make(
      "p",
      { class: "marks" },
      about.map(([dash, text]) =>
        make("span", { class: "sample" }, dash && make("span", { class: dash }), text),
      ),
    ),
  );
}
