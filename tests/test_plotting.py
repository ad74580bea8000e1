import numpy as np
import pytest

from charrnn import plotting


@pytest.mark.parametrize("count", [0, 1, 2, 7, 20])
def test_labels_have_a_minimum_distance_and_stay_near_their_places(count):
  rng = np.random.default_rng(count)
  for scale in (0.01, 0.3, 1.0):
    places = np.sort(rng.uniform(0, scale, count))
    heights = plotting.spread_labels(places, 0.04)
    assert len(heights) == count and (heights >= -1e-9).all() and (heights <= 1 + 1e-9).all()
    assert (np.diff(heights) >= 0.04 - 1e-9).all()
  far = np.arange(0, 1, 0.08)
  np.testing.assert_allclose(plotting.spread_labels(far, 0.04), far)
