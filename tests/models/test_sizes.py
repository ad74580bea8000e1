"""What the formulas say of a network, against the network itself."""

import jax
import pytest

from charrnn.models import cells, network, sizes
from charrnn.training import state


def test_all_cells_have_a_size():
  assert {name: len(cell.gates) for name, cell in cells.CELLS.items()} == sizes.GATES
  assert {n: len(cell.biases) for n, cell in cells.CELLS.items() if cell.biases} == sizes.BIASES


@pytest.mark.parametrize("cell", cells.CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embed", [0, 4])
def test_parameters_are_those_that_a_model_makes(cell, layers, embed):
  options = {"dropout": 0.0, "init": "modern", "forget_bias": 1.0, "compute_dtype": "float32"}
  shape = {"cell": cell, "layers": layers, "hidden": 6, "embed": embed}
  params = jax.eval_shape(network.make(7, **shape, **options).init, jax.random.key(0))
  assert sizes.parameters(7, **shape) == state.count(params)
  # All matrices but those that are looked up in: the embedding, or else the first layer's input.
  looked_up = params["embed"]["W_e"] if embed else params["layer_0"]["W_xh"]
  matrices = [leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
  assert sizes.multiplied(7, **shape) == sum(matrices) - looked_up.size
