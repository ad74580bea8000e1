// The page: the text as it is written, the controls, and the keyboard.

const SPEEDS = [5, 10, 20, 40, 80, 160, 320, 1e6]; // tokens per second; the last has no limit
const SLICE = 12; // maximum ms of writing between two frames of the page
const MAX_TOKENS = Math.min(20_000, Math.floor(1e8 / WIDTH)); // at most 100 MB for values of units
const MAX_TOP_K = Math.min(V, 200); // the slider's last position is off
const KEYS = [
  ["Space, Enter", "write, or pause"],
  ["Ctrl+Enter", "the same, while you edit the prompt"],
  ["r", "start over with the same seed"],
  ["n", "another text, with the next seed"],
  ["p", "edit the prompt"],
  ["[, ]", "previous, next unit"],
  ["u", "enter a unit"],
  ["c", "clamp the unit"],
  ["d", "toggle dark and light colors"],
  ["Esc", "pause; leave a field"],
  ["?", "show this list"],
];

let written = null; // the text so far; null before its prompt is read
let isWriting = false;
let colored = null; // the unit that colors the text
const clamps = []; // {layer, quantity, unit, value, isHeld}
// The time of the last frame, the number of tokens that are due, and [ms, tokens] of each frame of
// the last second.
const pace = { last: null, owed: 0, recent: [] };

const settings = () => ({
  temperature: byId("temperature").valueAsNumber,
  topK: byId("top-k").valueAsNumber < MAX_TOP_K ? byId("top-k").valueAsNumber : null,
  topP: byId("top-p").valueAsNumber,
  seed: byId("seed").valueAsNumber || 0,
});
const speed = () => SPEEDS[byId("speed").valueAsNumber];

// The text.

function hint() {
  const note = ["Press ", make("kbd", {}, "Space"), " or ", make("b", {}, "Write"), "."];
  const unit = tokenizer.unit;
  byId("text").replaceChildren(
    make("p", { class: "hint" }, `The network writes here, ${unit} by ${unit}. `, note),
  );
}

// Starts a new text; returns false if the prompt cannot be encoded.
function begin() {
  let ids;
  try {
    ids = encode(byId("prompt").value);
  } catch (error) {
    byId("problem").textContent = `Prompt: ${error.message}.`;
    byId("prompt").setAttribute("aria-invalid", "true");
    return false;
  }
  // A prompt is the beginning of a document, so the end of another one precedes it.
  const isHidden = !ids.length || tokenizer.end_id !== null;
  written = {
    queue: isHidden ? [tokenizer.default_id, ...ids] : ids, // tokens to read before it writes
    isHidden, // whether the next token is not shown
    carry: initialCarry(),
    logits: null,
    decode: decoder(),
    marks: [],
    row: null,
    text: "",
    ids: [], // written by the network
    logP: 0,
  };
  byId("text").replaceChildren();
  return true;
}

// Reads the next token of the prompt, or writes a token.
function step() {
  const isPrompt = written.queue.length > 0;
  const id = isPrompt
    ? written.queue.shift()
    : sampled(written.logits, settings(), written.ids.length);
  if (!isPrompt) {
    written.logP += logProbabilities(written.logits)[id];
    written.ids.push(id);
  }
  const active = isPrompt
    ? []
    : clamps.map((each) => ({ ...each, value: each.isHeld ? NaN : each.value }));
  Object.assign(written, apply(id, written.carry, active));
  if (written.isHidden) {
    written.isHidden = false;
    return;
  }
  record(written.marks.length, written.carry);
  append(id, isPrompt);
}

function append(id, isPrompt) {
  const text = written.decode(id);
  written.text += isPrompt ? "" : text;
  if (!written.row) {
    written.row = make("div", { class: "line" });
    byId("text").append(written.row);
  }
  const mark = document.createElement("span");
  const symbols = [...text];
  const isDocument = id === tokenizer.end_id;
  const isEnd = isDocument || symbols.at(-1) === "\n";
  if (isDocument) symbols.length = 0;
  else if (isEnd) symbols.pop();
  mark.textContent = symbols.map((each) => (each === "\n" ? "↵\n" : shownAs(each)[0])).join("");
  const kind = symbols.length === 1 ? shownAs(symbols[0])[1] : "";
  const end = isDocument ? " document" : isEnd ? " end" : "";
  mark.base = `ch ${kind}${end}${isPrompt ? " prompt" : ""}`;
  if (isDocument && text !== "\n") written.row.classList.add("last");
  written.marks.push(mark);
  paint(written.marks.length - 1);
  written.row.append(mark);
  if (isEnd) written.row = null;
}

function paint(t) {
  const mark = written.marks[t];
  mark.className = colored ? `${mark.base} ${shadeOf(recorded(t, colored))}` : mark.base;
}

