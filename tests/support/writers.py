"""Small runs with random parameters, for the tests of the writer."""

import base64
import dataclasses
import pathlib
import types

import numpy as np
import numpy_reference

from charrnn import models
from charrnn.data import tokenizers

TEXT = "".join(map(chr, range(97, 123))) + " ,.\n"
decode = base64.b64decode


def run(
  cell, *, text=TEXT, kind="char", end=None, layers=2, hidden=12, embed=0, residual=False, scale=2.0
):
  """Return an object with the properties of a run that `writer.page` and the sampler read.

  `end` is the text of the token END; without it, the vocabulary has no such token. `scale`
  multiplies the weights of inputs and outputs, so that the units and the probabilities change from
  token to token.
  """
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  if end is not None:
    counts, tokens = (*tokenizer.counts, 1), (*tokenizer.tokens, tokenizers.END)
    tokenizer = dataclasses.replace(tokenizer, counts=counts, tokens=tokens, end=end)
  V, rng = tokenizer.vocab_size, np.random.default_rng(0)
  params = numpy_reference.random_params(cell, V, embed, hidden, layers, rng)
  params["head"]["W_hy"] *= scale
  params["layer_0"]["W_xh"] *= scale
  params = {
    layer: {name: array.astype(np.float32) for name, array in arrays.items()}
    for layer, arrays in params.items()
  }
  fields = {"cell": cell, "layers": layers, "hidden": hidden, "embed": embed, "residual": residual}
  fields |= {"compute_dtype": "float32", "unroll": "scan"}
  return types.SimpleNamespace(
    path=pathlib.Path("runs/a <b>name"),
    config=types.SimpleNamespace(model=types.SimpleNamespace(**fields)),
    params=params,
    model=models.make(V, fields, tokenizer.end_id),
    tokenizer=tokenizer,
    step=5,
    meta={"valid_loss": 1.5},
  )
