"""Pictures of a study: findings, saturation of the gates, and emergence."""

import functools

import numpy as np

from charrnn import plotting

OWN, OTHER, BAR = plotting.BLUE, plotting.GRAY, plotting.REAL
UNTRAINED = {"color": OTHER, "ls": ":"}
GATES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}
CHANCE = {"auroc": 0.5, "spearman": 0.0, "semipartial": 0.0}


def findings(study, path):
  """Plot for each hypothesis the best unit's score and all that it has to beat."""
  found = [finding for finding in study["findings"] if finding["scored"]]
  found.sort(key=lambda finding: _effect(finding, finding["confirmation"]["score"]))
  size = (8.5, 1.7 + 0.36 * max(1, len(found)))
  with _figure(study, path, "the best unit of each hypothesis", figsize=size) as figure:
    axes = figure.subplots()
    for row, finding in enumerate(found):
      _finding(axes, row, finding)
    marks = [" ✓" if each["significant"] else "" for each in found]
    names = [f"{each['hypothesis']}  {each['name']}{mark}" for each, mark in zip(found, marks)]
    plotting.label_rows(axes, names)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.7, max(len(found), 1) - 0.3))
    axes.set_xlabel("from chance (0) to perfect (1): 2 AUROC - 1, or a rank correlation")
    axes.spines["left"].set_visible(False)
    styles = {
      "confirmation": {"marker": "o", "ls": "", "color": OWN, "ms": 7},
      "discovery": {"marker": "o", "ls": "", "color": OWN, "ms": 7, "mfc": "none"},
      "to beat: shifted labels": {"color": BAR, "lw": 2},
      "to beat: untrained networks": {"lw": 2, **UNTRAINED},
      "their median": {"marker": "D", "ls": "", "color": OTHER, "ms": 5},
      "last-k baseline": {"marker": "$k$", "ls": "", "color": BAR},
    }
    handles = [axes.plot([], [], label=label, **style)[0] for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)


def saturation(study, path):
  """Plot the fractions of time that gates are nearly shut and nearly open (arXiv 1506.02078)."""
  gates = list(dict.fromkeys(entry["gate"] for entry in study["saturation"]))
  size = (3.3 * max(1, len(gates)), 3.9)
  with _figure(study, path, "how often gates are shut and open", figsize=size) as figure:
    panels = figure.subplots(1, max(1, len(gates)), squeeze=False)[0]
    for axes, gate in zip(panels, gates):
      for entry in (each for each in study["saturation"] if each["gate"] == gate):
        style = {"color": plotting.color(entry["layer"]), "s": 12, "lw": 0}
        label = f"layer {entry['layer']}"
        axes.scatter(entry["left"], entry["right"], alpha=0.6, label=label, **style)
      axes.plot([0, 1], [1, 0], color=plotting.EDGE, lw=1)
      title = f"{GATES[gate]} gate" if gate in GATES else gate
      axes.set(title=title, xlabel="fraction of time below 0.1", aspect="equal")
      axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
      axes.grid()
    if gates:
      panels[0].set_ylabel("fraction of time above 0.9")
      panels[-1].legend(loc="upper right", handletextpad=0)
    else:
      plotting.write(panels[0], "no gates between 0 and 1")


def emergence(study, path):
  """Plot by checkpoint the scores of each finding's column, and of the best column of the step."""
  entries = study["emergence"]
  count = max(1, len(entries))
  size = (3.4 * min(3, count), 2.4 * -(-count // 3) + 0.6)
  with _figure(study, path, "emergence of the findings", figsize=size) as figure:
    panels = plotting.panels(figure, count, 3)
    for axes, entry in zip(panels, entries):
      # None, where a step was not scored, becomes NaN and a gap.
      best, own = (np.array(entry[name], float) for name in ("best", "score"))
      axes.plot(entry["steps"], best, color=OTHER, ls="--", lw=1.2, label="best at that step")
      axes.plot(entry["steps"], own, color=OWN, lw=1.6, marker="o", ms=2.5, label="the finding")
      title = plotting.plain(f"{entry['hypothesis']}  {entry['column']}")
      axes.set(title=title, xlabel="training step")
      axes.grid()
    if entries:
      panels[0].legend(loc="best", fontsize=8)
    else:
      plotting.write(panels[0], "no earlier steps were kept")


def _figure(study, path, title, **options):
  return plotting.figure(path, f"{study['run']}, step {study['step']}: {title}", **options)


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
    axes.plot([effect(bar)] * 2, [row - 0.32, row + 0.32], lw=2, **style)
  axes.plot(effect(untrained.get("score")), row, "D", color=OTHER, ms=5)
  for last in finding["last_k"]:
    if last["score"] is not None:
      place = max(0, effect(last["score"])), row + 0.2
      axes.annotate(str(last["k"]), place, ha="center", va="bottom", size=7)
  axes.plot(effect(finding["discovery"]["score"]), row, "o", color=OWN, ms=7, mfc="none")
  axes.plot(effect(confirmed["score"]), row, "o", color=OWN, ms=7)
