"""Accounts of units: the state of a unit as an automaton that sees only the characters.

An account maps the state v to factor * v + offset at each character. A few characters, the events,
have a factor and an offset of their own; all other characters share one pair. The pairs are fitted
by least squares to the steps of the unit on the discovery half of a text. The account is judged by
a simulation: it starts with the text and never sees the unit again.

N: characters of the text. V: vocabulary. S: streams.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

MIN_COUNT = 30  # minimum number of occurrences of an event in the discovery half
MAX_EVENTS = 8
CANDIDATES = 6  # number of characters that are tried for each further event
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
WARM_UP, WRITTEN = 300, 2000  # characters of each stream before the first that counts, and after it
LEVELS = 80  # maximum number of characters of a line after which the mean state is returned
MAX_INTERVAL = 1000  # maximum number of characters between two resets of a counter


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
    if not self.is_average:
      return self.write * np.tanh(scale * self.pre)
    write = scale * self.write / np.maximum(scale * self.write + self.keep, 1e-30)
    return write * (np.tanh(self.pre) - self.before)

  def edited(self, scale: float) -> np.ndarray:
    """Return the state after each step, edited by a factor as in `moved`."""
    return self.moved(scale) + (self.before if self.is_average else self.keep * self.before)


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
    value, values = 0.0, []
    low, high = self.low, self.high
    for factor, offset in zip(self.factor_V[ids_N].tolist(), self.offset_V[ids_N].tolist()):
      value = min(max(factor * value + offset, low), high)
      values.append(value)
    return np.array(values)

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
    factor = self.factor_V[event]
    return "toggles" if factor < TOGGLE else "resets" if factor < RESET else "steps"


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


def fit(
  trace: Trace, inside_N: np.ndarray, events: Sequence[int], after: np.ndarray, size: int
) -> Account:
  """Fit the steps of an account to the characters of a mask; `size` is that of the vocabulary.

  `after` are the states after each step, which differ from those of the trace for an edited unit.
  The range of the account covers both.
  """
  classes_V = np.zeros(size, np.intp)
  classes_V[list(events)] = 1 + np.arange(len(events))
  x, y = trace.before[inside_N], after[inside_N]
  spread = MIN_SPREAD * float(x.std())
  classes = classes_V[trace.ids[inside_N]]
  sums = _Sums.of(classes, x, y, 1 + len(events))
  # The gate shows what a character keeps even if the unit has the same state before all of them.
  keep = np.bincount(classes, trace.keep[inside_N], 1 + len(events)) / np.maximum(sums.n, 1)
  factor, offset = sums.fit(keep, spread)
  values = np.concatenate([trace.after[inside_N], y])
  limits = float(values.min()), float(values.max())
  pair = float(factor[0]), float(offset[0])
  return Account(tuple(events), factor[classes_V], offset[classes_V], pair, *limits)


def select(trace: Trace, inside_N: np.ndarray, size: int) -> Account:
  """Return the account of the characters of a mask, with the events that a simulation needs.

  Events are added one at a time, as long as the simulation improves. The candidates are the
  characters whose steps the account predicts worst.
  """
  ids, x, y = (each[inside_N] for each in (trace.ids, trace.before, trace.after))
  sums = _Sums.of(ids, x, y, size)
  keep = np.bincount(ids, trace.keep[inside_N], size) / np.maximum(sums.n, 1)
  spread = MIN_SPREAD * float(x.std())

  def fitted(events):
    account = fit(trace, inside_N, events, trace.after, size)
    return r2(account.simulate(trace.ids), trace.after, inside_N), account

  score, account = fitted(())
  while len(account.events) < MAX_EVENTS:
    own = sums.fit(keep, spread)
    gains = sums.error(*account.other) - sums.error(*own)
    gains[sums.n < MIN_COUNT] = 0
    gains[list(account.events)] = 0
    best = [each for each in np.argsort(-gains)[:CANDIDATES].tolist() if gains[each] > 0]
    tried = [fitted((*account.events, each)) for each in best]
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
  """Lines that end at the log odds of an account."""

  length: float  # mean number of characters; NaN if too few lines end
  means: np.ndarray  # [at most LEVELS + 1], mean state after n characters of a line


def write(
  accounts: Sequence[Account],
  log_odds: Callable[..., np.ndarray],
  ids_N: np.ndarray,
  line_end: int,
  seed: int,
) -> Lines:
  """Write the characters of a text in lines whose ends are sampled; return their lengths.

  `log_odds` maps the states of the accounts and the ids, each [S], to the log odds of a line end
  after these characters. The means are those of the last account. No line is blank. The same seed
  gives the same random numbers.
  """
  random, text = np.random.default_rng(seed), ids_N[ids_N != line_end]
  starts_S = np.linspace(0, len(text), STREAMS, endpoint=False).astype(np.intp)
  position_S, states = np.zeros(STREAMS, np.intp), [np.zeros(STREAMS) for _ in accounts]
  lengths, (sums, counts) = [], np.zeros((2, LEVELS + 1))
  for k in range(WARM_UP + WRITTEN):
    ids_S = text[(starts_S + k) % len(text)]
    states = [account.step(state_S, ids_S) for account, state_S in zip(accounts, states)]
    position_S += 1
    ends_S = random.random(STREAMS) < special.expit(log_odds(*states, ids_S))
    after = [account.step(state_S, line_end) for account, state_S in zip(accounts, states)]
    if k >= WARM_UP:
      lengths.append(position_S[ends_S])
      positions = np.append(position_S, np.zeros(ends_S.sum(), np.intp))
      values, seen = np.append(states[-1], after[-1][ends_S]), positions <= LEVELS
      sums += np.bincount(positions[seen], values[seen], LEVELS + 1)
      counts += np.bincount(positions[seen], minlength=LEVELS + 1)
    states = [np.where(ends_S, *pair) for pair in zip(after, states)]
    position_S[ends_S] = 0
  lengths, means = np.concatenate(lengths), sums[counts > 0] / counts[counts > 0]
  return Lines(float(lengths.mean()) if len(lengths) >= STREAMS else float("nan"), means)
