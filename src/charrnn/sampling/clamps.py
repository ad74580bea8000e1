"""Units whose values are set from outside while a network runs.

A unit is named LAYER:UNIT, both counted from 0, and its quantities 1:c37 and 1:h37. Without a
letter the quantity is the cell's memory (an LSTM's c, otherwise h), which determines the rest.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charrnn import errors

HOLD = math.nan  # keep the value from before the step
_NAME = re.compile(r"(?P<layer>[0-9]{1,9}):(?P<quantity>[a-z]?)(?P<unit>[0-9]{1,9})")


class Clamp(NamedTuple):
  layer: int
  unit: int
  value: float
  quantity: str = ""  # a field of the cell's state; empty: its memory


def parse(argument: str) -> Clamp:
  """Parse the argument LAYER:UNIT=VALUE of --clamp; VALUE is a number or `hold`."""
  name, _, text = argument.partition("=")
  match = _NAME.fullmatch(name.strip())
  try:
    value = HOLD if text.strip() == "hold" else float(text)
  except ValueError:
    value = math.inf
  if not match or math.isinf(value) or (math.isnan(value) and text.strip() != "hold"):
    raise errors.UserError(
      f"--clamp {argument}: write LAYER:UNIT=VALUE, such as 1:37=2.5 or 1:37=hold, both from 0"
    )
  return Clamp(int(match["layer"]), int(match["unit"]), value, match["quantity"])


def arrays(rows: Sequence[Sequence[Clamp]], model) -> dict[str, dict[str, tuple]]:
  """Return the `clamp` of `Model.apply` for the clamps of each row; a single row is for all.

  Raise UserError for units that the model does not have, and for two clamps of one quantity.
  """
  clamp = {}
  for row, clamps in enumerate(rows):
    for each in clamps:
      quantity, units = _resolve(each, model)
      layer = clamp.setdefault(f"layer_{each.layer}", {})
      if quantity not in layer:
        layer[quantity] = np.zeros((len(rows), units), bool), np.zeros((len(rows), units), "f4")
      mask, values = layer[quantity]
      if mask[row, each.unit]:
        raise errors.UserError(f"--clamp {each.layer}:{quantity}{each.unit} is set twice")
      mask[row, each.unit], values[row, each.unit] = True, each.value
  return clamp


def _resolve(clamp: Clamp, model) -> tuple[str, int]:
  """Return the quantity that a clamp sets, and the number of units of its layer."""
  name = f"--clamp {clamp.layer}:{clamp.quantity}{clamp.unit}"
  if not model.units:
    raise errors.UserError(f"{name}: an n-gram has no units to set")
  quantity = clamp.quantity or model.states[-1]
  layer = model.units.get(f"layer_{clamp.layer}")
  if layer is None:
    raise errors.UserError(
      f"{name}: there is no layer {clamp.layer}, the last is {len(model.units) - 1}"
    )
  if quantity not in model.states:
    raise errors.UserError(
      f"{name}: {quantity} cannot be set, only what lasts from step to step: "
      f"{', '.join(model.states)}"
    )
  if clamp.unit >= layer[quantity]:
    raise errors.UserError(
      f"{name}: there is no unit {clamp.unit}, the last is {layer[quantity] - 1}"
    )
  return quantity, layer[quantity]
