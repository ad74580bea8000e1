"""Pictures of comparisons: all kinds are plotted without warnings, with the right content."""

import contextlib
import itertools

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from charrnn import plotting
from charrnn.sweeps import comparison, comparison_pictures, comparison_report

TEXT = {"sha256": "ab"}


def run(state="finished", text=TEXT, steps=4, start=4.0, **fields):
  own = {"seed": 1, "model.cell": "lstm", "batch_size": 4, "window": 5} | fields
  lines = [
    {"step": 5 * n, "epoch": n / 9, "train/loss": start / n, "seconds": 0.5 * n}
    for n in range(1, 2 * steps + 1)
  ]
  lines += [{"step": 10 * n, "valid/loss": start / n, "seconds": n} for n in range(1, steps + 1)]
  size = 100 * own.get("model.hidden", 1)
  name = ",".join(map(str, fields.values())) or "r"
  is_ngram = own["model.cell"] == "ngram"
  sizes = (None, None) if is_ngram else (size, 6.0 * size)
  return comparison.ComparedRun(name, name, state, (), own, text, lines, *sizes)


def product(**values):
  names = [name.replace("__", ".") for name in values]
  return [
    run(start=4 + n / 9, **dict(zip(names, each)))
    for n, each in enumerate(itertools.product(*values.values()))
  ]


