"""Tests of the pictures of a synthetic study."""

import made_up
import numpy as np
import pytest
from matplotlib import figure, image

from charrnn import plotting
from charrnn.analysis import pictures


@pytest.mark.parametrize("name", ["findings", "probes", "saturation", "emergence"])
def test_a_picture_is_not_empty(name, tmp_path):
  study = made_up.study()
  for finding in study["findings"]:
    baseline = finding["untrained_baseline"]
    finding["untrained"] = baseline and baseline["to_beat"]
  getattr(pictures, name)(study, tmp_path / "a.png")
  pixels = image.imread(tmp_path / "a.png")[..., :3]
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_axis_label_explains_a_column_of_the_picture():
  finding = {"name": "0:h7", "quantity": "h", "layer": 0, "cell": 7}
  assert pictures._example([finding]) == "0:h7 is quantity h of unit 7 of layer 0; "
  assert pictures._example([]) == ""


@pytest.mark.parametrize("name", ["findings", "probes", "saturation", "emergence"])
def test_a_study_without_findings_has_pictures(name, tmp_path):
  study = made_up.study() | {"findings": [], "probes": [], "saturation": [], "emergence": []}
  getattr(pictures, name)(study, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_study_of_states_has_no_marks_of_untrained_networks(tmp_path, monkeypatch):
  texts = []
  legend = figure.Figure.legend

  def keep(self, *, handles, **options):
    texts.extend(handle.get_label() for handle in handles)
    return legend(self, handles=handles, **options)

  monkeypatch.setattr(figure.Figure, "legend", keep)
  pictures.findings(made_up.without_network(made_up.study()), tmp_path / "a.png")
  assert texts and not any("untrained" in text for text in texts)


@pytest.mark.parametrize("cell", ["lstm", "transformer"])
def test_probes_without_a_score_are_gaps_and_kinds_of_units_have_names(cell, tmp_path, monkeypatch):
  study, panels, original = made_up.study(cell=cell), [], plotting.panels

  def keep(*arguments):
    panels.extend(original(*arguments))
    return panels

  monkeypatch.setattr(plotting, "panels", keep)
  study["probes"][0]["units"] = [None] * 5
  pictures.probes(study, tmp_path / "a.png")
  assert len(panels) == len(study["probes"])
  units = next(line for line in panels[0].lines if line.get_label() == "k feature columns")
  assert np.isnan(units.get_ydata()).all()
  title = panels[0].get_title()
  assert title == ("in-quotes: h" if cell == "transformer" else "in-quotes")


def test_the_marks_of_a_finding_do_not_overlap_whatever_its_scores():
  finding = dict(made_up.study()["findings"][0])
  for name in ("discovery", "confirmation", "untrained_baseline"):
    finding[name] = finding[name] | {"score": 0.8}
  finding["last_k"] = [{"k": 8, "score": 0.8}]
  axes = figure.Figure().subplots()
  pictures._finding(axes, 0, finding)
  marks = [line for line in axes.lines if line.get_marker() not in (None, "", "None")]
  heights = sorted(line.get_ydata()[0] for line in marks)
  assert len(heights) == 4 and min(np.diff(heights)) >= 0.19