function paintAll() {
  for (let t = 0; t < (written?.marks.length ?? 0); t++) paint(t);
}

// Writes the tokens that are due at the chosen speed, but stops in time for the next frame.
function frame(now) {
  if (!isWriting) return;
  const pane = byId("text");
  const follows = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 60;
  const end = performance.now() + SLICE;
  // After a break, for example in a hidden tab, the page does not write all that was due in it.
  const due = pace.owed + ((now - (pace.last ?? now)) / 1000) * speed();
  pace.owed = Math.min(due, Math.max(1, speed() / 10));
  pace.last = now;
  while (performance.now() < end && written.marks.length < MAX_TOKENS) {
    const isPrompt = written.queue.length > 0;
    if (!isPrompt && pace.owed < 1) break;
    step();
    if (!isPrompt) pace.owed--;
  }
  pace.recent.push([now, written.ids.length]);
  while (pace.recent[0][0] < now - 1000) pace.recent.shift();
  if (follows) pane.scrollTop = pane.scrollHeight;
  showStatus();
  if (written.marks.length >= MAX_TOKENS) pause();
  else requestAnimationFrame(frame);
}

function write() {
  if (isWriting || (!written && !begin())) return;
  isWriting = true;
  byId("write").textContent = "Pause";
  Object.assign(pace, { last: null, owed: 0, recent: [] });
  requestAnimationFrame(frame);
}

function pause() {
  isWriting = false;
  byId("write").textContent = "Write";
  if (written) showStatus();
}

function reset() {
  pause();
  written = null;
  byId("problem").textContent = "";
  byId("prompt").removeAttribute("aria-invalid");
  byId("status").textContent = "";
  hint();
}

function startOver() {
  reset();
  write();
}

function another() {
  byId("seed").value = (settings().seed + 1) % 2 ** 32;
  startOver();
}

function showStatus() {
  const count = written.ids.length;
  const parts = [`${thousands(count)} ${tokenizer.unit}${count === 1 ? "" : "s"}`];
  if (written.marks.length >= MAX_TOKENS) parts.push("the text is full");
  const [[first, before], [last, after]] = [pace.recent[0] ?? [0, 0], pace.recent.at(-1) ?? [0, 0]];
  if (isWriting && last - first > 300) {
    parts.push(`${thousands(Math.round((1000 * (after - before)) / (last - first)))} per second`);
  }
  if (count) parts.push(`${number(-written.logP / count)} nats per ${tokenizer.unit}`);
  byId("status").textContent = parts.join(" · ");
}

// The controls.

function showSettings() {
  const { temperature, topK, topP } = settings();
  const label = (id, text) => {
    byId(`${id}-value`).textContent = text;
    byId(id).setAttribute("aria-valuetext", text);
  };
  label("temperature", temperature ? number(temperature) : "greedy");
  label("top-k", topK ? `${topK}` : "off");
  label("top-p", topP < 1 ? number(topP) : "off");
  label("speed", speed() === SPEEDS.at(-1) ? "fastest" : `${speed()}/s`);
}

function chooseUnit(unit) {
  colored = unit;
  byId("unit").removeAttribute("aria-invalid");
  byId("unit-problem").textContent = "";
  byId("quantity").textContent = !unit ? "" : unit.quantity === "c" ? "tanh(c)" : unit.quantity;
  byId("clamp").textContent = unit ? `Clamp unit ${nameOf(unit)}` : "Choose a unit to clamp";
  byId("clamp").disabled = !unit;
  paintAll();
}

function readUnit() {
  const text = byId("unit").value.trim();
  try {
    chooseUnit(text ? parseUnit(text) : null);
  } catch (error) {
    byId("unit").setAttribute("aria-invalid", "true");
    byId("unit-problem").textContent = `Unit: ${error.message}.`;
  }
}

function moveUnit(by) {
  selectUnit(colored ? neighbor(colored, by) : parseUnit("0:0"));
}

function selectUnit(unit) {
  byId("unit").value = nameOf(unit);
  chooseUnit(unit);
}

function showSuggestions() {
  const units = suggested(6);
  byId("suggestions").append(...units.map((unit) => button(nameOf(unit), () => selectUnit(unit))));
  selectUnit(units[0]);
}

// Clamps the unit that colors the text, at first to its present value.
function addClamp() {
  if (!colored) return;
  const name = nameOf(colored);
  const existing = clamps.find((each) => nameOf(each) === name);
  if (existing) {
    existing.node.querySelector("input[type=range]").focus();
    return;
  }
  const { layer, quantity, unit } = colored;
  const now = written?.carry[layer][quantity][unit] ?? 0;
  const each = { layer, quantity, unit, value: Number(now.toFixed(2)), isHeld: false };
  clamps.push(each);
  each.node = clampRow(each, name);
  byId("clamps").append(each.node);
  each.node.querySelector("input[type=range]").focus();
}

