"""The training loop: updates, log lines, evaluations and checkpoints.

Config and checkpoint decide all that is computed: a run that was killed resumes to the same result.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from charrnn import config as config_lib
from charrnn import console, errors
from charrnn.runs import checkpoints, metrics
from charrnn.training import optimizer, steps

MAX_NONFINITE = 10  # updates in a row that are not finite before training is given up
RANKING = "valid/loss"  # the metric by which checkpoints are ranked

Evaluator = Callable[[Any, int], Iterable[tuple[str, float]]]  # (params, step) -> names and values


def is_main() -> bool:
  """Return whether this process writes the logs and the files of the run."""
  return jax.process_index() == 0


def say(text: str):
  """Write a status line, once however many processes there are."""
  if is_main():
    console.say(text)


@dataclasses.dataclass
class LoopState:
  """The state of the loop that a restart needs besides the TrainState; JSON in the checkpoint."""

  first_loss: float | None = None  # first logged mean
  best_loss: float | None = None
  best_step: int | None = None
  stale: int = 0  # evaluations since the best
  nonfinite: int = 0  # updates in a row that were not made
  pending: list = dataclasses.field(default_factory=list)  # losses since the last log line
  seconds: float = 0.0  # spent on training, evaluation and saving


class StopRequest:
  """Request a graceful stop after the current step on SIGTERM, SIGINT or SIGHUP.

  A second SIGTERM ends the process at once, a second SIGINT raises KeyboardInterrupt. SIGHUP is
  sent when a terminal or a launcher is gone, often several times; it is ignored under nohup.
  """

  def __init__(self):
    self._is_requested = False
    self._former = {}

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
      return self
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
        self._former[number] = signal.signal(number, self._request)
    return self

  def __exit__(self, *_):
    for number, handler in self._former.items():
      # A process that was asked to stop is not killed by a further signal while it finishes.
      if number == signal.SIGINT or not self._is_requested:
        signal.signal(number, handler)

  def _request(self, number, _):
    self._is_requested = True
    if number != signal.SIGHUP:
      signal.signal(number, self._former[number])

  def is_requested(self) -> bool:
    """Return whether any process has received a signal. All processes must ask at the same step."""
    if jax.process_count() == 1:
      return self._is_requested
    return bool(multihost_utils.process_allgather(np.int32(self._is_requested)).any())


class Pace:
  """The speed of the steps, and the share of their time in which the devices are idle."""

  def __init__(self):
    self._recent = collections.deque(maxlen=50)  # seconds of recent steps
    self._clock = time.monotonic()
    self._compiles = True  # the first step does, and does not count
    self._stepping = self._idle = 0.0

  def resume(self):
    """Start the clock again after a pause."""
    self._clock = time.monotonic()

  def dispatch(self, previous: dict | None):
    """Note that the next step is about to be dispatched; `previous`: the metrics of the one before.

    If those are ready, the devices have been idle, at most since the loop stopped waiting for them.
    """
    if previous is not None and previous["loss"].is_ready():
      self._idle += time.monotonic() - self._clock

  def finish(self):
    """Note that the metrics of a step have arrived."""
    now = time.monotonic()
    if self._compiles:
      self._compiles, self._idle = False, 0.0
    else:
      self._recent.append(now - self._clock)
      self._stepping += now - self._clock
    self._clock = now

  @property
  def seconds(self) -> float:
    """Return the seconds per step: the median of recent steps, which no interruption moves."""
    return statistics.median(self._recent) if self._recent else math.nan

  def take_idle(self) -> float:
    """Return the share of the steps' time since the last call in which the devices were idle."""
    idle = self._idle / self._stepping if self._stepping else math.nan
    self._stepping = self._idle = 0.0
    return idle


