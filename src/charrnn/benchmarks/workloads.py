"""Workloads: what is timed, as data that travels to the process that runs it.

The `amount` of a workload is what one run of it processes: characters, operations or bytes.
"""

import dataclasses

import numpy as np

from charrnn import models

BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Network:
  """The network that is trained or sampled, and the rows of its batch."""

  cell: str = "lstm"
  layers: int = 2
  hidden: int = 512
  batch: int = 1  # streams, or texts side by side
  dtype: str = "float32"  # of products; sums, states and parameters are float32
  vocab_size: int = 65

  @property
  def weights(self) -> int:
    """Return the number of weights that a character is multiplied with."""
    return models.matmul_parameters(self.vocab_size, self.cell, self.layers, self.hidden)

  def __str__(self):
    return f"{self.cell} {self.layers} x {self.hidden}, batch {self.batch}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class Training(Network):
  """Updates of a network on windows of random characters: Adam, gradients clipped to a norm."""

  batch: int = 100
  window: int = 100
  devices: int = 0  # 0: on a CPU as many as launch.py chooses, else one, as baselines use
  remat: int = 0  # characters between stored states; 0: all are stored

  @property
  def amount(self) -> int:
    """Return the characters of an update."""
    return self.batch * self.window

  @property
  def flops(self) -> int:
    """Return the operations of an update's products: 2 forward a weight, and 4 backward."""
    return 6 * self.weights * self.amount

  def __str__(self):
    network, _, dtype = super().__str__().rpartition(", ")
    remat = f", remat {self.remat}" if self.remat else ""
    return f"{network}, window {self.window}, {dtype}{remat}"


@dataclasses.dataclass(frozen=True)
class Sampling(Network):
  """Blocks of characters that are sampled one by one from a network's own predictions."""

  block: int = 256  # characters of each text

  @property
  def amount(self) -> int:
    """Return the characters of a block."""
    return self.batch * self.block

  @property
  def flops(self) -> int:
    """Return the operations of a block's products."""
    return 2 * self.weights * self.amount

  @property
  def bytes(self) -> int:
    """Return the bytes of weights that a block reads: all at every step, once for all texts."""
    return self.weights * BYTES[self.dtype] * self.block


@dataclasses.dataclass(frozen=True)
class Product:
  """A matrix product, [rows, inner] x [inner, columns]; `steps` of them in a scan, or one alone."""

  rows: int
  inner: int
  columns: int
  steps: int
  dtype: str

  @property
  def amount(self) -> int:
    """Return floating point operations."""
    return 2 * self.rows * self.inner * self.columns * self.steps

  def __str__(self):
    shape = f"[{self.rows}, {self.inner}] x [{self.inner}, {self.columns}]"
    return f"product {shape}" + (" in a scan" if self.steps > 1 else "")


@dataclasses.dataclass(frozen=True)
class Reading:
  """Memory that is read over and over."""

  bytes: int

  @property
  def amount(self) -> int:
    return self.bytes

  def __str__(self):
    return f"reading {self.bytes / 2**20:,.1f} MiB"


KINDS = {"train": Training, "sample": Sampling, "product": Product, "read": Reading}


def random_windows(training: Training) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return four windows of random characters to cycle through: (x, y), each [T, B]."""
  shape = 4, training.window + 1, training.batch
  ids = np.random.default_rng(0).integers(0, training.vocab_size, shape).astype(np.int32)
  return [(window[:-1], window[1:]) for window in ids]
