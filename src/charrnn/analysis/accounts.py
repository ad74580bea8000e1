"""Accounts of units: the state of a unit as an automaton that sees only the characters.

An account maps the state v to factor * v + offset at each character. A few characters, the events,
have a factor and an offset of their own; all other characters share one pair. A simulation starts
with the text and never sees the unit again. The pairs are chosen so that the simulated states have
the least squared error on the discovery half of a text, and are judged on the confirmation half.

N: characters of the text. V: vocabulary. S: streams.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

MIN_COUNT = 30  # minimum number of occurrences of an event in the discovery half
MAX_EVENTS = 8
CANDIDATES = 2  # number of characters that are tried for each further event
EVALUATIONS = 8  # maximum number of evaluations in a search for the pairs of an account
MIN_GAIN = 0.01  # minimum increase of R2 by a further event
MIN_SPREAD = 0.05  # a smaller spread of the state, relative to its total, does not fit a factor
MIN_R2 = 0.5  # minimum R2 on the confirmation half of an account that explains a unit
MIN_MEMORY = 10  # minimum memory, in characters, of a unit that is explained
RESET, TOGGLE = 0.5, -0.5  # an event with a factor below TOGGLE toggles, else below RESET resets
MIN_DRIFT = 1.0  # minimum change of a counter from one reset to the next, in standard deviations
MIN_LATE = 0.25  # minimum share of this change in the second half of the interval
BINS = 100  # number of intervals of the state with log odds of a line end of their own
PENALTY = 0.01  # of the squared log odds
STREAMS = 256  # number of streams of characters in which lines are written
WARM_UP, WRITTEN = 200, 2000  # characters of each stream that are discarded, and that count
LEVELS = 80  # maximum number of characters since a line end for which the mean state is returned
MAX_INTERVAL = 1000  # maximum number of simulated characters between two resets


class Trace(NamedTuple):
  """The steps of a unit on a text, [N] each: after = keep * before + write * tanh(pre)."""

  ids: np.ndarray
  before: np.ndarray
  after: np.ndarray
  keep: np.ndarray
  write: np.ndarray
  pre: np.ndarray
  is_average: bool  # whether write is always 1 - keep, as in a GRU

  def moved(self, scale: float) -> np.ndarray:
    """Return what each step adds to the state, edited by a factor from 0 to 1.

    If the step is an average, the factor multiplies the odds write / keep, and what it adds is its
    total change. Otherwise the factor multiplies `pre`. In both cases, 1 leaves the steps as they
    are, and with 0 nothing is added.
    """
    write, pre = self._scaled(scale)
    return write * (np.tanh(pre) - self.before if self.is_average else np.tanh(pre))

  def _scaled(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return `write` and `pre`, edited by a factor as in `moved`."""
    if not self.is_average:
      return self.write, scale * self.pre
    return scale * self.write / np.maximum(scale * self.write + self.keep, 1e-30), self.pre

  def edited(self, scale: float) -> "Trace":
    """Return the steps of a unit that is edited by a factor as in `moved`, from the same start."""
    write, pre = self._scaled(scale)
    keep = 1 - write if self.is_average else self.keep
    value, before, after = float(self.before[0]), [], []
    for kept, added in zip(keep.tolist(), (write * np.tanh(pre)).tolist()):
      before.append(value)
      value = kept * value + added
      after.append(value)
    return self._replace(
      before=np.array(before), after=np.array(after), keep=keep, write=write, pre=pre
    )


@dataclasses.dataclass(frozen=True)
class Account:
  """The steps of a unit by character, and the range of its state on the discovery half."""

  events: tuple[int, ...]  # ids with a step of their own, the most important first
  factor_V: np.ndarray
  offset_V: np.ndarray
  other: tuple[float, float]  # factor and offset of all other characters
  low: float
  high: float

  def simulate(self, ids_N: np.ndarray) -> np.ndarray:
    """Return the states after each character of a text, starting from 0: [N]."""
    return np.asarray(_states(self.pairs_V, ids_N, self.low, self.high), float)

  @property
  def pairs_V(self) -> np.ndarray:
    """The factor and the offset of each id, [V, 2]."""
    return np.stack([self.factor_V, self.offset_V], axis=1)

  def pairs(self) -> np.ndarray:
    """Return the pair of other characters and those of the events, [1 + events, 2]."""
    return np.array([self.other, *self.pairs_V[list(self.events)]])

  def step(self, values_S: np.ndarray, ids_S: np.ndarray | int) -> np.ndarray:
    """Return the states after one character each."""
    return np.clip(self.factor_V[ids_S] * values_S + self.offset_V[ids_S], self.low, self.high)

  @property
  def memory(self) -> float:
    """The number of characters after which 1/e of a difference is left; inf if all is left."""
    factor = abs(self.other[0])
    return float("inf") if factor >= 1 else float(-1 / np.log(max(factor, 1e-9)))

  def role(self, event: int) -> str:
    """Return what an event does: "resets", "toggles", or "steps" if it keeps most of the state."""
    if self.factor_V[event] >= RESET:
      return "steps"
    # The limits of the range may make a reset of what would reverse the state.
    low, high = self.step(np.array([self.low, self.high]), event)
    return "toggles" if high - low < TOGGLE * (self.high - self.low) else "resets"