function clampRow(each, name) {
  // An unbounded quantity gets a range that is wider than its values so far.
  const peak = 1.5 * peaks[columnOf(each)];
  const most = each.quantity === "h" ? 1 : Math.max(3, Math.ceil(peak));
  const attributes = { "aria-label": `Value of ${name}`, value: each.value };
  const slider = make("input", {
    type: "range",
    min: -most,
    max: most,
    step: 0.01,
    ...attributes,
  });
  const box = make("input", { type: "number", step: "any", ...attributes });
  const hold = make("input", { type: "checkbox" });
  const set = (value) => {
    if (Number.isFinite(value)) each.value = value;
  };
  slider.addEventListener("input", () => {
    set(slider.valueAsNumber);
    box.value = each.value;
  });
  box.addEventListener("input", () => {
    set(box.valueAsNumber);
    slider.value = each.value;
  });
  hold.addEventListener("change", () => {
    each.isHeld = slider.disabled = box.disabled = hold.checked;
  });
  const remove = button("×", () => {
    clamps.splice(clamps.indexOf(each), 1);
    node.remove();
    byId("clamp").focus();
  });
  remove.className = "remove";
  remove.setAttribute("aria-label", `Remove the clamp of ${name}`);
  const node = make(
    "li",
    {},
    make(
      "div",
      { class: "one" },
      make("b", {}, name),
      make("label", {}, hold, "hold"),
      box,
      remove,
    ),
    slider,
  );
  return node;
}

// The keyboard.

const ACTIONS = {
  " ": toggleWriting,
  Enter: toggleWriting,
  r: startOver,
  n: another,
  p: () => byId("prompt").focus(),
  "[": () => moveUnit(-1),
  "]": () => moveUnit(1),
  u: () => byId("unit").select(),
  c: addClamp,
  d: switchTheme,
  "?": () => byId("keys").showModal(),
  Escape: pause,
};

function toggleWriting() {
  if (isWriting) pause();
  else write();
}

function pressed(event) {
  const { target, key } = event;
  if (byId("keys").open || event.altKey) return;
  if (target === byId("prompt") && key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    toggleWriting();
    return;
  }
  const isTyping = target.matches("textarea, input:not([type=range], [type=checkbox])");
  if (isTyping && key === "Escape") target.blur();
  // Space and Enter also operate buttons and boxes.
  const isOwn = target.matches("button, input[type=checkbox]") && (key === " " || key === "Enter");
  if (isTyping || isOwn || event.ctrlKey || event.metaKey || !Object.hasOwn(ACTIONS, key)) return;
  event.preventDefault();
  ACTIONS[key]();
}

function showHead() {
  byId("run-name").textContent = run.name;
  const loss = run.valid_loss;
  const note =
    loss === null ? "" : ` · validation loss ${number(loss, 3)} nats per ${tokenizer.unit}`;
  byId("about").textContent =
    `${run.layers} × ${H} ${run.cell.toUpperCase()}, step ${thousands(run.step)}${note}`;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("unit-help").textContent =
    `LAYER:UNIT, from 0:0 to ${run.layers - 1}:${H - 1}. ` +
    (cell.fields.length > 1 ? "The color is the cell state c; 0:h7 selects the output h." : "");
  addShortcuts(KEYS);
}

function watchControls() {
  for (const id of ["temperature", "top-k", "top-p", "speed"]) {
    byId(id).addEventListener("input", showSettings);
  }
  byId("prompt").addEventListener("input", reset);
  byId("seed").addEventListener("input", reset);
  byId("write").addEventListener("click", toggleWriting);
  byId("again").addEventListener("click", startOver);
  byId("another").addEventListener("click", another);
  byId("unit").addEventListener("input", readUnit);
  byId("previous").addEventListener("click", () => moveUnit(-1));
  byId("next").addEventListener("click", () => moveUnit(1));
  byId("clamp").addEventListener("click", addClamp);
  byId("theme").addEventListener("click", switchTheme);
  byId("help").addEventListener("click", ACTIONS["?"]);
  document.addEventListener("keydown", pressed);
}

byId("top-k").max = byId("top-k").value = MAX_TOP_K;
byId("speed").max = SPEEDS.length - 1;
byId("speed").value = 3;
addShades();
showHead();
showSettings();
watchControls();
showSuggestions();
reset();
// For the console and for tests.
globalThis.charrnn = {
  ...{ scores, encode, filtered },
  text: () => written?.text ?? "",
  ids: () => written?.ids ?? [],
  logP: () => written?.logP ?? 0,
};
document.documentElement.dataset.ready = "true";
