"""The study of a recording that `charrnn cells` runs, and its results as JSON data.

A study matches every feature column of a recording with every hypothesis, and compares the findings
with predictors that see only the last k characters. Linear probes compare single units with other
directions of the state. If the network that was recorded is available, the study also compares it
with untrained networks, ablates and steers the units of the findings, interchanges their states,
and scores the findings at earlier checkpoints.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from charrnn import errors
from charrnn.analysis import (
  ablation,
  baselines,
  effects,
  explorer,
  hypotheses,
  interchange,
  matching,
  passages,
  probes,
  recording,
)
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

RECORDING = "recording.f32"
LAST_K = (1, 3, 6)  # context lengths of the last-k baseline
# Thresholds of left- and right-saturated gates in arXiv 1506.02078.
SHUT, OPEN = 0.1, 0.9
EXCERPT = 20_000  # number of characters in the explorer for up to EXCERPT_UNITS units
EXCERPT_UNITS = 1024
MAX_CHECKPOINTS = 12  # maximum number of checkpoints scored for emergence
# Passages of each half that each checkpoint reads. A trained network remembers more characters than
# an untrained one, so the warm-up is longer than in `baselines`.
ROWS, LENGTH, WARM_UP = 16, 640, 320
MIN_CHECKPOINTS = 6  # minimum number of checkpoints for a useful picture of emergence
WITHOUT_NETWORK = (
  "left out, because the network is not available: untrained networks, ablation, interchanges, "
  "steering and emergence; untrained networks of the same shape may exceed the threshold of "
  "shifted labels too"
)
# Quantities that are not gates.
_STATES = ("h", "c", "m")
# Former names of keys in cells.json, by their current names.
ALIASES = {
  "significant": "survives",
  "untrained_baseline": "twins",
  "untrained_networks": "twins",
  "emergence": "births",
  "count": "found",
}


class Found(NamedTuple):
  """The findings of a recording, and what the other parts of a study need."""

  results: dict[str, Any]  # what was studied, and the findings, by key of cells.json
  scored: list[matching.Finding]
  result: matching.Result
  targets: list[effects.Target]
  design: effects.Design


def study(subject: recording.Subject) -> tuple[dict[str, Any], explorer.Excerpt]:
  """Study a recording of a text; return the results as JSON data, and an excerpt of the text."""
  run, recorded = subject.run, subject.recording
  results, scored, result, targets, design = find(subject)
  units = {finding.hypothesis: recorded.units[finding.column] for finding in scored}
  saturation = _saturation(recorded)
  results |= {
    "probes": _probes(subject, result, design, targets, saturation),
    "ablations": ablation.ablate(subject, units, design.halves.confirmation) if run else [],
    "interchanges": interchange.interchange(subject, result, design) if run else [],
    "steering": ablation.steer(subject, units) if run else [],
    "saturation": saturation,
    "emergence": emergence(subject, scored) if run else [],
  }
  return plain(results), _excerpt(subject)


def check_run(run: run_lib.Run):
  """Raise UserError if a run has no units, or if its tokens are not characters."""
  if not run.tokenizer.has_characters:
    raise errors.UserError(
      f"{run.path}: {run.tokenizer.other_tokens}, but the hypotheses are about characters: use "
      "a run with the tokenizer char or byte, without documents and min_count"
    )
  if not run.model.units:
    raise errors.UserError(
      f"{run.path}: has no units to study: use a run of a recurrent network or a transformer"
    )


def make_subject(
  name: str,
  recorded: recording.Recording,
  text: recording.Text,
  settings: recording.Settings,
  folder: pathlib.Path,
  progress: Callable[[str], Callable],
  run: run_lib.Run | None = None,
) -> recording.Subject:
  """Label a text; return the subject of a study.

  `name` is that of the run or of the file of the states. `run` is the run that was recorded; None
  leaves out everything that needs the network. Recordings of other networks are written to
  `folder`. `progress(name)` starts a phase and returns its callback, which takes (done, total).
  """
  selected = [*hypotheses.choose(text.language), *settings.extra]
  by_name = {each.name: each for each in selected}
  labeled = hypotheses.label_documents(selected, text.texts)
  scratch = folder / "scratch.f32"
  return recording.Subject(name, run, text, settings, by_name, labeled, recorded, scratch, progress)


def find(subject: recording.Subject, null: np.ndarray | None = None) -> Found:
  """Match a recording with all hypotheses, and judge the findings.

  `null` has the effects of untrained networks, see `baselines.compare_untrained`.
  """
  run, settings, recorded = subject.run, subject.settings, subject.recording
  untrained = baselines.compare_untrained(subject, null) if run and settings.untrained else {}
  targets, design = subject.prepare(shifts=settings.shifts)
  bars = {name: each.to_beat for name, each in untrained.items()} if run else None
  update, columns = subject.progress("matching"), recorded.columns
  result = matching.match(
    recorded.values, columns, targets, design, bars=bars, units=recorded.units, progress=update
  )
  scored = [finding for finding in result.findings if finding.scored]
  if not scored:
    reasons = "; ".join(f"{each.hypothesis}: {each.reason}" for each in result.findings[:3])
    raise errors.UserError(
      f"{subject.text.name}: no hypothesis can be scored ({reasons}): use a longer text"
    )
  results = {
    **_about(subject, result, design, targets),
    "findings": _findings(subject, result, design, targets, untrained),
    "scores": _scores(subject, result),
    "interpretable": result.interpretable,
    "notes": _notes(subject, result, design, untrained),
  }
  return Found(results, scored, result, targets, design)


def plain(value):
  """Convert dataclasses to dicts, arrays to lists with four decimals, and NaN to None."""

  def convert(value):
    if dataclasses.is_dataclass(value):
      return dataclasses.asdict(value)
    floats = value.dtype.kind == "f"
    return (np.round(value.astype(np.float64), 4) if floats else value).tolist()

  return json.loads(json.dumps(value, default=convert), parse_constant=lambda _: None)


def _about(subject, result, design, targets) -> dict:
  """Return what was studied, and how. What is only known of a run is None without one."""
  run, text, settings, recorded = subject.run, subject.text, subject.settings, subject.recording
  names = ("cell", "layers", "hidden")
  return {
    "run": subject.name,
    "step": run.step if run else None,
    "weights": run.weights if run else None,
    "model": {name: run.config.model[name] for name in names} if run else None,
    "text": {
      "name": text.name,
      "characters": len(text.ids_N),
      "documents": len(text.documents),
      "nats": float(np.nanmean(recorded.predictions.nats)) if run else None,
      "language": text.language,
    },
    "settings": {
      "untrained_networks": settings.untrained if run else None,
      "shifts": settings.shifts,
      "controls": ablation.CONTROLS if run else None,
      "ablation": settings.ablation if run else None,
      "alpha": design.alpha,
      "seed": settings.seed,
      "spacing": result.spacing,
      "halves": design.halves.by,
    },
    "quantities": list(dict.fromkeys(column.quantity for column in recorded.columns)),
    "units": [str(unit) for unit in recording.by_unit(recorded.units)],
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
          # on the passages of the baseline must be significant too.
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


def _saturation(recorded: recording.Recording) -> list[dict]:
  """Return the share of characters at which each gate is nearly closed, and nearly open.

  A gate is a quantity, other than a state, whose values are all between 0 and 1.
  """
  entries, start = [], 0
  for (layer, quantity), group in itertools.groupby(recorded.columns, lambda each: each[:2]):
    columns = slice(start, start := start + len(list(group)))
    if quantity in _STATES:
      continue
    gate = np.array(recorded.values[:, columns])
    if gate.min() >= 0 and gate.max() <= 1:
      left, right = (gate < SHUT).mean(axis=0), (gate > OPEN).mean(axis=0)
      entries.append({"layer": layer, "gate": quantity, "left": left, "right": right})
  return entries


def emergence(subject: recording.Subject, findings: Sequence[matching.Finding]) -> list[dict]:
  """Return the scores of scored findings at up to MAX_CHECKPOINTS checkpoints; see `trace`."""
  run = subject.run
  loads = [(step, functools.partial(_params, run, step)) for step in spread(run.steps)]
  if not run.config.init_from:
    loads.insert(0, (0, lambda: run.model.init(jax.random.key(run.config.seed))))
  return trace(subject, loads, findings)


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
  """Return the scores of findings at each checkpoint, and the loss of the network ("nats").

  The loss is measured on passages of both halves, and the scores on those of the confirmation half.

  `findings` come from `matching.match`. `checkpoints` are pairs of a step and a function that
  returns its parameters, or None to skip the step. "score" is the score of the finding's column;
  "best" is the score of the best column at that step.
  """
  model, columns = subject.run.model, subject.recording.columns
  progress = subject.progress("emergence")
  targets, design = subject.prepare()
  targets = [target for target in targets if target.strata is None]
  parts = passages.choose(design.halves[:2], ROWS, LENGTH, WARM_UP)
  targets, design = parts.restrict(targets, design)
  findings = [finding for finding in findings if finding.kind != "controlled"]
  entries = [
    {"hypothesis": each.hypothesis, "column": each.name}
    | {key: [] for key in ("steps", "score", "best", "best_column", "nats")}
    for each in findings
  ]
  for done, (step, load) in enumerate(checkpoints):
    if (params := load()) is None:
      continue
    values, nats = passages.read(model, params, subject.text.ids_N, parts, subject.scratch)
    best = matching.best_candidates(values, columns, targets, design)
    for entry, finding in zip(entries, findings):
      if top := best.get(finding.hypothesis):
        entry["steps"].append(step)
        entry["score"].append(matching.rescore(values, finding, targets, design))
        entry["best"].append(top.confirmation.score)
        entry["best_column"].append(top.name)
        entry["nats"].append(float(np.nanmean(nats)))
    progress(done + 1, len(checkpoints))
  return [entry for entry in entries if entry["steps"]]


def _probes(subject, result, design, targets, saturation) -> list[dict]:
  """Return the scores of sparse probes of the state for each scored hypothesis.

  The state is h, c and m. If other names are used, it is all quantities that are not gates.
  """
  text, columns = subject.text, subject.recording.columns
  gates = {(each["layer"], each["gate"]) for each in saturation}
  states = [n for n, column in enumerate(columns) if column.quantity in _STATES]
  states = states or [n for n, column in enumerate(columns) if column[:2] not in gates]
  scored = {finding.hypothesis for finding in result.findings if finding.scored}
  return probes.probe(
    subject.recording,
    states or range(len(columns)),
    [each for each in targets if each.name in scored and each.strata is None],
    design,
    baselines.contexts(text.ids_N, probes.CONTEXT, text.documents)[-1],
    subject.settings.seed,
    subject.progress("probes"),
  )


def _notes(subject, result, design, untrained) -> list[str]:
  count, unscored = subject.settings.untrained, [f for f in result.findings if not f.scored]
  notes = [f"{finding.hypothesis}: not scored: {finding.reason}" for finding in unscored]
  if not subject.run:
    return [*notes, WITHOUT_NETWORK]
  if count < 1 / design.alpha - 1:
    notes.append(
      f"no finding can be significant with {count} untrained networks: set --untrained to at least "
      f"{round(1 / design.alpha) - 1}"
    )
  else:
    notes += [
      f"{finding.hypothesis}: not compared with untrained networks: cannot be scored on the "
      "passages that they read"
      for finding in result.findings
      if finding.scored and finding.hypothesis not in untrained
    ]
  if not subject.run.model.can_hold:
    notes.append("interchanges: left out, because the units have no state")
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
  symbols, top_ids, top_p, nats = [], np.empty((N, 0)), np.empty((N, 0)), np.full(N, np.nan)
  if subject.run:
    nats, _, top_ids, top_p = (each[:N] for each in recorded.predictions)
    symbols = list(subject.run.tokenizer.tokens)
  return explorer.Excerpt(
    "".join(text.texts)[:N],
    symbols,
    recorded.columns,
    recorded.units,
    recorded.values[:N],
    top_ids,
    top_p,
    nats,
    {name: label.first(N) for name, label in subject.labels.items()},
  )
