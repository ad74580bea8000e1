"""All that `charrnn cells` finds out about a trained network, as plain values.

Record the text, score every cell for every hypothesis, compare with untrained networks and with
the last characters alone, set the cells that were found from outside, look at the gates and at
the checkpoints on the way.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from charrnn import errors
from charrnn.analysis import (
  births,
  causes,
  explorer,
  findings,
  hypotheses,
  intervene,
  lookup,
  match,
  material,
  record,
  targets,
  twins,
)
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

# What each is scored again without: a cell that knows no more than these does not count for it.
CONFOUNDS = {
  "next-is-newline": ("line-position",),
  "if-condition": ("line-position", "c-parenthesis-depth"),
  "if-body": ("line-position", "indentation"),
  "else-body": ("line-position", "indentation"),
}
LAST = (1, 3, 6)  # characters that the look-up predictors see
SHUT, OPEN = 0.1, 0.9  # arXiv 1506.02078: left- and right-saturated
EXCERPT = 20_000  # characters in the explorer, of up to so many cells:
SHOWN = 1024


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

  def __init__(self, run: run_lib.Run, text: material.Material, settings: Settings, out, watch):
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
    cells = {each.hypothesis: self._cell(each) for each in self.found}
    cases = self.run, self.material, self.recording, cells
    study = self._about() | {
      "findings": self._findings(),
      "scores": self._scores(),
      "interpretable": findings.plain(self.result.interpretable),
      "ablations": causes.ablations(
        *cases,
        self.labels,
        self.result.halves.confirmation,
        setting=self.settings.ablation,
        controls=self.settings.controls,
        seed=self.settings.seed,
        progress=self.watch("cells set from outside"),
      ),
      "steering": causes.steering(
        *cases,
        self.hypotheses,
        seed=self.settings.seed,
        progress=self.watch("text written with cells set"),
      ),
      "saturation": self._saturation(),
      "births": self._births(),
      "notes": self._notes(),
    }
    return findings.plain(study), self._excerpt()

  def _count(self):
    return sum(sizes["h"] for sizes in self.model.units.values())

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
    hidden = self.model.units["layer_0"]["h"]
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
    config, text = self.run.config.model, self.material
    return {
      "run": str(self.run.path),
      "step": self.run.step,
      "model": {name: config[name] for name in ("cell", "layers", "hidden")},
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
    name = targets.plain(finding.hypothesis)
    plain = self.hypotheses[name]
    about = plain.about
    if finding.kind == "beyond":
      about += f"; beyond {', '.join(self.given[name])}"
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
      each["survives"] = False if each["confounded"] else each["survives"]
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
    units = self.model.units["layer_0"]
    shape = len(self.model.units), len(units), units["h"], -1
    effects, confirmed = (
      values.reshape(shape).swapaxes(1, 2).reshape(self._count(), shape[1], -1)
      for values in (self.result.effects, self.result.confirmed)
    )
    best = np.nan_to_num(np.abs(effects)).argmax(axis=1)[:, None]
    chosen = np.take_along_axis(confirmed, best, axis=1)[:, 0]
    return dict(zip(self.result.hypotheses, chosen.T))

  def _saturation(self) -> list[dict]:
    """How often each gate is nearly shut and nearly open; of those with values from 0 to 1."""
    told, hidden = [], self.model.units["layer_0"]["h"]
    values = self.recording.values
    for start in range(0, values.shape[1], hidden):
      column = self.recording.columns[start]
      gate = np.array(values[:, start : start + hidden])
      if gate.min() >= 0 and gate.max() <= 1:
        left, right = (gate < SHUT).mean(axis=0), (gate > OPEN).mean(axis=0)
        told.append({"layer": column.layer, "gate": column.quantity, "left": left, "right": right})
    return told

  def _births(self) -> list[dict]:
    run = self.run
    loads = [(step, functools.partial(_parameters, run, step)) for step in births.spread(run.steps)]
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
    if len(self.run.steps) < 6:
      told.append(
        "few checkpoints were kept to see how cells came to be: train with config.keep=100"
      )
    return told

  def _excerpt(self) -> explorer.Excerpt:
    # Fewer characters of a larger network, so that the page stays of one size.
    N = min(EXCERPT, len(self.material.ids_N), EXCERPT * SHOWN // self._count())
    predictions = self.recording.predictions
    return explorer.Excerpt(
      self.material.text[:N],
      list(self.run.tokenizer.tokens),
      [tuple(column) for column in self.recording.columns],
      self.recording.values[:N],
      predictions.top_ids[:N],
      predictions.top_p[:N],
      predictions.nats[:N],
      {name: label.first(N) for name, label in self.labels.items()},
    )


def _parameters(run, step):
  """Those of a checkpoint; None if it is damaged, or gone: a run that trains drops old ones."""
  try:
    return run.checkpoint(step, "params")[0]["params"]
  except (checkpoints.DamagedError, run_lib.DeletedError):
    return None
