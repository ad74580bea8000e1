"""The loop: text in, updates, and at intervals a look at how it goes and a checkpoint.

Everything that decides the numbers is in the config and in the checkpoint, so that a run that
was killed goes on as if it had not been.
"""

import dataclasses
import functools
import math
import signal
import time

import jax
import numpy as np
from flax import serialization

from charrnn import config as config_lib
from charrnn import console, errors
from charrnn.evaluation import evaluate
from charrnn.runs import checkpoints, metrics
from charrnn.training import optimizer, steps
from charrnn.training import state as state_lib

NONFINITE = 10  # updates in a row that are not finite before training is given up


@dataclasses.dataclass
class Memory:
  """What the loop itself has to remember over a restart; JSON in the checkpoint."""

  first_loss: float | None = None  # the first that was logged
  best_loss: float | None = None
  best_step: int | None = None
  stale: int = 0  # evaluations since the best
  nonfinite: int = 0  # updates in a row that were not made
  pending: list = dataclasses.field(default_factory=list)  # losses since the last log line
  seconds: float = 0.0  # of training, evaluation and saving so far


class Stop:
  """Turns SIGTERM, SIGINT and SIGHUP into a wish to stop after the step.

  A second SIGTERM or SIGINT ends at once. SIGHUP tells that a terminal or a launcher is gone, often
  several times, and is not heard under nohup.
  """

  def __init__(self):
    self.wished = False
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._wish)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
      signal.signal(signal.SIGHUP, self._wish)

  def _wish(self, number, frame):
    del frame
    self.wished = True
    if number != signal.SIGHUP:
      signal.signal(number, signal.SIG_DFL)

  def agreed(self):
    """Whether any process wishes to; all must ask at the same step."""
    if jax.process_count() == 1:
      return self.wished
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.int32(self.wished)).any())


