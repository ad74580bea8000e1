"""Search spaces, random search, and search with Optuna.

A space maps fields to the values that they may have:

def space():
  return {
    "optimizer.learning_rate": spaces.log_uniform(1e-3, 1e-1),
    "model.hidden": spaces.integers(64, 256, step=32),
    "model.cell": spaces.choice(["gru", "lstm"]),
  }

SEARCH/optuna.jsonl contains the study in Optuna's journal format, which Optuna's dashboard reads.
Optuna chooses each trial from the losses of earlier ones, and prunes bad trials. The processes of
the trials do not use the study: the launcher reads their losses from metrics.jsonl.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import errors
from charrnn.runs import metrics
from charrnn.runs.status import RunStatus
from charrnn.sweeps import outcomes

FILE = "optuna.jsonl"
POLL = 1.0  # seconds between two readings of the losses
MIN_TRIALS = 4  # minimum number of finished trials before a trial may be pruned
MIN_EVALUATIONS = 2  # minimum number of evaluations of a trial before it may be pruned


class Floats(NamedTuple):
  """A range of floats, sampled uniformly or, with `log`, log-uniformly."""

  low: float
  high: float
  log: bool

  def suggest(self, source, field: str) -> float:
    value = rounded(source.suggest_float(field, self.low, self.high, log=self.log))
    return min(max(value, self.low), self.high)


class Integers(NamedTuple):
  """A range of integers: low, low + step, ..., at most high."""

  low: int
  high: int
  step: int

  def suggest(self, source, field: str) -> int:
    return source.suggest_int(field, self.low, self.high, step=self.step)


class Choice(NamedTuple):
  """A list of values."""

  values: tuple

  def suggest(self, source, field: str):
    return source.suggest_categorical(field, self.values)


Space = dict[str, Floats | Integers | Choice]


def rounded(value: float) -> float:
  """Round to four significant digits, so that values are easy to read and type."""
  return float(f"{value:.4g}")


def uniform(low: float, high: float) -> Floats:
  """Return the space of all numbers from low to high."""
  if not -math.inf < low <= high < math.inf:
    raise errors.UserError(
      f"uniform({low}, {high}) is not a range: use finite numbers, low <= high"
    )
  return Floats(float(low), float(high), log=False)


def log_uniform(low: float, high: float) -> Floats:
  """Return the space of all numbers from low to high, with uniform logarithms."""
  if not 0 < low <= high < math.inf:
    raise errors.UserError(
      f"log_uniform({low}, {high}) is not a range above 0: use 0 < low <= high"
    )
  return Floats(float(low), float(high), log=True)


def integers(low: int, high: int, step: int = 1) -> Integers:
  """Return the space of low, low + step, and so on, up to high."""
  if not (low <= high and step >= 1 and {type(low), type(high), type(step)} == {int}):
    raise errors.UserError(
      f"integers({low}, {high}, step={step}): use integers, low <= high, step >= 1"
    )
  return Integers(low, high - (high - low) % step, step)


def choice(values: Iterable[Any]) -> Choice:
  """Return the space of the given numbers or texts."""
  values = tuple(values)
  if not values or not all(isinstance(value, bool | int | float | str) for value in values):
    raise errors.UserError(f"choice({list(values)}): use at least one value, only numbers and text")
  return Choice(values)


def checked(space: Any) -> Space:
  """Return the result of an experiment's space(); raise UserError if it is not a space."""
  if not isinstance(space, dict) or not space:
    raise errors.UserError("return a dict: field -> uniform, log_uniform, integers or choice")
  space = {config_lib.current_name(str(field)): values for field, values in space.items()}
  for field, values in space.items():
    if field not in config_lib.BY_NAME:
      raise errors.UserError(config_lib.unknown_field(field))
    if not isinstance(values, Floats | Integers | Choice):
      raise errors.UserError(f"{field} is {values!r}: use uniform, log_uniform, integers or choice")
  return space


