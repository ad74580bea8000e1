"""What can be asked of the sampler, checked before anything is loaded: no JAX in here."""

import dataclasses

from charrnn import errors

MOST_BEAM = 4096


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the next symbol is drawn, see `filters`. None switches a filter off."""

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self):
    # Written so that NaN fails. The upper end keeps clear of float32's.
    if not 0 <= self.temperature <= 1e30:
      _refuse("temperature", self.temperature, "must be 0 (greedy) or a positive number up to 1e30")
    if self.top_k is not None and not 1 <= self.top_k < 2**31:
      _refuse("top-k", self.top_k, "must be from 1 to 2^31 - 1")
    if self.top_p is not None and not 0 < self.top_p <= 1:
      _refuse("top-p", self.top_p, "must be above 0 and at most 1")


LONGEST, MOST = 10**9, 10**7  # symbols of a text, and texts


def check(*, length, num, seed):
  """Raises UserError for what no text can be made of."""
  if not 0 <= length <= LONGEST:
    _refuse("length", length, f"must be at least 0 and at most {LONGEST}")
  if not 1 <= num <= MOST:
    _refuse("num", num, f"must be at least 1 and at most {MOST}")
  if not 0 <= seed < 2**32:
    _refuse("seed", seed, "must be from 0 to 2^32 - 1")


def check_beam(beam, num):
  """Raises UserError for a search that there cannot be."""
  if not 1 <= beam <= MOST_BEAM:
    _refuse("beam", beam, f"must be from 1 to {MOST_BEAM}")
  if num > beam:
    _refuse("num", num, f"must be at most --beam={beam}, the number of texts that are found")


def _refuse(option, value, remedy):
  raise errors.UserError(f"--{option}={value}: {remedy}")
