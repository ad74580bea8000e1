"""Clamps: units whose values are overridden while a network runs.

1:37 names unit 37 of layer 1; both count from 0. A letter selects a quantity: 1:c37 is the unit's
cell state c and 1:h37 its hidden state h. Without a letter, the quantity is c for an LSTM, h for
other cells, and m, the activations of the MLP, for a transformer.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors

HOLD = math.nan  # value of a clamp that freezes its unit
NAME = re.compile(r"([0-9]{1,9}):([a-z]?)([0-9]{1,9})")


class Clamp(NamedTuple):
  """A value for one quantity of one unit."""

  layer: int
  unit: int
  value: float
  quantity: str = ""  # field of the cell's state; the last field if empty


def parse(argument: str) -> Clamp:
  """Parse LAYER:UNIT=VALUE, the argument of --clamp; VALUE is a number or `hold`."""
  name, text = (side.strip() for side in argument.partition("=")[::2])
  match = NAME.fullmatch(name)
  try:
    value = HOLD if text == "hold" else float(text)
  except ValueError:
    value = math.inf
  if not match or not (text == "hold" or math.isfinite(value)):
    raise errors.UserError(
      f"--clamp {argument}: must be LAYER:UNIT=VALUE, for example 1:37=2.5 or 1:37=hold"
    )
  return Clamp(int(match[1]), int(match[3]), value, match[2])


def arrays(rows: Sequence[Sequence[Clamp]], model) -> dict[str, dict[str, tuple]]:
  """Return the argument `clamp` of `Model.apply`: (mask, values), each [R, H], per quantity.

  `rows` has a list of clamps for each row of the batch. A single list applies to all rows. Raise
  UserError if the model has no such unit or if a quantity is clamped twice.
  """
  clamp = {}
  for row, each in ((row, each) for row, clamps in enumerate(rows) for each in clamps):
    quantity, problem = each.quantity, None
    if not model.units:
      problem = "the model has no units to clamp; omit the option"
    elif f"layer_{each.layer}" not in model.units:
      problem = f"no layer {each.layer}: the last layer is {len(model.units) - 1}"
    elif (quantity := each.quantity or model.states[-1]) not in model.states:
      problem = f"{quantity} cannot be clamped: use one of {', '.join(model.states)}"
    elif each.unit >= (count := model.units[f"layer_{each.layer}"][quantity]):
      problem = f"no unit {each.unit}: the last unit is {count - 1}"
    elif math.isnan(each.value) and not model.can_hold:
      problem = "the model has no state that could be held; use a number"
    if problem:
      raise errors.UserError(f"--clamp {each.layer}:{each.quantity}{each.unit}: {problem}")
    arrays_RxH = np.zeros((len(rows), count), bool), np.zeros((len(rows), count), "f4")
    layer = clamp.setdefault(f"layer_{each.layer}", {})
    mask_RxH, values_RxH = layer.setdefault(quantity, arrays_RxH)
    if mask_RxH[row, each.unit]:
      raise errors.UserError(
        f"--clamp {each.layer}:{quantity}{each.unit}: clamped twice; remove one of the two"
      )
    mask_RxH[row, each.unit], values_RxH[row, each.unit] = True, each.value
  return clamp
