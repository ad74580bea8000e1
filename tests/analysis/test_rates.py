"""Tests of the rates of units over networks: planted networks, resumption, and aggregation."""

import copy
import json
import pathlib
import types

import made_up
import numpy as np
import planted
import pytest
from matplotlib import figure

from charrnn.analysis import baselines, rates, rates_report, recording, study

SETTINGS = recording.Settings(untrained=19, shifts=39)
SHOW = lambda run, phase: None  # noqa: E731


def fake_run(path, model, symbols, *steps):
  """Return a run whose checkpoints at steps 10, 20, ... have the parameters `steps`."""
  every = dict(zip(range(10, 1000, 10), steps))
  last = max(every)
  path.mkdir()
  return types.SimpleNamespace(
    path=path,
    step=last,
    steps=list(every),
    model=model,
    params=every[last],
    weights={"step": last, "sha256": path.name},
    config=types.SimpleNamespace(
      init_from="", seed=1, model={"cell": "lstm", "layers": 1, "hidden": planted.HIDDEN}
    ),
    checkpoint=lambda step, prefix: ({"params": every[step]}, {}),
  )


@pytest.fixture
def prose(monkeypatch):
  """Return symbols of a text, which is the held-out text of every run, and a model."""
  text = made_up.prose(6000)
  symbols, ids = planted.ids(text)
  held_out = recording.Text("prose", ids, ((0, len(text)),), "prose", (text,))
  monkeypatch.setattr(recording, "held_out_text", lambda run, characters: held_out)
  return symbols, planted.model(len(symbols))


def test_planted_units_in_two_of_three_networks(prose, tmp_path):
  symbols, model = prose
  random = planted.params(model, symbols, seed=3)
  for name in ("W_xh", "W_hh", "b_h"):  # neither unit does anything
    random["layer_0"][name][:] = np.random.default_rng(0).normal(0, 0.1, 1)
  late = planted.params(model, symbols)
  runs = [
    fake_run(tmp_path / name, model, symbols, *steps)
    for name, steps in {"a": [late], "b": [random], "c": [random, late, late]}.items()
  ]
  results = list(rates.study_group(runs, 9000, SETTINGS, tmp_path, SHOW))
  group = rates.aggregate(dict(zip("abc", results)))
  quotes = group["hypotheses"]["in-quotes"]
  assert (quotes["count"], quotes["of"]) == (2, 3)
  assert quotes["low"] == pytest.approx(0.2077, abs=1e-3)  # Wilson, by hand
  assert quotes["score"]["min"] < 0.9 and quotes["score"]["median"] > 0.99
  assert quotes["units"] == {"min": 0, "median": 1, "max": 1}
  for family in ("line length", "quotes"):
    assert (group["families"][family]["count"], group["families"][family]["of"]) == (2, 3)
  assert "depth" not in group["families"]
  # In network a it emerges at its first checkpoint, in c at the second one.
  emergence = quotes["emergence"]
  assert (emergence["count"], emergence["at_first"]) == (2, 1)
  assert emergence["step"] == {"min": 10, "median": 15, "max": 20}
  assert emergence["nats"]["median"] > 1
  assert [each["share"] > 0 for each in group["networks"]] == [True, False, True]
  assert group["shares"]["min"] == 0 and group["shares"]["max"] >= 2 / planted.HIDDEN
  stored = json.loads((tmp_path / "a" / rates.FILE).read_text())
  assert {*stored} == {*rates.KEYS, "emergence", "settings", "sha256"}


@pytest.fixture
def counted(prose, monkeypatch):
  """Return two lists, which get the names of studied runs, and the shapes of untrained networks."""
  studied, compared = [], []

  def find(subject, null):
    studied.append(pathlib.Path(subject.name).name)
    assert null == len(compared) == 1
    return types.SimpleNamespace(results=dict.fromkeys(rates.KEYS), scored=[])

  def effects(subject):
    compared.append(subject.settings.untrained)
    return 1

  monkeypatch.setattr(study, "find", find)
  monkeypatch.setattr(study, "emergence", lambda subject, findings: [])
  monkeypatch.setattr(baselines, "untrained_effects", effects)
  monkeypatch.setattr(recording, "record", lambda *arguments: None)
  return studied, compared


def test_an_interrupted_group_continues_with_the_runs_that_are_missing(prose, counted, tmp_path):
  symbols, model = prose
  studied, compared = counted
  runs = [fake_run(tmp_path / name, model, symbols, {}) for name in "abcd"]

  def interrupt(run, phase):
    if run.path.name == "c":
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    list(rates.study_group(runs, 9000, SETTINGS, tmp_path, interrupt))
  assert studied == ["a", "b"] and compared == [SETTINGS.untrained]  # once for the group
  compared.clear()
  results = list(rates.study_group(runs, 9000, SETTINGS, tmp_path, SHOW))
  assert len(results) == 4 and studied == ["a", "b", "c", "d"] and len(compared) == 1
  list(rates.study_group(runs, 9000, SETTINGS, tmp_path, SHOW))
  assert len(studied) == 4


def test_results_of_other_settings_or_weights_or_damaged_ones_are_replaced(
  prose, counted, tmp_path
):
  symbols, model = prose
  studied, compared = counted
  run = fake_run(tmp_path / "a", model, symbols, {})

  def count(characters=9000, settings=SETTINGS):
    studied.clear()
    compared.clear()
    list(rates.study_group([run], characters, settings, tmp_path, SHOW))
    return len(studied)

  assert [count(), count()] == [1, 0]
  assert [count(8000), count(8000)] == [1, 0]
  assert count(8000, recording.Settings(untrained=19, shifts=39, seed=1)) == 1
  assert [count(), count()] == [1, 0]
  run.weights = {"step": 10, "sha256": "other"}
  assert [count(), count()] == [1, 0]
  path = run.path / rates.FILE
  path.write_text(path.read_text().replace("9000", "9001"))
  assert count() == 1
  path.write_text("{")
  assert [count(), count()] == [1, 0]


