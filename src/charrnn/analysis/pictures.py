"""Pictures of a study (findings, probes, gates, emergence) and of an explanation of a unit."""

import functools
import textwrap

import numpy as np

from charrnn import plotting

OWN, OTHER, BAR = plotting.BLUE, plotting.GRAY, plotting.REAL
CONTEXT = plotting.COLORS[1]
UNTRAINED = {"color": OTHER, "ls": ":"}
GATES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}
ROLES = {  # colors of the effects of characters
  "resets": plotting.COLORS[1],
  "toggles": plotting.COLORS[3],
  "steps": plotting.COLORS[2],
  "advances": OWN,
  "holds": OTHER,
}
CHARACTERS = 24  # number of characters in the picture of an explanation
TITLE = 120  # number of characters in a line of the title of an explanation
SOURCES = 3  # number of sources of each gate in the picture of an explanation
CHANCE = {"auroc": 0.5, "spearman": 0.0, "semipartial": 0.0}
STATISTICS = {"auroc": "AUROC", "spearman": "rank correlation"}

# Label and style of the lines of the probes, by key.
PROBES = {
  "units": ("k feature columns", {"color": OWN, "lw": 1.8, "marker": "o", "ms": 4}),
  "rotated": (
    "k random directions (median and range of rotations)",
    {"color": CONTEXT, "lw": 1.4, "marker": "s", "ms": 3.5},
  ),
  "components": (
    "k principal components",
    {"color": plotting.COLORS[2], "lw": 1.4, "marker": "^", "ms": 4},
  ),
  "control": (
    "control label: random function of two characters",
    {"color": OTHER, "lw": 1.4, "ls": "--", "marker": "D", "ms": 3},
  ),
}


def findings(study, path):
  """Plot the score of the best unit of each hypothesis, and the scores that it must exceed."""
  scored = [finding for finding in study["findings"] if finding["scored"]]
  scored.sort(key=lambda finding: _effect(finding, finding["confirmation"]["score"]))
  size = (9, 2.1 + 0.42 * max(1, len(scored)))
  title = "Best unit of each hypothesis: its score and the scores that it must exceed"
  with _figure(study, path, title, figsize=size) as figure:
    axes = figure.subplots()
    for row, finding in enumerate(scored):
      _finding(axes, row, finding)
    plotting.label_rows(axes, [_row_name(finding) for finding in scored])
    axes.tick_params(axis="y", labelsize=8)
    low = min([0, *(_effect(each, each["confirmation"]["score"]) for each in scored)])
    axes.set(xlim=(low - 0.03, 1.03), ylim=(-0.7, max(len(scored), 1) - 0.3))
    axes.set_xlabel(
      "score, where 0 is chance and 1 is perfect\n"
      "(2 AUROC - 1 for binary labels, rank correlation for others)\n"
      f"{_example(scored)}A | B is A, controlling for B"
    )
    axes.spines["left"].set_visible(False)
    styles = {
      "trained network, confirmation half": {"marker": "o", "ls": "", "color": OWN, "ms": 7},
      "trained network, discovery half": {
        "marker": "o",
        "ls": "",
        "color": OWN,
        "ms": 5,
        "mfc": "none",
      },
      "significant: exceeds all thresholds, not confounded": {
        "marker": "$✓$",
        "ls": "",
        "color": plotting.TEXT,
      },
      "threshold: circularly shifted labels": {"color": BAR, "lw": 2},
    }
    if study["model"]:
      styles["threshold: untrained networks"] = {"lw": 2, **UNTRAINED}
      median = {"marker": "D", "ls": "", "color": OTHER, "ms": 5}
      styles["median of the untrained networks"] = median
    if k := max((last["k"] for each in scored for last in each["last_k"]), default=0):
      label = f"predictor that sees only the last {k} characters"
      styles[label] = {"marker": "^", "ls": "", "color": CONTEXT, "ms": 5}
    handles = [axes.plot([], [], label=label, **style)[0] for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)


