"""Reference runs: reading compare.json, the closest runs, and the picture and its labels."""

import itertools
import json
import math
import random

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib import text
from matplotlib.backends import backend_agg

from charrnn import errors
from charrnn.sweeps import comparison_reference


def record(source="book", characters=100_000, parameters=1000, end=2.0, **values):
  """Return a run of compare.json whose loss falls to `end`."""
  is_ngram = parameters is None
  curve = [] if is_ngram else [point(1000 * n, end + 1 / n - 0.1) for n in range(1, 11)]
  facts = {"run": f"{source} {characters} {parameters}", "status": "finished", "source": source}
  facts |= {"model": "7-gram" if is_ngram else f"lstm 1 x {parameters}", "parameters": parameters}
  facts |= {"text_characters": characters, "seconds": 3.0, "bits_per_byte": end, "curve": curve}
  return facts | values


def point(characters, loss):
  losses = {"train_nats": loss, "nats": loss, "bits_per_byte": loss}
  return {"step": 1, "characters": characters, "seconds": 1.0, **losses}


def curves(*records):
  return comparison_reference.curves({"runs": list(records)})


def grid(texts=3, spread=1.0):
  rng = random.Random(0)
  return curves(
    *(
      record(f"text {text}", amount, parameters, end=2 + spread * rng.random())
      for text in range(texts)
      for amount in (10_000, 100_000, 1_000_000)
      for parameters in (None, 1_000, 10_000, 100_000)
    )
  )


def test_finished_runs_are_read(tmp_path):
  path = tmp_path / "compare.json"
  runs = [record(), record(parameters=None), record(status="running"), record(status="diverged")]
  runs += [record(bits_per_byte=None), record(source=None), record(text_characters=0)]
  path.write_text(json.dumps({"runs": runs}))
  network, ngram = comparison_reference.read(path)
  np.testing.assert_allclose(network.line[-1], (10_000, 2.0))
  assert ngram.parameters is None and not len(ngram.line)
  # An unfinished run of the user is compared too.
  assert [each.status for each in curves(*runs)] == ["finished", "finished", "running"]


def test_invalid_numbers_are_left_out():
  numbers = [None, -1, 0, math.nan, math.inf, 5]
  (curve,) = curves(record(curve=[point(number, 2.0) for number in numbers], parameters=-7))
  assert curve.line.tolist() == [[5, 2.0]] and curve.parameters is None


@pytest.mark.parametrize(
  "value",
  [
    {},
    {"runs": {}},
    {"runs": [1]},
    {"runs": []},
    {"runs": [record(status="running")]},
    {"runs": [record(curve=[[]])]},
    {"runs": [record(curve=[point("1", 2.0)])]},
    *({"runs": [record(**{name: []})]} for name in record() if name != "curve"),
    *({"runs": [{k: v for k, v in record().items() if k != name}]} for name in record()),
  ],
)
def test_other_files_are_refused(value, tmp_path):
  path = tmp_path / "compare.json"
  path.write_text(json.dumps(value))
  with pytest.raises(errors.UserError, match=r"^--reference=.*: use the compare\.json") as caught:
    comparison_reference.read(path)
  assert "\n" not in str(caught.value)


def test_the_closest_run_is_similar_in_text_and_size():
  references = grid()
  (own,) = curves(record("mine", 90_000, 30_000))
  found = comparison_reference.closest(own, references)
  assert {each.source for each in found} == {"text 0", "text 1", "text 2"}
  assert {(each.text_characters, each.parameters) for each in found} == {(100_000, 10_000)}
  losses = [each.bits_per_byte for each in found]
  assert losses == sorted(losses)
  # An n-gram is compared with n-grams.
  (own,) = curves(record("mine", 900_000, None))
  found = comparison_reference.closest(own, references)
  assert {(each.text_characters, each.parameters) for each in found} == {(1_000_000, None)}
  assert comparison_reference.closest(own, [each for each in references if each.parameters]) == []


def test_the_table_shows_each_run_with_its_closest_runs():
  references = grid()
  own = curves(
    *(record(f"mine {n}", end=1.0 + n) for n in range(comparison_reference.MAX_RUNS + 1))
  )
  lines = comparison_reference.table(own, references)
  rows = [line for line in lines if "lstm" in line]
  assert len(rows) == comparison_reference.MAX_RUNS * 4
  assert [line.startswith("mine") for line in rows] == [True, False, False, False] * 8
  grams = {f"{each.bits_per_byte:.4f}" for each in references if not each.parameters}
  assert all(line.split()[-1] in grams for line in rows if not line.startswith("mine"))
  assert (
    "Only the best" in lines[-1]
    and "no run" in comparison_reference.table([], references)[0].lower()
  )


KINDS = {
  "reference alone": ([], grid()),
  "same losses": ([], grid(1, spread=0.0)),
  "one run": (curves(record("mine")), grid()),
  "two texts": (curves(*(record(f"{n}" * 99, run=f"run {n}" * 20) for n in range(5))), grid(2)),
  "many characters": (curves(record(curve=[point(9e15, 2.0)])), grid()),
  "an n-gram": (curves(record("mine", parameters=None)), grid(1)),
  "only n-grams": (curves(record("mine", parameters=None)), curves(record(parameters=None))),
  "one reference": (curves(record("$x_1$ \x1b[31m" * 20)), curves(record("$y^"))),
  "many": (
    curves(*(record(f"m{n}", end=n) for n in range(1, 20))),
    curves(*(record(f"text {n % 20 if n < 40 else 0}", end=1 + n / 500) for n in range(70))),
  ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_plotted_and_labels_do_not_overlap(kind, tmp_path, monkeypatch):
  figures, figure_type = [], mpl.figure.Figure

  def collect(**options):
    figures.append(figure_type(**options))
    return figures[-1]

  monkeypatch.setattr(mpl.figure, "Figure", collect)
  comparison_reference.plot(*KINDS[kind], tmp_path / "x.png")
  width, height = np.divide(plt.imread(tmp_path / "x.png").shape[1::-1], 130)
  assert 2 < width < 20 and 2 < height < 20
  (figure,) = figures
  backend_agg.FigureCanvasAgg(figure).draw()
  # The labels of the panels overlap neither each other nor a panel.
  labels = [text.Text.get_window_extent(each) for each in figure.findobj(text.Annotation)]
  assert labels and not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
  assert not any(axes.bbox.overlaps(box) for axes in figure.axes for box in labels)
  # Nothing is cut off.
  titles = [each.get_window_extent() for each in (figure.texts[0], *figure.legends)]
  for box in labels + titles:
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
