"""What cannot be sampled is refused by the name of its option."""

import re

import pytest

from charrnn import errors
from charrnn.sampling import options


@pytest.mark.parametrize(
  "name, values",
  {
    "temperature": (-1.0, float("nan"), float("inf"), 1e31),
    "top_k": (0, -5, 2**31),
    "top_p": (0.0, -0.1, 1.01, float("nan")),
  }.items(),
)
def test_settings_out_of_range(name, values):
  for value in values:
    start = f"--{name.replace('_', '-')}={value}: must be"
    with pytest.raises(errors.UserError, match="^" + re.escape(start)):
      options.Settings(**{name: value})


def test_settings_at_the_ends_of_their_ranges():
  options.Settings()
  options.Settings(temperature=0, top_k=1, top_p=1)
  options.Settings(temperature=1e30, top_k=2**31 - 1, top_p=1e-30)


@pytest.mark.parametrize("name, value", [("length", -1), ("num", 0), ("seed", -1), ("seed", 2**32)])
def test_counts_out_of_range(name, value):
  with pytest.raises(errors.UserError, match=f"^--{name}={value}: must be"):
    options.check(**{"length": 0, "num": 1, "seed": 2**32 - 1} | {name: value})
