"""Starting from the weights of another run, also onto another alphabet."""

import jax
import numpy as np

from charrnn import errors
from charrnn.runs import run as run_lib

# Which axis of a parameter counts the symbols of the alphabet.
SYMBOLS = {("embed", "W_e"): 0, ("head", "W_hy"): 1, ("head", "b_y"): 0}


def weights(source, model, params, alphabet):
  """`params` with the values of the run `source`: symbol by symbol where they hang on symbols.

  Symbols that the source did not know keep their fresh values. A model of another shape is a
  UserError that names the field.
  """
  run = run_lib.Run.open(source).load()
  for field in ("cell", "layers", "hidden", "embed"):
    ours, theirs = getattr(model.network, field), run.config.model[field]
    if ours != theirs:
      raise errors.UserError(
        f"--config.init_from={source} has model.{field}={theirs}, this run {ours}: "
        f"give --config.model.{field}={theirs}"
      )
  known = {symbol: n for n, symbol in enumerate(run.tokenizer.tokens)}
  pairs = [(n, known[s]) for n, s in enumerate(alphabet.tokens) if s in known]
  if run.tokenizer.kind != alphabet.kind or not pairs:
    raise errors.UserError(
      f"--config.init_from={source} has no symbol in common with this text "
      f"({run.tokenizer.kind} alphabet of {run.tokenizer.vocab_size})"
    )
  new, old = np.array(pairs).T

  def move(path, fresh, value):
    names = tuple(key.key for key in path)
    axis = SYMBOLS.get(names)
    if names == ("layer_0", "W_xh") and not run.config.model.embed:
      axis = 0  # one-hot input
    if axis is None:
      return value
    moved = np.moveaxis(np.array(fresh), axis, 0)
    moved[new] = np.moveaxis(np.asarray(value), axis, 0)[old]
    return np.moveaxis(moved, 0, axis)

  return jax.tree_util.tree_map_with_path(move, params, run.params)
