"""Every column of a recording against every hypothesis: the best found on one half of the text,
scored once on the other, and against what the best of as many reaches by chance."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors
from charrnn.analysis import chance, confirm, correlate, findings, halves, scores, targets

STATISTICS = {"binary": "auroc", "graded": "spearman", "beyond": "semipartial"}


class _Plan(NamedTuple):
  """What is scored where; `inside` are the places of the two halves."""

  targets: list[targets.Target]
  given: Mapping[str, Sequence[str]]
  uncounted: frozenset[str]
  bars: Mapping[str, float] | None
  ahead: frozenset[str]
  reasons: list[str]
  inside: list[np.ndarray]
  lags: tuple[int, ...]
  turns: int
  alpha: float

  @property
  def scored(self) -> list[int]:
    return [index for index, reason in enumerate(self.reasons) if not reason]


class _Best(NamedTuple):
  """Arrays [C, H]: each column's effect at its best lag on discovery, and there on confirmation."""

  effects: np.ndarray
  confirmed: np.ndarray
  lags: np.ndarray


def match(
  recording,
  columns: Sequence[str],
  labels: Mapping,
  documents: Sequence[halves.Span],
  *,
  lags: Sequence[int] = (-1, 0, 1),
  shifts: int = 199,
  fewest: int = 1000,
  given: Mapping[str, Sequence[str]] | None = None,
  uncounted: Collection[str] = (),
  bars: Mapping[str, float] | None = None,
  ahead: Collection[str] = (),
  cells: Sequence[int] | None = None,
  alpha: float = 0.05,
  seed: int = 0,
  parts: halves.Halves | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> findings.Result:
  """The recording is [N, C]; `labels` are name: (kind, label), with `values` and `mask` [N].

  The column at t is scored against the label at t - lag. `given` names the confounds of a
  hypothesis: it is then scored again with these taken out, as a hypothesis of its own (kind
  "beyond"), and only so does it make cells interpretable. Those in `uncounted`, such as controls
  and predictions, do not at all. `bars` are effects by hypothesis, such as the best of untrained
  networks reach (`twins`), that have to be beaten on both halves beside the nulls; with `bars`,
  nothing is said of a hypothesis that has none there, or NaN. Labels in `ahead` are of what comes
  next: a column a character late (lag +1) has read it, and is left out. `cells` [C] tells which
  columns belong to one cell.

  A label that is defined at fewer than `fewest` characters of a half is not scored. Each set of
  places that labels are defined at costs another ranking of all columns.
  """
  cells = range(len(columns)) if cells is None else cells
  _check(recording, columns, cells, documents)
  parts = parts or halves.halve(documents, seed)
  every = targets.targets(labels, given or {}, len(recording))
  inside = [halves.inner(spans, lags) for spans in (parts.discovery, parts.confirmation)]
  reasons = [_reason(target, inside, lags, 1 + shifts, fewest) for target in every]
  uncounted = frozenset([*uncounted, *(given or {})])
  turns = 1 + shifts
  plan = _Plan(
    every,
    given or {},
    uncounted,
    bars,
    frozenset(ahead),
    reasons,
    inside,
    tuple(lags),
    turns,
    alpha,
  )
  scan = _scan(recording, columns, plan, progress)
  best = _best(scan, plan)
  observed = np.array([np.abs(best.effects[:, index]).max() for index in plan.scored])
  discovery = _judged(observed, scan.null[:, plan.scored], alpha)
  found = _findings(recording, columns, plan, best, discovery)
  counted = _interpretable(best, discovery, cells, plan)
  spacing = min(map(len, inside)) // plan.turns
  return findings.Result(
    columns=tuple(columns),
    hypotheses=tuple(target.name for target in every),
    findings=found,
    **best._asdict(),
    interpretable=counted,
    halves=parts,
    shifts=shifts,
    spacing=spacing,
    alpha=alpha,
  )


def strengths(
  recording,
  columns: Sequence[str],
  labels: Mapping,
  documents: Sequence[halves.Span],
  *,
  lags: Sequence[int] = (-1, 0, 1),
  fewest: int = 1000,
  given: Mapping[str, Sequence[str]] | None = None,
  ahead: Collection[str] = (),
  seed: int = 0,
) -> dict[str, float]:
  """The largest |effect| of any column on the discovery half, for each hypothesis scored there."""
  every = targets.targets(labels, given or {}, len(recording))
  within = halves.inner(halves.halve(documents, seed).discovery, lags)
  reasons = [_reason(target, [within], lags, 1, fewest) for target in every]
  chosen = {n: target for n, target in enumerate(every) if not reasons[n]}
  groups = targets.grouped(chosen, within, lags, 1)
  scan = correlate.scan(recording, (groups, []), (len(every), len(lags)), 1, columns)
  late = _late(every, frozenset(ahead), lags)
  best = np.where(late, 0, np.minimum(np.abs(scan.discovery), 1)).max(axis=(0, 2))
  return {target.name: float(best[n]) for n, target in chosen.items()}


def rescore(
  recording,
  finding: findings.Finding,
  labels: Mapping,
  parts: halves.Halves,
  *,
  lags: Sequence[int] = (-1, 0, 1),
  given: Mapping[str, Sequence[str]] | None = None,
) -> float | None:
  """The score of a finding's column, lag and direction in another recording of `labels`' text.

  On the confirmation half; None where nothing is defined or varies.
  """
  every = targets.targets(labels, given or {}, len(recording))
  target = next(each for each in every if each.name == finding.hypothesis)
  places = targets.defined(target, halves.inner(parts.confirmation, lags), lags)
  if targets.why_not(target, places, lags, "confirmation"):
    return None
  values = confirm.read(recording, [finding.column])[finding.column]
  part = confirm.half(values, target, places, finding.lag, finding.direction)
  return in_unit(finding.kind, confirm.effects(part, target, 1)[0])


def _check(recording, columns, cells, documents):
  length, count = recording.shape
  if len(columns) != count or len(cells) != count:
    raise errors.UserError(
      f"the recording has {count} columns, with {len(columns)} names and {len(cells)} cells"
    )
  if any(not 0 <= start <= stop <= length for start, stop in documents):
    raise errors.UserError(f"a document lies outside of the recording's {length} characters")


def _reason(target, inside, lags, turns, fewest) -> str:
  """Why the target is not scored; nothing if it is."""
  for within, half in zip(inside, ("discovery", "confirmation")):
    places = targets.defined(target, within, lags, turns)
    if len(places) < max(1, fewest, turns):
      return f"defined at {len(places)} characters of the {half} half, fewer than {fewest}"
    if reason := targets.why_not(target, places, lags, half):
      return reason
  return ""


def _scan(recording, columns, plan, progress) -> correlate.Scan:
  chosen = {index: plan.targets[index] for index in plan.scored}
  groups = [targets.grouped(chosen, within, plan.lags, plan.turns) for within in plan.inside]
  shape = (len(plan.targets), len(plan.lags))
  return correlate.scan(recording, groups, shape, plan.turns, columns, progress)


def _late(every, ahead, lags) -> np.ndarray:
  """Which lags of which target are left out, bool [H, lags]: what comes next was read by then."""
  looks_ahead = [targets.plain(target.name) in ahead for target in every]
  return np.outer(looks_ahead, np.asarray(lags) > 0)


def _best(scan, plan) -> _Best:
  # NaN, for what is not scored, must not win and must stay.
  effects = np.where(_late(plan.targets, plan.ahead, plan.lags), 0, np.abs(scan.discovery))
  where, lags = np.nan_to_num(effects).argmax(axis=2), plan.lags
  effects, confirmed = (
    np.take_along_axis(half, where[..., None], axis=2)[..., 0]
    for half in (scan.discovery, scan.confirmation)
  )
  return _Best(effects, confirmed, np.asarray(lags, np.int8)[where])


def _findings(recording, columns, plan, best, discovery) -> tuple[findings.Finding, ...]:
  picks = _picks(recording, plan, best)
  effects = [confirm.effects(pick.confirmation, pick.target, plan.turns) for pick in picks]
  effects = np.array(effects).T
  confirmation = _judged(effects[0], effects[1:], plan.alpha) if picks else None
  told = {}
  for row, (index, pick) in enumerate(zip(plan.scored, picks)):
    kind = pick.target.kind
    first = confirm.effects(pick.discovery, pick.target, 1)[0]
    scored = _scored(kind, first, discovery, row), _scored(kind, effects[0, row], confirmation, row)
    told[index] = _finding(pick, columns, plan, scored)
  return tuple(
    told[index] if index in told else _unscored(target, plan.reasons[index])
    for index, target in enumerate(plan.targets)
  )


def _picks(recording, plan, best) -> list[confirm.Pick]:
  """For every scored hypothesis the column and lag that are best on discovery."""
  columns = {index: int(np.abs(best.effects[:, index]).argmax()) for index in plan.scored}
  values = confirm.read(recording, list(columns.values()))
  picks = []
  for index, column in columns.items():
    target, lag = plan.targets[index], int(best.lags[column, index])
    direction = -1 if best.effects[column, index] < 0 else 1
    both = (targets.defined(target, places, plan.lags, plan.turns) for places in plan.inside)
    parts = (confirm.half(values[column], target, places, lag, direction) for places in both)
    picks.append(confirm.Pick(target, column, lag, direction, *parts))
  return picks


def _judged(observed, null, alpha) -> chance.Judged | None:
  return chance.judge(observed, null, alpha) if null.size else None


def _scored(kind, effect, judged, row) -> findings.Scored:
  if judged is None:
    return findings.Scored(in_unit(kind, effect))
  p, family_p, *bars = (float(values[row]) for values in judged)
  return findings.Scored(in_unit(kind, effect), p, family_p, *(in_unit(kind, b) for b in bars))


def in_unit(kind: str, effect: float) -> float | None:
  if math.isnan(effect):
    return None
  return float(0.5 + effect / 2 if kind == "binary" else effect)


def _finding(pick, columns, plan, scored) -> findings.Finding:
  told = confirm.details(pick)
  target = pick.target
  for name, confounds in plan.given.items():
    if target.name in (name, targets.beyond(name, confounds)):
      confounded = next(t for t in plan.targets if t.name == targets.beyond(name, confounds))
      told |= confirm.beyond(pick, confounded)
  survives, bar = None, in_unit(target.kind, (plan.bars or {}).get(target.name, math.nan))
  if scored[0].family_p is not None and (plan.bars is None or bar is not None):
    survives = max(half.family_p for half in scored) <= plan.alpha
    survives &= bar is None or min(half.score for half in scored) > bar
  return findings.Finding(
    target.name,
    target.kind,
    STATISTICS[target.kind],
    scored=True,
    column=pick.column,
    name=columns[pick.column],
    lag=pick.lag,
    direction=pick.direction,
    discovery=scored[0],
    confirmation=scored[1],
    survives=survives,
    untrained=bar,
    **told,
  )


def _unscored(target, reason) -> findings.Finding:
  return findings.Finding(target.name, target.kind, STATISTICS[target.kind], False, reason)


def _interpretable(best, discovery, cells, plan) -> findings.Interpretable | None:
  """On confirmation nothing is chosen any more: the number to beat is the same, and strict."""
  if discovery is None or np.isnan(discovery.family_to_beat).any():
    return None
  effects, confirmed = (values[:, plan.scored] for values in best[:2])
  names = [plan.targets[index].name for index in plan.scored]
  bars = discovery.family_to_beat
  if plan.bars is not None:  # NaN, where there is none, is beaten by nothing
    bars = np.maximum(bars, [plan.bars.get(name, math.nan) for name in names])
    if np.isnan(bars).all():
      return None
  beaten = (np.abs(effects) > bars) & (np.sign(effects) * confirmed > bars)
  counted = [name not in plan.uncounted for name in names]
  found, of = _distinct(cells, beaten[:, counted].any(axis=1)), len(set(cells))
  by_hypothesis = {name: _distinct(cells, column) for name, column in zip(names, beaten.T)}
  return findings.Interpretable(found, of, found / of, *scores.wilson(found, of), by_hypothesis)


def _distinct(cells, columns) -> int:
  return len({cells[place] for place in np.flatnonzero(columns)})
