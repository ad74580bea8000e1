"""Properties that all models have in common, and their sizes compared with real parameters."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_models

from charrnn import errors, models
from charrnn.models import cells

ALL = list(small_models.FIELDS)


@pytest.mark.parametrize("name", ALL)
def test_outputs_are_causal_and_rows_are_independent(name):
  model, params = small_models.make(name)
  x = small_models.ids(8, 3)
  changed = x.copy()
  changed[3, 1] = (x[3, 1] + 1) % 7
  logits, other = (small_models.run(model, params, ids)[0] for ids in (x, changed))
  differs = np.abs(logits - other).max(-1) > 0
  # An n-gram depends on the last two tokens only.
  last = 3 + model.order - 1 if name == "ngram" else 8
  assert not differs[:3].any() and not differs[:, [0, 2]].any() and differs[3:last, 1].all()


@pytest.mark.parametrize("name", ALL)
def test_the_result_does_not_depend_on_how_a_text_is_cut_into_windows(name):
  model, params = small_models.make(name)
  x = small_models.ids(17, 2)
  whole, end, _ = small_models.run(model, params, x)
  for lengths in ([*[1] * 4, 13], [13, *[1] * 4]):
    carry, pieces = model.initial_carry(2), []
    for window in np.split(x, np.cumsum(lengths)[:-1]):
      logits, carry, _ = small_models.run(model, params, window, carry)
      pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), carry) == jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype), model.initial_carry(2)
    )
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5), carry, end)


@pytest.mark.parametrize("name", ALL)
def test_prepared_parameters_give_bit_identical_results(name):
  model, params = small_models.make(name, compute_dtype="bfloat16")
  x, prepared = small_models.ids(10, 2), model.prepare(params)
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(prepared)}
  assert ("bfloat16" in dtypes) == model.has_gradient
  for record in (False, True):
    plain, ours = (small_models.run(model, p, x, record=record) for p in (params, prepared))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


@pytest.mark.parametrize("name", ALL)
def test_units_describe_the_recorded_quantities(name):
  model, params = small_models.make(name)
  recorded = small_models.run(model, params, small_models.ids(5, 3), record=True)[2]
  assert {
    layer: {quantity: array.shape for quantity, array in arrays.items()}
    for layer, arrays in recorded.items()
  } == {
    layer: {quantity: (5, 3, size) for quantity, size in sizes.items()}
    for layer, sizes in model.units.items()
  }
  assert all({*model.states} <= {*sizes} for sizes in model.units.values())


@pytest.mark.parametrize("name", small_models.NETWORKS)
def test_the_dropout_mask_of_a_row_depends_only_on_its_key(name):
  model, params = small_models.make(name, dropout=0.5)
  x, keys = np.zeros((6, 4), int), small_models.rngs(4)
  two_keys = keys._replace(rows=keys.rows[2:])
  four = small_models.run(model, params, x, rngs=keys)[0]
  two = small_models.run(model, params, x[:, 2:], rngs=two_keys)[0]
  plain, _, _ = small_models.run(model, params, x)
  np.testing.assert_allclose(four[:, 2:], two, atol=1e-5)
  assert np.abs(four[:, 0] - four[:, 1]).max() > 1e-3 and np.abs(four - plain).max() > 1e-3


@pytest.mark.parametrize("name", small_models.NETWORKS)
def test_sizes_agree_with_the_parameters(name):
  fields = small_models.FIELDS[name]
  model, params = small_models.make(name)
  size = models.size(7, fields)
  assert size.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
  matrices = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
    for path, leaf in jax.tree.leaves_with_path(params)
    if leaf.ndim == 2
  }
  # Tokens, and learned positions, select rows of these matrices. A tied embedding is both.
  tables = {"embedding": "embed/W_e", "transformer": "embed/W_e", "learned": "embed/W_p"}
  matrices.pop(tables.get(name, "layer_0/W_xh"))
  attention = 2 * 2 * 12 * 5 if fields["cell"] == "transformer" else 0
  assert size.products == sum(matrices.values()) + attention
  assert (model.vocab_size, model.has_gradient) == (7, True)


@pytest.mark.parametrize("name", small_models.NETWORKS)
def test_token_axes(name):
  axes = models.token_axes(7, small_models.FIELDS[name])
  embed = axes["layer_0"].pop("W_xh") if name in cells.CELLS else axes["embed"].pop("W_e")
  head = axes.pop("head", {})
  assert embed == 0 and head in ({"W_hy": 1, "b_y": 0}, {"W_hy": 1}, {})
  assert set(jax.tree.leaves(axes)) == {-1}


@pytest.mark.parametrize("name", small_models.NETWORKS)
def test_units_for_returns_the_closest_size(name):
  fields = small_models.FIELDS[name]
  step = 6 if fields["cell"] == "transformer" else 1
  sizes = {
    n: models.size(7, fields | {"hidden": n}).parameters for n in range(step, 8 * step, step)
  }
  (*_, low, middle, high, _) = sizes.values()
  for count in (1, low, low + 1, (low + middle) // 2, (middle + high) // 2 + 1, high - 1):
    closest = min(sizes, key=lambda n: abs(sizes[n] - count))
    assert models.units_for(count, 7, fields) == closest


def test_sizes_are_computed_without_a_device():
  program = (
    "import small_models\nfrom charrnn import models\nfrom jax._src import xla_bridge\n"
    "for fields in small_models.FIELDS.values():\n"
    "  if models.has_gradient(fields):\n    models.size(7, fields), models.token_axes(7, fields)\n"
    "print(xla_bridge.backends_are_initialized())"
  )
  support = pathlib.Path(small_models.__file__).parent
  command = [sys.executable, "-c", program]
  result = subprocess.run(command, cwd=support, capture_output=True, text=True, check=True)
  assert result.stdout == "False\n"


@pytest.mark.parametrize("field", ["cell", "init", "unroll"])
def test_unknown_names_are_rejected(field):
  fields = {"cell": "lstm", "layers": 1, "hidden": 4} | {field: "nothing"}
  with pytest.raises(errors.UserError, match=rf"model\.{field}=nothing: use one of "):
    models.make(7, fields)
