"""What the machine could do at best, measured: matrix products and reading memory."""

import concurrent.futures

import numpy as np

from charrnn import runtime

IN_FLIGHT = 8  # products that are queued before one is waited for


def product(work):
  """By JAX on one device, which is all cores of a CPU."""
  import jax
  import jax.numpy as jnp

  dtype = jnp.dtype(work.dtype)
  x = jnp.ones((work.rows, work.inner), dtype)
  W = jnp.full((work.inner, work.columns), 1 / work.columns, dtype)  # keeps a scan's x at 1

  def once(x, W):
    return jnp.matmul(x, W, preferred_element_type=jnp.float32)

  def step(x, W):
    # Every column is needed for the next step, or XLA might leave some out.
    return once(x, W).reshape(work.rows, -1, work.inner).sum(1).astype(dtype)

  @jax.jit
  def one(x, W):
    if work.steps == 1:
      return once(x, W)
    return jax.lax.scan(lambda x, _: (step(x, W), None), x, length=work.steps)[0]

  def run(count):
    for n in range(count):
      y = one(x, W)
      if n % IN_FLIGHT == 0:
        y.block_until_ready()
    y.block_until_ready()

  return run


def read(work):
  """On a CPU by NumPy, each core a part of its own: XLA's reductions do not come near it there."""
  from charrnn.training import steps

  if steps.device().platform != "cpu":
    return _read_by_jax(work)
  cores = len(runtime.cores())
  parts = np.array_split(np.ones(max(1, work.bytes // 4), np.int32), cores)
  threads = concurrent.futures.ThreadPoolExecutor(cores)

  def run(count):
    def loop(part):
      for _ in range(count):
        part.max(initial=0)

    list(threads.map(loop, parts))

  return run


def _read_by_jax(work):
  import jax
  import jax.numpy as jnp

  x = jnp.ones(max(1, work.bytes // 4), jnp.int32)

  @jax.jit
  def many(x, count):
    # Each round hangs on the one before, or it would be done once for all.
    return jax.lax.fori_loop(0, count, lambda _, y: (x ^ y).max(), jnp.int32(0))

  return lambda count: many(x, count).block_until_ready()
