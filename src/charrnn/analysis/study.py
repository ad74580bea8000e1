"""The study of a trained network that `charrnn cells` runs, and its results as JSON data.

A study records the network on a text and matches every feature column with every hypothesis. It
compares the findings with untrained networks and with predictors that see only the last k
characters. It then ablates and steers the units of the findings, and scores the findings at earlier
checkpoints.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from charrnn import errors
from charrnn.analysis import ablation, baselines, explorer, hypotheses, matching, recording
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

RECORDING = "recording.f32"
LAST_K = (1, 3, 6)  # context lengths of the last-k baseline
# Thresholds of left- and right-saturated gates in arXiv 1506.02078.
SHUT, OPEN = 0.1, 0.9
EXCERPT = 20_000  # number of characters in the explorer for up to EXCERPT_UNITS units
EXCERPT_UNITS = 1024
MAX_CHECKPOINTS = 12  # maximum number of checkpoints scored for emergence
MIN_CHECKPOINTS = 6  # minimum number of checkpoints for a useful picture of emergence
# Former names of keys in cells.json, by their current names.
ALIASES = {
  "significant": "survives",
  "untrained_baseline": "twins",
  "untrained_networks": "twins",
  "emergence": "births",
  "count": "found",
}


def study(
  run: run_lib.Run,
  text: recording.Text,
  settings: recording.Settings,
  folder: pathlib.Path,
  progress: Callable[[str], Callable],
) -> tuple[dict[str, Any], explorer.Excerpt]:
  """Study a run on a text; return the results as JSON data, and an excerpt of the text.

  The recording is written to `folder`. `progress(name)` starts a phase and returns its callback,
  which takes (done, total).
  """
  selected = [*hypotheses.choose(text.language), *settings.extra]
  path, update = folder / RECORDING, progress("recording")
  recorded = recording.record(run.model, run.params, text.ids_N, path, update)
  by_name = {each.name: each for each in selected}
  labeled = hypotheses.label_documents(selected, text.texts)
  subject = recording.Subject(
    run, text, settings, by_name, labeled, recorded, folder / "scratch.f32", progress
  )
  untrained = baselines.compare_untrained(subject) if settings.untrained else {}
  targets, design = subject.prepare(shifts=settings.shifts)
  bars = {name: each.to_beat for name, each in untrained.items()}
  update, columns = progress("matching"), recorded.columns
  result = matching.match(
    recorded.values, columns, targets, design, bars=bars, units=recorded.units, progress=update
  )
  scored = [finding for finding in result.findings if finding.scored]
  if not scored:
    reasons = "; ".join(f"{each.hypothesis}: {each.reason}" for each in result.findings[:3])
    raise errors.UserError(
      f"{text.name}: no hypothesis can be scored ({reasons}): use a longer text"
    )
  units = {finding.hypothesis: recorded.units[finding.column] for finding in scored}
  results = {
    **_about(subject, result, design, targets),
    "findings": _findings(subject, result, design, targets, untrained),
    "scores": _scores(subject, result),
    "interpretable": result.interpretable,
    "ablations": ablation.ablate(subject, units, design.halves.confirmation),
    "steering": ablation.steer(subject, units),
    "saturation": _saturation(subject),
    "emergence": _emergence(subject, scored),
    "notes": _notes(subject, result, design, untrained),
  }
  return plain(results), _excerpt(subject)


def plain(value):
  """Convert dataclasses to dicts, arrays to lists with four decimals, and NaN to None."""

  def convert(value):
    if dataclasses.is_dataclass(value):
      return dataclasses.asdict(value)
    floats = value.dtype.kind == "f"
    return (np.round(value.astype(np.float64), 4) if floats else value).tolist()

  return json.loads(json.dumps(value, default=convert), parse_constant=lambda _: None)


def _about(subject, result, design, targets) -> dict:
  config, text, settings = subject.run.config.model, subject.text, subject.settings
  return {
    "run": str(subject.run.path),
    "step": subject.run.step,
    "model": {name: config[name] for name in ("cell", "layers", "hidden")},
    "text": {
      "name": text.name,
      "characters": len(text.ids_N),
      "documents": len(text.documents),
      "nats": float(np.nanmean(subject.recording.predictions.nats)),
      "language": text.language,
    },
    "settings": {
      "untrained_networks": settings.untrained,
      "shifts": settings.shifts,
      "controls": ablation.CONTROLS,
      "ablation": settings.ablation,
      "alpha": design.alpha,
      "seed": settings.seed,
      "spacing": result.spacing,
      "halves": design.halves.by,
    },
    "quantities": list(subject.run.model.units["layer_0"]),
    "units": [str(unit) for unit in recording.by_unit(subject.recording.units)],
    "hypotheses": [
      {"name": t.name, "kind": t.kind, "about": t.about, "predicts": t.hypothesis.predicts}
      for t in targets
    ],
  }


def _findings(subject, result, design, targets, untrained) -> list[dict]:
  """Return the findings with their baselines, and with the final value of `significant`."""
  entries, progress = [], subject.progress("last-k baseline")
  contexts = baselines.contexts(subject.text.ids_N, max(LAST_K), subject.text.documents)
  for target, finding in zip(targets, result.findings):
    entry = dataclasses.asdict(finding) | {"untrained_baseline": None, "last_k": []}
    if finding.scored:
      column = subject.recording.columns[finding.column]
      entry |= {"layer": column.layer, "quantity": column.quantity, "cell": column.unit}
      entry["unit"] = str(subject.recording.units[finding.column])
      if baseline := untrained.get(finding.hypothesis):
        entry["untrained_baseline"] = {
          "score": matching.to_score(finding.kind, baseline.median),
          "p": baseline.p,
          "family_p": baseline.family_p,
          "to_beat": matching.to_score(finding.kind, baseline.to_beat),
        }
        if entry["significant"]:
          # `matching` compared the score on the full text with the baseline's threshold. The score
          # on the shorter text of the baseline must be significant too.
          entry["significant"] = baseline.family_p <= design.alpha
      if target.strata is None:
        scores = baselines.last_k_scores(contexts, target, design, finding.lag)
        entry["last_k"] = [{"k": k, "score": scores[k]} for k in LAST_K]
    entries.append(entry)
    progress(len(entries), len(targets))
  significant = {entry["hypothesis"]: entry["significant"] for entry in entries}
  controlled = {t.hypothesis.name: t.name for t in targets if t.strata is not None}
  for entry in entries:
    name = entry["hypothesis"]
    entry["confounded"] = bool(entry["significant"]) and not significant[controlled.get(name, name)]
    if entry["confounded"]:
      entry["significant"] = False
  return entries


def _scores(subject, result) -> dict[str, np.ndarray]:
  """Return each unit's effects by hypothesis, in the order of `recording.by_unit`.

  The column of a unit is selected on the discovery half. Its effect is measured on the
  confirmation half.
  """
  columns = np.array([*recording.by_unit(subject.recording.units).values()])  # [units, quantities]
  selected, confirmed = result.effects[columns], result.confirmed[columns]
  best = np.nan_to_num(np.abs(selected)).argmax(axis=1)[:, None]
  names = [finding.hypothesis for finding in result.findings]
  return dict(zip(names, np.take_along_axis(confirmed, best, axis=1)[:, 0].T))


def _saturation(subject) -> list[dict]:
  """Return the share of characters at which each gate is nearly closed, and nearly open.

  A gate is a quantity, other than a state, whose values are all between 0 and 1.
  """
  model, values = subject.run.model, subject.recording.values
  entries, start = [], 0
  for layer, sizes in enumerate(model.units.values()):
    for quantity, size in sizes.items():
      columns, start = slice(start, start + size), start + size
      if quantity in model.states:
        continue
      gate = np.array(values[:, columns])
      if gate.min() >= 0 and gate.max() <= 1:
        left, right = (gate < SHUT).mean(axis=0), (gate > OPEN).mean(axis=0)
        entries.append({"layer": layer, "gate": quantity, "left": left, "right": right})
  return entries


def _emergence(subject, scored) -> list[dict]:
  run = subject.run
  loads = [(step, functools.partial(_params, run, step)) for step in spread(run.steps)]
  if not run.config.init_from:
    loads.insert(0, (0, lambda: run.model.init(jax.random.key(run.config.seed))))
  return trace(subject, loads, scored)


def _params(run, step):
  """Return the parameters of a checkpoint; None if it is damaged or has been deleted."""
  try:
    return run.checkpoint(step, "params")[0]["params"]
  except (checkpoints.DamagedError, run_lib.DeletedError):
    return None


def spread(steps: Sequence[int]) -> list[int]:
  """Return at most MAX_CHECKPOINTS of the steps, more densely among the early steps."""
  if len(steps) <= MAX_CHECKPOINTS:
    return list(steps)
  indices = np.round(np.geomspace(1, len(steps), MAX_CHECKPOINTS)).astype(int) - 1
  return [steps[index] for index in dict.fromkeys(indices.tolist())]


def trace(
  subject: recording.Subject, checkpoints: Sequence[tuple[int, Callable]], findings: Sequence
) -> list[dict]:
  """Return the scores of findings at each checkpoint.

  Scores are measured on the confirmation half of the first `baselines.CHARACTERS` characters.

  `findings` come from `matching.match`. `checkpoints` are pairs of a step and a function that
  returns its parameters, or None to skip the step. "score" is the score of the finding's column;
  "best" is the score of the best column at that step.
  """
  model, columns = subject.run.model, subject.recording.columns
  ids_N, progress = subject.text.ids_N[: baselines.CHARACTERS], subject.progress("emergence")
  targets, design = subject.prepare(first=len(ids_N), shifts=0)
  targets = [target for target in targets if target.strata is None]
  findings = [finding for finding in findings if finding.kind != "controlled"]
  entries = [
    {"hypothesis": each.hypothesis, "column": each.name}
    | {key: [] for key in ("steps", "score", "best", "best_column")}
    for each in findings
  ]
  for done, (step, load) in enumerate(checkpoints):
    if (params := load()) is None:
      continue
    values = recording.record(model, params, ids_N, subject.scratch).values
    result = matching.match(values, columns, targets, design)
    best = {each.hypothesis: each for each in result.findings if each.scored}
    for entry, finding in zip(entries, findings):
      if top := best.get(finding.hypothesis):
        entry["steps"].append(step)
        entry["score"].append(matching.rescore(values, finding, targets, design))
        entry["best"].append(top.confirmation.score)
        entry["best_column"].append(top.name)
    progress(done + 1, len(checkpoints))
  return [entry for entry in entries if entry["steps"]]


def _notes(subject, result, design, untrained) -> list[str]:
  count, unscored = subject.settings.untrained, [f for f in result.findings if not f.scored]
  notes = [f"{finding.hypothesis}: not scored: {finding.reason}" for finding in unscored]
  if count < 1 / design.alpha - 1:
    notes.append(
      f"no finding can be significant with {count} untrained networks: set --untrained to at least "
      f"{round(1 / design.alpha) - 1}"
    )
  else:
    notes += [
      f"{finding.hypothesis}: not compared with untrained networks: cannot be scored on the first "
      f"{baselines.CHARACTERS:,} characters"
      for finding in result.findings
      if finding.scored and finding.hypothesis not in untrained
    ]
  if len(subject.run.steps) < MIN_CHECKPOINTS:
    notes.append(
      f"emergence: only {errors.plural(len(subject.run.steps), 'checkpoint')}: train with "
      "--config.keep=100 to keep more"
    )
  return notes


def _excerpt(subject) -> explorer.Excerpt:
  # A larger network gets a shorter excerpt, so that the page has about the same size.
  text, recorded = subject.text, subject.recording
  N = min(EXCERPT, len(text.ids_N), EXCERPT * EXCERPT_UNITS // len(set(recorded.units)))
  predictions = recorded.predictions
  return explorer.Excerpt(
    "".join(text.texts)[:N],
    list(subject.run.tokenizer.tokens),
    recorded.columns,
    recorded.units,
    recorded.values[:N],
    predictions.top_ids[:N],
    predictions.top_p[:N],
    predictions.nats[:N],
    {name: label.first(N) for name, label in subject.labels.items()},
  )
