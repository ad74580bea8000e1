"""Search by Optuna: each trial is chosen by the losses of earlier ones, and bad ones end early.

SEARCH/optuna.jsonl is the study in Optuna's journal format, which Optuna's own dashboard reads.
The trials' processes do not use it: their losses are read from their metrics.jsonl.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from charrnn import errors
from charrnn.runs import metrics
from charrnn.runs import status as status_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import outcomes, spaces
from charrnn.sweeps import trials as trials_lib

FILE = "optuna.jsonl"
POLL = 1.0  # seconds between looks at the losses
MIN_TRIALS = 4  # that finish before one may be pruned
MIN_EVALUATIONS = 2  # of a trial before it may be pruned


def check():
  """Raise UserError if Optuna is not installed."""
  if importlib.util.find_spec("optuna") is None:
    raise errors.UserError("--search=optuna needs Optuna: pip install 'charrnn[search]'")


@dataclasses.dataclass
class _Asked:
  """A trial that runs."""

  trial: outcomes.Trial
  optuna: Any  # Optuna's trial
  reported: int = 0  # evaluations

  def report(self) -> bool:
    """Report new losses to Optuna; return whether there were any."""
    lines = metrics.read(self.trial.folder)
    losses = [line["valid/loss"] for line in lines if line.get("valid/loss") is not None]
    # By the number of the evaluation, since trials may differ in the characters of a step.
    for number, loss in enumerate(losses[self.reported :], self.reported + 1):
      self.optuna.report(loss, number)
    before, self.reported = self.reported, max(self.reported, len(losses))
    return self.reported > before


class Search:
  """The study in `folder`, which provides trials until there are `count`.

  `make` makes a trial from its name and overrides. `about` is everything that a loss depends on
  besides the space; it has to be the same whenever the study continues.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    space: spaces.Space,
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
    # Each launch has another seed, or it would suggest the same trials again.
    self._study.sampler = optuna.samplers.TPESampler(
      seed=(seed + len(self._study.trials)) % 2**32, n_startup_trials=max(4, count // 4)
    )
    self._check_about(folder, json.loads(json.dumps(about)))  # as Optuna stores it
    self.trials = [
      make(name, stored.user_attrs["overrides"]) for name, stored in self._stored().items()
    ]
    self._running: dict[str, _Asked] = {}
    self._poll_time = 0.0
    self._queue_again()

  def _check_about(self, folder, about):
    """Store `about`, or raise UserError if the study was begun with another value."""
    stored = self._study.user_attrs.get("about")
    if stored is None:
      self._study.set_user_attr("about", about)
    for name, value in (stored or {}).items():
      if value != about[name]:
        raise errors.UserError(
          f"the search in {folder} was begun with another {name}: give another --workdir"
        )

  def _stored(self) -> dict[str, Any]:
    """Return Optuna's record of each trial by name, the last one if it was launched again."""
    return {
      stored.user_attrs["name"]: stored
      for stored in self._study.trials
      if "name" in stored.user_attrs
    }

  def _queue_again(self):
    """Queue trials that failed, were stopped, or were running when a launcher was killed."""
    folders = {trial.name: trial.folder for trial in self.trials}
    for name, stored in self._stored().items():
      if stored.state == self._states.RUNNING and not self._tell(stored.number, folders[name]):
        self._study.tell(stored.number, state=self._states.FAIL)
    for stored in self._stored().values():
      if stored.state == self._states.FAIL:
        self._study.enqueue_trial(stored.params, user_attrs=stored.user_attrs)

  @property
  def total(self) -> int:
    """Return the number of trials that the search will have in the end."""
    return max(len(self.trials), self._count)

  @property
  def done(self) -> int:
    """Return the number of trials that need no other launch."""
    final = (self._states.COMPLETE, self._states.PRUNED)
    return sum(stored.state in final for stored in self._stored().values())

  def ask(self) -> Iterator[outcomes.Trial]:
    """Yield the trials to run, each chosen only when it is requested."""
    while self._is_queued() or len(self._stored()) < self._count:
      asked = self._study.ask()
      overrides = spaces.suggest(self._space, asked)
      number = f"{asked.number:03d}"
      name = asked.user_attrs.get("name") or f"{number},{trials_lib.trial_name(overrides)}"
      trial = self._make(name, overrides)
      if "name" not in asked.user_attrs:
        asked.set_user_attr("overrides", overrides)
        asked.set_user_attr("name", name)
        self.trials.append(trial)
      self._running[name] = _Asked(trial, asked)
      yield trial

  def _is_queued(self) -> bool:
    return bool(self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)))

  def watch(self, pool):
    """Tell Optuna how the trials of a local.Pool do; end those that it prunes."""
    names = {running.trial.name for running in pool.running}
    is_time = time.monotonic() - self._poll_time >= POLL
    for name, asked in list(self._running.items()):
      if name not in names:
        asked.report()
        self._tell(asked.optuna, asked.trial.folder)
        del self._running[name]
      elif is_time and asked.report() and asked.optuna.should_prune():
        pool.end(name, RunStatus.PRUNED)
    if is_time:
      self._poll_time = time.monotonic()

  def _tell(self, trial, folder) -> bool:
    """Tell Optuna how the last launch ended; return False if the trial has to be launched again."""
    outcome, (_, best) = status_lib.read_outcome(folder), outcomes.progress(folder)
    if outcome is None or outcome.status == RunStatus.STOPPED:
      return False
    if outcome.status == RunStatus.FINISHED and best:
      self._study.tell(trial, best["valid/loss"])
    elif outcome.status in (RunStatus.PRUNED, RunStatus.DIVERGED):
      self._study.tell(trial, state=self._states.PRUNED)  # Optuna learns from these, not from FAIL
    else:
      self._study.tell(trial, state=self._states.FAIL)
    return True


def _repair(path: pathlib.Path):
  """Remove what a killed launcher or a full disk left: Optuna's lock and half a line at the end.

  The search's folder has a lock of its own, so nobody holds Optuna's.
  """
  pathlib.Path(f"{path}.lock").unlink(missing_ok=True)
  if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
    os.truncate(path, text.rfind(b"\n") + 1)
