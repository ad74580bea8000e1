// The tabs and their views. To add a tab, add an entry to VIEWS and the function that fills its view.

// A view with `show` is filled when it is first opened, or while the page is idle. If it is about
// the chosen unit (`ofUnit`), it is filled again for another one.
const VIEWS = [
  { name: "text", title: "Units in text" },
  { name: "findings", title: "Findings", show: showFindings },
  { name: "probes", title: "Probes", show: showProbes },
  { name: "explanations", title: "Explanations", show: showExplanations, ofUnit: true },
  { name: "ablation", title: "Ablation", show: showAblation },
  { name: "gates", title: "Gates", show: showGates },
  { name: "emergence", title: "Emergence", show: showEmergence },
  { name: "rates", title: "Rates", show: showRates },
  { name: "notes", title: "How to read", show: showNotes },
].filter(
  ({ name }) =>
    (hasNetwork || !["ablation", "emergence"].includes(name)) &&
    (explanations || name !== "explanations") &&
    (rates || name !== "rates"),
);
const filled = new Map(); // the unit that each view was filled for, or "" for a view of all units

const isView = (name) => VIEWS.some((view) => view.name === name);

function buildTabs() {
  for (const { name, title } of VIEWS) {
    byId("tabs").append(
      button(title, () => visit(name), {
        role: "tab",
        id: `tab-${name}`,
        "aria-controls": `view-${name}`,
      }),
    );
    const attributes = { id: `view-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}` };
    document
      .querySelector("main")
      .append(byId(`view-${name}`) ?? make("section", { class: "view page", ...attributes }));
  }
  byId("tabs").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const at = VIEWS.findIndex(({ name }) => name === state.view);
    openView(VIEWS[(at + move + VIEWS.length) % VIEWS.length].name);
    remember();
    byId(`tab-${state.view}`).focus();
  });
}

function openView(name) {
  state.view = name;
  for (const { name: each } of VIEWS) {
    const isShown = each === name;
    byId(`view-${each}`).classList.toggle("open", isShown);
    byId(`tab-${each}`).setAttribute("aria-selected", isShown);
    byId(`tab-${each}`).tabIndex = isShown ? 0 : -1;
  }
  fillView(VIEWS.find((view) => view.name === name));
}

function fillView({ name, show: fill, ofUnit }) {
  if (!fill || !state.cell) return; // without a unit, the page is not ready
  const key = ofUnit ? state.cell.name : "";
  if (filled.get(name) === key) return;
  filled.set(name, key);
  fill(byId(`view-${name}`));
}

// Opens a view as a new entry of the browser's history, and chooses what it shows.
function visit(name, choose = () => {}) {
  const isNew = name !== state.view;
  if (isNew) {
    writeAddress("replaceState");
    openView(name);
  }
  const chosen = choose();
  if (isNew) writeAddress("pushState");
  return chosen;
}
