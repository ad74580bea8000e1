"""Small things to train."""

import numpy as np

from charrnn import config as config_lib
from charrnn.data import batches, splits
from charrnn.models import rnn
from charrnn.training import loop, optimizer, steps
from charrnn.training import state as state_lib

V = 7


def model(vocab=V, **fields):
  return rnn.make(vocab, **{"cell": "lstm", "layers": 2, "hidden": 8} | fields)


def config(**overrides):
  """A whole config of a run that takes seconds; a key's double underscore is a dot."""
  c = config_lib.default()
  c.update(
    {"batch_size": 8, "window": 5, "epochs": 1.0, "max_steps": 12, "eval_every": 6, "log_every": 4}
  )
  c.update({"eval_streams": 8, "eval_burn_in": 4, "optimizer": {"learning_rate": 1e-2}})
  c.schedule.warmup_steps = 0
  for name, value in overrides.items():
    section, _, field = name.rpartition("__")
    (c[section] if section else c)[field] = value
  return c


def ids(length=1000, vocab=V, seed=0):
  """A walk that mostly counts on, so that there is something to learn."""
  rng = np.random.default_rng(seed)
  steps_N = np.where(rng.random(length) < 0.8, 1, rng.integers(0, vocab, length))
  return (np.cumsum(steps_N) % vocab).astype(np.uint8)


def windows(c, length=1000):
  return batches.TrainingWindows(
    ids(length), [splits.Span(0, length - 200)], c.batch_size, c.window
  )


def trainer(workdir, c, said=None, samples=None, **fields):
  """A Trainer whose last 200 characters are for validation."""
  workdir.mkdir(exist_ok=True)
  said = [] if said is None else said
  samples = {} if samples is None else samples
  w = windows(c)
  n = len(w.ids)
  return loop.Trainer(
    c,
    workdir,
    model(**fields),
    w,
    [splits.Span(n - 200, n)],
    said.append,
    lambda params, step: samples.__setitem__(step, params),
  )


class Steps:
  """Train steps on a number of devices, from the state that a seed gives."""

  def __init__(self, net, c, *, devices=1):
    self.layout, self.c, self.windows = steps.Devices(devices, devices, 0), c, windows(c)
    schedule = optimizer.schedule(c.schedule, c.optimizer.learning_rate, 20.0, 100)
    self.optimizer = optimizer.make(c.optimizer, schedule)
    self.initial = state_lib.create(net, self.optimizer, c.batch_size, c.seed)
    self.step = steps.make_train_step(
      net,
      self.optimizer,
      batch=c.batch_size,
      accumulate=c.accumulate,
      remat=c.remat,
      seed=c.seed,
      layout=self.layout,
    )

  def run(self, state, count):
    """`count` steps on -> the state as it is kept, and the losses."""
    first, losses = int(state.step), []
    state = steps.place(state, self.layout, self.c.batch_size)
    for step in range(first, first + count):
      batch = steps.shard(self.windows.window_at(step), self.layout, 1)
      state, out = self.step(state, *batch)
      losses.append(float(out["loss"]))
    return steps.fetch(state), losses
