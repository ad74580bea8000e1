import jax
import jax.numpy as jnp
import pytest

from charrnn.benchmarks import work
from charrnn.models import rnn


def product_flops(jaxpr):
  """Of every dot_general, those in a scan as often as it runs."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      length = 1
      for axis in contracted:
        length *= eqn.invars[0].aval.shape[axis]
      total += 2 * eqn.outvars[0].aval.size * length
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    total += times * sum(map(product_flops, inside(eqn)))
  return total


def inside(eqn):
  """The programs that an operation runs, a scan's or a function's."""
  for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
    inner = getattr(value, "jaxpr", value)
    if hasattr(inner, "eqns"):
      yield inner


@pytest.mark.parametrize("cell", work.GATES)
@pytest.mark.parametrize("layers", [1, 3])
def test_flops_are_those_of_the_products_that_are_traced(cell, layers):
  """The readable model, differentiated by JAX; only its gradient of a look-up is a product more."""
  task = work.Training(cell=cell, layers=layers, hidden=6, batch=3, window=5, alphabet=7)
  options = {"embed": 0, "dropout": 0.0, "init": "modern", "forget_bias": 1.0}
  options |= {"cell": cell, "layers": layers, "hidden": 6, "compute_dtype": "float32"}
  model = rnn.make(7, **options)
  ids = jnp.zeros((5, 3), jnp.int32)

  def loss(params, carry):
    logits, _, _ = model.apply(params, ids, carry, record=True)
    return layers.cross_entropy(logits, ids).mean()

  args = model.init(jax.random.key(0)), model.initial_carry(3)
  traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*args)
  look_up = 2 * 7 * work.GATES[cell] * 6 * task.amount
  assert product_flops(traced.jaxpr) == task.flops + look_up


def test_the_blogs_network_by_hand():
  task = work.Training()
  assert work.weights(task) == 3 * 512 * 2048 + 512 * 65
  assert task.flops == 6 * work.weights(task) * 100 * 100
  drawn = work.Sampling(dtype="bfloat16", batch=4)
  assert drawn.bytes == 2 * work.weights(drawn) * drawn.block
  assert drawn.flops == 2 * work.weights(drawn) * drawn.block * 4
