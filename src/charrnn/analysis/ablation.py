"""Ablation and steering: how clamping a unit changes the loss and the samples of a network.

The value of a unit (c of an LSTM, h of other cells) is clamped after every step, and so affects all
later computations. Each unit is compared with control units. These are units of the same layer and
kind with similar variance that belong to no finding.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from charrnn import models
from charrnn.analysis import effects, inference, labels, passages, recording
from charrnn.evaluation import score
from charrnn.models import layers
from charrnn.sampling import clamps, sampler

BURN_IN = 256  # number of characters that are read before units are clamped
WINDOW = 32  # number of characters per call of the model
ROWS = 384  # maximum number of rows in a batch
CARRY_BYTES = 1 << 28  # maximum size of the carry of a batch; several copies are in memory
MIN_CHARACTERS = 30  # minimum number of characters for a mean
# Number and length of the passages of the confirmation half on which the loss is measured. They are
# read one after the other, with a warm-up before each.
PASSAGES, PASSAGE = 10, 1000
ABLATIONS = ("zero", "mean", "hold")  # `hold` keeps the last value before clamping
CONTROLS = 99  # number of control units per ablated unit

STEERING_CONTROLS = 4  # number of control units per steered unit
SAMPLES = 8  # number of samples per setting, with the same random numbers in all settings
LENGTH = 600  # number of characters per sample
EXCERPT = 400  # number of characters of a sample shown in the explorer
_QUOTE = re.compile(r'"([^"]*?)("|\n[ \t\r]*\n|\Z)', re.DOTALL)
Row = Sequence[clamps.Clamp]  # the clamps in one row of a batch
Unit = recording.Unit


class Effect(NamedTuple):
  """Increase of the loss by clamping, in nats per character; None for too few characters."""

  inside: float | None  # where the label is true, or in the top quarter of its values
  outside: float | None  # elsewhere


def neutral(model: models.Model) -> str:
  """Return the setting of ABLATIONS that removes the information of a unit, by default.

  States of cells are around 0. Units of a transformer may be far from 0 at all characters.
  """
  return "zero" if model.can_hold else "mean"


def find_controls(
  subject: recording.Subject, units: Mapping[str, Unit], count: int
) -> dict[Unit, list[Unit]]:
  """Return the control units of the unit of each finding, by unit."""
  distinct, seed = list(dict.fromkeys(units.values())), subject.settings.seed
  return {unit: control_units(subject.recording, unit, count, distinct, seed) for unit in distinct}


def _with_controls(
  subject: recording.Subject, units: Mapping[str, Unit], count: int, settings: Sequence[str]
) -> tuple[dict[Unit, list[Unit]], dict[tuple, list[clamps.Clamp]]]:
  """Return the control units of each unit, and the clamps of all these units by setting."""
  recorded, controls = subject.recording, find_controls(subject, units, count)
  number = {column: n for n, column in enumerate(recorded.columns)}
  quantity = subject.run.model.states[-1]
  everyone = dict.fromkeys([*controls, *itertools.chain(*controls.values())])
  columns = {unit: number[unit.layer, unit.quantity or quantity, unit.number] for unit in everyone}
  values = recording.read_columns(recorded.values, list(columns.values()))
  return controls, {
    (unit, setting): [unit.clamp(setting_value(np.float32(values[n]), setting))]
    for unit, n in columns.items()
    for setting in settings
  }


def control_units(
  recorded: recording.Recording, unit: Unit, count: int, avoid: Iterable[Unit], seed: int = 0
) -> list[Unit]:
  """Return random units of the layer, from those whose spread is the most similar.

  These are a third of the layer, or `count` units if this is more. Only units with the same
  quantity are compared. The spread of a unit with several is that of h. Units in `avoid` are
  excluded. There may be fewer than `count` units in a small layer. The random order of a layer's
  units is the same for all units, so that they share many of their controls.
  """
  kind = unit.layer, unit.quantity or "h"
  columns = [i for i, column in enumerate(recorded.columns) if column[:2] == kind]
  step = max(1, len(recorded.values) // 1000)
  spread = np.std(recorded.values[::step, columns[0] : columns[-1] + 1], axis=0)
  distance = np.abs(np.log(spread + 1e-12) - np.log(spread[unit.number] + 1e-12))
  taken = {each.number for each in (unit, *avoid) if each[:2] == unit[:2]}
  near = [index for index in np.argsort(distance, kind="stable").tolist() if index not in taken]
  near = {*near[: max(count, len(spread) // 3)]}
  order = np.random.default_rng([seed, unit.layer, *map(ord, unit.quantity)])
  picks = [index for index in order.permutation(len(spread)).tolist() if index in near]
  return [unit._replace(number=index) for index in picks[:count]]


def setting_value(column: np.ndarray, setting: str) -> float:
  """Return the value to which a setting of ABLATIONS or STEERING clamps a unit.

  `column` contains the unit's values on a text. Low and high are their 5th and 95th percentiles.
  """
  if setting in ("low", "high"):
    return float(np.quantile(column, 0.05 if setting == "low" else 0.95))
  return {"zero": 0.0, "mean": float(column.mean()), "hold": clamps.HOLD}[setting]


def values_by_row(
  model,
  params,
  ids_N: np.ndarray,
  rows: Sequence[Row],
  progress: effects.Progress | None = None,
  measure: Callable | None = None,
) -> np.ndarray:
  """Return -log p of the next character for each row of clamps, float32 [R, N].

  The text is read as one stream, without clamps for the first BURN_IN characters. The values there
  and at the last character are NaN. `measure` replaces -log p; see `score.windows`.

  Layers below all clamps of a batch are the same in all rows, and are computed once.
  """
  N, nats_RxN = len(ids_N), np.full((len(rows), len(ids_N)), np.nan, np.float32)
  _, first = sampler.prime(model, model.prepare(params), ids_N[:BURN_IN], 1)
  lowest_R = np.array([_lowest(row, model) for row in rows])
  # Rows without clamps are read together with others.
  free_R = np.array([not row for row in rows])
  layer_R = np.where(free_R, lowest_R[~free_R].max(initial=0), lowest_R)
  members = [np.flatnonzero(layer_R == layer) for layer in np.unique(layer_R)]
  batches = [each[group] for each in members for group in _groups(len(each), model)]
  done = 0
  for group in batches:
    carry, copies, layer = _repeat(first, len(group)), len(group), lowest_R[group].min()
    if layer:  # The arrays of the layers below have one row, which applies to all rows of `group`.
      carry, copies = (*first[:layer], *carry[layer:]), 1
    windows = score.windows(
      model,
      params,
      ids_N,
      [(BURN_IN + 1, N)],
      measure=measure or _nats,
      window=WINDOW,
      clamp=clamps.arrays([rows[row] for row in group], model),
      carry=carry,
      copies=copies,
    )
    for nats_TxR, positions_TxB, weight_TxB in windows:
      count, start = int(weight_TxB[:, 0].sum()), positions_TxB[0, 0] - 1
      nats_RxN[group, start : start + count] = nats_TxR[:count].T
      if progress:
        progress(done + len(group) * (start + count + 1) // N, len(rows))
    done += len(group)
  return nats_RxN


def _lowest(row: Row, model: models.Model) -> int:
  """Return the number of layers below all clamps of a row; 0 if layers cannot be separated."""
  if not model.can_hold:
    return 0
  return min((clamp.layer for clamp in row), default=len(model.units))


def _repeat(carry, count: int):
  return jax.tree.map(functools.partial(np.repeat, repeats=count, axis=0), carry)


def _groups(count: int, model: models.Model) -> list[np.ndarray]:
  """Return the numbers of `count` rows, in groups that fit in memory."""
  carry = jax.tree.leaves(jax.eval_shape(lambda: model.initial_carry(1)))
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in carry)
  most = max(1, min(ROWS, CARRY_BYTES // size))
  return np.array_split(np.arange(count), -(-count // most))


def _nats(logits_TxBxV, y_TxB, recorded):
  return layers.cross_entropy(logits_TxBxV, y_TxB)


def inside(label: labels.Label) -> np.ndarray:
  """Return where a label is true, or in the top quarter of its values: bool [N]."""
  defined = label.values[label.mask]
  if not len(defined):
    return np.zeros(len(label.mask), bool)
  bar = max(np.quantile(defined, 0.75), np.nextafter(defined.min(), np.inf))
  return label.mask & (label.values >= bar)


def effect(changes: np.ndarray, label: labels.Label) -> Effect:
  """Return the mean change of the loss [N] inside and outside a label."""
  within, finite = inside(label), np.isfinite(changes)
  places = within & finite, label.mask & ~within & finite
  return Effect(*(float(changes[p].mean()) if p.sum() >= MIN_CHARACTERS else None for p in places))


def p_value(observed: float, controls: Sequence[float]) -> float:
  """Return the share of the unit and its controls whose effect is at least `observed`."""
  return (1 + sum(control >= observed for control in controls)) / (1 + len(controls))


def corrected(
  observed: Sequence[float], controls: Sequence[Sequence[float]], units: Sequence[Hashable]
) -> list[float]:
  """Return p-values that are corrected for the number of hypotheses.

  `observed` are the values of hypotheses, `controls` those of the control units of each, and
  `units` the units of the hypotheses. Under the null, a unit is exchangeable with its control
  units. As in `inference.significance`, values are converted to one scale, (x - median) / MAD, and
  compared with the largest value of all hypotheses (Westfall & Young 1993), here after each unit
  has been replaced by a random one of its control units and itself. The step-down variant is used:
  the smaller a value, the fewer hypotheses it is compared with.
  """
  scaled = []
  for own, others in zip(observed, controls):
    together = np.array([own, *others])
    middle = np.median(together)
    spread = np.median(np.abs(together - middle))
    scaled.append((together - middle) / (spread if spread > 0 else 1.0))
  order = sorted(range(len(scaled)), key=lambda n: -scaled[n][0])
  results, largest = np.zeros(len(scaled)), 0.0
  for place, n in enumerate(order):
    by_unit = {}
    for other in order[place:]:
      by_unit.setdefault(units[other], []).append(scaled[other])
    # Hypotheses of the same unit have the same control units, and the unit is replaced in all.
    shares = [(np.max(several, axis=0) >= scaled[n][0]).mean() for several in by_unit.values()]
    largest = max(largest, 1 - np.prod(1 - np.array(shares)))
    results[n] = largest
  return np.round(results, 6).tolist()


def ablate(
  subject: recording.Subject, units: Mapping[str, Unit], confirmation: Sequence[inference.Span]
) -> list[dict]:
  """Clamp the unit of each finding, and its control units; return the changes of the loss.

  Selectivity is the increase of the loss inside the label minus the increase outside. p is the
  share of the unit and its controls that are at least as selective as the unit. `p_corrected` is
  corrected for the number of hypotheses.
  """
  setting, progress = subject.settings.ablation, subject.progress("ablation")
  parts = passages.choose([confirmation], PASSAGES, PASSAGE, BURN_IN)
  counted_BxT = np.ones(parts.positions_BxT.shape, bool)
  counted_BxT[:, : parts.warm_up] = False
  counted_BxT[:, -1] = False  # The next character is not in the same passage.
  positions, counted = parts.positions_BxT.ravel(), counted_BxT.ravel()
  others, rows = _with_controls(subject, units, CONTROLS, [setting])
  ids = subject.text.ids_N[positions]
  nats = values_by_row(subject.run.model, subject.run.params, ids, [[], *rows.values()], progress)
  changes = dict(zip(rows, nats[1:] - nats[0]))
  entries = []
  for name, unit in units.items():
    values, mask = (each[positions] for each in subject.labels[effects.base(name)])
    label = labels.Label(values, mask & counted)
    own, *controls = (effect(changes[each, setting], label) for each in (unit, *others[unit]))
    controls = [] if None in own else controls
    entry = {"hypothesis": name, "cell": str(unit), "setting": setting, **own._asdict()}
    entry["controls"] = {key: [getattr(each, key) for each in controls] for key in Effect._fields}
    entries.append(entry | {"p": None, "p_corrected": None})
  measured = [entry for entry in entries if None not in (entry["inside"], entry["outside"])]
  observed, controls = [], []
  for entry in measured:
    observed.append(entry["inside"] - entry["outside"])
    controls.append(np.subtract(*map(entry["controls"].get, Effect._fields)).tolist())
    entry["p"] = p_value(observed[-1], controls[-1])
  for entry, p in zip(measured, corrected(observed, controls, [e["cell"] for e in measured])):
    entry["p_corrected"] = p
  return entries


class Measure(NamedTuple):
  """A property of samples, with its unit of measurement."""

  name: str
  unit: str
  function: Callable[[Sequence[str]], float]  # maps samples to a number; NaN if undefined


def line_length(texts: Sequence[str]) -> float:
  """Return the mean length of complete, non-blank lines."""
  lengths = [len(line) for text in texts for line in text.split("\n")[:-1] if line.strip()]
  return float(np.mean(lengths)) if lengths else math.nan


def closed_quotes(texts: Sequence[str]) -> float:
  """Return the share of double quotes that are closed before a blank line or the end of text."""
  ends = [end for text in texts for _, end in _QUOTE.findall(text)]
  return float(np.mean([end == '"' for end in ends])) if ends else math.nan


def indentation(texts: Sequence[str]) -> float:
  """Return the mean width of the leading spaces and tabs of non-blank lines."""
  lines = [line.expandtabs(labels.TAB) for text in texts for line in text.split("\n")]
  widths = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
  return float(np.mean(widths)) if widths else math.nan


MEASURES = (
  Measure("line length", "characters", line_length),
  Measure("closed quotes", "share", closed_quotes),
  Measure("indentation", "columns", indentation),
)


def measure_of(hypothesis: labels.Hypothesis) -> Measure:
  """Return a measure of samples: the mean of the label of a hypothesis."""

  def mean(texts: Sequence[str]) -> float:
    labeled = [hypothesis.function(text) for text in texts]
    values = np.concatenate([label.values[label.mask] for label in labeled])
    return float(values.mean()) if len(values) else math.nan

  unit = "share of the text" if hypothesis.kind == "binary" else "mean"
  return Measure(hypothesis.name, unit, mean)


def steer(subject: recording.Subject, units: Mapping[str, Unit]) -> list[dict]:
  """Return measures of samples with the unit of each finding, or a control unit, clamped."""
  progress = subject.progress("steering")
  settings = neutral(subject.run.model), "low", "high"
  others, rows = _with_controls(subject, units, STEERING_CONTROLS, settings)
  rows = {"free": []} | rows
  run, prompt_ids = subject.run, prompt(subject.text)
  texts = sample(run, prompt_ids, rows, subject.settings.seed, progress)
  entries, measured = [], set()
  for name, unit in units.items():
    # If a unit has several findings, the standard measures are listed with the first one.
    standard = () if unit in measured else MEASURES
    measured.add(unit)
    for measure in (measure_of(subject.hypotheses[effects.base(name)]), *standard):
      entry = _steered(unit, settings, measure, texts, rows, others[unit])
      # Skip measures that do not apply. For example, verse has no indentation.
      varies = any(each["result"] or any(each["controls"]) for each in entry["settings"])
      if entry["free"] is not None and varies:
        entries.append({"hypothesis": name, "cell": str(unit)} | entry)
  return entries


def prompt(text: recording.Text) -> np.ndarray:
  """Return the ids of the beginning of a text, up to the last line end in BURN_IN characters."""
  beginning = text.texts[0][:BURN_IN]
  return text.ids_N[: beginning.rfind("\n") + 1 or len(beginning)]


def sample(
  run: sampler.Source,
  prompt_ids: np.ndarray,
  rows: Mapping[Any, Row],
  seed: int,
  progress: effects.Progress,
  count: int = SAMPLES,
) -> dict[Any, list[str]]:
  """Return `count` texts for each row of clamps, by key of the row, at temperature 1."""
  samples = sample_ids(run, prompt_ids, rows, seed, progress, count)
  return {key: [*map(run.tokenizer.decode, each)] for key, each in samples.items()}


def sample_ids(
  run: sampler.Source,
  prompt_ids: np.ndarray,
  rows: Mapping[Any, Row],
  seed: int,
  progress: effects.Progress,
  count: int = SAMPLES,
) -> dict[Any, list[np.ndarray]]:
  """Return the ids [LENGTH] of `count` texts for each row of clamps; see `sample`.

  Text n of each row has the same random numbers.
  """
  keys = [key for key in rows for _ in range(count)]
  numbers = np.tile(np.arange(count), len(rows))
  groups = _groups(len(keys), run.model)
  samples = {key: [] for key in rows}
  for done, group in enumerate(groups):
    blocks = sampler.draw(
      run.model,
      run.params,
      prompt_ids,
      length=LENGTH,
      num=len(group),
      seed=seed,
      settings=sampler.Settings(),
      clamp=clamps.arrays([rows[keys[row]] for row in group], run.model),
      rows=numbers[group],
    )
    ids_BxN = np.concatenate([block.ids_BxN for block in blocks], axis=1)
    for row, ids_N in zip(group, ids_BxN):
      samples[keys[row]].append(ids_N)
    progress(done + 1, len(groups))
  return samples


def _steered(unit, settings, measure, texts, rows, controls) -> dict:
  def result(key):
    value = measure.function(texts[key])
    return None if math.isnan(value) else value

  entries = [
    {
      "setting": setting,
      "value": rows[unit, setting][0].value,
      "result": result((unit, setting)),
      "controls": [result((control, setting)) for control in controls],
    }
    for setting in settings
  ]
  keys = {"free": "free"} | {setting: (unit, setting) for setting in settings}
  return {
    "measure": measure.name,
    "unit": measure.unit,
    "free": result("free"),
    "settings": entries,
    "excerpts": {setting: texts[key][0][:EXCERPT] for setting, key in keys.items()},
  }