class Trainer:
  """One run in one directory: restores what is there, trains to the end, keeps what it needs."""

  def __init__(self, config, workdir, model, windows, valid, say, write_sample):
    """`windows`: training windows. `valid`: segments of its ids. `write_sample(params, step)`."""
    self.config, self.workdir, self.model, self.windows = config, workdir, model, windows
    self.valid, self.say, self.write_sample = valid, say, write_sample
    self.layout = steps.devices()
    self.main = jax.process_index() == 0  # the process that writes logs
    self.steps = config_lib.total_steps(config, windows.steps_per_epoch)
    schedule = optimizer.schedule(
      config.schedule, config.optimizer.learning_rate, windows.steps_per_epoch, self.steps
    )
    self.learning_rate = schedule
    self.optimizer = optimizer.make(config.optimizer, schedule)
    self.train_step = steps.make_train_step(
      model,
      self.optimizer,
      batch=config.batch_size,
      accumulate=config.accumulate,
      remat=config.remat,
      seed=config.seed,
      layout=self.layout,
    )
    self.eval_step = steps.make_eval_step(model)
    # As one program: one by one its operations take seconds to compile. The seed is handed in, so
    # that it is the same program for all.
    create = functools.partial(state_lib.create, model, self.optimizer, config.batch_size)
    self._create = functools.partial(jax.jit(create), np.uint32(config.seed))
    self.memory = Memory()

  def shapes(self):
    """The parameters' shapes, without making them."""
    return jax.eval_shape(self._create).params

  def restore(self, init_params=None):
    """The newest whole checkpoint, else a fresh state (with `init_params(params)`, if given)."""
    folder = self.workdir / "checkpoints"
    found = checkpoints.read_newest(folder, say=self.say)
    if found:
      arrays, meta = found
      state = serialization.from_state_dict(jax.eval_shape(self._create), arrays)
      self.memory = Memory(**meta["memory"])
      done = meta["step"] >= self.steps
      self.say(f"{'finished at' if done else 'resumes after'} step {meta['step']}")
    else:
      state = self._create()
      if init_params:
        params = init_params(state.params)
        state = state._replace(params=params, opt_state=self.optimizer.init(params))
    if self.main:
      checkpoints.quarantine(folder, int(state.step))
    return state

  def train(self, state, started=lambda: None):
    """Trains to the end or to a signal; returns the state and whether it was interrupted.

    `started()` is called once the first step is done.

    The devices need not wait for the loop: while they run a step it has the next batch ready and
    hands over the next step, and only then asks for the numbers of the one before. At a
    checkpoint they rest while it is copied and digested; it is written beside the steps.
    """
    start = step = int(state.step)
    if step >= self.steps or self._patience_is_over():
      return state, False
    stop, self._started = Stop(), started
    state = steps.place(state, self.layout, self.config.batch_size)
    log = metrics.MetricsLog(self.workdir, start) if self.main else None
    writer = checkpoints.Writer(self.workdir / "checkpoints", self.config.keep)
    progress = metrics.Progress(
      self.steps, start, self.config.batch_size * self.config.window, self.windows.steps_per_epoch
    )
    self._clock = time.monotonic()
    batch, previous, interrupted = self._batch(step), None, False
    try:
      while step < self.steps and not interrupted:
        progress.hands_over(previous)
        state, out = self._update(step, state, batch)
        step += 1
        batch = self._batch(step)
        if previous is not None:  # its numbers are read while this step runs
          self._record(step - 1, previous, log, progress)
        previous = out
        interrupted = self._interrupted(stop, step)
        evaluates = step % self.config.eval_every == 0 or step == self.steps
        saves = self.config.checkpoint_every and step % self.config.checkpoint_every == 0
        if not (evaluates or saves or interrupted):
          continue
        self._record(step, previous, log, progress)
        previous, valid_loss = None, None
        if evaluates:
          progress.pause()
          valid_loss = self._evaluate(step, state, log)
          if self.main:  # before the checkpoint: a kill between the two must not cost the sample
            self.write_sample(state.params, step)
        self.memory.seconds, self._clock = self._seconds(), time.monotonic()
        meta = {"memory": dataclasses.asdict(self.memory), "valid_loss": valid_loss}
        writer.save(step, steps.fetch(state), meta)
        progress.resume()
        if self._patience_is_over():
          self.say(f"stops early: no better loss for {self.memory.stale} evaluations")
          break
    finally:
      progress.pause()
      writer.close()
      if log:
        log.close()
    if interrupted:
      self.say(f"stopped by a signal, saved after step {step}: the same command resumes")
    return state, interrupted

  def _seconds(self):
    """Of training, evaluation and saving so far, over all launches."""
    return self.memory.seconds + time.monotonic() - self._clock

  def _batch(self, step):
    """What the train step takes of this process's streams at a step."""
    rows = self.layout.rows(self.config.batch_size)
    return steps.shard(self.windows.window_at(step, rows), self.layout, 1)

  def _update(self, step, state, batch):
    """Hands over a step -> state, its numbers; if they are to be logged, with the learning rate."""
    # That is a program too: after the step it would have to wait for it.
    logged = (step + 1) % self.config.log_every == 0
    rate = {"learning_rate": self.learning_rate(step)} if logged else {}
    state, out = self.train_step(state, *batch)
    return state, out | rate

  def _interrupted(self, stop, step):
    # Several processes ask each other now and then only: it costs a round trip.
    if jax.process_count() > 1 and step % self.config.log_every:
      return False
    return stop.agreed()

  def _patience_is_over(self):
    return bool(self.config.patience) and self.memory.stale >= self.config.patience

  def _record(self, step, out, log, progress):
    """Takes in the numbers of a finished step; raises UserError when training has diverged."""
    memory, loss = self.memory, float(out["loss"])
    finite = math.isfinite(loss) and math.isfinite(float(out["grad_norm"]))
    if step == progress.first_step + 1:
      self._started()
    memory.nonfinite = 0 if finite else memory.nonfinite + 1
    if finite:
      memory.pending.append(loss)
    if memory.nonfinite >= NONFINITE:
      self._diverged(step, f"{NONFINITE} updates in a row were not finite")
    if self.main:
      progress.update(step, loss)
    if step % self.config.log_every or not memory.pending:
      return
    mean = math.fsum(memory.pending) / len(memory.pending)
    memory.pending = []
    memory.first_loss = memory.first_loss or mean
    if log:
      log.write(
        step,
        {
          "epoch": step / self.windows.steps_per_epoch,
          "train/loss": mean,
          "grad_norm": float(out["grad_norm"]),
          "learning_rate": float(out["learning_rate"]),
          "chars_per_second": progress.rate,
          "idle": progress.take_idle(),
          "seconds": self._seconds(),
        },
      )
    if mean > self.config.diverged * memory.first_loss:
      self._diverged(step, f"the loss {mean:.3f} is far above the first, {memory.first_loss:.3f}")

  def _diverged(self, step, why):
    raise errors.UserError(
      f"training diverged at step {step}: {why}. Lower --config.optimizer.learning_rate "
      f"(now {self.config.optimizer.learning_rate}) in another --workdir; "
      f"{self.workdir} keeps its checkpoints"
    )

  def _evaluate(self, step, state, log):
    memory, config = self.memory, self.config
    loss = evaluate.evaluate(
      self.eval_step,
      self.model,
      state.params,
      self.windows.ids,
      self.valid,
      readers=config.eval_streams,
      window=config.window,
      burn_in=config.eval_burn_in,
    )
    if math.isnan(loss):
      return None
    better = memory.best_loss is None or loss < memory.best_loss
    memory.stale = 0 if better else memory.stale + 1
    if better:
      memory.best_loss, memory.best_step = loss, step
    if log:
      epoch = step / self.windows.steps_per_epoch
      log.write(step, {"epoch": epoch, "valid/loss": loss, "seconds": self._seconds()})
    remark = "best" if better else f"best was {memory.best_loss:.4f} at step {memory.best_step}"
    self.say(f"step {step}  validation {console.nats_and_bits(loss)}  {remark}")
    return loss


def say(text):
  """A line for people: stderr, once however many processes there are."""
  if jax.process_index() == 0:
    console.say(text)
