"""Edits of the weights of a unit that line ends reset or change, and their effect on line lengths.

The weights are edited so that a character moves the state of the unit by less. An LSTM is edited by
multiplying the weights into g, and a GRU by a larger bias of z. The account of the unit predicts
the lengths of lines of the edited network. Then both networks are sampled.

N: characters of the text. S: streams.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import optimize, special

from charrnn.analysis import ablation, accounts, gates, recording
from charrnn.sampling import clamps, sampler

RATIO = 0.8  # the edit multiplies what the unit adds per character by this ratio, on average
# If what is added is a smaller share of the mean change, or of the mean size of what is added, the
# state moves by decay.
MIN_ADDED, MIN_NET = 0.5, 0.1
CLAMPED = 32  # number of states to which a unit is clamped to measure the response
READ = 4096  # number of characters that are read with clamps
SAMPLES = 64  # number of samples of each network, of ablation.LENGTH characters
# Longer lines are not sampled: the last line of a sample is incomplete, so long lines are missed.
MAX_MEAN = ablation.LENGTH // 10
RESAMPLES = 1000  # number of bootstrap resamples
MAX_DROPPED = 0.05  # maximum share of resamples without complete lines
MIN_LINES = 20


class NotEditedError(Exception):
  """The reason why a unit is not edited."""


class Explained(NamedTuple):
  """A unit with an account that explains it."""

  weights: gates.Weights
  trace: accounts.Trace
  inside_N: np.ndarray  # the discovery half
  account: accounts.Account
  p_N: np.ndarray  # probability that a line ends after each character

  @property
  def others_N(self) -> np.ndarray:
    """The characters of the discovery half that are not events."""
    return self.inside_N & ~np.isin(self.trace.ids, self.account.events)


def edit(
  run, text: recording.Text, explained: Explained, seed: int, progress: Callable[[str], Callable]
) -> dict[str, Any]:
  """Return an edit of a unit: lengths of lines as its account predicts them, and as measured.

  Raise NotEditedError if a line end is not an event of the account, if the unit cannot be edited,
  or if there are too few or too long lines.
  """
  tokens = run.tokenizer.tokens
  if gates.LINE_END not in tokens:
    raise NotEditedError("the vocabulary has no line end")
  line_end = tokens.index(gates.LINE_END)
  if line_end not in explained.account.events:
    raise NotEditedError("a line end is not an event of the account")
  entry = _predict(run, explained, line_end, seed, progress("response"))
  params = edit_weights(run.params, explained.weights, entry["factor"])
  measured = _measure(run, params, text, line_end, seed, progress("sampling"))
  return entry | {"measured": measured}


def moves_by_decay(trace: accounts.Trace, inside_N: np.ndarray) -> bool:
  """Return whether decay moves the state on a mask, and not what the steps add."""
  if not inside_N.any():
    return True
  moved, change = trace.moved(1)[inside_N], (trace.after - trace.before)[inside_N].mean()
  added = moved.mean()
  least = max(MIN_ADDED * abs(change), MIN_NET * np.abs(moved).mean())
  return added * change <= 0 or abs(added) < least


def find_scale(trace: accounts.Trace, inside_N: np.ndarray, ratio: float) -> float:
  """Return the factor of an edit that multiplies the mean of what a step adds by `ratio`, < 1.

  The mean is over a mask, and must not be 0. If several factors do this, return the one that is
  closest to 1.
  """
  added = trace.moved(1)[inside_N].mean()

  def excess(scale):
    return trace.moved(scale)[inside_N].mean() / added - ratio

  # The excess is 1 - ratio for the factor 1, and -ratio for 0.
  high, low = 1.0, 0.99
  while excess(low) > 0:
    high, low = low, max(0.0, low - 0.01)
  return optimize.brentq(excess, low, high)


def edit_weights(params, weights: gates.Weights, scale: float):
  """Return parameters in which the steps of the unit are edited as in `accounts.Trace.edited`."""
  params, equations = jax.tree.map(np.array, params), weights.equations
  own = params[f"layer_{weights.layer}"]
  if equations.is_average:
    own["b_h"][weights.column(equations.keep)] -= math.log(scale)
    return params
  column = weights.column(equations.candidate)
  for name in ("W_xh", "W_hh"):
    own[name][:, column] *= scale
  own["b_h"][column] *= scale
  return params


class Response(NamedTuple):
  """The log odds of a line end, averaged over a text, with the unit clamped to a state."""

  states: np.ndarray  # ascending
  odds: np.ndarray

  def __call__(self, states: np.ndarray) -> np.ndarray:
    return np.interp(states, self.states, self.odds)


def respond(run, ids_N, layer: int, unit: int, states, line_end: int, progress) -> Response:
  """Return how the network responds to the state of a unit; `states` are its values on a text.

  The weights are unchanged, and the network reads the text. This shows how much the network relies
  on the unit: other units may carry the same information.
  """
  measure = jax.tree_util.Partial(gates.p_line_end, line_end)
  # Half of them follow the distribution, and half of them cover the range, whose ends are rare.
  frequent = np.quantile(states, np.linspace(0, 1, CLAMPED // 2))
  clamped = np.unique(np.append(frequent, np.linspace(*frequent[[0, -1]], CLAMPED // 2)))
  rows = [[clamps.Clamp(layer, unit, float(state))] for state in clamped]
  p_RxN = ablation.values_by_row(run.model, run.params, ids_N[:READ], rows, progress, measure)
  return Response(clamped, special.logit(np.clip(np.nanmean(p_RxN, axis=1), 1e-6, 1 - 1e-6)))


def _predict(run, explained: Explained, line_end: int, seed: int, progress) -> dict[str, Any]:
  """Return an edit with the line lengths that the account predicts, without sampling the network.

  The account is fitted again to the edited unit, with the same events. The other gates of this unit
  are those that were recorded. `accounts.write` samples line ends at the log odds of the original
  account. For the edited network, the response to the edited state minus the response to the
  original state is added, both after the same text.
  """
  weights, trace, inside_N, account, p_N = explained
  ids_N, size, edited_N = trace.ids, len(account.factor_V), explained.others_N
  is_end = ids_N == line_end
  lines = len(np.unique(np.cumsum(~is_end)[is_end]))
  if lines < MIN_LINES:
    raise NotEditedError(f"the text has {lines} lines, fewer than {MIN_LINES}")
  # The first character of a line often completes what the line end does.
  edited_N = edited_N & ~np.append(False, is_end[:-1])
  if decays := moves_by_decay(trace, edited_N):
    edited_N = inside_N & is_end
    moved = trace.moved(1)[edited_N]
    if abs(moved.mean()) < MIN_NET * np.abs(moved).mean():
      raise NotEditedError("what line ends add nearly cancels")
  factor = find_scale(trace, edited_N, RATIO)
  new_trace = trace.edited(factor)
  # Edited lines may be longer, so the edited state may also take all values of the original one.
  new = accounts.fit(new_trace, inside_N, account.events, size, account)
  first = float(trace.after[inside_N & is_end].mean())
  line_ends = accounts.LineEnds.fit(
    account.simulate(ids_N)[inside_N], ids_N[inside_N], p_N[inside_N], size
  )
  response = respond(
    run,
    ids_N,
    weights.layer,
    weights.unit,
    np.append(trace.after[inside_N], new_trace.after[inside_N]),
    line_end,
    progress,
  )

  def edited_odds(states, new_states, ids):
    return line_ends(states, ids) + response(new_states) - response(states)

  plain = accounts.write([account], line_ends, ids_N, line_end, seed)
  edited = accounts.write([account, new], edited_odds, ids_N, line_end, seed)
  predicted, means = _ratio([plain.length, edited.length]), [plain.means[-1], edited.means[-1]]
  if predicted["ratio"] is None or max(predicted["plain"], predicted["edited"]) > MAX_MEAN:
    raise NotEditedError(f"the predicted mean length of lines exceeds {MAX_MEAN} characters")
  last = float((p_N * trace.after)[inside_N].sum() / p_N[inside_N].sum())
  equations = weights.equations
  return {
    "ratio": RATIO,
    "factor": factor,
    "edited": (
      f"{-math.log(factor):.3f} is added to the bias of {equations.keep}"
      if equations.is_average
      else f"the weights into {equations.candidate} are multiplied by {factor:.3f}"
    ),
    "quantity": "change" if equations.is_average else "added",
    "where": "at line ends" if decays else "at other characters",
    "means": [float(trace.moved(scale)[edited_N].mean()) for scale in (1, factor)],
    "response": {
      "states": response.states.tolist(),
      "p": special.expit(response.odds).tolist(),
      "after_line_end": [first, float(special.expit(response(first)))],
      "at_line_end": [last, float(special.expit(response(last)))],
    },
    "levels": dict(zip(("plain", "edited"), (each.tolist() for each in means))),
    "alone": _ratio([crossing(each, last) for each in means]),
    "predicted": predicted,
  }


def crossing(means_K: np.ndarray, level: float) -> float:
  """Return the number of steps after which states first cross a level; NaN if they do not.

  The states are linear between the steps.
  """
  above = means_K > level
  places = np.flatnonzero(above[1:] != above[:-1])
  if not len(places):
    return math.nan
  before, after = means_K[places[0]], means_K[places[0] + 1]
  return float(places[0] + (level - before) / (after - before))


def _ratio(lengths) -> dict:
  plain, new = (None if math.isnan(each) else float(each) for each in lengths)
  known = plain is not None and new is not None
  return {"plain": plain, "edited": new, "ratio": new / plain if known and plain else None}


def _measure(run, params, text: recording.Text, line_end: int, seed: int, progress) -> dict:
  """Return the mean line lengths in samples of a network and of its edited version, in tokens.

  The interval of their ratio is the central 95% of a bootstrap over samples. Sample n of one
  network has the same random numbers as sample n of the other, so they are resampled together. The
  interval is None if too many resamples have no complete line.
  """
  totals = []  # [SAMPLES, 2] of each network: the sum of the line lengths, and the number of lines
  for n, each in enumerate((run.params, params)):
    network = sampler.Source(run.model, each, run.tokenizer)
    prompt_ids = ablation.prompt(text)
    samples = ablation.sample_ids(network, prompt_ids, {"": []}, seed, lambda *_: None, SAMPLES)[""]
    lengths = [line_lengths(ids_N, line_end) for ids_N in samples]
    totals.append(np.array([[each.sum(), len(each)] for each in lengths], float))
    progress(n + 1, 2)
  result = _ratio(_mean_length(*each.sum(axis=0)) for each in totals)
  picks = np.random.default_rng(seed).integers(0, SAMPLES, (RESAMPLES, SAMPLES))
  plain, new = (_mean_length(*each[picks].sum(axis=1).T) for each in totals)
  ratios = new / plain
  ratios = ratios[np.isfinite(ratios)]
  if len(ratios) < (1 - MAX_DROPPED) * RESAMPLES:
    return result | {"low": None, "high": None}
  low, high = np.quantile(ratios, (0.025, 0.975))
  return result | {"low": float(low), "high": float(high)}


def _mean_length(total, count):
  """Return total / count; NaN without lines."""
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def line_lengths(ids_N: np.ndarray, line_end: int) -> np.ndarray:
  """Return the numbers of tokens of the complete lines that are not blank."""
  lengths = np.diff(np.flatnonzero(ids_N == line_end), prepend=-1) - 1
  return lengths[lengths > 0]
