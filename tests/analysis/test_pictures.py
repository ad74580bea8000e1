"""Tests of the pictures of a synthetic study."""

import made_up
import numpy as np
import pytest
from matplotlib import image

from charrnn.analysis import pictures


@pytest.mark.parametrize("name", ["findings", "saturation", "emergence"])
def test_a_picture_is_not_empty(name, tmp_path):
  study = made_up.study()
  for finding in study["findings"]:
    baseline = finding["untrained_baseline"]
    finding["untrained"] = baseline and baseline["to_beat"]
  getattr(pictures, name)(study, tmp_path / "a.png")
  pixels = image.imread(tmp_path / "a.png")[..., :3]
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("name", ["findings", "saturation", "emergence"])
def test_a_study_without_findings_has_pictures(name, tmp_path):
  study = made_up.study() | {"findings": [], "saturation": [], "emergence": []}
  getattr(pictures, name)(study, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 1000
