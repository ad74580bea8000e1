"""What the best of many would reach by chance: circular shifts and family-wise p-values.

Neighbouring characters hang together, so a textbook's p-value, or one from shuffled characters,
means nothing. A label that is moved round the circle of its text keeps its runs and loses its text.
The shifts are the multiples of n / (S + 1): a group, in which no shift, the text as it is, differs
from the others by nothing but chance if text and cells were stationary and unrelated. Random shifts
with a neighbourhood of 0 left out are no group: with n = 3000 and 200 left out at either side they
called 6 to 7% of noise significant at 5%. Nothing but the cut where the circle closes is wrong.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import fft

# Places multiplied at a time: partial sums of float32 products are added up in float64.
CHUNK = 4096
# Of the effects, so that Fisher's z is finite.
LARGEST = 1 - 1e-6


def whole(length: int, turns: int) -> int:
  """The characters that so many turns can share: at most turns - 1 at the end fall off."""
  return length - length % turns


def spectrum(rows, turns: int) -> np.ndarray:
  """Fourier transform over the turns of rows [k, n]: complex [k, turns // 2 + 1, n / turns]."""
  return fft.rfft(rows.reshape(len(rows), turns, -1), axis=1)


def turned(one, other, turns: int) -> np.ndarray:
  """Sums over t of x[c, t] * y[k, t + j * n / turns] for every j: float64 [c, turns, k].

  `one` and `other` are the spectra of x and y. The correlation theorem over the turns alone: the
  cost, 4 n c k multiplications and additions, does not hang on their number.
  """
  count, frequencies, length = one.shape
  total = np.zeros((frequencies, count, len(other)), np.complex128)
  for start in range(0, length, CHUNK):
    piece = slice(start, start + CHUNK)
    for frequency in range(frequencies):
      total[frequency] += one[:, frequency, piece].conj() @ other[:, frequency, piece].T
  return fft.irfft(total, turns, axis=0).transpose(1, 0, 2)


class Judged(NamedTuple):
  """Arrays [H]; `to_beat` are effects, NaN where no effect would do."""

  p: np.ndarray
  family_p: np.ndarray
  to_beat: np.ndarray
  family_to_beat: np.ndarray


def judge(observed, null, alpha: float) -> Judged:
  """Observed effects [H] against null [S, H], for each hypothesis and for the family of all.

  p = (1 + number of shifts with null >= observed) / (1 + S). For the family every hypothesis is
  put on one scale, T = (z - median) / MAD with Fisher's z = arctanh(effect), and compared with the
  largest T of each shift: the single-step max-T of Westfall & Young (1993). Median and MAD (median
  absolute deviation) are taken over the shifts and the observed text together, so that under the
  null no one of the 1 + S values differs from the others.
  """
  together = np.arctanh(np.clip(np.concatenate([observed[None], null]), -LARGEST, LARGEST))
  middle = np.median(together, axis=0)
  spread = np.median(np.abs(together - middle), axis=0)
  spread = np.where(spread > 0, spread, 1.0)
  scaled = (together - middle) / spread
  largest = scaled[1:].max(axis=1)
  return Judged(
    _p(observed, null),
    _p(scaled[0], largest[:, None]),
    np.array([_to_beat(column, alpha) for column in null.T]),
    np.tanh(middle + spread * _to_beat(largest, alpha)),
  )


def _p(observed, null):
  return (1 + (null >= observed).sum(axis=0)) / (1 + len(null))


def _to_beat(null, alpha: float) -> float:
  """What a value must exceed for p <= alpha; NaN if there are too few shifts for any to do so."""
  allowed = math.floor(alpha * (1 + len(null)) + 1e-9) - 1
  return float(np.sort(null)[::-1][allowed]) if 0 <= allowed < len(null) else math.nan
