"""A search by Optuna: trials chosen by how the ones before came out, and bad ones ended early.

SEARCH/optuna.jsonl is the study, in Optuna's journal format (Optuna's own dashboard reads it). The
trials' processes know nothing of it: their losses are read from their metrics.jsonl.
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
from charrnn.sweeps import spaces, sweep
from charrnn.sweeps import trials as trials_lib

FILE = "optuna.jsonl"
POLL = 1.0  # seconds between looks at the losses
UNPRUNED = 4  # trials that are seen through before one may be ended early
WARM_UP = 2  # evaluations of a trial, likewise


def check():
  """Raises UserError where Optuna is not installed."""
  if importlib.util.find_spec("optuna") is None:
    raise errors.UserError("--search=optuna needs Optuna: pip install 'charrnn[search]'")


@dataclasses.dataclass
class _Asked:
  made: trials_lib.Trial
  trial: Any  # Optuna's
  reported: int = 0  # evaluations

  def report(self) -> bool:
    """Reports the losses that are new; returns whether there were any."""
    lines = metrics.read(self.made.folder)
    losses = [line["valid/loss"] for line in lines if line.get("valid/loss") is not None]
    # By the number of the evaluation: steps differ where trials differ in their batches.
    for number, loss in enumerate(losses[self.reported :], self.reported + 1):
      self.trial.report(loss, number)
    before, self.reported = self.reported, max(self.reported, len(losses))
    return self.reported > before


class Search:
  """The study in `folder`, which asks for trials until there are `count`.

  `make` makes a trial from its name and overrides; `about` is all that decides what a loss means,
  which has to be the same whenever the study goes on.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    space: spaces.Space,
    count: int,
    seed: int,
    make: Callable[[str, dict[str, Any]], trials_lib.Trial],
    about: dict,
  ):
    import optuna
    from optuna.storages import journal

    path = folder.resolve() / FILE  # its lock is a link to it
    _mend(path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._space, self._count, self._make = space, count, make
    self._states = optuna.trial.TrialState
    self._study = optuna.create_study(
      storage=optuna.storages.JournalStorage(journal.JournalFileBackend(str(path))),
      study_name="search",
      pruner=optuna.pruners.MedianPruner(UNPRUNED, WARM_UP),
      load_if_exists=True,
    )
    # Another seed after each launch: the same one would draw the same trials again.
    self._study.sampler = optuna.samplers.TPESampler(
      seed=(seed + len(self._study.trials)) % 2**32, n_startup_trials=max(4, count // 4)
    )
    self._begin(folder, about)
    self.trials = [make(name, each.user_attrs["overrides"]) for name, each in self._known().items()]
    self._asked: dict[str, _Asked] = {}  # and not told yet
    self._looked = 0.0
    self._queue_again()

  def _begin(self, folder, about):
    """Writes down what the study is about, or compares it with that."""
    about = json.loads(json.dumps(about))  # as it is read again
    before = self._study.user_attrs.get("about")
    if before is None:
      self._study.set_user_attr("about", about)
    for name, value in (before or {}).items():
      if value != about[name]:
        raise errors.UserError(
          f"the search in {folder} was begun with another {name}: give another --workdir"
        )

  def _known(self) -> dict[str, Any]:
    """Optuna's record of each trial by name; of one that ran several times, the last."""
    return {
      each.user_attrs["name"]: each for each in self._study.trials if "name" in each.user_attrs
    }

  def _queue_again(self):
    """Has those run that failed, were stopped, or were still running when a launcher died."""
    folders = {trial.name: trial.folder for trial in self.trials}
    for name, each in self._known().items():
      if each.state == self._states.RUNNING and not self._tell(each.number, folders[name]):
        self._study.tell(each.number, state=self._states.FAIL)
    for each in self._known().values():
      if each.state == self._states.FAIL:
        self._study.enqueue_trial(each.params, user_attrs=each.user_attrs)

  @property
  def wanted(self) -> int:
    return max(len(self.trials), self._count)

  @property
  def done(self) -> int:
    """Trials that need no other launch."""
    ended = (self._states.COMPLETE, self._states.PRUNED)
    return sum(each.state in ended for each in self._known().values())

  def asks(self) -> Iterator[trials_lib.Trial]:
    """The trials to run, each chosen when it is asked for."""
    while self._is_queued() or len(self._known()) < self._count:
      trial = self._study.ask()
      overrides = spaces.suggested(self._space, trial)
      name = trial.user_attrs.get("name") or f"{trial.number:03d},{sweep.trial_name(overrides)}"
      made = self._make(name, overrides)
      if "name" not in trial.user_attrs:
        trial.set_user_attr("overrides", overrides)
        trial.set_user_attr("name", name)
        self.trials.append(made)
      self._asked[name] = _Asked(made, trial)
      yield made

  def _is_queued(self) -> bool:
    return bool(self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)))

  def watch(self, pool):
    """Tells Optuna what has become of the trials; ends those that it gives up."""
    going = {each.trial.name for each in pool.running}
    is_time = time.monotonic() - self._looked >= POLL
    for name, asked in list(self._asked.items()):
      if name not in going:
        asked.report()
        self._tell(asked.trial, asked.made.folder)
        del self._asked[name]
      elif is_time and asked.report() and asked.trial.should_prune():
        pool.end(name, trials_lib.PRUNED)
    if is_time:
      self._looked = time.monotonic()

  def _tell(self, trial, folder) -> bool:
    """Tells how a trial's last launch ended, unless it is to go on; returns whether it did."""
    ended, loss = trials_lib.outcome(folder), trials_lib.progress(folder).valid_loss
    if ended is None or ended.state == trials_lib.STOPPED:
      return False
    if ended.state == trials_lib.DONE and loss is not None:
      self._study.tell(trial, loss)
    elif ended.state in (trials_lib.PRUNED, trials_lib.DIVERGED):
      self._study.tell(trial, state=self._states.PRUNED)  # a bad place, but not a broken one
    else:
      self._study.tell(trial, state=self._states.FAIL)
    return True


def _mend(path: pathlib.Path):
  """Takes away what a launcher that was killed, or a full disk, has left of Optuna's.

  A lock, which is nobody's: the folder has one of its own; and half a line at the end.
  """
  pathlib.Path(f"{path}.lock").unlink(missing_ok=True)
  if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
    os.truncate(path, text.rfind(b"\n") + 1)
