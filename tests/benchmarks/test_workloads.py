import dataclasses

import jax
import jax.numpy as jnp
import pytest

from charrnn.benchmarks import workloads
from charrnn.models import cells, rnn
from charrnn.models import layers as layers_lib


def product_flops(jaxpr):
  """Return the FLOPs of all dot_generals; a dot_general in a scan counts once per step."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      length = 1
      for axis in contracted:
        length *= eqn.invars[0].aval.shape[axis]
      total += 2 * eqn.outvars[0].aval.size * length
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    total += times * sum(map(product_flops, inner_programs(eqn)))
  return total


def inner_programs(eqn):
  """Yield the programs inside an operation, for example the body of a scan."""
  for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
    inner = getattr(value, "jaxpr", value)
    if hasattr(inner, "eqns"):
      yield inner


@pytest.mark.parametrize("cell", [name for name, cell in cells.CELLS.items() if cell.native])
@pytest.mark.parametrize("layers", [1, 3])
def test_flops_equal_those_of_the_traced_products(cell, layers):
  """Compare with the plain scan under autodiff; its gradient of a lookup is one more product."""
  task = workloads.Training(cell=cell, layers=layers, hidden=6, batch=3, window=5, vocab_size=7)
  model = rnn.make(7, cell=cell, layers=layers, hidden=6, unroll="scan")
  ids = jnp.zeros((5, 3), jnp.int32)

  def loss(params, carry):
    logits, _, _ = model.apply(params, ids, carry, record=True)
    return layers_lib.cross_entropy(logits, ids).mean()

  args = model.init(jax.random.key(0)), model.initial_carry(3)
  traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*args)
  lookup = 2 * 7 * len(cells.CELLS[cell].gates) * 6 * task.amount
  assert product_flops(traced.jaxpr) == task.flops + lookup


def test_sizes_of_the_standard_network():
  task = workloads.Training()
  assert task.weights == 3 * 512 * 2048 + 512 * 65
  assert task.flops == 6 * task.weights * 100 * 100
  sampling = workloads.Sampling(dtype="bfloat16", batch=4)
  assert sampling.bytes == 2 * sampling.weights * sampling.block
  assert sampling.flops == 2 * sampling.weights * sampling.block * 4


def test_operations_on_registers():
  task = workloads.Registers(threads=3, dtype="bfloat16", pairs=False, iterations=5)
  assert task.amount == 3 * 5 * (2 * 24 * 16)  # a product and a sum for each of 24 x 16 elements
  assert dataclasses.replace(task, pairs=True).amount == 2 * task.amount