@pytest.fixture
def group():
  """Return the group of ten networks, of which eight have a significant unit."""
  networks = {
    f"{n}": made_up.network(0.8 + n / 100, n < 8, n / 100, 10 if n < 3 else 30) for n in range(10)
  }
  return rates.aggregate(networks) | {"label": "gru 1 x 20"}


def test_rates_of_ten_networks(group):
  entry = group["hypotheses"]["if-condition"]
  assert (entry["count"], entry["of"], entry["share"]) == (8, 10, 0.8)
  # Wilson's interval of 8 of 10, for example in Brown, Cai and DasGupta (2001).
  assert (entry["low"], entry["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
  assert entry["score"] == pytest.approx({"min": 0.8, "median": 0.845, "max": 0.89})
  assert entry["threshold"]["median"] == 0.68  # the higher one
  assert entry["emergence"] == {
    "count": 8,
    "at_first": 3,
    "step": {"min": 10, "median": 30, "max": 30},
    "nats": {"min": 1.5, "median": 1.5, "max": 3.0},
  }
  assert group["families"]["if condition"]["count"] == 8
  assert "url" not in group["hypotheses"]  # tested in no network
  shares = {"min": 0, "q1": 0.0225, "median": 0.045, "q3": 0.0675, "max": 0.09}
  assert group["shares"] == pytest.approx(shares)


def test_scores_of_single_networks(group):
  scores = group["hypotheses"]["if-condition"]["scores"]
  assert scores == pytest.approx([0.8 + n / 100 for n in range(10)])


def test_the_groups_around_a_network_have_its_text(group):
  own = {"step": 5, "sha256": "5"}
  mine = copy.deepcopy(group)
  mine["networks"][7]["weights"] = own
  plays = copy.deepcopy(group)
  plays["text"]["name"] = "plays"
  result = {"characters": 9000, "groups": [plays, group, mine]}
  around = rates.around(result, own)
  assert around["groups"] == [group, mine]
  assert (around["own"], around["network"], around["characters"]) == (1, 7, 9000)
  assert rates.around(result, {"step": 6, "sha256": "6"}) is None


@pytest.mark.parametrize("content", [None, "{", "{}", '{"groups": [{"networks": [{}]}]}'])
def test_no_rates_without_a_usable_file(content, tmp_path):
  """A file of an older version has no weights."""
  if content is not None:
    (tmp_path / rates.FILE).write_text(content)
  assert rates.stored(tmp_path, made_up.WEIGHTS) is None


def test_a_network_in_which_a_hypothesis_was_not_tested_does_not_count():
  networks = {f"{n}": made_up.network() for n in range(4)}
  untested = networks["3"]["findings"][0]
  untested |= {"significant": None}
  group = rates.aggregate(networks)
  assert group["hypotheses"]["if-condition"]["of"] == group["families"]["if condition"]["of"] == 3
  assert group["hypotheses"]["if-condition"]["scores"] == [0.9, 0.9, 0.9, None]


def test_a_unit_that_exceeds_the_thresholds_at_no_checkpoint_has_no_step():
  group = rates.aggregate({"a": made_up.network(first=1000)})
  emergence = group["hypotheses"]["if-condition"]["emergence"]
  assert emergence == {"count": 0, "at_first": 0, "step": None, "nats": None}


def test_the_tables_show_the_rates(group):
  lines = "\n".join(rates_report.lines({"groups": [group]}))
  assert "if condition  8 of 10 (49% to 94%)" in lines
  row = next(line for line in lines.splitlines() if line.startswith("if-condition"))
  assert "0.845 (0.800 to 0.890)" in row and "30 (<= 10 to 30)" in row
  assert lines.rstrip().endswith("0.0%  2.2%    4.5%  6.8%  9.0%")


def test_the_picture_has_a_column_for_each_text_and_a_color_for_each_network(group, tmp_path):
  drawn = []
  original = figure.Figure.savefig

  def keep(self, *arguments, **options):
    drawn.append(self)
    return original(self, *arguments, **options)

  other = copy.deepcopy(group) | {"label": "lstm 1 x 20"}
  third = copy.deepcopy(group)
  third["text"]["name"] = "plays"
  third["hypotheses"]["speaker"] = third["hypotheses"]["if-condition"]
  third["networks"][0]["share"] = 0.5
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figure.Figure, "savefig", keep)
    rates_report.plot({"groups": [group, other, third]}, tmp_path / "rates.png")
  (picture,) = drawn
  above, below = np.reshape(picture.axes, (2, 2))
  assert [axes.get_title() for axes in above] == ["code", "plays"]
  assert above[0].get_ylim() == above[1].get_ylim()
  points = [line for line in above[0].lines if line.get_marker() == "o"]
  assert [line.get_xdata()[0] for line in points] == [0.8, 0.8]
  assert len({line.get_color() for line in points}) == len({line.get_ydata()[0] for line in points})
  assert len({line.get_color() for line in points}) == 2
  assert [len(line.get_xdata()) for line in below[1].lines if line.get_marker() == "o"] == [10]
  assert all(axes.get_xlim()[0] < 0 and axes.get_xlim()[1] > 0.5 for axes in below)
  names = [text.get_text() for text in picture.legends[0].get_texts()]
  assert sorted(names) == ["blog post: about 5% of cells", "gru 1 x 20", "lstm 1 x 20"]
