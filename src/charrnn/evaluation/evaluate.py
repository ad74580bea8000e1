"""The loss on a whole split, each character scored once with its past carried to it."""

import math

from charrnn.data import batches


def evaluate(loss_step, params, ids, segments, *, readers, window, burn_in, begins=(0,)):
  """Mean nats per character of the segments of `ids`; NaN if they hold none.

  The state is that of having read nothing at the places `begins`, see `batches.scorable_spans`.
  """
  carry, total, count = None, 0.0, 0.0
  pending = None
  windows = batches.scoring_windows(ids, segments, readers, window, burn_in, begins)
  for x, y, weight in windows:
    nats, carry = loss_step(params, carry, x, y, weight)
    count += float(weight.sum())
    if pending is not None:  # fetched while the devices are busy with the next window
      total += float(pending)
    pending = nats
  return (total + float(pending)) / count if count else math.nan
