"""Cells that are set from outside while a network runs: what was asked for, and as arrays.

A cell is named as LAYER:CELL, both counted from 0, its quantities as 1:c37 and 1:h37. Without a
letter it is what the cell keeps (an LSTM's c, the h of others): from there it reaches all else.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors

_NAME = re.compile(r"(?P<layer>[0-9]{1,9}):(?P<quantity>[a-z]?)(?P<cell>[0-9]{1,9})")
HOLD = math.nan  # the entry stays as it was


class Clamp(NamedTuple):
  layer: int
  cell: int
  value: float
  quantity: str = ""  # a field of the cell's state; none: what the cell keeps


def parse(argument: str) -> Clamp:
  """What `--clamp LAYER:CELL=VALUE` asks for; VALUE is a number or `hold`."""
  name, _, text = argument.partition("=")
  found = _NAME.fullmatch(name.strip())
  try:
    value = HOLD if text.strip() == "hold" else float(text)
  except ValueError:
    value = math.inf
  if not found or math.isinf(value) or (math.isnan(value) and text.strip() != "hold"):
    raise errors.UserError(
      f"--clamp {argument}: write LAYER:CELL=VALUE, such as 1:37=2.5 or 1:37=hold, both from 0"
    )
  return Clamp(int(found["layer"]), int(found["cell"]), value, found["quantity"])


def arrays(rows: Sequence[Sequence[Clamp]], model):
  """The `clamp` of `model.apply` for a batch whose rows have clamps of their own (one: for all).

  Raises UserError for a cell that the model does not have.
  """
  if not model.units:
    raise errors.UserError("--clamp: an ngram has no cells to set")
  clamp, shape = {}, (len(rows), model.units["layer_0"]["h"])
  for row, clamps in enumerate(rows):
    for each in clamps:
      field = _check(each, model)
      layer = clamp.setdefault(f"layer_{each.layer}", {})
      if field not in layer:
        layer[field] = np.zeros(shape, bool), np.zeros(shape, np.float32)
      where, value = layer[field]
      if where[row, each.cell]:
        raise errors.UserError(f"--clamp {each.layer}:{field}{each.cell} is given twice")
      where[row, each.cell], value[row, each.cell] = True, each.value
  return clamp


def _check(clamp: Clamp, model) -> str:
  """The field of the state that is meant."""
  layers, hidden = len(model.units), model.units["layer_0"]["h"]
  fields = model.states
  name = f"--clamp {clamp.layer}:{clamp.quantity}{clamp.cell}"
  if clamp.layer >= layers:
    raise errors.UserError(f"{name}: there is no layer {clamp.layer}, the last is {layers - 1}")
  if clamp.cell >= hidden:
    raise errors.UserError(f"{name}: there is no cell {clamp.cell}, the last is {hidden - 1}")
  if clamp.quantity and clamp.quantity not in fields:
    raise errors.UserError(
      f"{name}: {clamp.quantity} can't be set, only what lasts from step to step: "
      f"{', '.join(fields)}"
    )
  return clamp.quantity or fields[-1]
