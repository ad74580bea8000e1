"""Fills in what an experiment leaves open (None), by the amount of text and the machine."""

import contextlib
import math
import pathlib

from charrnn import config as config_lib
from charrnn import errors
from charrnn.data import splits, tokenizers
from charrnn.models import cells

# Up to so many characters of training text: layers, hidden, dropout, batch, epochs, learning rate.
# Small texts overfit, so they get small models and dropout; large ones fill larger models, as far
# as a few cores get through them.
SIZES = [
  (100_000, (1, 128, 0.3, 8, 30.0, 8e-3)),
  (600_000, (2, 128, 0.3, 16, 20.0, 8e-3)),
  (2_500_000, (2, 256, 0.3, 32, 12.0, 8e-3)),
  (12_000_000, (2, 256, 0.1, 32, 3.6, 8e-3)),
  (60_000_000, (2, 512, 0.1, 64, 2.0, 5e-3)),
  (float("inf"), (2, 1024, 0.0, 128, 1.0, 3e-3)),
]


def fill(config, characters):
  """Sets every None that the amount of training text decides; returns what it set by name."""
  chosen = next(chosen for most, chosen in SIZES if characters <= most)
  layers, hidden, dropout, batch, epochs, learning_rate = chosen
  # A text of a few lines has no room for many readers.
  while batch > 1 and batch * config.window * 20 > characters:
    batch //= 2
  return _set(
    config,
    {
      "model.layers": layers,
      "model.hidden": hidden,
      "model.dropout": dropout,
      "batch_size": batch,
      "epochs": epochs,
      "optimizer.learning_rate": learning_rate,
    },
  )


def fill_from(config, stored):
  """Sets what is open as the run's stored config (JSON) has it: a resumed run keeps its sizes."""
  for name, value in config_lib.flatten(stored).items():
    with contextlib.suppress(KeyError):  # a field of an older version
      _set(config, {name: value})


def fill_length(config, steps_per_epoch):
  """Sets `eval_every` to about ten evaluations in all, and returns the number of steps."""
  steps = max(1, round(config.epochs * steps_per_epoch))
  if config.max_steps:
    steps = min(steps, config.max_steps)
  _set(config, {"eval_every": max(1, -(-steps // 10))})
  return steps


def fill_dtype(config, device):
  """bfloat16 where products in it are native: TPUs, GPUs since Ampere, CPUs that say so."""
  if device.platform == "cpu":
    native = _cpu_multiplies_bfloat16()
  else:
    # "9.0" on NVIDIA's, "gfx90a" on AMD's, and nothing on a TPU.
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    native = not major.isdigit() or int(major) >= 8
  _set(config, {"model.compute_dtype": "bfloat16" if native else "float32"})


# No number is negative, and of these:
AT_LEAST_1 = {
  "window",
  "batch_size",
  "accumulate",
  "log_every",
  "eval_every",
  "eval_streams",
  "keep",
  "diverged",
  "model.layers",
  "model.hidden",
  "model.order",
}
ABOVE_0 = {"epochs", "optimizer.learning_rate", "optimizer.eps", "schedule.halve_every"}
BELOW_1 = {
  "model.dropout",
  "text.valid_fraction",
  "text.test_fraction",
  "optimizer.b1",
  "optimizer.b2",
  "optimizer.decay",
  "optimizer.momentum",
}

CHOICES = {
  "text.alphabet": tokenizers.KINDS,
  "text.newlines": ("keep", "lf"),
  "text.split": tuple(splits.SPLITS),
  "model.cell": (*cells.CELLS, "ngram"),
  "model.init": ("modern", "uniform"),
  "model.compute_dtype": (None, "float32", "bfloat16"),
  "model.unroll": ("auto", "scan", "cudnn"),
  "optimizer.name": ("rmsprop", "adam", "adamw", "sgd"),
  "schedule.name": ("constant", "epoch_decay", "halving", "cosine"),
}


def check(config):
  """Raises UserError for numbers and names that no program could run with."""
  for name, value in config_lib.flatten(config.to_dict()).items():
    if value not in (known := CHOICES.get(name, [value])):
      names = ", ".join(filter(None, known))
      raise errors.UserError(f"--config.{name}={value}: use one of {names}")
    if name == "model.forget_bias" or not isinstance(value, int | float):
      continue
    wrong = None
    if name in AT_LEAST_1 and not value >= 1:
      wrong = "at least 1"
    elif name in ABOVE_0 and not 0 < value < math.inf:
      wrong = "above 0"
    elif name in BELOW_1 and not value < 1:
      wrong = "below 1"
    elif not value >= 0:  # NaN too
      wrong = "at least 0"
    if wrong:
      raise errors.UserError(f"--config.{name}={value}: must be {wrong}")
  if config.remat and config.window % config.remat:
    raise errors.UserError(
      f"--config.remat={config.remat}: must divide --config.window={config.window}"
    )


def _set(config, values):
  done = {}
  for name, value in values.items():
    section, _, field = name.rpartition(".")
    part = config[section] if section else config
    if part[field] is None:
      part[field] = value
      done[name] = value
  return done


def _cpu_multiplies_bfloat16():
  try:
    info = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return False
  return "avx512_bf16" in info or "amx_bf16" in info
