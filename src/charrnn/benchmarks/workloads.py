"""Workloads: descriptions of what is timed, as data that can be sent to another process.

The `amount` of a workload is what one run processes: characters, operations or bytes.
"""

import dataclasses

import numpy as np

from charrnn import models

BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Network:
  """The network that is trained or sampled, and its batch."""

  cell: str = "lstm"
  layers: int = 2
  hidden: int = 512
  batch: int = 1  # parallel streams in training, parallel texts in sampling
  dtype: str = "float32"  # type of matrix products; sums, states and parameters are float32
  vocab_size: int = 65

  @property
  def weights(self) -> int:
    """Return the number of weights in the matrix products for one character."""
    return models.size(self.vocab_size, dataclasses.asdict(self)).products

  def __str__(self):
    return f"{self.cell} {self.layers} x {self.hidden}, batch {self.batch}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class Training(Network):
  """Updates of a network on windows of random characters: Adam, gradients clipped to a norm."""

  batch: int = 100
  window: int = 100
  devices: int = 0  # 0: launch.py's choice on a CPU, and one on a GPU or TPU, like the baselines
  remat: int = 0  # characters between stored states; 0 stores all states

  @property
  def amount(self) -> int:
    """Return the number of characters per update."""
    return self.batch * self.window

  @property
  def flops(self) -> int:
    """Return the FLOPs of an update: per weight and character, 2 forward and 4 backward."""
    return 6 * self.weights * self.amount

  def __str__(self):
    network, _, dtype = super().__str__().rpartition(", ")
    remat = f", remat {self.remat}" if self.remat else ""
    return f"{network}, window {self.window}, {dtype}{remat}"


@dataclasses.dataclass(frozen=True)
class Sampling(Network):
  """Blocks of characters that are sampled one by one from a network."""

  block: int = 256  # characters per text

  @property
  def amount(self) -> int:
    """Return the number of characters per block, over all texts."""
    return self.batch * self.block

  @property
  def flops(self) -> int:
    """Return the FLOPs of the matrix products of a block."""
    return 2 * self.weights * self.amount

  @property
  def bytes(self) -> int:
    """Return the bytes that a block reads: all weights once per step, whatever the batch."""
    return self.weights * BYTES[self.dtype] * self.block


@dataclasses.dataclass(frozen=True)
class Product:
  """A matrix product [rows, inner] x [inner, columns], run once or in a scan of `steps` steps."""

  rows: int
  inner: int
  columns: int
  steps: int
  dtype: str

  @property
  def amount(self) -> int:
    """Return the number of floating-point operations."""
    return 2 * self.rows * self.inner * self.columns * self.steps

  def __str__(self):
    shape = f"[{self.rows}, {self.inner}] x [{self.inner}, {self.columns}]"
    return f"product {shape}" + (" in a scan" if self.steps > 1 else "")


@dataclasses.dataclass(frozen=True)
class Registers:
  """Multiply-adds in registers, run by `charrnn_registers` of the native library.

  Nothing is read from a cache, so this is the highest rate that the library's instructions allow.
  """

  threads: int
  dtype: str
  pairs: bool  # True if one instruction adds pairs of bfloat16 products
  iterations: int = 1 << 20

  @property
  def amount(self) -> int:
    """Return the number of floating-point operations."""
    # An iteration multiplies and adds 24 x 16 times, or twice as often with pairs.
    return self.threads * self.iterations * 24 * 16 * 2 * (2 if self.pairs else 1)

  def __str__(self):
    return f"registers, {self.threads} threads"


@dataclasses.dataclass(frozen=True)
class Reading:
  """Repeated reading of `bytes` of memory."""

  bytes: int

  @property
  def amount(self) -> int:
    return self.bytes

  def __str__(self):
    return f"reading {self.bytes / 2**20:,.1f} MiB"


KINDS = {
  "train": Training,
  "sample": Sampling,
  "registers": Registers,
  "product": Product,
  "read": Reading,
}

# The sizes that are compared by default. Training: the networks of Karpathy's blog post, of
# experiments/shakespeare.py, and of char-rnn. Sampling: one text, and many in parallel.
STANDARD = {
  "train": (
    {},
    {"hidden": 256, "batch": 32, "window": 64},
    {"hidden": 128, "batch": 50, "window": 50},
  ),
  "sample": ({}, {"batch": 64}),
}


def random_windows(training: Training) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return four windows of random characters to cycle through: pairs (x, y), each [T, B]."""
  shape = 4, training.window + 1, training.batch
  ids = np.random.default_rng(0).integers(0, training.vocab_size, shape).astype(np.int32)
  return [(window[:-1], window[1:]) for window in ids]