class _Sums(NamedTuple):
  """Sums of x and y by class of character."""

  n: np.ndarray
  x: np.ndarray
  y: np.ndarray
  xx: np.ndarray
  xy: np.ndarray
  yy: np.ndarray

  @classmethod
  def of(cls, classes, x, y, count):
    weights = None, x, y, x * x, x * y, y * y
    return cls(*(np.bincount(classes, weight, count).astype(float) for weight in weights))

  def fit(self, keep: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return factors and offsets; the factor is `keep` where x varies less than `spread`."""
    n = np.maximum(self.n, 1)
    variance = self.xx / n - (self.x / n) ** 2
    varies = variance > spread**2
    covariance = self.xy / n - self.x * self.y / n**2
    factor = np.where(varies, covariance / np.where(varies, variance, 1), keep)
    return factor, (self.y - factor * self.x) / n

  def error(self, factor, offset) -> np.ndarray:
    """Return the sums of the squared errors of y = factor * x + offset."""
    cross = self.xy * factor + self.y * offset - factor * offset * self.x
    return self.yy - 2 * cross + self.xx * factor**2 + self.n * offset**2


@jax.jit
def _states(pairs, ids_N, low, high):
  """Return the states [N] after each id, starting from 0; `pairs` are factors and offsets by id."""

  def step(value, pair):
    value = jnp.clip(pair[0] * value + pair[1], low, high)
    return value, value

  return jax.lax.scan(step, jnp.zeros(()), jnp.asarray(pairs, jnp.float32)[ids_N])[1]


_jacobian = jax.jit(jax.jacfwd(_states))


def fit(
  trace: Trace,
  inside_N: np.ndarray,
  events: Sequence[int],
  size: int,
  parent: Account | None = None,
) -> Account:
  """Fit an account with these events on a mask; `size` is that of the vocabulary.

  The pairs are improved so that the simulation fits, starting from the least-squares fit to single
  steps, whose errors would add up. The pairs of `parent`, an account with some of these events, are
  a second start, and its range is part of the range. Factors are from -1 to 1, so that no character
  amplifies the state.
  """
  single = _fit_steps(trace, inside_N, events, size)
  starts, after = [single.pairs()], trace.after[inside_N]
  low, high = single.low, single.high
  if parent:
    starts.append(np.array([parent.other, *parent.pairs_V[list(events)]]))
    low, high = min(low, parent.low), max(high, parent.high)
  classes_N, used = _classes(events, size)[trace.ids], 2 * (1 + len(events))

  def padded(values):
    # A fixed shape needs one compilation.
    return np.append(values, np.zeros(2 * (1 + MAX_EVENTS) - used)).reshape(-1, 2)

  def error(values):
    return np.asarray(_states(padded(values), classes_N, low, high))[inside_N] - after

  def jacobian(values):
    slopes = np.asarray(_jacobian(padded(values), classes_N, low, high))
    return slopes.reshape(len(classes_N), -1)[inside_N, :used]

  limits = np.tile([1, np.inf], used // 2)
  found = [
    optimize.least_squares(
      error,
      np.clip(start.ravel(), -limits, limits),
      jacobian,
      bounds=(-limits, limits),
      method="dogbox",  # It can start at the bounds.
      max_nfev=EVALUATIONS,
    )
    for start in starts
  ]
  best = min(found, key=lambda each: each.cost)
  return _account(events, padded(best.x), size, low, high)


def _classes(events: Sequence[int], size: int) -> np.ndarray:
  """Return the number of the pair of each id: 0, or 1 + n for event n."""
  classes_V = np.zeros(size, np.intp)
  classes_V[list(events)] = 1 + np.arange(len(events))
  return classes_V


def _account(events, pairs, size, low, high) -> Account:
  factor_V, offset_V = pairs[_classes(events, size)].T
  other = float(pairs[0, 0]), float(pairs[0, 1])
  return Account(tuple(events), factor_V, offset_V, other, low, high)


def _fit_steps(trace, inside_N, events, size) -> Account:
  """Return the account whose pairs fit single steps by least squares."""
  classes_V = _classes(events, size)
  x, y = trace.before[inside_N], trace.after[inside_N]
  spread = MIN_SPREAD * float(x.std())
  classes = classes_V[trace.ids[inside_N]]
  sums = _Sums.of(classes, x, y, 1 + len(events))
  # The gate shows what a character keeps even if the unit has the same state before all of them.
  keep = np.bincount(classes, trace.keep[inside_N], 1 + len(events)) / np.maximum(sums.n, 1)
  pairs = np.stack(sums.fit(keep, spread), axis=1)
  return _account(events, pairs, size, float(y.min()), float(y.max()))


def select(trace: Trace, inside_N: np.ndarray, size: int) -> Account:
  """Return the account of the characters of a mask, with the events that a simulation needs.

  Events are added one at a time, as long as the simulation improves. The candidates are the
  characters whose single steps differ most from those of other characters.
  """
  ids, x, y = (each[inside_N] for each in (trace.ids, trace.before, trace.after))
  sums = _Sums.of(ids, x, y, size)
  keep = np.bincount(ids, trace.keep[inside_N], size) / np.maximum(sums.n, 1)
  spread = MIN_SPREAD * float(x.std())

  def fitted(events, parent=None):
    account = fit(trace, inside_N, events, size, parent)
    return r2(account.simulate(trace.ids), trace.after, inside_N), account

  score, account = fitted(())
  while len(account.events) < MAX_EVENTS:
    own = sums.fit(keep, spread)
    gains = sums.error(*_fit_steps(trace, inside_N, account.events, size).other) - sums.error(*own)
    gains[sums.n < MIN_COUNT] = 0
    gains[list(account.events)] = 0
    best = [each for each in np.argsort(-gains)[:CANDIDATES].tolist() if gains[each] > 0]
    tried = [fitted((*account.events, each), account) for each in best]
    new = max(tried, key=lambda each: each[0], default=(score, account))
    if new[0] < score + MIN_GAIN:
      break
    score, account = new
  return account


def r2(simulated: np.ndarray, values: np.ndarray, inside_N: np.ndarray) -> float:
  """Return the share of the variance of values that a simulation explains, on a mask."""
  values, simulated = values[inside_N], simulated[inside_N]
  total = float(((values - values.mean()) ** 2).sum())
  return 1 - float(((values - simulated) ** 2).sum()) / total if total > 1e-12 else 0.0


class Verdict(NamedTuple):
  """The kind of unit that an account explains, or the reason why it explains none."""

  kind: str | None  # "counter", "switch", "accumulator", or None without an explanation
  reason: str  # why there is no explanation; empty if there is one


def judge(account: Account, score: float, trace: Trace, inside_N: np.ndarray) -> Verdict:
  """Return what an account with this R2 on the confirmation half explains.

  A switch has an event that toggles it, or events that set it to different levels. A counter
  changes by more than a standard deviation from one reset to the next, also late in the interval.
  Any other explained unit is an accumulator: it keeps the sum of what characters add.
  """
  if score < MIN_R2:
    return Verdict(None, f"R2 on the confirmation half is {score:.3f}, below {MIN_R2}")
  if account.memory < MIN_MEMORY:
    return Verdict(
      None, f"the unit forgets within {account.memory:.2f} characters, fewer than {MIN_MEMORY}"
    )
  roles = {event: account.role(event) for event in account.events}
  sets = [event for event, role in roles.items() if role == "resets"]
  spread, after = trace.after[inside_N].std(), trace.after[inside_N]
  ids = trace.ids[inside_N]
  levels = [float(after[ids == event].mean()) for event in sets]
  if "toggles" in roles.values():
    return Verdict("switch", "")
  if sets and is_counter(account, levels[0], np.isin(ids, sets).mean(), spread):
    return Verdict("counter", "")
  if len(sets) > 1 and max(levels) - min(levels) > spread:
    return Verdict("switch", "")
  return Verdict("accumulator", "")


def is_counter(account: Account, level: float, rate: float, spread: float) -> bool:
  """Return whether the state moves on from a reset to `level` until the next one.

  `rate` is the share of characters that reset the unit.
  """
  (factor, offset), values = account.other, [level]
  for _ in range(min(MAX_INTERVAL, max(2, round(1 / rate)))):
    values.append(min(max(factor * values[-1] + offset, account.low), account.high))
  total, late = values[-1] - level, values[-1] - values[len(values) // 2]
  return abs(total) > MIN_DRIFT * spread and late / total > MIN_LATE


class LineEnds(NamedTuple):
  """The log odds that a line ends after a character: by_state(state) + by_character[id]."""

  states: np.ndarray  # ascending means of the state in each interval
  by_state: np.ndarray
  by_character: np.ndarray  # [V]

  @classmethod
  def fit(cls, states: np.ndarray, ids: np.ndarray, p: np.ndarray, size: int) -> "LineEnds":
    """Fit a logistic regression to probabilities p [N]; `size` is that of the vocabulary."""
    edges = np.unique(np.quantile(states, np.linspace(0, 1, BINS + 1)))[1:-1]
    number = np.unique(np.searchsorted(edges, states, side="right"), return_inverse=True)[1]
    count = np.bincount(number)

    def loss(weights):
      odds = weights[number] + weights[len(count) :][ids]
      error = special.expit(odds) - p
      gradient = np.append(*(np.bincount(each, error, n) for each, n in classes))
      value = (np.logaddexp(0, odds) - p * odds).sum() + PENALTY / 2 * weights @ weights
      return value, gradient + PENALTY * weights

    classes = (number, len(count)), (ids, size)
    fitted = optimize.minimize(loss, np.zeros(len(count) + size), jac=True, method="L-BFGS-B").x
    return cls(np.bincount(number, states) / count, fitted[: len(count)], fitted[len(count) :])

  def __call__(self, states: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.interp(states, self.states, self.by_state) + self.by_character[ids]


class Lines(NamedTuple):
  """Lines whose ends are sampled at the log odds of accounts."""

  length: float  # mean number of characters of lines that are not blank; NaN without lines
  means: np.ndarray  # [accounts, LEVELS + 1], mean states after n characters without a line end


def write(
  accounts: Sequence[Account],
  log_odds: Callable[..., np.ndarray],
  ids_N: np.ndarray,
  line_end: int,
  seed: int,
) -> Lines:
  """Divide the characters of a text into lines at sampled ends; return the lengths and states.

  `log_odds` maps the states of the accounts and the ids, each [S], to the log odds of a line end
  after these characters. Calls with the same seed use the same random numbers, so that their
  results can be compared.
  """
  random, places = np.random.default_rng(seed), np.flatnonzero(ids_N != line_end)
  text, starts_S = ids_N[places], np.linspace(0, len(places), STREAMS, endpoint=False).astype(int)

  def step(states, ids):
    return [account.step(state_S, ids) for account, state_S in zip(accounts, states)]

  def ends(states, ids):
    return random.random(STREAMS) < special.expit(log_odds(*states, ids))

  def select(mask, new, old):
    return [np.where(mask, *pair) for pair in zip(new, old)]

  states = [np.append(0, each.simulate(ids_N))[places[starts_S]] for each in accounts]
  first, begun_S, length_S, lengths = states, starts_S, np.zeros(STREAMS, int), []
  line_ends_S = np.full(STREAMS, line_end)
  for k in range(WARM_UP + WRITTEN):
    ids_S = text[(starts_S + k) % len(text)]
    states = step(states, ids_S)
    length_S += 1
    is_end = ends(states, ids_S)
    if k >= WARM_UP:
      lengths.append(length_S[is_end])
    states = select(is_end, step(states, line_end), states)
    is_blank = is_end & ends(states, line_ends_S)
    states = select(is_blank, step(states, line_end), states)
    first, begun_S = select(is_end, states, first), np.where(is_end, starts_S + k + 1, begun_S)
    length_S[is_end] = 0
  lengths, levels = np.concatenate(lengths), [first]
  for n in range(LEVELS):
    levels.append(step(levels[-1], text[(begun_S + n) % len(text)]))
  mean = float(lengths.mean()) if len(lengths) else float("nan")
  return Lines(mean, np.mean(levels, axis=2).T)
