"""What is timed, as data that travels to the process that does it.

Each piece has an `amount`: how much of its unit is done by doing it once.
"""

from typing import NamedTuple

from charrnn import models

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
BYTES = {"float32": 4, "bfloat16": 2}


class Training(NamedTuple):
  """Updates of a network on windows of random characters: Adam, gradients clipped to a norm."""

  cell: str = "lstm"
  layers: int = 2
  hidden: int = 512
  batch: int = 100
  window: int = 100
  dtype: str = "float32"  # of products; sums, states and parameters are float32
  alphabet: int = 65
  devices: int = 0  # 0: on a CPU as many as launch.py chooses, else one, which is what peers take
  remat: int = 0  # characters between kept states; 0: all is kept

  @property
  def amount(self):
    """Characters in one update."""
    return self.batch * self.window

  @property
  def flops(self):
    """Of the products that one update cannot do without: 2 forwards a weight, 4 backwards."""
    return 6 * weights(self) * self.amount

  def __str__(self):
    size = f"{_network(self)}, batch {self.batch}, window {self.window}, {self.dtype}"
    return size + (f", remat {self.remat}" if self.remat else "")


class Sampling(NamedTuple):
  """Blocks of characters drawn one by one from a network's own predictions."""

  cell: str = "lstm"
  layers: int = 2
  hidden: int = 512
  batch: int = 1  # texts side by side
  dtype: str = "float32"
  alphabet: int = 65
  block: int = 256  # characters of each text

  @property
  def amount(self):
    """Characters in one block."""
    return self.batch * self.block

  @property
  def flops(self):
    """Of the products of one block."""
    return 2 * weights(self) * self.amount

  @property
  def bytes(self):
    """Of the weights that one block reads: all of them for every step, for all texts at once."""
    return weights(self) * BYTES[self.dtype] * self.block

  def __str__(self):
    return f"{_network(self)}, batch {self.batch}, {self.dtype}"


class Product(NamedTuple):
  """A matrix product, [rows, inner] x [inner, columns]; `steps` of them in a scan, or one alone."""

  rows: int
  inner: int
  columns: int
  steps: int
  dtype: str

  @property
  def amount(self):
    """Floating point operations."""
    return 2 * self.rows * self.inner * self.columns * self.steps

  def __str__(self):
    shape = f"[{self.rows}, {self.inner}] x [{self.inner}, {self.columns}]"
    return f"product {shape}" + (" in a scan" if self.steps > 1 else "")


class Reading(NamedTuple):
  """Memory that is read over and over."""

  bytes: int

  @property
  def amount(self):
    """Bytes."""
    return self.bytes

  def __str__(self):
    return f"reading {self.bytes / 2**20:,.1f} MiB"


KINDS = {"train": Training, "sample": Sampling, "product": Product, "read": Reading}
FAR_BEYOND_CACHES = Reading(512 << 20)


def weights(task):
  """That a character is multiplied with; the first layer's input is a look-up, no product."""
  return models.multiplied_weights(task.alphabet, task.cell, task.layers, task.hidden)


def ceilings(task):
  """What the machine could do at best: products of the shapes that matter, and reading weights."""
  side, wide = 2048, GATES[task.cell] * task.hidden
  products = [Product(side, side, side, 1, task.dtype)]
  if isinstance(task, Training):
    products += [
      Product(task.batch, task.hidden, wide, task.window, task.dtype),
      Product(task.amount, task.hidden, wide, 1, task.dtype),
    ]
    return products
  if task.batch > 1:
    products.append(Product(task.batch, task.hidden, wide, task.block, task.dtype))
  return [*products, Reading(weights(task) * BYTES[task.dtype]), FAR_BEYOND_CACHES]


def _network(task):
  return f"{task.cell} {task.layers} x {task.hidden}"
