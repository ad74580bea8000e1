"""Random native layers, their exact results in float64, and their errors.

A process can use native.cc with only one instruction set and one number of threads. To use others,
start `python -m native_layers compare|digest|fuzz CORES`. It computes layers on this number of
cores and prints the result of `measure` or `fuzz` as JSON.
"""

import functools
import hashlib
import json
import os
import sys
from typing import NamedTuple

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax import lax

from charrnn.models import cells, native, native_library

CELLS = ("rnn", "gru", "lstm")
# JAX 0.7 has this function only in jax.experimental, which newer versions deprecate.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class Case(NamedTuple):
  """The sizes of a layer: steps, rows, inputs and units. With `ids`, the inputs are ids."""

  T: int
  B: int
  D: int
  H: int
  ids: bool = False


# Most sizes are not multiples of those in native.cc: tiles of 6 rows x 64 columns, slots of 16
# lanes, words of two bfloat16 values, blocks of 512 words (backward) and of 384 words (gradients).
CASES = (
  Case(1, 3, 1, 1),
  Case(2, 7, 5, 1, ids=True),
  Case(7, 5, 1, 15, ids=True),
  Case(1, 4, 17, 16),
  Case(3, 13, 33, 17),
  Case(9, 6, 65, 100, ids=True),
  Case(5, 31, 100, 100),
  Case(31, 27, 70, 150),
)
DTYPES = ("float32", "bfloat16")
# Twice the largest `error` of CASES for any instruction set.
TOLERANCES = {"float32": 3e-6, "bfloat16": 3e-2}


def make(cell: str, case: Case, seed=0):
  """Return the parameters, state, inputs and cotangents (state, outputs) of a layer as NumPy."""
  rng = np.random.default_rng(seed)
  T, B, D, H, ids = case
  cell, G = cells.CELLS[cell], len(cells.CELLS[cell].gates)

  def normal(*shape, scale=1.0):
    return (rng.normal(size=shape) * scale).astype(np.float32)

  params = {
    "W_xh": normal(D, G * H, scale=1 if ids else D**-0.5),
    "W_hh": normal(H, G * H, scale=H**-0.5),
    "b_h": normal(G * H, scale=0.3),
  }
  params |= {name: normal(H, scale=0.3) for name in cell.biases}
  state = cell.state(*(normal(B, H, scale=0.5) for _ in cell.state._fields))
  x = rng.integers(0, D, (T, B)).astype(np.int32) if ids else normal(T, B, D)
  cotangents = cell.state(*(normal(B, H) for _ in cell.state._fields)), normal(T, B, H)
  return params, state, x, cotangents


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(cell: str, dtype: str, params, state, x, cotangents):
  """Return the outputs of a native layer, and the gradients of parameters, state and x."""
  layer = functools.partial(native.layer, cells.CELLS[cell], jnp.dtype(dtype))
  return _with_gradients(layer, params, state, x, (cotangents[0], cotangents[1].astype(dtype)))


def _with_gradients(layer, params, state, x, cotangents):
  if jnp.issubdtype(x.dtype, jnp.integer):
    outputs, vjp = jax.vjp(lambda params, state: layer(params, state, x), params, state)
  else:
    outputs, vjp = jax.vjp(layer, params, state, x)
  return outputs, vjp(cotangents)


def exact(cell: str, *operands):
  """Return the results of `run` from a loop over the reference step in float64."""
  with enable_x64(True):

    def wide(a):
      return jnp.asarray(a, jnp.float64 if a.dtype.kind == "f" else a.dtype)

    return jax.tree.map(np.asarray, _exact(cell, *jax.tree.map(wide, operands)))


@functools.partial(jax.jit, static_argnums=0)
def _exact(cell, params, state, x, cotangents):
  step = cells.CELLS[cell].step

  def layer(params, state, x):
    if not jnp.issubdtype(x.dtype, jnp.integer):
      return lax.scan(functools.partial(step, params), state, x)
    identity = params | {"W_xh": jnp.eye(params["W_xh"].shape[1], dtype=jnp.float64)}
    return lax.scan(functools.partial(step, identity), state, params["W_xh"][x])

  return _with_gradients(layer, params, state, x, cotangents)


def error(actual, expected) -> float:
  """Return the largest error of any array, relative to the largest entry of the exact array."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)

  def single(a, e):
    assert a.shape == e.shape
    return float(np.abs(np.asarray(a, np.float64) - e).max() / np.abs(e).max())

  return max(jax.tree.leaves(jax.tree.map(single, actual, expected)))


def digest(tree) -> str:
  """Return a hash of the bytes of all arrays."""
  return hashlib.sha256(
    b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(tree))
  ).hexdigest()


def measure(compare: bool) -> dict:
  """Compute some layers; return the library's description, digests and the largest errors."""
  hits = []
  jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
  errors, digests = dict.fromkeys(DTYPES, 0.0), {}
  path = str(native_library.load())
  for cell in CELLS:
    for case in CASES[4:6] if compare else CASES[4:]:
      operands = make(cell, case)
      expected = exact(cell, *operands) if compare else None
      for dtype in DTYPES:
        actual = run(cell, dtype, *operands)
        digests[f"{cell} {dtype} {tuple(case)}"] = digest(actual)
        if compare:
          errors[dtype] = max(errors[dtype], error(actual, expected))
  return {"path": path, "errors": errors, "digests": digests, "cache_hits": sum(hits)}


def fuzz(num: int) -> dict:
  """Compute layers and output layers of `num` random sizes; return the library's description."""
  path, rng = str(native_library.load()), np.random.default_rng(0)
  for _ in range(num):
    T, B, D, V = (int(rng.integers(*bounds)) for bounds in ((0, 5), (0, 30), (1, 90), (1, 140)))
    H = int(rng.choice([1, 2, 15, 16, 17, 31, 33, 48, 64, 65, 100, 130]))
    cell, dtype = str(rng.choice(CELLS)), str(rng.choice(DTYPES))
    case = Case(T, B, D, H, ids=bool(rng.integers(2)))
    shapes = (T, B, D), (D, V), (V,), (T, B, V)
    x, W, b, dy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    with jax.disable_jit():  # compiling every size would take longer than computing it
      run(cell, dtype, *make(cell, case))
      _, vjp = jax.vjp(functools.partial(native.linear, dtype=jnp.dtype(dtype)), x, W, b)
      vjp(jnp.asarray(dy))
  return {"path": path, "num": num}


if __name__ == "__main__":
  mode, cores = sys.argv[1], int(sys.argv[2])
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  print(json.dumps(fuzz(50) if mode == "fuzz" else measure(compare=mode == "compare")))
