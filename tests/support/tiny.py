"""A tiny model, config, text and trainer for tests of training."""

import jax
import numpy as np
import pytest

from charrnn import config as config_lib
from charrnn import models
from charrnn.data import batches, splits
from charrnn.evaluation import score
from charrnn.training import loop, optimizer, steps

V = 7
# The fields of a transformer that a `config` can be used for.
TRANSFORMER = {"cell": "transformer", "heads": 2, "context": 6}


def model(vocab=V, **fields):
  """Return a model with 2 layers of 8 units; cell="transformer" has the fields of TRANSFORMER."""
  if fields.get("cell") == "transformer":
    fields = TRANSFORMER | fields
  return models.make(vocab, {"cell": "lstm", "layers": 2, "hidden": 8} | fields)


def config(**overrides):
  """Return the config of a run that takes seconds; optimizer__eps=1 overrides optimizer.eps."""
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
  """Return ids that mostly count up, modulo `vocab`, so that a model can learn to predict them."""
  rng = np.random.default_rng(seed)
  steps_N = np.where(rng.random(length) < 0.8, 1, rng.integers(0, vocab, length))
  return (np.cumsum(steps_N) % vocab).astype(np.uint8)


def windows(c, length=1000):
  return batches.TrainingWindows(
    ids(length), [splits.Span(0, length - 200)], c.batch_size, c.window
  )


def trainer(workdir, c, samples=None, losses=None, rolls_back=False, **fields):
  """Return a Trainer on a text with the last 200 tokens for validation.

  Instead of sampling, the trainer stores the parameters in `samples`, by step. `losses` replaces
  the validation losses of the model; a loss of None yields no metric.
  """
  workdir.mkdir(exist_ok=True)
  samples = {} if samples is None else samples
  w, text, net = windows(c), ids(), model(**{"layers": 1} | fields)
  n = len(text)
  settings = {"streams": c.eval_streams, "window": c.window, "burn_in": c.eval_burn_in}

  def evaluator(params, step):
    if losses is None:
      spans = [splits.Span(n - 200, n)]
      yield "valid/loss", score.loss(net, params, text, spans, **settings)
    elif (loss := losses.pop(0)) is not None:
      yield "valid/loss", loss

  def writer(params, step):
    samples[step] = params

  return loop.Trainer(
    c, workdir, net, w, evaluators=[evaluator], writers=[writer], rolls_back=rolls_back
  )


class Steps:
  """Run training steps on a number of devices, from the initial state of the config's seed.

  Skip the test if there are not so many devices, which happens on a machine with a GPU.
  """

  def __init__(self, net, c, *, devices=1):
    if devices > jax.local_device_count():
      pytest.skip(f"needs {devices} devices")
    self.c, self.windows = c, windows(c)
    schedule = optimizer.schedule(c.schedule, c.optimizer.learning_rate, 20.0, 100)
    self.optimizer = optimizer.make(c.optimizer, schedule)
    self.initial = steps.create_state(net, self.optimizer, c.batch_size, c.seed)
    self.step = steps.TrainStep(
      net,
      self.optimizer,
      batch=c.batch_size,
      seed=c.seed,
      accumulate=c.accumulate,
      remat=c.remat,
      carry_reset=c.carry_reset,
      devices=steps.Devices(devices, devices, 0),
    )

  def run(self, state, count):
    """Return the state after `count` steps, in the form that checkpoints store, and the losses."""
    first, losses = int(state.step), []
    state = self.step.put(state)
    for step in range(first, first + count):
      state, out = self.step(state, *self.windows.window_at(step))
      losses.append(float(out["loss"]))
    return self.step.get(state), losses
