"""The writer: one HTML file in which a recurrent network writes text in the browser."""

import base64
import math
from typing import Any

import numpy as np

from charrnn import console, errors
from charrnn.evaluation import pages
from charrnn.runs import run as run_lib

# The script of the page is the concatenation of these files, in this order.
SCRIPTS = (
  *("elements", "glyphs", "shades", "theme"),
  *("model", "tokens", "sampler", "units", "writer"),
)
STYLES = ("theme", "common", "writer")
CELLS = ("rnn", "gru", "lstm")  # the cells in model.js


def page(run: run_lib.Run) -> str:
  """Return the page of an opened run.

  The page computes in float32 or better, even if the run computes products in bfloat16. Raises
  UserError if the page does not support the model, or if the parameters are not finite.
  """
  cell = run.config.model.cell
  if cell not in CELLS:
    raise errors.UserError(
      f"{run.path} has model.cell={cell}: a page can only run {', '.join(CELLS)}; use a run with "
      "one of these cells"
    )
  if not all(np.isfinite(array).all() for part in run.params.values() for array in part.values()):
    raise errors.UserError(
      f"{run.path} has parameters that are not finite at step {run.step}, because its training "
      "has diverged: use an earlier --step"
    )
  title = f"{_name(run)}: charrnn writer"
  style, script = pages.sources(STYLES, "css"), pages.sources(SCRIPTS, "js")
  weights = {
    layer: {name: _array(array) for name, array in arrays.items()}
    for layer, arrays in run.params.items()
  }
  data = pages.blocks({"run": _facts(run), "weights": weights})
  return pages.page("writer.html", title, style, script, data=data)


def _name(run: run_lib.Run) -> str:
  return console.visible(run.path.resolve().name)


def _facts(run: run_lib.Run) -> dict[str, Any]:
  fields, tokenizer, loss = run.config.model, run.tokenizer, run.meta["valid_loss"]
  return {
    "name": _name(run),
    "step": run.step,
    "valid_loss": loss if loss is not None and math.isfinite(loss) else None,
    "cell": fields.cell,
    "layers": fields.layers,
    "hidden": fields.hidden,
    "residual": fields.residual,
    "tokenizer": {
      "kind": tokenizer.kind,
      "unit": tokenizer.unit,
      "texts": tokenizer.texts,
      "represents_bytes": tokenizer.represents_bytes,
      "unwritable": []
      if tokenizer.writable is None
      else np.flatnonzero(~tokenizer.writable).tolist(),
      "merges": getattr(tokenizer, "merges", []),
      "default_id": tokenizer.default_id(),
      "end_id": tokenizer.end_id,
    },
  }


def _array(array: np.ndarray) -> dict[str, Any]:
  data = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
  return {"shape": array.shape, "data": data}