KINDS = {
  "nothing": [],
  "waiting": [comparison.ComparedRun("a", "a", "waiting")],
  "no loss yet": [run(steps=0), run(steps=0, seed=2)],
  "one evaluation": [run(steps=1)],
  "diverged": [run("diverged", start=1e29), run("diverged", start=1e30, seed=2)],
  "grid of three": product(model__cell=["rnn", "lstm"], model__layers=[1, 2], model__hidden=[8, 9]),
  "grid of four": product(
    model__cell=["rnn", "lstm"], model__layers=[1, 2], model__hidden=[8, 9], window=[5, 6]
  ),
  "grid with holes": [
    *product(model__cell=["rnn", "lstm"], model__hidden=[8, 16]),
    run("diverged", start=1e9, **{"model.cell": "gru", "model.hidden": 8}),
    run("running", **{"model.cell": "gru", "model.hidden": 16}),
  ],
  "one field, without a loss": [
    *product(window=[5, 6]),
    run("diverged", start=1e29, window=7),
    run("waiting", steps=0, window=8),
  ],
  "one text field, without a loss": [
    *product(model__cell=["rnn", "lstm"]),
    run("diverged", start=1e29, **{"model.cell": "gru"}),
    run("failed", steps=0, **{"model.cell": "mgu"}),
  ],
  "some seeds unfinished": [run(), run("running", steps=2, seed=2), run(seed=3)],
  "with an ngram": [*product(model__hidden=[8, 16]), run(**{"model.cell": "ngram"})],
  "ngrams": [run(**{"model.cell": "ngram", "model.order": n}) for n in (3, 5)],
  "texts": [run(), run(text={"sha256": "cd"}, **{"text.source": "$x_1$"})],
  "many": product(model__hidden=range(1, 11), window=range(5)),
  "long names": [
    run(**{"init_from": "a/long/path/" * 20}),
    run(**{"init_from": "b/long/path/" * 20}),
  ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_plotted(kind, tmp_path):
  result = comparison.compare(KINDS[kind])
  plots = (comparison_pictures.curves, comparison_pictures.settings, comparison_pictures.grid)
  for n, plot in enumerate((*plots, comparison_pictures.sizes)):
    plot(result, tmp_path / f"{n}.png")
    width, height = np.divide(plt.imread(tmp_path / f"{n}.png").shape[1::-1], 130)
    assert 2 < width < 20 and 2 < height < 20
  assert not plt.get_fignums()


# Fields whose names and values together are longer than a label.
MANY = {
  "model.hidden": 1024,
  "model.dropout": 0.25,
  "optimizer.learning_rate": 0.002718,
  "optimizer.weight_decay": 0.01,
  "schedule.warmup_steps": 200,
  "init_from": "runs/with/a/long/path/and/a/long/name",
}


def test_labels_of_different_settings_differ():
  middle = [{"init_from": f"{'x/' * 40}{each}/{'y/' * 40}"} for each in "ab"]
  for kinds in (middle, [MANY, *(MANY | {field: 7} for field in MANY)]):
    result = comparison.compare([run(**each) for each in kinds])
    labels = [setting.label for setting in result.settings]
    assert len(set(labels)) == len(kinds)
    assert max(map(len, labels)) <= comparison.MAX_LABEL < len(result.settings[0].name)


@pytest.mark.parametrize(
  ("kinds", "unit"), [(["byte"], "byte"), (["char"], "character"), (["byte", "char"], "token")]
)
def test_losses_are_per_token_of_the_runs(kinds, unit, tmp_path, monkeypatch):
  texts = []
  write = plt.Figure.savefig

  def save(figure, *arguments, **options):
    texts.extend(text.get_text() for text in figure.findobj(Text))
    write(figure, *arguments, **options)

  monkeypatch.setattr(plt.Figure, "savefig", save)
  result = comparison.compare(
    run(**{"model.hidden": n, "model.cell": cell, "text.tokenizer": kind})
    for n in (8, 16)
    for cell in ("rnn", "lstm")
    for kind in kinds
  )
  for plot in (comparison_pictures.curves, comparison_pictures.settings, comparison_pictures.grid):
    plot(result, tmp_path / "x.png")
  texts += comparison_report.terminal(result)
  named = [text for text in texts if "per character" in text or f"per {unit}" in text]
  assert len(named) >= 4 and all(f"per {unit}" in text for text in named)


@pytest.fixture
def figures(monkeypatch):
  """Return a list to which each new figure is added."""
  figures = []

  @contextlib.contextmanager
  def collect(path, title, **options):
    figure = plt.figure(layout="constrained", **options)
    figures.append(figure)
    yield figure

  monkeypatch.setattr(plotting, "figure", collect)
  yield figures
  plt.close("all")


def test_cells_of_the_grid_show_the_losses(figures, tmp_path):
  result = comparison.compare(KINDS["grid with holes"])
  comparison_pictures.grid(result, tmp_path / "x.png")
  axes = figures[0].axes[0]
  texts = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
  across = [label.get_text() for label in axes.get_xticklabels()]
  down = [label.get_text() for label in axes.get_yticklabels()]
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("cell", "hidden")
  for setting in result.settings:
    place = (
      across.index(setting.values["model.cell"]),
      down.index(str(setting.values["model.hidden"])),
    )
    has_loss = setting.loss is not None
    assert texts[place].startswith(f"{setting.loss:.3f}" if has_loss else setting.runs[0].status)
  assert len(texts) == 6 and "diverged" in texts.values()


@pytest.mark.parametrize(
  ("kind", "ticks"),
  [
    ("one field, without a loss", ["5", "6", "7", "8"]),
    ("one text field, without a loss", ["gru", "lstm", "mgu", "rnn"]),
  ],
)
def test_a_value_without_a_loss_has_a_tick_and_its_status(figures, tmp_path, kind, ticks):
  comparison_pictures.grid(comparison.compare(KINDS[kind]), tmp_path / "x.png")
  (axes,) = figures[0].axes
  assert [label.get_text() for label in axes.get_xticklabels()] == ticks
  states = {run.status for run in KINDS[kind]} - {"finished"}
  assert {text.get_text() for text in axes.texts} == states


def test_third_field_has_a_map_per_value(figures, tmp_path):
  comparison_pictures.grid(comparison.compare(KINDS["grid of three"]), tmp_path / "x.png")
  titles = [axes.get_title() for axes in figures[0].axes]
  assert titles[:2] == ["cell = lstm", "cell = rnn"]


def test_mean_curve_has_the_steps_that_all_seeds_have():
  runs = [run(steps=4, start=4.0), run(steps=2, start=2.0, seed=2), run("diverged", 9.0, seed=3)]
  (setting,) = comparison.compare(runs[:2]).settings
  x, mean, half = comparison_pictures.mean_curve(setting, "step", "valid").T
  np.testing.assert_allclose((x, mean), [[10, 20], [3.0, 1.5]])
  low, high = comparison.interval([4.0, 2.0])
  assert half[0] == pytest.approx((high - low) / 2)
  single = comparison.compare(runs[:1]).settings[0]
  assert np.isnan(comparison_pictures.mean_curve(single, "flops", "valid")[:, 2]).all()


def test_diverged_runs_do_not_affect_the_scale(figures, tmp_path):
  runs = [*product(window=[5, 6]), run("diverged", start=1e29, window=7)]
  comparison_pictures.curves(comparison.compare(runs), tmp_path / "x.png")
  low, high = figures[0].axes[0].get_ylim()
  assert 0 < low < 1 and 2 < high < 6


def test_sizes_have_log_axes_and_a_power_law(figures, tmp_path):
  result = comparison.compare(product(model__hidden=[1, 2, 4, 8]))
  comparison_pictures.sizes(result, tmp_path / "x.png")
  (axes,) = figures[0].axes
  assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
  (law, *_) = comparison.power_laws(comparison.losses_by_size(result)["lstm"])
  assert f"exponent {law['exponent']:.3f}" in figures[0].legends[0].get_texts()[0].get_text()
