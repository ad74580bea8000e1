"""The loss on a whole split, each character scored once with its past carried to it."""

import math

import numpy as np

from charrnn.data import batches
from charrnn.training import steps


def evaluate(eval_step, model, params, ids, segments, *, readers, window, burn_in, begins=(0,)):
  """Mean nats per character of the segments of `ids`; NaN if they hold none.

  The state is that of having read nothing at the places `begins`, see `batches.scorable_spans`.
  """
  layout = steps.devices()
  carry, total, count = None, 0.0, 0.0
  pending = None
  windows = batches.scoring_windows(ids, segments, readers, window, burn_in, begins)
  for arrays in windows:
    x, y, weight = (_pad(array, layout.local) for array in arrays)
    if carry is None:
      carry = steps.shard(model.initial_carry(x.shape[1]), layout, 0)
      carry = steps.put(carry, layout, steps.AXIS)
    nats, carry = eval_step(params, carry, *(steps.shard(a, layout, 1) for a in (x, y, weight)))
    count += float(weight.sum())
    if pending is not None:  # fetched while the devices are busy with the next window
      total += float(pending)
    pending = nats
  return (total + float(pending)) / count if count else math.nan


def _pad(array_TxB, multiple):
  return np.pad(array_TxB, ((0, 0), (0, -array_TxB.shape[1] % multiple)))