def suggest(space: Space, source) -> dict[str, Any]:
  """Return a value for each field; `source` is a trial of Optuna or a RandomSource."""
  return {field: values.suggest(source, field) for field, values in space.items()}


def extremes(space: Space) -> Iterator[dict[str, Any]]:
  """Yield overrides of a single field: its smallest and largest value, or each of its choices."""
  for field, values in space.items():
    ends = values.values if isinstance(values, Choice) else (values.low, values.high)
    yield from ({field: value} for value in ends)


class RandomSource(NamedTuple):
  """Suggests random values through the methods of an Optuna trial.

  A value depends only on seed, number and field, so it does not change when fields are added.
  """

  seed: int
  number: int

  def _random(self, field):
    return random.Random(f"{field} {self.seed} {self.number}")

  def suggest_float(self, field, low, high, log=False):
    if log:
      low, high = math.log(low), math.log(high)
    value = self._random(field).uniform(low, high)
    return math.exp(value) if log else value

  def suggest_int(self, field, low, high, step=1):
    return self._random(field).randrange(low, high + 1, step)

  def suggest_categorical(self, field, choices):
    return self._random(field).choice(choices)


def draw(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
  """Return `count` different random trials; a larger count keeps the trials of a smaller one."""
  trials: dict[tuple, dict[str, Any]] = {}
  for number in range(100 * count):
    trial = suggest(space, RandomSource(seed, number))
    trials.setdefault(tuple(trial.values()), trial)
    if len(trials) == count:
      return list(trials.values())
  raise errors.UserError(
    f"--trials={count}: the space has only {len(trials)} different trials: use fewer"
  )


def check_optuna():
  """Raise UserError if Optuna is not installed."""
  if importlib.util.find_spec("optuna") is None:
    raise errors.UserError("--search=optuna needs Optuna: pip install 'charrnn[search]'")


@dataclasses.dataclass
class _RunningTrial:
  """A running trial and its Optuna trial."""

  trial: outcomes.Trial
  optuna: Any  # Optuna's trial
  reported: int = 0  # number of evaluations that were reported

  def report(self) -> bool:
    """Report new losses to Optuna; return whether there were any."""
    losses = metrics.curve(metrics.read(self.trial.folder), "valid/loss")[self.reported :]
    for _, loss in losses:
      self.reported += 1  # The step is not used: trials may differ in characters per step.
      self.optuna.report(loss, self.reported)
    return bool(losses)


class Search:
  """An Optuna study in `folder` that chooses trials until there are `count`.

  `make` returns a trial for a name and overrides. `about` describes the search: the space and the
  config fields that affect the losses. It must be the same when the study is continued.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    space: Space,
    count: int,
    seed: int,
    make: Callable[[str, dict[str, Any]], outcomes.Trial],
    about: dict,
  ):
    import optuna  # an optional extra
    from optuna.storages import journal

    path = folder.resolve() / FILE  # Optuna's lock is a symbolic link to it
    _repair(path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._space, self._count, self._make = space, count, make
    self._states = optuna.trial.TrialState
    self._study = optuna.create_study(
      storage=optuna.storages.JournalStorage(journal.JournalFileBackend(str(path))),
      study_name="search",
      pruner=optuna.pruners.MedianPruner(MIN_TRIALS, MIN_EVALUATIONS),
      load_if_exists=True,
    )
    # Each launch uses a different seed; otherwise it would suggest the same trials again.
    self._study.sampler = optuna.samplers.TPESampler(
      seed=(seed + len(self._study.trials)) % 2**32, n_startup_trials=max(4, count // 4)
    )
    about = json.loads(json.dumps(about))  # the form in which Optuna stores it
    if "about" not in self._study.user_attrs:
      self._study.set_user_attr("about", about)
    for name, value in self._study.user_attrs["about"].items():
      if value != about[name]:
        raise errors.UserError(
          f"the search in {folder} was started with another {name}: use another --workdir"
        )
    overrides = {name: stored.user_attrs["overrides"] for name, stored in self._stored().items()}
    self.trials = [make(name, values) for name, values in overrides.items()]
    self._running: dict[str, _RunningTrial] = {}
    self._poll_time = 0.0
    # Queue trials that failed, were stopped, or were running when a launcher was killed.
    for trial, stored in zip(self.trials, self._stored().values()):
      if stored.state == self._states.RUNNING and not self._tell(stored.number, trial):
        self._study.tell(stored.number, state=self._states.FAIL)
    for stored in self._stored().values():
      if stored.state == self._states.FAIL:
        self._study.enqueue_trial(stored.params, user_attrs=stored.user_attrs)

  def _stored(self) -> dict[str, Any]:
    """Return Optuna's last record of each trial, by name."""
    named = (stored for stored in self._study.trials if "name" in stored.user_attrs)
    return {stored.user_attrs["name"]: stored for stored in named}

  @property
  def total(self) -> int:
    """Return the number of trials that the search will have when it is complete."""
    return max(len(self.trials), self._count)

  @property
  def done(self) -> int:
    """Return the number of trials that need no further launch."""
    final = (self._states.COMPLETE, self._states.PRUNED)
    return sum(stored.state in final for stored in self._stored().values())

  def ask(self) -> Iterator[outcomes.Trial]:
    """Yield the trials to run; each is chosen when the iterator is advanced."""
    queued = {"deepcopy": False, "states": (self._states.WAITING,)}
    while self._study.get_trials(**queued) or len(self._stored()) < self._count:
      optuna_trial = self._study.ask()
      overrides = suggest(self._space, optuna_trial)
      new_name = f"{optuna_trial.number:03d},{outcomes.trial_name(overrides)}"
      name = optuna_trial.user_attrs.get("name", new_name)
      trial = self._make(name, overrides)
      if "name" not in optuna_trial.user_attrs:
        optuna_trial.set_user_attr("overrides", overrides)
        optuna_trial.set_user_attr("name", name)
        self.trials.append(trial)
      self._running[name] = _RunningTrial(trial, optuna_trial)
      yield trial

  def watch(self, pool):
    """Report new losses and outcomes of the pool's trials to Optuna, and end pruned trials."""
    names = {running.trial.name for running in pool.running}
    is_time = time.monotonic() - self._poll_time >= POLL
    for name, running_trial in list(self._running.items()):
      if name not in names:
        running_trial.report()
        self._tell(running_trial.optuna, running_trial.trial)
        del self._running[name]
      elif is_time and running_trial.report() and running_trial.optuna.should_prune():
        pool.end(name, RunStatus.PRUNED)
    if is_time:
      self._poll_time = time.monotonic()

  def _tell(self, optuna_trial, trial: outcomes.Trial) -> bool:
    """Report a trial's outcome to Optuna; return False if the trial must be launched again."""
    status, (_, best) = outcomes.last(trial).status, outcomes.progress(trial.folder)
    if status in (RunStatus.WAITING, RunStatus.STOPPED):
      return False
    if status == RunStatus.FINISHED and best:
      self._study.tell(optuna_trial, best["valid/loss"])
    elif status in (RunStatus.PRUNED, RunStatus.DIVERGED):
      # Optuna learns from trials in state PRUNED, but not from those in state FAIL.
      self._study.tell(optuna_trial, state=self._states.PRUNED)
    else:
      self._study.tell(optuna_trial, state=self._states.FAIL)
    return True


def _repair(path: pathlib.Path):
  """Remove Optuna's lock and an incomplete last line, which a killed launcher may have left.

  The launcher already holds the lock of the search's folder, so Optuna's lock is not in use.
  """
  pathlib.Path(f"{path}.lock").unlink(missing_ok=True)
  if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
    os.truncate(path, text.rfind(b"\n") + 1)
