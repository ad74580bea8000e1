"""Starting from another run's weights."""

import jax
import numpy as np
import pytest
import tiny

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.data import tokenizers
from charrnn.launching import programs
from charrnn.runs import checkpoints

OLD, NEW = "abcdefg", "!abcdxyzefg"


@pytest.fixture(params=[0, 5], ids=["one-hot", "embedding"])
def source(tmp_path, request):
  """A run directory with the parameters of seed 1."""
  net = tiny.model(embed=request.param)
  c = tiny.config(model__layers=2, model__hidden=8, model__dropout=0.0, model__embed=request.param)
  c.model.compute_dtype = "float32"
  files.write_json(tmp_path / "config.json", config_lib.to_json(c))
  tokenizers.Tokenizer.from_text(OLD).save(tmp_path / "alphabet.json")
  params = jax.device_get(net.init(jax.random.key(1)))
  writer = checkpoints.Writer(tmp_path / "checkpoints", 1)
  writer.save(3, {"params": params}, {"valid_loss": 1.0})
  writer.close()
  return tmp_path, params, request.param


def start(source, text, **fields):
  path, _, embed = source
  alphabet = tokenizers.Tokenizer.from_text(text)
  net = tiny.model(alphabet.vocab_size, **{"embed": embed} | fields)
  fresh = net.init(jax.random.key(2))
  fields = {"cell": "lstm", "layers": 2, "hidden": 8, "embed": embed} | fields
  params = programs.transferred_params(path, fields, fresh, alphabet)
  return params, jax.device_get(fresh)


def test_the_same_alphabet_takes_every_weight(source):
  params, _ = start(source, OLD)
  jax.tree.map(np.testing.assert_array_equal, params, source[1])


def test_a_larger_alphabet_takes_symbol_by_symbol(source):
  _, old, embed = source
  params, fresh = start(source, NEW)
  symbols = sorted(NEW)
  by_symbol = [("head", "W_hy", 1), ("head", "b_y", 0)]
  by_symbol.append(("embed", "W_e", 0) if embed else ("layer_0", "W_xh", 0))
  for layer, name, axis in by_symbol:
    for n, symbol in enumerate(symbols):
      known = symbol in OLD
      expected = old[layer][name].take(OLD.index(symbol), axis) if known else None
      expected = expected if known else fresh[layer][name].take(n, axis)
      np.testing.assert_array_equal(params[layer][name].take(n, axis), expected)
  for layer, name in [("layer_0", "W_hh"), ("layer_0", "b_h"), ("layer_1", "W_xh")]:
    np.testing.assert_array_equal(params[layer][name], old[layer][name])


@pytest.mark.parametrize(
  ("fields", "field"),
  [({"cell": "gru"}, "cell=lstm"), ({"hidden": 9}, "hidden=8"), ({"layers": 1}, "layers=2")],
)
def test_another_shape_is_refused_by_name(source, fields, field):
  with pytest.raises(errors.UserError, match=rf"has model\.{field}.*give --config.model.{field}"):
    start(source, OLD, **fields)


def test_nothing_in_common_is_refused(source):
  with pytest.raises(errors.UserError, match="no token in common"):
    start(source, "0123")


def test_what_is_no_run_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="no run directory"):
    programs.transferred_params(tmp_path / "none", {}, {}, None)
