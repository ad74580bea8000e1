"""All that `charrnn cells` finds out about a trained network, as plain values.

Record the text, score every cell for every hypothesis, compare with untrained networks and with
the last characters alone, set the cells that were found from outside, look at the gates and at
the checkpoints on the way.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np

from charrnn import errors
from charrnn.analysis import (
  births,
  explorer,
  findings,
  hypotheses,
  intervene,
  labels,
  lookup,
  match,
  material,
  record,
  steer,
  targets,
  twins,
)
from charrnn.training import checkpoint, runs

# What each is scored again without: a cell that knows no more than these does not count for it.
CONFOUNDS = {
  "next-is-newline": ("line-position",),
  "if-condition": ("line-position", "c-parenthesis-depth"),
  "if-body": ("line-position", "indentation"),
  "else-body": ("line-position", "indentation"),
}
LAST = (1, 3, 6)  # characters that the look-up predictors see
SHUT, OPEN = 0.1, 0.9  # arXiv 1506.02078: left- and right-saturated
EXCERPT = 20_000
ABLATED = 20_000  # characters of the confirmation half, for each cell that is set
STEERED = 4  # controls of a cell in generation


@dataclasses.dataclass(frozen=True)
class Settings:
  twins: int = 19
  shifts: int = 199
  controls: int = 19
  ablation: str = "zero"  # of intervene.SETTINGS
  alpha: float = 0.05
  seed: int = 0
  extra: tuple[hypotheses.Hypothesis, ...] = ()


class Study:
  """A run, a text, and what has been found so far."""

  def __init__(self, run: runs.Run, text: material.Material, settings: Settings, out, watch):
    """`out` is a folder for scratch files; `watch(phase)` gives a callback (done, total)."""
    self.run, self.material, self.settings, self.watch = run, text, settings, watch
    self.model, self.scratch = run.model, pathlib.Path(out) / ".scratch.f32"
    chosen = hypotheses.choose(None, text.language)
    self.hypotheses = {each.name: each for each in [*chosen, *settings.extra]}
    self.labels = hypotheses.over(text.texts, None, text.language, settings.extra)
    self.entries = {n: (self.hypotheses[n].kind, label) for n, label in self.labels.items()}
    self.ahead = [name for name, each in self.hypotheses.items() if each.of_next]
    self.given = {n: c for n, c in CONFOUNDS.items() if {n, *c} <= set(self.labels)}

  def run_all(self, path: pathlib.Path) -> tuple[dict[str, Any], explorer.Excerpt]:
    """Everything as JSON, and the first characters with their recording, which is at `path`."""
    self.recording = record.record(
      self.model, self.run.params, self.material.ids_N, path, self.watch("reading the text")
    )
    self.twins = self._twins() if self.settings.twins else None
    self.result = self._match()
    self.found = [each for each in self.result.findings if each.scored]
    if not self.found:
      reasons = "; ".join(f"{e.hypothesis}: {e.reason}" for e in self.result.findings[:3])
      raise errors.UserError(
        f"{self.material.name}: there is nothing to score ({reasons}): give a longer text"
      )
    self.cells = {each.hypothesis: self._cell(each) for each in self.found}
    study = self._about() | {
      "findings": self._findings(),
      "scores": self._scores(),
      "interpretable": findings.plain(self.result.interpretable),
      "ablations": self._ablations(),
      "steering": self._steering(),
      "saturation": self._saturation(),
      "births": self._births(),
      "notes": self._notes(),
    }
    return findings.plain(study), self._excerpt()

  def _columns(self):
    return [str(column) for column in self.recording.columns]

  def _cell(self, finding) -> intervene.Cell:
    column = self.recording.columns[finding.column]
    return intervene.Cell(column.layer, column.cell)

  def _twins(self) -> twins.Twins:
    return twins.compare(
      self.model,
      self.material.ids_N,
      self.recording.values,
      self.entries,
      self.material.documents,
      self.scratch,
      count=self.settings.twins,
      alpha=self.settings.alpha,
      seed=self.settings.seed,
      given=self.given,
      ahead=self.ahead,
      progress=self.watch("untrained networks"),
    )

  def _match(self) -> findings.Result:
    predicted = [name for name, each in self.hypotheses.items() if each.predicts]
    hidden = self.model.network.hidden
    return match.match(
      self.recording.values,
      self._columns(),
      self.entries,
      self.material.documents,
      shifts=self.settings.shifts,
      given=self.given,
      uncounted=[
        *predicted,
        *(targets.beyond(n, self.given[n]) for n in predicted if n in self.given),
      ],
      bars=self.twins.to_beat if self.twins else {},
      ahead=self.ahead,
      cells=[column.layer * hidden + column.cell for column in self.recording.columns],
      alpha=self.settings.alpha,
      seed=self.settings.seed,
      progress=self.watch("cells and hypotheses"),
    )

  def _about(self) -> dict:
    network, text = self.model.network, self.material
    return {
      "run": str(self.run.path),
      "step": self.run.step,
      "model": {"cell": network.cell, "layers": network.layers, "hidden": network.hidden},
      "text": {
        "name": text.name,
        "characters": len(text.ids_N),
        "documents": len(text.documents),
        "nats": float(np.nanmean(self.recording.predictions.nats)),
        "language": text.language,
      },
      "settings": {
        **{f: getattr(self.settings, f) for f in ("twins", "shifts", "controls", "ablation")},
        "alpha": self.settings.alpha,
        "seed": self.settings.seed,
        "spacing": self.result.spacing,
        "halves": self.result.halves.by,
      },
      "quantities": list(record.quantities(self.model)),
      "hypotheses": [self._hypothesis(each) for each in self.result.findings],
    }

  def _hypothesis(self, finding) -> dict:
    plain = self.hypotheses[finding.hypothesis.partition(targets.GIVEN)[0]]
    beyond = finding.kind == "beyond"
    about = (
      f"{plain.about}; beyond {finding.hypothesis.partition(targets.GIVEN)[2]}"
      if beyond
      else plain.about
    )
    return {
      "name": finding.hypothesis,
      "kind": finding.kind,
      "about": about,
      "predicts": plain.predicts,
    }

  def _findings(self) -> list[dict]:
    told, watch = [], self.watch("the last characters alone")
    for done, finding in enumerate(self.result.findings):
      told.append(dataclasses.asdict(finding) | {"twins": None, "last_k": []})
      if finding.scored:
        layer, quantity, cell = self.recording.columns[finding.column]
        told[-1] |= {"layer": layer, "quantity": quantity, "cell": cell}
        told[-1] |= {"twins": self._twin(finding), "last_k": self._last(finding)}
        if told[-1]["twins"] and told[-1]["survives"]:
          # The bar is for all of the text; on the twins' own text it must be beaten as well.
          told[-1]["survives"] = told[-1]["twins"]["family_p"] <= self.settings.alpha
      watch(done + 1, len(self.result.findings))
    survives = {each["hypothesis"]: each["survives"] for each in told}
    for each in told:
      name = each["hypothesis"]
      beyond = targets.beyond(name, self.given[name]) if name in self.given else name
      each["confounded"] = bool(each["survives"]) and not survives[beyond]
    return told

  def _twin(self, finding) -> dict | None:
    name = finding.hypothesis
    if not self.twins or name not in self.twins.observed:
      return None
    return {
      "score": match.in_unit(finding.kind, self.twins.median[name]),
      "p": self.twins.p[name],
      "family_p": self.twins.family_p[name],
      "to_beat": match.in_unit(finding.kind, self.twins.to_beat[name]),
    }

  def _last(self, finding) -> list[dict]:
    """How well the last k characters alone do, in place of the cell."""
    if finding.kind == "beyond":
      return []
    kind, label = self.entries[finding.hypothesis]
    ids, documents, parts = self.material.ids_N, self.material.documents, self.result.halves
    found = [
      lookup.last_k_predictor(ids, label, k, documents, kind=kind, lag=finding.lag, parts=parts)
      for k in LAST
    ]
    return [{"k": each.k, "score": each.score} for each in found]

  def _scores(self) -> dict[str, list]:
    """By hypothesis, for every cell the effect on confirmation of its best column on discovery."""
    network = self.model.network
    shape = network.layers, len(record.quantities(self.model)), network.hidden, -1
    effects, confirmed = (
      values.reshape(shape).swapaxes(1, 2).reshape(network.layers * network.hidden, shape[1], -1)
      for values in (self.result.effects, self.result.confirmed)
    )
    best = np.nan_to_num(np.abs(effects)).argmax(axis=1)[:, None]
    chosen = np.take_along_axis(confirmed, best, axis=1)[:, 0]
    return dict(zip(self.result.hypotheses, chosen.T))

  def _ablations(self) -> list[dict]:
    """The change of the loss with each cell set, and with its controls set likewise."""
    counted = np.zeros(len(self.material.ids_N), bool)
    for start, stop in self.result.halves.confirmation:
      counted[start:stop] = True
    # Read as it stands, up to so many characters of the confirmation half, which alone count.
    stop = int(np.searchsorted(np.cumsum(counted), min(ABLATED, counted.sum()))) + 1
    counted = counted[:stop]
    others = self._controls(self.settings.controls)
    wanted = list(dict.fromkeys([*others, *(o for each in others.values() for o in each)]))
    values = {c: intervene.kept(self.recording, self.model, c) for c in wanted}
    rows = [[c.set_to(intervene.values(values[c], self.settings.ablation))] for c in wanted]
    nats = intervene.losses(
      self.model,
      self.run.params,
      self.material.ids_N[:stop],
      [[], *rows],
      self.watch("cells set from outside"),
    )
    changes = dict(zip(wanted, nats[1:] - nats[0]))
    return [
      self._ablation(name, cell, changes, others, counted) for name, cell in self.cells.items()
    ]

  def _ablation(self, name, cell, changes, others, counted) -> dict:
    label = self.labels[name.partition(targets.GIVEN)[0]]
    label = labels.Label(label.values[: len(counted)], label.mask[: len(counted)] & counted)
    own = intervene.effect(changes[cell], label)
    rest = [intervene.effect(changes[other], label) for other in others[cell]]
    known = None not in own
    selective = [each.inside - each.outside for each in rest] if known else []
    return {
      "hypothesis": name,
      "cell": str(cell),
      "setting": self.settings.ablation,
      "inside": own.inside,
      "outside": own.outside,
      "controls": {
        "inside": [each.inside for each in rest] if known else [],
        "outside": [each.outside for each in rest] if known else [],
      },
      # Of costing more where the label holds than elsewhere; not corrected for many hypotheses.
      "p": intervene.p_value(own.inside - own.outside, selective) if known else None,
    }

  def _controls(self, count) -> dict[intervene.Cell, list[intervene.Cell]]:
    found = list(dict.fromkeys(self.cells.values()))
    seed = self.settings.seed
    return {c: intervene.controls(self.recording, c, count, found, seed) for c in found}

  def _steering(self) -> list[dict]:
    """Generated text with each cell at zero, low and high, and with controls likewise."""
    others, rows = self._controls(STEERED), {"free": []}
    for cell in dict.fromkeys([*others, *(o for each in others.values() for o in each)]):
      column = intervene.kept(self.recording, self.model, cell)
      for setting in ("zero", "low", "high"):
        rows[cell, setting] = [cell.set_to(intervene.values(column, setting))]
    prompt = self.material.ids_N[: self._prompt()]
    decode = self.run.alphabet.decode
    watch = self.watch("text written with cells set")
    seed = self.settings.seed
    texts = steer.write(
      self.model, self.run.params, prompt, decode, rows, seed=seed, progress=watch
    )
    told, shown = [], set()
    for name, cell in self.cells.items():
      plain = name.partition(targets.GIVEN)[0]
      # What is measured of every cell is told once.
      standard = () if cell in shown else steer.STANDARD
      shown.add(cell)
      for measure in (steer.of_label(self.hypotheses[plain]), *standard):
        told.append(_steered(name, cell, measure, texts, rows, others[cell]))
    return [each for each in told if _says_something(each)]

  def _prompt(self) -> int:
    """The length of a prompt that ends with a line, if there is one in time."""
    text = self.material.texts[0][: intervene.BURN_IN]
    return text.rfind("\n") + 1 or len(text)

  def _saturation(self) -> list[dict]:
    """How often each gate is nearly shut and nearly open; of those with values from 0 to 1."""
    told, hidden = [], self.model.network.hidden
    values = self.recording.values
    for start in range(0, values.shape[1], hidden):
      column = self.recording.columns[start]
      gate = np.array(values[:, start : start + hidden])
      if gate.min() >= 0 and gate.max() <= 1:
        left, right = (gate < SHUT).mean(axis=0), (gate > OPEN).mean(axis=0)
        told.append({"layer": column.layer, "gate": column.quantity, "left": left, "right": right})
    return told

  def _births(self) -> list[dict]:
    folder, run = self.run.path / "checkpoints", self.run
    kept = births.spread([s for s in checkpoint.steps(folder) if _whole(folder, s)])
    loads = [
      (step, lambda step=step: checkpoint.read(folder, step, "params")[0]["params"])
      for step in kept
    ]
    if not run.config.init_from:
      loads.insert(0, (0, lambda: self.model.init(jax.random.key(run.config.seed))))
    born = births.trace(
      self.model,
      loads,
      self.material.ids_N,
      self.entries,
      self.material.documents,
      [finding for finding in self.found if finding.kind != "beyond"],
      self.scratch,
      seed=self.settings.seed,
      ahead=self.ahead,
      progress=self.watch("checkpoints"),
    )
    return [birth._asdict() for birth in born]

  def _notes(self) -> list[str]:
    told = [f"{f.hypothesis}: not scored, {f.reason}" for f in self.result.findings if not f.scored]
    if self.settings.twins < 1 / self.settings.alpha - 1:
      told.append(
        f"compared with {self.settings.twins} untrained networks: with fewer than 19 nothing is "
        "said to survive"
      )
    else:
      told += [
        f"{f.hypothesis}: not in the first {twins.CHARACTERS:,} characters, so not compared with "
        "untrained networks"
        for f in self.found
        if f.hypothesis not in self.twins.observed
      ]
    if len(checkpoint.steps(self.run.path / "checkpoints")) < 6:
      told.append(
        "few checkpoints were kept to see how cells came to be: train with config.keep=100"
      )
    return told

  def _excerpt(self) -> explorer.Excerpt:
    N = min(EXCERPT, len(self.material.ids_N))
    predictions = self.recording.predictions
    return explorer.Excerpt(
      self.material.text[:N],
      list(self.run.alphabet.symbols),
      [tuple(column) for column in self.recording.columns],
      self.recording.values[:N],
      predictions.top_ids[:N],
      predictions.top_p[:N],
      predictions.nats[:N],
      {name: label.first(N) for name, label in self.labels.items()},
    )


def _says_something(steered) -> bool:
  """Whether there is anything to measure: verse has no indentation, and some texts no quotes."""
  return steered["free"] is not None and any(
    each["result"] or any(each["controls"]) for each in steered["settings"]
  )


def _steered(name, cell, measure, texts, rows, others) -> dict:
  def result(key):
    value = measure.function(texts[key])
    return None if math.isnan(value) else value

  settings = [
    {
      "setting": setting,
      "value": rows[cell, setting][0].value,
      "result": result((cell, setting)),
      "controls": [result((other, setting)) for other in others],
    }
    for setting in ("zero", "low", "high")
  ]
  keys = {"free": "free"} | {each: (cell, each) for each in ("zero", "low", "high")}
  return {
    "hypothesis": name,
    "cell": str(cell),
    "measure": measure.name,
    "unit": measure.unit,
    "free": result("free"),
    "settings": settings,
    "excerpts": {setting: texts[key][0][: steer.EXCERPT] for setting, key in keys.items()},
  }


def _whole(folder, step) -> bool:
  """Whether a checkpoint's digests can be read; a run that trains may drop it meanwhile."""
  try:
    checkpoint.read_meta(folder, step)
  except checkpoint.DamagedError:
    return False
  return True
