// Actions of the keyboard and the mouse.

const KEYS = [
  ["/", "search for a unit or a hypothesis"],
  ["j, k", "next, previous unit in the table"],
  ["[, ]", "previous, next hypothesis"],
  ["l", "unit with the same number in the next layer"],
  ["b", "best unit of the next layer for the hypothesis"],
  ["q", "next quantity of the unit"],
  ["c", "toggle full contrast"],
  ["u", "toggle underlined labels"],
  ...(hasNetwork ? [["p", "toggle predictions under the text"]] : []),
  ["t", "go to the text"],
  ["arrows, Home, End, Page Up, Page Down", "move in the text"],
  ["Ctrl+Home, Ctrl+End", "go to the start, end of the text"],
  ["Shift with these keys", "select text"],
  ["s or Enter", "find places similar to the selection"],
  ["Esc", "clear the selection"],
  [`1 to ${VIEWS.length}`, "open a view"],
  ...(explanations ? [["e", "explanation of the unit"]] : []),
  ["d", "toggle dark and light colors"],
  ["?", "show this list"],
];

function step(list, item, by) {
  return list[clamp(list.indexOf(item) + by, 0, list.length - 1)];
}

function nextQuantity() {
  const names = quantitiesOf(state.cell);
  state.quantity = names[(names.indexOf(state.quantity) + 1) % names.length];
  chooseCell(state.cell);
}

function toggle(id) {
  byId(id).checked = !byId(id).checked;
  byId(id).dispatchEvent(new Event("change"));
}

const ACTIONS = {
  "/": () => {
    visit("text");
    byId("search").focus();
  },
  j: () => chooseCell(step(listed(), state.cell, 1)),
  k: () => chooseCell(step(listed(), state.cell, -1)),
  "]": () => chooseHypothesis(step([...hypotheses.keys()], state.hypothesis, 1)),
  "[": () => chooseHypothesis(step([...hypotheses.keys()], state.hypothesis, -1)),
  l: () => chooseCell(sameInNextLayer() ?? state.cell),
  b: () => chooseCell(bestCell(nextLayer())),
  q: nextQuantity,
  c: () => toggle("stretch"),
  u: () => toggle("underline"),
  p: () => hasNetwork && toggle("guesses"),
  t: () => {
    visit("text");
    byId("text").focus();
  },
  e: () => explanations && visit("explanations"),
  s: showSimilar,
  d: switchTheme,
  "?": () => byId("keys").showModal(),
  Escape: () => {
    setSpan(null);
    similar = null;
    listSimilar();
  },
};

function pressed(event) {
  const isTyping = event.target.matches("input[type=search], select");
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping || byId("keys").open) {
    if (isTyping && event.key === "Escape") event.target.blur();
    return;
  }
  if (/^[1-9]$/.test(event.key) && event.key <= VIEWS.length) visit(VIEWS[event.key - 1].name);
  else if (Object.hasOwn(ACTIONS, event.key)) ACTIONS[event.key]();
  else return;
  event.preventDefault();
}

let anchor = null; // character at which a selection by keys began

function textKeys(event) {
  const next = event.altKey || event.metaKey ? null : moved(event.key, event.ctrlKey);
  if (event.key === "Enter") showSimilar();
  if (next === null) return;
  event.preventDefault();
  if (event.shiftKey) anchor ??= caret;
  else anchor = null;
  setCaret(next);
  if (anchor !== null) setSpan([Math.min(anchor, next), Math.max(anchor, next) + 1]);
  else setSpan(null);
  state.at = caret;
  remember();
  lookAt(caret);
  listSimilar();
}

function watchText(pane) {
  pane.addEventListener("keydown", textKeys);
  pane.addEventListener("pointermove", (event) => {
    const at = markIn(event.target);
    if (at !== null && at !== state.at) lookAt((state.at = at));
  });
  pane.addEventListener("pointerleave", () => lookAt((state.at = caret)));
  pane.addEventListener("pointerup", (event) => {
    anchor = null;
    const at = markIn(event.target);
    if (at !== null) {
      setCaret(at, null);
      remember();
    }
    setSpan(selectedByMouse());
    listSimilar();
  });
}

function watchControls() {
  byId("quantity").addEventListener("change", (event) => {
    state.quantity = event.target.value;
    chooseCell(state.cell);
  });
  byId("stretch").addEventListener("change", (event) => {
    state.stretch = event.target.checked;
    chooseCell(state.cell);
  });
  byId("underline").addEventListener("change", (event) =>
    repaint({ underline: event.target.checked }),
  );
  byId("guesses").addEventListener("change", async ({ target }) => {
    await readPredictions();
    const top = markAt(caret).getBoundingClientRect().top;
    byId("text").classList.toggle("guessing", target.checked);
    repaint({ guesses: target.checked });
    // The line spacing changes: keep the character at the caret in place.
    byId("text").scrollTop += markAt(caret).getBoundingClientRect().top - top;
  });
  byId("theme").addEventListener("click", switchTheme);
  byId("help").addEventListener("click", ACTIONS["?"]);
  document.addEventListener("keydown", pressed);
  addEventListener("popstate", follow);
  addEventListener("beforeprint", () => {
    VIEWS.forEach(fillView);
    paintAll();
  });
}
