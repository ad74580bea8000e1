"""What all who train are given alike."""

import numpy as np

LEARNING_RATE, CLIP = 2e-3, 1.0


def random(work):
  """Four windows of random characters to go round in: (x, y), each [T, B]."""
  rng = np.random.default_rng(0)
  ids = rng.integers(0, work.alphabet, (4, work.window + 1, work.batch)).astype(np.int32)
  return [(window[:-1], window[1:]) for window in ids]
