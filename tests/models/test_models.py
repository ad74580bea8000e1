"""The formulas for the number of parameters, compared with real networks."""

import jax
import pytest

from charrnn import errors, models
from charrnn.models import cells


@pytest.mark.parametrize("cell", cells.CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embed", [0, 4])
def test_the_parameter_count_agrees_with_a_model(cell, layers, embed):
  shape = {"cell": cell, "layers": layers, "hidden": 6, "embed": embed}
  params = jax.eval_shape(models.make(7, shape).init, jax.random.key(0))
  assert models.parameter_count(7, **shape) == sum(leaf.size for leaf in jax.tree.leaves(params))
  # The table is used for look-up only: the embedding, or the input weights of the first layer.
  table = params["embed"]["W_e"] if embed else params["layer_0"]["W_xh"]
  matrices = [leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
  assert models.matmul_parameters(7, **shape) == sum(matrices) - table.size


@pytest.mark.parametrize("cell", cells.CELLS)
def test_units_for_returns_the_closest_size(cell):
  sizes = [models.parameter_count(7, cell, 2, hidden) for hidden in range(1, 40)]
  for count in (1, sizes[9], sizes[9] + 1, (sizes[20] + sizes[21]) // 2, sizes[30] - 1):
    closest = min(range(39), key=lambda n: abs(sizes[n] - count)) + 1
    assert models.units_for(count, 7, cell, 2) == closest


@pytest.mark.parametrize("field", ["cell", "init", "unroll"])
def test_unknown_names_are_rejected(field):
  fields = {"cell": "lstm", "layers": 1, "hidden": 4} | {field: "nothing"}
  with pytest.raises(errors.UserError, match=rf"model\.{field}=nothing: use one of "):
    models.make(7, fields)
