"""The training loop: updates, log lines, evaluations and checkpoints.

Everything that is computed depends only on the config and the checkpoint. A run that is killed and
resumed therefore reaches the same result as an uninterrupted one.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
import statistics
import time
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from charrnn import config as config_lib
from charrnn import console, errors, files, process
from charrnn.runs import checkpoints, metrics, tracking
from charrnn.runs.status import RunStatus
from charrnn.training import optimizer, steps

MAX_NONFINITE = 10  # consecutive non-finite updates after which training is aborted
ROLLBACK_FACTOR = 0.5  # factor of the learning rate at each rollback
MAX_ROLLBACKS = 5  # maximum number of rollbacks of a run
EVALUATION_PROGRAMS = 2  # programs that the first evaluation compiles: the loss, and a sample
MIN_RESERVE = 3.0  # seconds before a time limit in which files are written and the process ends
RANKING = "valid/loss"  # the metric by which checkpoints are ranked
PER_BYTE = "valid/bits_per_byte"  # the same loss in a unit that does not depend on the tokenizer

# (params, step) -> pairs (name, value)
Evaluator = Callable[[Any, int], Iterable[tuple[str, float]]]


def is_main() -> bool:
  """Return whether this process writes the log and the files of the run."""
  return jax.process_index() == 0


def say(text: str):
  """Write a status line, in the main process only."""
  if is_main():
    console.say(text)


@dataclasses.dataclass
class LoopState:
  """The state of the loop that a restart needs besides the TrainState; JSON in the checkpoint."""

  first_loss: float | None = None  # the training loss of the first log line
  best_loss: float | None = None  # the lowest validation loss
  best_step: int | None = None
  best_bits: float | None = None  # the bits per byte of that step
  stale: int = 0  # evaluations since the best one
  nonfinite: int = 0  # consecutive updates that were skipped because they were not finite
  skipped: int = 0  # all updates that were skipped
  rollbacks: int = 0
  initial_loss: float | None = None  # the training loss of the first update
  pending_sum: float = 0.0  # of the losses of the updates since the last log line
  pending_count: int = 0
  seconds: float = 0.0  # time spent on training, evaluation and saving

  @classmethod
  def from_json(cls, value: dict[str, Any] | None) -> "LoopState":
    """Return the state in JSON; raise ValueError if it is missing or a field has the wrong type.

    Fields that older versions did not write get their defaults. They stored each pending loss.
    """
    types = typing.get_type_hints(cls)
    if value is None:
      raise ValueError("missing")
    if pending := value.get("pending"):
      if not isinstance(pending, list) or not all(files.has_types(loss, float) for loss in pending):
        raise ValueError("a loss is not a number")
      sums = {"pending_sum": math.fsum(pending), "pending_count": len(pending)}
      value = value | {"initial_loss": pending[0]} | sums
    fields = {name: value[name] for name in types if name in value}
    if not files.has_types(fields, {name: types[name] for name in fields}):
      raise ValueError("a field has the wrong type")
    state = cls(**fields)
    if not 0 <= state.rollbacks <= MAX_ROLLBACKS:
      raise ValueError("the number of rollbacks is impossible")
    if not 0 <= state.pending_count < 1 << 53:
      raise ValueError("the number of losses is impossible")
    return state

  def add(self, loss: float):
    """Add the loss of an update. The sum is exact, because losses are float32."""
    if self.initial_loss is None:
      self.initial_loss = loss
    self.pending_sum += loss
    self.pending_count += 1

  @property
  def pending_mean(self) -> float | None:
    """Return the mean loss since the last log line, or None if there was no update."""
    return self.pending_sum / self.pending_count if self.pending_count else None


def _inode(path: pathlib.Path) -> tuple[int, int]:
  """Return numbers that identify a directory even if it is renamed."""
  status = path.stat()
  return status.st_dev, status.st_ino


class Pace:
  """The time per step, and the share of this time in which the devices are idle."""

  def __init__(self):
    self._recent = collections.deque(maxlen=50)  # seconds of each recent step
    self._clock = time.monotonic()
    self._compiles = True  # The first step includes compilation and is not counted.
    self._stepping = self._idle = 0.0

  def resume(self):
    """Restart the clock after a pause."""
    self._clock = time.monotonic()

  def dispatch(self, previous: dict | None):
    """Record that the next step is about to be dispatched.

    `previous` contains the metrics of the previous step. If they are ready, the devices are idle.
    The idle time is counted from the end of the last wait or pause, which is an upper bound.
    """
    if previous is not None and previous["loss"].is_ready():
      self._idle += time.monotonic() - self._clock

  def finish(self):
    """Record that the metrics of a step have arrived."""
    now = time.monotonic()
    if self._compiles:
      self._compiles, self._idle = False, 0.0
    else:
      self._recent.append(now - self._clock)
      self._stepping += now - self._clock
    self._clock = now

  @property
  def seconds(self) -> float:
    """Return the median seconds per step; short interruptions hardly affect a median."""
    return statistics.median(self._recent) if self._recent else math.nan

  def take_idle(self) -> float:
    """Return the share of the step time since the last call in which the devices were idle."""
    idle = self._idle / self._stepping if self._stepping else math.nan
    self._stepping = self._idle = 0.0
    return idle


class TimeLimit:
  """The time at which a launch must have saved and ended."""

  def __init__(self, end: float = math.inf):
    """Prepare for a limit on the clock of time.monotonic."""
    self._end, self._last, self._longest = end, None, 0.0
    self._start, self._compiling = time.monotonic(), 0.0
    self.is_near = False

  def check(self, evaluation: float | None = None) -> bool:
    """Return whether training must stop after this step, so that it ends in time.

    The rest of a step may contain an evaluation, so it may take as long as the longest one so far.
    The first step is not counted, because it includes compilation. `evaluation`: the first
    evaluation may begin before the next check, and is estimated to take that many seconds, and as
    long as the first step for each of the programs that are compiled for it.
    """
    now = time.monotonic()
    if self._last is None:
      self._compiling = now - self._start
    else:
      self._longest = max(self._longest, now - self._last)
    self._last = now
    first = 0.0 if evaluation is None else evaluation + EVALUATION_PROGRAMS * self._compiling
    self.is_near = now + max(self._longest, first) + MIN_RESERVE >= self._end
    return self.is_near


class Trainer:
  """The training of one run in its run directory."""

  def __init__(
    self,
    config,
    workdir: pathlib.Path,
    model,
    windows,
    *,
    evaluators: Iterable[Evaluator] = (),
    writers: Iterable[Callable[[Any, int], None]] = (),
    rolls_back: bool = False,
    identity: dict[str, Any] | None = None,
    eval_tokens: int = 0,
  ):
    """Prepare the training with a resolved config and the windows of `batches.TrainingWindows`.

    `evaluators` and `writers` are called with (params, step) at every evaluation. All processes
    call the evaluators; then the main process calls the writers. The checkpoint is written last.
    It contains `identity`, and checkpoints with another identity are not used. `eval_tokens` is the
    number of tokens that the evaluators score.

    `rolls_back`: when training diverges, return to the checkpoint with the lowest validation loss,
    or to the start if there is none, and train with a learning rate that is ROLLBACK_FACTOR times
    as high. Checkpoints that a signal wrote are never returned to, so an interrupted run has the
    same result.
    """
    self.identity = identity
    self.config, self.workdir, self.model, self.windows = config, workdir, model, windows
    self.evaluators, self.writers, self.rolls_back = evaluators, writers, rolls_back
    self._tokens = config.batch_size * config.window  # tokens per step
    self._eval_steps = eval_tokens / self._tokens  # the length of an evaluation
    self.steps = config_lib.total_steps(config, windows.steps_per_epoch)
    # A checkpoint of this step is always kept: a longer or shorter run can continue from it.
    self.stable_steps = optimizer.stable_steps(config.schedule, self.steps)
    self.loop_state = LoopState()
    self._make_step()
    # The initialization is compiled as a whole, because compiling each operation separately takes
    # seconds. The seed is an argument, so that all seeds share one compiled program.
    create = functools.partial(steps.create_state, model, self.optimizer, config.batch_size)
    self._create = functools.partial(jax.jit(create), np.uint32(config.seed))
    self._init_params: Callable[[Any], Any] = lambda fresh: fresh
    # The following attributes are set by `train`.
    self._log: tracking.Log | None = None
    self._inode: tuple[int, int] | None = None  # of the run directory
    self._progress = console.Progress(every=10.0)
    self._pace, self._clock, self._limit = Pace(), time.monotonic(), TimeLimit()
    self._has_evaluated = False
    self._on_first_step: Callable[[], None] = lambda: None
    self._on_rollback: Callable[[dict[str, Any], int], None] = lambda record, number: None

  @property
  def peak_rate(self) -> float:
    """The peak of the learning rate, after all rollbacks so far."""
    factor = ROLLBACK_FACTOR**self.loop_state.rollbacks
    return self.config.optimizer.learning_rate * factor

  def _make_step(self):
    """Make the training step for the current learning rate."""
    config = self.config
    self.learning_rate = optimizer.schedule(
      config.schedule, self.peak_rate, self.windows.steps_per_epoch, self.steps
    )
    self.optimizer = optimizer.make(config.optimizer, self.learning_rate)
    self.train_step = steps.TrainStep(
      self.model,
      self.optimizer,
      batch=config.batch_size,
      seed=config.seed,
      accumulate=config.accumulate,
      remat=config.remat,
      carry_reset=config.carry_reset,
    )

  def shapes(self):
    """Return the shapes of the parameters, without computing them."""
    return jax.eval_shape(self._create).params

  def restore(
    self, init_params: Callable[[Any], Any] | None = None, last: float = math.inf
  ) -> steps.TrainState:
    """Return the state of the newest undamaged checkpoint, or a fresh state if there is none.

    `init_params` maps the parameters of a fresh state to the initial parameters of the run.
    Checkpoints of steps after `last`, which a change of the length has made obsolete, are not used;
    they are moved to the folder `replaced`.
    """
    folder = self.workdir / "checkpoints"
    self._init_params = init_params or self._init_params
    newest = checkpoints.read_newest(folder, say, self.identity, self._expected(), last)
    state = self._state(newest)
    if newest:
      step, lines = newest[1]["step"], newest[1].get("metrics")
      if is_main() and lines and not metrics.matches(self.workdir, lines):
        say(
          f"warning: {self.workdir / 'metrics.jsonl'} was changed after step {step} was saved: run "
          f"charrnn verify {console.argument(self.workdir)}"
        )
      say(f"{'already finished at' if step >= self.steps else 'resuming from'} step {step}")
      if n := self.loop_state.rollbacks:
        say(f"learning rate {self.peak_rate:g} after {errors.plural(n, 'rollback')}")
      if names := _non_finite(state):
        raise errors.UserError(
          f"checkpoint {step} in {folder} has values that are not finite ({', '.join(names[:3])}): "
          "delete it to resume from an earlier one, or use another --workdir"
        )
    if is_main():
      if replaced := [step for step in checkpoints.steps(folder) if step > last]:
        say(f"later checkpoints, up to step {replaced[-1]}, are now in {self.workdir / 'replaced'}")
        checkpoints.quarantine(folder, math.floor(last), "replaced")
      checkpoints.quarantine(folder, int(state.step))
      checkpoints.remove_unfinished(folder)
    return state

  def _expected(self) -> checkpoints.Expected:
    """Return the arrays that a checkpoint must have."""
    tree = serialization.to_state_dict(jax.eval_shape(self._create))
    return checkpoints.Expected.of(tree)

  def _state(self, checkpoint: tuple[Any, dict[str, Any]] | None) -> steps.TrainState:
    """Return the state of a checkpoint and set the loop state; None is the start of training."""
    if checkpoint:
      arrays, meta = checkpoint
      try:
        self.loop_state = LoopState.from_json(meta.get("memory"))
      except ValueError as error:
        folder = self.workdir / "checkpoints"
        raise checkpoints.DamagedError(folder, meta["step"], f"memory: {error}") from error
      if self.loop_state.rollbacks:
        self._make_step()
      return serialization.from_state_dict(jax.eval_shape(self._create), arrays)
    self.loop_state, state = LoopState(), self._create()
    params = self._init_params(state.params)
    if params is state.params:
      return state
    return state._replace(params=params, opt_state=self.optimizer.init(params))

  def train(
    self,
    state: steps.TrainState,
    on_first_step: Callable[[], None] = lambda: None,
    on_rollback: Callable[[dict[str, Any], int], None] = lambda record, number: None,
    trackers: Sequence[tracking.Tracker] = (),
    end: float = math.inf,
  ) -> tuple[steps.TrainState, bool]:
    """Train until the end, a signal or a time limit; return the state and whether it was stopped.

    `end` is the time limit, on the clock of time.monotonic. At least one step is made in any case.
    `on_first_step` is called when the first step is done. `on_rollback` is called with a record of
    each rollback and its number, which begins at 1. `trackers` receive a copy of the metrics; only
    those of the main process are used.
    """
    start = int(state.step)
    if start >= self.steps or self._is_out_of_patience():
      return state, False
    self._on_first_step, self._on_rollback = on_first_step, on_rollback
    self._limit, self._has_evaluated = TimeLimit(end), False
    with process.StopRequest() as stop, contextlib.ExitStack() as resources:
      # The trackers finish after the last checkpoint is complete, because they may wait.
      log = tracking.Log(self.workdir, trackers) if is_main() else None
      self._log = resources.enter_context(log) if log else None
      folder = self.workdir / "checkpoints"
      writer = checkpoints.Writer(folder, self.config.keep, self.identity, self.stable_steps)
      resources.callback(writer.close)
      while True:
        try:
          state, interrupted = self._train_from(state, writer, stop)
          break
        except errors.DivergedError as error:
          state = self._roll_back(error, writer)
      if interrupted and log:
        log.status = RunStatus.STOPPED
    step = int(state.step)
    if interrupted and step in checkpoints.steps(self.workdir / "checkpoints"):
      say(f"stopped {self._cause}, saved after step {step}: run the same command to resume")
    return state, interrupted

  def _train_from(self, state, writer, stop):
    """Train from a state until the end, a signal or a divergence."""
    start = int(state.step)
    with contextlib.ExitStack() as resources:
      self._inode = _inode(self.workdir) if is_main() else None
      if self._log:
        self._log.start(start + 1)
      self._progress = console.Progress(every=10.0)
      resources.callback(self._progress.end, report=False)
      return self._loop(start, state, writer, stop)

  def _roll_back(self, error: errors.DivergedError, writer: checkpoints.Writer) -> steps.TrainState:
    """Return the state from which training goes on after a divergence, or raise the error.

    The later checkpoints are deleted, the newest first. If the process is killed meanwhile, it
    resumes from one of them, diverges again, and rolls back in the same way.
    """
    number, seconds = self.loop_state.rollbacks + 1, self._seconds()
    if not self.rolls_back or number > MAX_ROLLBACKS:
      writer.wait()
      raise errors.DivergedError(self._remedy(error)) from error
    step = self.loop_state.best_step or 0
    writer.delete_after(step)
    folder = self.workdir / "checkpoints"
    state = self._state(checkpoints.read(folder, step, "", self._expected()) if step else None)
    self.loop_state.rollbacks, self.loop_state.seconds = number, seconds
    self._make_step()
    say(
      f"rollback {number} of at most {MAX_ROLLBACKS}: training diverged at step {error.step}: "
      f"{error.reason}; back to step {step} with learning rate {self.peak_rate:g}"
    )
    record = {"diverged_at": error.step, "reason": error.reason, "step": step}
    self._on_rollback({**record, "learning_rate": self.peak_rate}, number)
    return state

  def _loop(self, step, state, writer, stop):
    """Dispatch step t, then log step t - 1, so that the devices do not wait for the loop.

    At a checkpoint, the devices wait while the state is copied and its digests are computed. The
    files are written in parallel with the following steps.
    """
    state = self.train_step.put(state)
    self._clock, self._pace = time.monotonic(), Pace()
    if is_main():
      self._progress("step")
    batch, previous, interrupted, first = self._batch(step), None, False, step + 1
    while step < self.steps and not interrupted:
      self._pace.dispatch(previous)
      state, out = self._update(step, state, batch)
      step += 1
      batch = self._batch(step)
      if previous is not None:
        self._record(step - 1, previous, first)
      previous = out
      interrupted = step < self.steps and self._is_interrupted(stop, step)
      evaluates = step % self.config.eval_every == 0 or step == self.steps
      every = self.config.checkpoint_every
      saves = (every and step % every == 0) or step == self.stable_steps
      if not (evaluates or saves or interrupted):
        continue
      self._check_workdir()
      self._record(step, previous, first)
      previous = None
      arrays = self.train_step.get(state)
      names = _non_finite(arrays)
      if evaluates or saves:
        self._check_loss(step)
        if names:
          self._raise_diverged(step, f"the state is not finite ({', '.join(names[:3])})")
      loss = None
      if evaluates:
        self._has_evaluated = True
        try:
          loss = self._evaluate(step, state.params)
        except errors.DivergedError as error:
          self._raise_diverged(step, str(error))
      self.loop_state.seconds, self._clock = self._seconds(), time.monotonic()
      # Only after an interruption can the state here not be finite. The resumed run will find this
      # on schedule and end as diverged, so an interruption does not change the result.
      if names:
        say(f"stopped {self._cause}; step {step} is not saved, because its state is not finite")
        break
      meta = {
        "memory": dataclasses.asdict(self.loop_state),
        "valid_loss": loss,
        "run": self.identity,
        "metrics": self._log.sync() if self._log else None,
      }
      writer.save(step, arrays, meta)
      self._pace.resume()
      if self._is_out_of_patience():
        say(
          f"stopped early at step {step}: the validation loss did not improve in "
          f"{self.loop_state.stale} evaluations (--config.patience)"
        )
        break
    return state, interrupted

  def _check_workdir(self):
    """Raise UserError if the run directory was moved or deleted, or another is in its place."""
    if not self._log:
      return
    inode = None
    with contextlib.suppress(OSError):
      inode = _inode(self.workdir)
    if inode != self._inode:
      raise errors.UserError(
        f"the run directory {self.workdir} was moved or deleted while it was trained: move it back "
        "and run the same command again, or use its new path as --workdir"
      )

  def _seconds(self):
    """Return the seconds of training, evaluation and saving so far, summed over all launches."""
    return self.loop_state.seconds + time.monotonic() - self._clock

  def _batch(self, step):
    return self.windows.window_at(step, self.train_step.rows)

  def _update(self, step, state, batch):
    """Dispatch a step; return the state and its metrics, with the learning rate if it is logged."""
    # The learning rate is a separate program, which would wait for a step dispatched before it.
    is_logged = (step + 1) % self.config.log_every == 0
    rate = {"learning_rate": self.learning_rate(step)} if is_logged else {}
    state, out = self.train_step(state, *batch)
    return state, out | rate

  @property
  def _cause(self) -> str:
    """Why training was interrupted, for the log."""
    return "at the time limit" if self._limit.is_near else "by a signal"

  def _is_interrupted(self, stop, step):
    """Return whether any process has received a signal or is near its time limit.

    All processes call this together.
    """
    # With several processes, this is checked only at log lines, because it costs a round trip.
    interval = 1 if jax.process_count() == 1 else self.config.log_every
    if step % interval:
      return False
    is_stopped = self._limit.check(self._first_evaluation(step, interval)) or stop.is_requested
    if interval == 1:
      return is_stopped
    return bool(multihost_utils.process_allgather(np.int32(is_stopped)).any())

  def _first_evaluation(self, step: int, interval: int) -> float | None:
    """Return the estimated seconds of the first evaluation of this launch, without compilation.

    Return None if it has been made, or does not begin in the next `interval` steps.
    """
    every, stop = self.config.eval_every, step + interval
    if self._has_evaluated or (step // every == stop // every and stop < self.steps):
      return None
    # A score of a token takes no longer than a training step of a token.
    return self._eval_steps * (0.0 if math.isnan(self._pace.seconds) else self._pace.seconds)

  def _is_out_of_patience(self):
    return bool(self.config.patience) and self.loop_state.stale >= self.config.patience

  def _record(self, step, out, first):
    """Wait for the metrics of a step and log them; raise DivergedError if training has diverged."""
    loop_state, loss = self.loop_state, float(out["loss"])
    self._pace.finish()
    if step == first:
      self._on_first_step()
      self._on_first_step = lambda: None  # A rollback has another first step.
    if out["is_updated"]:
      loop_state.nonfinite = 0
      loop_state.add(loss)
    else:
      loop_state.nonfinite += 1
      loop_state.skipped += 1
    if loop_state.nonfinite >= MAX_NONFINITE:
      self._raise_diverged(step, f"{MAX_NONFINITE} consecutive updates were not finite")
    if not out["is_finite"]:
      self._raise_diverged(step, "the parameters or the optimizer's state are not finite")
    if is_main():
      self._show_progress(step, loss)
    mean = loop_state.pending_mean
    is_logged = step % self.config.log_every == 0 and mean is not None
    if is_logged and self._log:
      counts = {"skipped": loop_state.skipped, "rollbacks": loop_state.rollbacks}
      values = {
        "epoch": step / self.windows.steps_per_epoch,
        "train/loss": mean,
        "grad_norm": float(out["grad_norm"]),
        "learning_rate": float(out["learning_rate"]),
        "chars_per_second": self._tokens / self._pace.seconds,
        "idle": self._pace.take_idle(),
        "seconds": self._seconds(),
      }
      self._log.log(step, values | {name: n for name, n in counts.items() if n})
    # Without a logged loss, each step is checked.
    if is_logged or loop_state.first_loss is None:
      self._check_loss(step)
    if is_logged:
      loop_state.first_loss = loop_state.first_loss or mean
      loop_state.pending_sum, loop_state.pending_count = 0.0, 0

  def _check_loss(self, step):
    """Raise DivergedError if the mean loss since the last log line is too high."""
    mean = self.loop_state.pending_mean
    if mean is not None:
      # The mean of the first log line is compared with the loss of the first step.
      reference = self.loop_state.first_loss or self.loop_state.initial_loss
      if mean > self.config.diverged * reference:
        factor = f"more than {self.config.diverged:g} times the first"
        self._raise_diverged(step, f"the training loss {mean:.3f} is {factor}, {reference:.3f}")

  def _show_progress(self, step, loss):
    seconds = self._pace.seconds
    rate = "" if math.isnan(seconds) else f"  {self._tokens / seconds / 1000:.1f}k tokens/s"
    epoch = step / self.windows.steps_per_epoch
    note = f"epoch {epoch:.2f}  loss {loss:.4f} nats{rate}"
    self._progress.update(step, self.steps, note, left=(self.steps - step) * seconds)

  def _raise_diverged(self, step, reason):
    text = f"training diverged at step {step}: {reason}"
    raise errors.DivergedError(text, step=step, reason=reason)

  def _remedy(self, error):
    """Return the message about a divergence that ends the run."""
    after = f" (after {errors.plural(n, 'rollback')})" if (n := self.loop_state.rollbacks) else ""
    is_saved = bool(checkpoints.steps(self.workdir / "checkpoints"))
    return (
      f"{error}{after}. Use another --workdir and a lower --config.optimizer.learning_rate (here "
      f"{self.peak_rate:g})"
      + ("" if self.rolls_back else ", or add --rollback")
      + (f"; the checkpoints in {self.workdir} are kept" if is_saved else "")
    )

  def _evaluate(self, step, params):
    """Run the evaluators and the writers; return the metric that ranks checkpoints, or None."""
    values = dict(item for evaluator in self.evaluators for item in evaluator(params, step))
    if self._log and values:
      epoch = {"epoch": step / self.windows.steps_per_epoch}
      self._log.log(step, epoch | values | {"seconds": self._seconds()})
    loss, bits = values.pop(RANKING, None), values.pop(PER_BYTE, None)
    if loss is not None:
      self._rank(step, loss, bits)
    for name, value in values.items():
      say(f"step {step}  {name} {value:.4f}")
    # The checkpoint is saved after the sample, so that a kill between the two loses no sample.
    if is_main():
      for write in self.writers:
        try:
          write(params, step)
        except errors.UserError as error:  # The checkpoint is worth more than a sample.
          say(f"warning: {error}")
    return loss

  def _rank(self, step, loss, bits):
    loop_state = self.loop_state
    is_better = loop_state.best_loss is None or loss < loop_state.best_loss
    loop_state.stale = 0 if is_better else loop_state.stale + 1
    if is_better:
      loop_state.best_loss, loop_state.best_step, loop_state.best_bits = loss, step, bits
    best = f"best: {loop_state.best_loss:.4f} nats at step {loop_state.best_step}"
    rank = "best so far" if is_better else best
    say(f"step {step}  validation loss {console.nats_and_bits(loss, bits)}  {rank}")


def _non_finite(state: steps.TrainState) -> list[str]:
  """Return the names of the arrays of a state that contain NaN or infinity."""
  arrays = checkpoints.flatten(serialization.to_state_dict(state))
  return [name for name, array in arrays.items() if not np.isfinite(array).all()]