def probes(study, path):
  """Plot the score of sparse probes against their size, for each basis of the state."""
  entries = study["probes"]
  findings = {finding["hypothesis"]: finding for finding in study["findings"]}
  kinds = {tuple(entry["quantities"]) for entry in entries}
  count = max(1, len(entries))
  size = (3.4 * min(3, max(2, count)), 2.6 * -(-count // 3) + 1.4)
  title = "One unit or a code? Score of linear probes of k feature columns and other directions"
  with _figure(study, path, title, figsize=size) as figure:
    panels = plotting.panels(figure, count, 3)
    for axes, entry in zip(panels, entries):
      finding = findings[entry["hypothesis"]]
      chance = CHANCE[finding["statistic"]]
      # A score that is not defined is None, which becomes NaN and a gap in the line.
      keys = *PROBES, "rotated_low", "rotated_high"
      values = {key: np.array(entry[key], float) for key in keys}
      band = values["rotated_low"], values["rotated_high"]
      axes.axhline(chance, color=plotting.EDGE, lw=1, label="chance")
      axes.fill_between(entry["k"], *band, color=CONTEXT, alpha=0.2, lw=0)
      for key, (label, style) in PROBES.items():
        axes.plot(entry["k"], values[key], label=label, **style)
      name = entry["hypothesis"]
      if len(kinds) > 1:
        name = f"{name}: {', '.join(entry['quantities'])}"
      axes.set(
        title=plotting.plain(name),
        xlabel="k, number of features",
        ylabel=STATISTICS[finding["statistic"]],
      )
      axes.set_xscale("log", base=2)
      axes.set_xticks(entry["k"], [str(k) for k in entry["k"]])
      low = min([chance, *(value for each in values.values() for value in each[~np.isnan(each)])])
      axes.set_ylim(low - 0.04, 1.03)
      axes.grid()
    if entries:
      handles, labels = panels[0].get_legend_handles_labels()
      order = [*range(1, len(handles)), 0]
      handles, labels = ([each[n] for n in order] for each in (handles, labels))
      figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    else:
      plotting.write(panels[0], "no hypothesis was probed")


def saturation(study, path):
  """Plot how often gates are nearly closed and nearly open (arXiv 1506.02078)."""
  gates = list(dict.fromkeys(entry["gate"] for entry in study["saturation"]))
  size = (3.3 * max(2, len(gates)), 4.4)
  title = "How often each gate is nearly closed and nearly open; one point per unit"
  with _figure(study, path, title, figsize=size) as figure:
    panels = figure.subplots(1, max(1, len(gates)), squeeze=False)[0]
    for axes, gate in zip(panels, gates):
      axes.plot([0, 1], [1, 0], color=plotting.EDGE, lw=1, label="always nearly closed or open")
      for entry in (each for each in study["saturation"] if each["gate"] == gate):
        style = {"color": plotting.color(entry["layer"]), "s": 12, "lw": 0}
        label = f"units of layer {entry['layer']}"
        axes.scatter(entry["left"], entry["right"], alpha=0.6, label=label, **style)
      title = f"{GATES[gate]} gate" if gate in GATES else f"gate {gate}"
      axes.set(title=title, xlabel="nearly closed (below 0.1),\nshare of characters")
      axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
      axes.grid()
    if gates:
      panels[0].set_ylabel("nearly open (above 0.9),\nshare of characters")
      handles, labels = panels[0].get_legend_handles_labels()
      order = [*range(1, len(handles)), 0]
      handles, labels = ([each[n] for n in order] for each in (handles, labels))
      style = {"loc": "outside lower center", "ncols": len(order), "fontsize": 8}
      figure.legend(handles, labels, **style)
    else:
      plotting.write(panels[0], "this network has no gates with values from 0 to 1")


def emergence(study, path):
  """Plot the score of each finding's column, and of the best column, at every checkpoint."""
  entries = study["emergence"]
  statistics = {finding["hypothesis"]: finding["statistic"] for finding in study["findings"]}
  count = max(1, len(entries))
  size = (3.4 * min(3, max(2, count)), 2.4 * -(-count // 3) + 0.9)
  title = "Emergence: score of each finding's unit during training"
  with _figure(study, path, title, figsize=size) as figure:
    panels = plotting.panels(figure, count, 3)
    for axes, entry in zip(panels, entries):
      # A step without a score is None, which becomes NaN and a gap in the line.
      best, own = (np.array(entry[name], float) for name in ("best", "score"))
      statistic = statistics[entry["hypothesis"]]
      axes.axhline(CHANCE[statistic], color=plotting.EDGE, lw=1, label="chance")
      axes.plot(entry["steps"], best, color=OTHER, ls="--", lw=1.2, label="best unit at each step")
      style = {"color": OWN, "lw": 1.6, "marker": "o", "ms": 2.5}
      axes.plot(
        entry["steps"], own, label=f"unit of the finding, selected at step {study['step']}", **style
      )
      title = plotting.plain(f"{entry['hypothesis']}: {entry['column']}")
      axes.set(title=title, xlabel="training step", ylabel=STATISTICS[statistic])
      axes.locator_params(axis="x", nbins=5)
      axes.grid()
    if entries:
      handles, labels = panels[0].get_legend_handles_labels()
      figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    else:
      plotting.write(panels[0], "no score at any checkpoint")


def _figure(study, path, title, **options):
  step = f", step {study['step']}" if study["model"] else ""
  about = f"{study['run']}{step}, on {study['text']['name']}"
  return plotting.figure(path, f"{title}\n{about}", **options)


def _example(findings) -> str:
  """Return an explanation of the column name of the last finding; empty if there is none."""
  if not findings:
    return ""
  name, quantity, layer, unit = (findings[-1][k] for k in ("name", "quantity", "layer", "cell"))
  return f"{name} is quantity {quantity} of unit {unit} of layer {layer}; "


def _row_name(finding) -> str:
  name, _, confounds = finding["hypothesis"].partition(" | ")
  mark = "  ✓" if finding["significant"] else ""
  return f"{name}: {finding['name']}{mark}" + (f"\n| {confounds}" if confounds else "")


def _effect(finding, score) -> float:
  """Return 0 for chance and 1 for a perfect score of any statistic; NaN for no score."""
  chance = CHANCE[finding["statistic"]]
  return np.nan if score is None else (score - chance) / (1 - chance)


def _finding(axes, row, finding):
  effect = functools.partial(_effect, finding)
  confirmed, untrained = finding["confirmation"], finding["untrained_baseline"] or {}
  by_chance = confirmed["family_to_beat"] or confirmed["to_beat"]
  axes.axhline(row, color=plotting.GRID, lw=1)
  for bar, style in ((by_chance, {"color": BAR}), (untrained.get("to_beat"), UNTRAINED)):
    axes.plot([effect(bar)] * 2, [row - 0.36, row + 0.36], lw=2, **style)
  # Marks at nearly equal scores would overlap, so they have different heights.
  axes.plot(effect(untrained.get("score")), row - 0.1, "D", color=OTHER, ms=5)
  if finding["last_k"]:
    last = max(finding["last_k"], key=lambda each: each["k"])
    axes.plot(effect(last["score"]), row - 0.3, "^", color=CONTEXT, ms=5)
  axes.plot(effect(finding["discovery"]["score"]), row + 0.3, "o", color=OWN, ms=5, mfc="none")
  axes.plot(effect(confirmed["score"]), row + 0.1, "o", color=OWN, ms=7)


def explanation(results, path):
  """Plot a unit and its account on an excerpt, its steps, its gates, and what reads it."""
  unit = f"{results['layer']}:{results['state']}{results['unit']}"
  title = textwrap.fill(f"Unit {unit}: {results['summary']}", TITLE)
  size = 13, 9.5
  rows = ["aaaaaa", "bbbccc"] + (["ddeeff"] if results["edit"] else ["dddddd"])
  with _figure(results, path, title, figsize=size) as figure:
    axes = figure.subplot_mosaic("\n".join(rows))
    _excerpt(axes["a"], results)
    _changes(axes["b"], results)
    _sources(axes["c"], results)
    _logits(axes["d"], results)
    if results["edit"]:
      _levels(axes["e"], results)
      _response(axes["f"], results)


def _excerpt(axes, results):
  excerpt, state = results["excerpt"], results["state"]
  symbols = [_symbol(each) for each in excerpt["text"]]
  places = np.arange(len(symbols))
  events = {each["character"]: each["role"] for each in results["events"]}
  labeled = set()
  for place, character in enumerate(excerpt["text"]):
    if role := events.get(character):
      label = None if role in labeled else f"a character that {role} the unit"
      labeled.add(role)
      axes.axvline(place, color=ROLES[role], lw=1, alpha=0.4, label=label)
  axes.plot(places, excerpt["unit"], color=OWN, lw=1.8, label="unit")
  label = "account, simulated from the start of the text"
  axes.plot(places, excerpt["account"], color=BAR, lw=1.4, ls="--", label=label)
  axes.set_xticks(places, symbols, family="monospace", size=7)
  axes.tick_params(axis="x", length=0, pad=1)
  score = results["r2"]["confirmation"]
  title = f"{state} after each character; on the confirmation half the account has R2 {score:.2f}"
  axes.set(title=title, xlim=(-0.5, len(symbols) - 0.5), ylabel=state)
  axes.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncols=5, fontsize=8)


def _changes(axes, results):
  rows = results["characters"][:CHARACTERS]
  shown = {each["character"] for each in rows}
  events = {each["character"] for each in results["events"]}
  rows += [each for each in results["characters"] if each["character"] in events - shown]
  for place, each in enumerate(rows):
    color = ROLES[each["role"]]
    style = {"ecolor": plotting.TEXT, "error_kw": {"lw": 0.8}}
    axes.bar(place, each["change"], yerr=each["change_spread"], color=color, **style)
  names = [_symbol(each["character"]) for each in rows]
  axes.set_xticks(range(len(rows)), names, family="monospace")
  axes.axhline(0, color=plotting.EDGE, lw=1)
  state = results["state"]
  title = f"Mean change of {state} at frequent characters and events (lines: one sd)"
  axes.set(title=title, ylabel=f"{state}' - {state}")
  for role in dict.fromkeys(each["role"] for each in rows):
    axes.bar(0, 0, color=ROLES[role], label=role)
  axes.legend(fontsize=8, ncols=5, loc="upper left", bbox_to_anchor=(0, -0.07))


def _sources(axes, results):
  names, shares, colors = [], [], []
  for number, gate in enumerate(results["gates"]):
    for source in gate["sources"][:SOURCES]:
      names.append(f"{gate['gate']} from {source['source']}")
      shares.append(source["share"])
      colors.append(plotting.color(number))
  axes.barh(range(len(names)), shares, color=colors)
  plotting.label_rows(axes, names)
  axes.axvline(0, color=plotting.EDGE, lw=1)
  axes.set(title="Where the gates come from", xlabel="share of the variance of the pre-activation")


def _logits(axes, results):
  logits = results["readers"]["logits"]
  entries = []
  if logits:
    title, label = "Logits that h changes", "change of the logit per sd of h"
    entries = [(repr(e["character"]), e["effect"]) for e in logits["raised"]]
    entries += [(repr(e["character"]), e["effect"]) for e in reversed(logits["lowered"])]
  else:
    title, label = "Gates that read h", "change of the pre-activation per sd of h"
    entries = [(each["reader"], each["effect"]) for each in results["readers"]["units"]]
  effects = [effect for _, effect in entries]
  axes.barh(range(len(entries)), effects, color=[OWN if e > 0 else CONTEXT for e in effects])
  plotting.label_rows(axes, [name for name, _ in entries])
  axes.axvline(0, color=plotting.EDGE, lw=1)
  axes.set(title=title, xlabel=label)


def _levels(axes, results):
  edit, state = results["edit"], results["state"]
  axes.plot(edit["levels"]["plain"], color=OWN, label="account")
  axes.plot(edit["levels"]["edited"], color=CONTEXT, ls="--", label="account of the edited unit")
  level = edit["response"]["at_line_end"][0]
  axes.axhline(level, color=OTHER, ls=":", label=f"mean {state} at line ends")
  axes.set(title=f"Mean {state} in a line", xlabel="characters since the line end", ylabel=state)
  axes.legend(fontsize=8)


def _response(axes, results):
  edit, state = results["edit"], results["state"]
  response = edit["response"]
  axes.plot(response["states"], response["p"], color=OWN, marker=".")
  lines = []
  for name in ("predicted", "measured"):
    ratio = edit[name]["ratio"]
    lines.append(f"{name} x {'-' if ratio is None else format(ratio, '.2f')}")
  axes.set(title=f"Response; line lengths after the edit:\n{', '.join(lines)}")
  axes.set(xlabel=f"{state}, with the unit clamped", ylabel="mean P(line end)")
  axes.set_ylim(0, 1.1 * max(response["p"]))


def _symbol(character: str) -> str:
  """Return a visible symbol for a character."""
  return {" ": "␣", "\n": "↵", "\t": "→"}.get(character) or plotting.plain(character)
