// Selection of a hypothesis, and of a unit in a table sorted by the score for that hypothesis.

const FIRST = 150; // number of rows shown until the button for all units is pressed
const table = { by: "score", down: true, all: false, words: "", layer: "" };

function buildChooser() {
  const select = byId("hypothesis");
  for (const { name, kind } of hypotheses.values()) {
    const finding = findings.get(name);
    const score = finding?.scored ? statistic(finding) : "not scored";
    select.append(make("option", { value: name }, `${name} · ${score}`));
    select.lastChild.title = `${kind} label`;
  }
  select.addEventListener("change", () => chooseHypothesis(select.value));
  const layer = byId("layer");
  layer.append(make("option", { value: "" }, "all"));
  for (const each of layers) layer.append(make("option", { value: each }, `${each}`));
  layer.addEventListener("change", () => listCells({ layer: layer.value, all: false }));
  const search = byId("search");
  search.addEventListener("input", () => listCells({ words: search.value.trim(), all: false }));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") openSearched(search.value.trim());
  });
  byId("more").addEventListener("click", () => listCells({ all: true }));
  byId("cells-body").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) chooseCell(cells[row.dataset.index]);
  });
  byId("cells-body").addEventListener("keydown", rowKeys);
}

const STATISTICS = { auroc: "AUROC", spearman: "ρ", semipartial: "semipartial ρ" };
const statistic = (finding, half = "confirmation") =>
  `${STATISTICS[finding.statistic] ?? finding.statistic} ${number(finding[half].score)}`;

// Opens the unit with this name. If there is none, opens the hypothesis with this name, or the
// first one whose name contains the words, or the first unit of the table.
function openSearched(words) {
  const names = [...hypotheses.keys()];
  const lower = words.toLowerCase();
  const cell = cellNamed.get(words) ?? null;
  const name = names.find((each) => each === lower) ?? names.find((each) => each.includes(lower));
  byId("search").value = "";
  const first = listed()[0];
  listCells({ words: "" });
  if (cell) chooseCell(cell);
  else if (words && name) chooseHypothesis(name);
  else if (first) chooseCell(first);
}

function rowKeys(event) {
  const row = event.target.closest("tr");
  const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[
    event.key
  ];
  if (!next) return;
  event.preventDefault();
  next.querySelector("button").focus();
  chooseCell(cells[next.dataset.index]);
}

// Returns the units of the table in the order of its rows.
function listed() {
  const words = table.words.toLowerCase();
  const fits = (cell) =>
    (table.layer === "" || cell.layer === Number(table.layer)) &&
    (!words || cell.name.includes(words) || (bestOf[cell.index]?.[0] ?? "").includes(words));
  const keys = {
    cell: (cell) => -cell.index,
    score: (cell) => Math.abs(scoreOf(state.hypothesis, cell) ?? -1),
    best: (cell) => Math.abs(bestOf[cell.index]?.[1] ?? -1),
  };
  const key = keys[table.by];
  const sign = table.down ? -1 : 1;
  return cells.filter(fits).sort((a, b) => sign * (key(a) - key(b)) || a.index - b.index);
}

function listCells(change = {}) {
  Object.assign(table, change);
  const matches = listed();
  const shown = table.all ? matches : matches.slice(0, FIRST);
  byId("cells-head").replaceChildren(
    heading("cell", "Unit", "layer and number"),
    heading(
      "score",
      "Score",
      `score for ${state.hypothesis} on the confirmation half, from −1 to 1`,
    ),
    heading(
      "best",
      "Follows best",
      "score of the hypothesis that each unit follows best, among those that do not look ahead",
    ),
  );
  byId("cells-body").replaceChildren(...shown.map(cellRow));
  const more = byId("more");
  more.hidden = shown.length === matches.length;
  more.textContent = `Show all ${thousands(matches.length)} units`;
}

function heading(by, text, title) {
  const isChosen = table.by === by;
  const sort = () => listCells({ by, down: isChosen ? !table.down : true });
  const arrow = isChosen ? (table.down ? " ↓" : " ↑") : "";
  const order = table.down ? "descending" : "ascending";
  return make(
    "th",
    { scope: "col", "aria-sort": isChosen ? order : null },
    button(text + arrow, sort, { title: `Sort by ${title}` }),
  );
}

function cellRow(cell) {
  const score = scoreOf(state.hypothesis, cell);
  const best = bestOf[cell.index];
  const isShown = cell === state.cell;
  return make(
    "tr",
    { "data-index": cell.index, class: isShown ? "chosen" : null },
    make(
      "td",
      {},
      button(cell.name, () => {}, {
        "aria-current": isShown ? "true" : null,
        title: contentOf(cell),
        class: cell.name in traces.fine ? "cell fine" : "cell",
      }),
    ),
    make("td", { class: "score" }, scoreBar(score), make("span", {}, number(score))),
    make("td", { class: "best" }, best ? `${number(best[1])} ${best[0]}` : "–"),
  );
}

// Returns a sentence about the quantities of a unit in this page.
function contentOf(cell) {
  const isFine = cell.name in traces.fine;
  const levels = `${traces.coarse[cell.index].levels} levels`;
  if (cell.kind) return `This page contains this unit in ${levels}.`;
  if (isFine) return "This page contains all quantities of this unit.";
  return `This page contains only ${mainOf(cell)} of this unit, in ${levels}.`;
}

function scoreBar(score) {
  const width = Math.min(1, Math.abs(score ?? 0));
  const side = score < 0 ? "low" : "high";
  return make(
    "span",
    { class: "meter", "aria-hidden": "true" },
    make("span", { class: side, "width%": width }),
  );
}

function markChosen() {
  for (const row of byId("cells-body").children) {
    const isShown = Number(row.dataset.index) === state.cell.index;
    row.classList.toggle("chosen", isShown);
    const name = row.querySelector("button");
    if (isShown) name.setAttribute("aria-current", "true");
    else name.removeAttribute("aria-current");
    if (isShown) row.scrollIntoView({ block: "nearest" });
  }
}

// Returns the unit of the finding for a hypothesis. If there is none, returns the best unit.
function cellFor(name) {
  const finding = findings.get(name);
  return (finding?.scored ? cellNamed.get(finding.unit) : null) ?? bestCell(null, name);
}

// Returns the best unit for a hypothesis, in one layer or in all.
function bestCell(layer = null, name = state.hypothesis) {
  let best = null;
  for (const cell of cells) {
    const score = Math.abs(scoreOf(name, cell) ?? 0);
    const isThere = layer === null || cell.layer === layer;
    if (isThere && (!best || score > best.score)) best = { cell, score };
  }
  return best.cell;
}
