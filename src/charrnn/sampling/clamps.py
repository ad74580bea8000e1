"""Units whose values are set from outside while a network runs.

A unit is named LAYER:UNIT, both counted from 0, and its quantities 1:c37 and 1:h37. Without a
letter the quantity is the cell state c of an LSTM, otherwise h; it determines the rest.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors

HOLD = math.nan  # keep the value from before the step
_NAME = re.compile(r"([0-9]{1,9}):([a-z]?)([0-9]{1,9})")


class Clamp(NamedTuple):
  layer: int
  unit: int
  value: float
  quantity: str = ""  # a field of the cell's state; empty: its last


def parse(argument: str) -> Clamp:
  """Parse the argument LAYER:UNIT=VALUE of --clamp; VALUE is a number or `hold`."""
  name, text = (side.strip() for side in argument.partition("=")[::2])
  match = _NAME.fullmatch(name)
  try:
    value = HOLD if text == "hold" else float(text)
  except ValueError:
    value = math.inf
  if not match or not (text == "hold" or math.isfinite(value)):
    raise errors.UserError(
      f"--clamp {argument}: write LAYER:UNIT=VALUE, such as 1:37=2.5 or 1:37=hold, both from 0"
    )
  return Clamp(int(match[1]), int(match[3]), value, match[2])


def arrays(rows: Sequence[Sequence[Clamp]], model) -> dict[str, dict[str, tuple]]:
  """Return the `clamp` of `Model.apply` for the clamps of each row; a single row is for all.

  Raise UserError for units that the model does not have, and for two clamps of one quantity.
  """
  clamp = {}
  for row, each in ((row, each) for row, clamps in enumerate(rows) for each in clamps):
    quantity, problem = each.quantity, None
    if not model.units:
      problem = "an n-gram has no units to set"
    elif f"layer_{each.layer}" not in model.units:
      problem = f"there is no layer {each.layer}, the last is {len(model.units) - 1}"
    elif (quantity := each.quantity or model.states[-1]) not in model.states:
      problem = f"{quantity} cannot be set, only what lasts from step to step: "
      problem += ", ".join(model.states)
    elif each.unit >= (count := model.units[f"layer_{each.layer}"][quantity]):
      problem = f"there is no unit {each.unit}, the last is {count - 1}"
    if problem:
      raise errors.UserError(f"--clamp {each.layer}:{each.quantity}{each.unit}: {problem}")
    arrays_RxH = np.zeros((len(rows), count), bool), np.zeros((len(rows), count), "f4")
    layer = clamp.setdefault(f"layer_{each.layer}", {})
    mask_RxH, values_RxH = layer.setdefault(quantity, arrays_RxH)
    if mask_RxH[row, each.unit]:
      raise errors.UserError(f"--clamp {each.layer}:{quantity}{each.unit} is set twice")
    mask_RxH[row, each.unit], values_RxH[row, each.unit] = True, each.value
  return clamp