class Trainer:
  """The training of one run in one directory."""

  def __init__(
    self,
    config,
    workdir: pathlib.Path,
    model,
    windows,
    *,
    evaluators: Iterable[Evaluator] = (),
    writers: Iterable[Callable[[Any, int], None]] = (),
  ):
    """Prepare the training. `config`: resolved; `windows`: `batches.TrainingWindows`.

    `evaluators` and `writers` are called with (params, step) at every evaluation: first the
    evaluators, by all processes, then the writers, by the one that writes the logs. The checkpoint
    is written last.
    """
    self.config, self.workdir, self.model, self.windows = config, workdir, model, windows
    self.evaluators, self.writers = evaluators, writers
    self._chars = config.batch_size * config.window  # of a step
    self.steps = config_lib.total_steps(config, windows.steps_per_epoch)
    self.learning_rate = optimizer.schedule(
      config.schedule, config.optimizer.learning_rate, windows.steps_per_epoch, self.steps
    )
    self.optimizer = optimizer.make(config.optimizer, self.learning_rate)
    self.train_step = steps.TrainStep(
      model,
      self.optimizer,
      batch=config.batch_size,
      seed=config.seed,
      accumulate=config.accumulate,
      remat=config.remat,
    )
    # Compiled as a whole: one by one its operations take seconds to compile. The seed is an
    # argument, so that all seeds share one program.
    create = functools.partial(steps.create_state, model, self.optimizer, config.batch_size)
    self._create = functools.partial(jax.jit(create), np.uint32(config.seed))
    # The rest belongs to a call of `train`.
    self._log: metrics.MetricsLog | None = None
    self._progress = console.Progress(every=10.0)
    self._pace, self._clock = Pace(), time.monotonic()
    self._on_first_step: Callable[[], None] = lambda: None
    self.loop_state = LoopState()

  def shapes(self):
    """Return the shapes of the parameters, without computing them."""
    return jax.eval_shape(self._create).params

  def restore(self, init_params: Callable[[Any], Any] | None = None) -> steps.TrainState:
    """Return the newest whole checkpoint, else a fresh state.

    `init_params` maps the parameters of a fresh state to those to start from.
    """
    folder = self.workdir / "checkpoints"
    newest = checkpoints.read_newest(folder, say=say)
    if newest:
      arrays, meta = newest
      state = serialization.from_state_dict(jax.eval_shape(self._create), arrays)
      self.loop_state = LoopState(**meta["memory"])
      is_done = meta["step"] >= self.steps
      say(f"{'finished at' if is_done else 'resumes after'} step {meta['step']}")
    else:
      state = self._create()
      if init_params:
        params = init_params(state.params)
        state = state._replace(params=params, opt_state=self.optimizer.init(params))
    if is_main():
      checkpoints.quarantine(folder, int(state.step))
    return state

  def train(
    self, state: steps.TrainState, on_first_step: Callable[[], None] = lambda: None
  ) -> tuple[steps.TrainState, bool]:
    """Train to the end or to a signal; return the state and whether it was interrupted.

    `on_first_step` is called when the first step is done.
    """
    start = int(state.step)
    if start >= self.steps or self._is_out_of_patience():
      return state, False
    self._on_first_step = on_first_step
    with StopRequest() as stop, contextlib.ExitStack() as resources:
      self._log = metrics.MetricsLog(self.workdir, start) if is_main() else None
      if self._log:
        resources.callback(self._log.close)
      writer = checkpoints.Writer(self.workdir / "checkpoints", self.config.keep)
      resources.callback(writer.close)
      self._progress = console.Progress(every=10.0)
      resources.callback(self._progress.end, report=False)
      state, interrupted = self._loop(start, state, writer, stop)
    if interrupted:
      step = int(state.step)
      say(f"stopped by a signal, saved after step {step}: the same command resumes")
    return state, interrupted

  def _loop(self, step, state, writer, stop):
    """Dispatch step t, then log step t - 1, so that the devices need not wait for the loop.

    At a checkpoint they wait while the state is copied and digested; it is written beside the
    steps that follow.
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
      interrupted = self._is_interrupted(stop, step)
      evaluates = step % self.config.eval_every == 0 or step == self.steps
      saves = self.config.checkpoint_every and step % self.config.checkpoint_every == 0
      if not (evaluates or saves or interrupted):
        continue
      self._record(step, previous, first)
      previous = None
      loss = self._evaluate(step, state.params) if evaluates else None
      self.loop_state.seconds, self._clock = self._seconds(), time.monotonic()
      meta = {"memory": dataclasses.asdict(self.loop_state), "valid_loss": loss}
      writer.save(step, self.train_step.get(state), meta)
      self._pace.resume()
      if self._is_out_of_patience():
        say(f"stops early: no better loss for {self.loop_state.stale} evaluations")
        break
    return state, interrupted

  def _seconds(self):
    """Return the seconds of training, evaluation and saving so far, over all launches."""
    return self.loop_state.seconds + time.monotonic() - self._clock

  def _batch(self, step):
    return self.windows.window_at(step, self.train_step.rows)

  def _update(self, step, state, batch):
    """Dispatch a step; return the state and its metrics, with the learning rate if it is logged."""
    # The rate first: it is a program of its own, and after the step it would have to wait for it.
    is_logged = (step + 1) % self.config.log_every == 0
    rate = {"learning_rate": self.learning_rate(step)} if is_logged else {}
    state, out = self.train_step(state, *batch)
    return state, out | rate

  def _is_interrupted(self, stop, step):
    # Several processes ask each other at log lines only: it costs a round trip.
    if jax.process_count() > 1 and step % self.config.log_every:
      return False
    return stop.is_requested()

  def _is_out_of_patience(self):
    return bool(self.config.patience) and self.loop_state.stale >= self.config.patience

  def _record(self, step, out, first):
    """Wait for the metrics of a step and log them; raise DivergedError if training has diverged."""
    loop_state, loss = self.loop_state, float(out["loss"])
    is_finite = math.isfinite(loss) and math.isfinite(float(out["grad_norm"]))
    self._pace.finish()
    if step == first:
      self._on_first_step()
    loop_state.nonfinite = 0 if is_finite else loop_state.nonfinite + 1
    if is_finite:
      loop_state.pending.append(loss)
    if loop_state.nonfinite >= MAX_NONFINITE:
      self._raise_diverged(step, f"{MAX_NONFINITE} updates in a row were not finite")
    if is_main():
      self._show_progress(step, loss)
    if step % self.config.log_every or not loop_state.pending:
      return
    mean = math.fsum(loop_state.pending) / len(loop_state.pending)
    reference = loop_state.first_loss or loop_state.pending[0]
    loop_state.first_loss, loop_state.pending = loop_state.first_loss or mean, []
    if self._log:
      values = {
        "epoch": step / self.windows.steps_per_epoch,
        "train/loss": mean,
        "grad_norm": float(out["grad_norm"]),
        "learning_rate": float(out["learning_rate"]),
        "chars_per_second": self._chars / self._pace.seconds,
        "idle": self._pace.take_idle(),
        "seconds": self._seconds(),
      }
      self._log.write(step, values)
    if mean > self.config.diverged * reference:
      self._raise_diverged(step, f"the loss {mean:.3f} is far above the first, {reference:.3f}")

  def _show_progress(self, step, loss):
    seconds = self._pace.seconds
    rate = "" if math.isnan(seconds) else f"  {self._chars / seconds / 1000:.1f}k chars/s"
    epoch = step / self.windows.steps_per_epoch
    note = f"epoch {epoch:.2f}  loss {loss:.4f} nats{rate}"
    self._progress.update(step, self.steps, note, left=(self.steps - step) * seconds)

  def _raise_diverged(self, step, reason):
    is_saved = bool(checkpoints.steps(self.workdir / "checkpoints"))
    raise errors.DivergedError(
      f"training diverged at step {step}: {reason}. Lower --config.optimizer.learning_rate "
      f"(now {self.config.optimizer.learning_rate}) in another --workdir"
      + (f"; {self.workdir} keeps its checkpoints" if is_saved else "")
    )

  def _evaluate(self, step, params):
    """Run evaluators and writers, and log the metrics; return the one that ranks, or None."""
    values = dict(item for evaluator in self.evaluators for item in evaluator(params, step))
    if self._log and values:
      epoch = {"epoch": step / self.windows.steps_per_epoch}
      self._log.write(step, epoch | values | {"seconds": self._seconds()})
    loss = values.pop(RANKING, None)
    if loss is not None:
      self._rank(step, loss)
    for name, value in values.items():
      say(f"step {step}  {name} {value:.4f}")
    if is_main():  # before the checkpoint: a kill between the two must not cost the sample
      for write in self.writers:
        write(params, step)
    return loss

  def _rank(self, step, loss):
    loop_state = self.loop_state
    is_better = loop_state.best_loss is None or loss < loop_state.best_loss
    loop_state.stale = 0 if is_better else loop_state.stale + 1
    if is_better:
      loop_state.best_loss, loop_state.best_step = loss, step
    rank = (
      "best" if is_better else f"best was {loop_state.best_loss:.4f} at step {loop_state.best_step}"
    )
    say(f"step {step}  validation {console.nats_and_bits(loss)}  {rank}")
