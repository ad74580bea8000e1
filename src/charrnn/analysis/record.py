"""What every cell holds after every character of a text: states, gates and predictions.

The text is read as one stream with the state carried on, as in training. N characters, C columns:
each quantity of each cell of each layer is one, in the order layer, quantity, cell.
"""

import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn import errors

CHUNK = 1024
TOP = 5


class Column(NamedTuple):
  layer: int
  quantity: str
  cell: int

  def __str__(self):
    """As `charrnn sample --clamp` names it."""
    return f"{self.layer}:{self.quantity}{self.cell}"


class Predictions(NamedTuple):
  """At t, having read the character t, of the next one."""

  nats: np.ndarray  # [N], -log p of the one that came; NaN at the last
  top_ids: np.ndarray  # [N, TOP], the likeliest, fewer if the alphabet has fewer
  top_p: np.ndarray  # [N, TOP]


class Recording(NamedTuple):
  columns: tuple[Column, ...]
  values: np.ndarray  # float32 [N, C], mapped from a file
  predictions: Predictions


def quantities(model) -> tuple[str, ...]:
  """States first, then gates by the names of the cell's equations."""
  return tuple(model.units["layer_0"])


def columns(model) -> tuple[Column, ...]:
  return tuple(
    Column(layer, name, unit)
    for layer, sizes in enumerate(model.units.values())
    for name, size in sizes.items()
    for unit in range(size)
  )


def record(
  model,
  params,
  ids_N: Sequence[int],
  path: pathlib.Path,
  progress: Callable[[int, int], None] | None = None,
) -> Recording:
  """Reads the text once and writes all columns to a file at `path` (8 GB for 500,000 x 4,096)."""
  named, N = columns(model), len(ids_N)
  check_room(path, N * len(named) * 4)
  values = np.memmap(path, np.float32, mode="w+", shape=(N, len(named)))
  parts = []
  for start, stop, chunk, predictions in read(model, params, ids_N):
    values[start:stop] = chunk
    parts.append(predictions)
    if progress:
      progress(stop, N)
  return Recording(named, values, Predictions(*map(np.concatenate, zip(*parts))))


def read(model, params, ids_N) -> Iterator[tuple[int, int, np.ndarray, Predictions]]:
  """The text chunk by chunk: start, stop, values [stop - start, C], predictions."""
  params, carry = jax.device_put(model.prepare(params)), model.initial_carry(1)
  names, N = quantities(model), len(ids_N)
  # What is read beyond the end changes nothing before it, and spares a program of another length.
  padded = np.concatenate([np.asarray(ids_N, np.int32), np.zeros(-N % CHUNK + 1, np.int32)])
  for start in range(0, N, CHUNK):
    stop = min(start + CHUNK, N)
    ids_T = padded[start : start + CHUNK + 1]
    values, predictions, carry = _chunk(model, names, params, ids_T, carry)
    predictions = Predictions(*(np.array(each[: stop - start]) for each in predictions))
    if stop == N:
      predictions.nats[-1] = np.nan
    yield start, stop, np.asarray(values)[: stop - start], predictions


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chunk(model, names, params, ids_T, carry):
  logits_TxBxV, carry, out = model.apply(params, ids_T[:-1, None], carry, record=True)
  values = [out[f"layer_{n}"][name][:, 0] for n in range(len(out)) for name in names]
  log_p_TxV = jax.nn.log_softmax(logits_TxBxV[:, 0])
  nats_T = -jnp.take_along_axis(log_p_TxV, ids_T[1:, None], axis=1)[:, 0]
  top, top_ids = lax.top_k(log_p_TxV, min(TOP, log_p_TxV.shape[-1]))
  return jnp.concatenate(values, axis=1), Predictions(nats_T, top_ids, jnp.exp(top)), carry


def check_room(path, wanted):
  """Raises UserError if a file of so many bytes does not fit where `path` is."""
  try:
    free = shutil.disk_usage(path.parent).free
  except OSError as error:
    raise errors.UserError(f"cannot write to {path.parent}: {error.strerror}") from error
  if wanted > free - (1 << 28):
    raise errors.UserError(
      f"the recording takes {wanted / 1e9:.1f} GB and {path.parent} has {free / 1e9:.1f} GB free: "
      "give another --out, or fewer --characters"
    )
