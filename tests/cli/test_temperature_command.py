"""`charrnn temperature` on a tiny run: its files, its table, and invalid input."""

import json
import math

import numpy as np
import pytest
from matplotlib import pyplot as plt

from charrnn import cli
from charrnn.scorecards import metrics, temperature

FAST = ("--num=3", "--length=200", "--temperatures", "1", "0", "inf", "0.5", "1.0")
NAMES = ["0", "0.5", "1", "inf"]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
  """Return the output folder of the command for run `a`."""
  out = tmp_path_factory.mktemp("temperature")
  argv = ["temperature", trained["a"], *FAST, "--seed=5", "--prime=7 green", "--out", out]
  assert cli.main(list(map(str, argv))) == 0
  return out


@pytest.fixture(scope="module")
def report(folder):
  def never(constant):
    raise AssertionError(f"{constant} in JSON")

  return json.loads((folder / "temperature.json").read_text(), parse_constant=never)


@pytest.fixture(scope="module")
def values(report):
  return {row["name"]: row["systems"] for row in report["metrics"]}


def test_files_in_the_output_folder(folder):
  assert {path.name for path in folder.iterdir()} == {"temperature.json", "temperature.png"}


def test_temperatures_are_sorted_without_duplicates(report):
  assert report["temperatures"] == NAMES
  assert list(report["samples"].items())[1:] == [(name, 3) for name in NAMES]
  assert report["samples"]["held-out"] == 6  # spans of 200 tokens in a tenth of 12,490 characters
  assert report["settings"]["prime"] == "7 green"


def test_metrics_at_extreme_temperatures(values, trained):
  tokens = json.loads((trained["a"] / "alphabet.json").read_text())["tokens"]
  entropy = [values["entropy"][name]["value"] for name in NAMES]
  assert entropy[0] == 0
  assert entropy == sorted(entropy)
  assert entropy[-1] == pytest.approx(math.log(len(tokens)), rel=1e-5)
  assert values["loops"]["1"]["value"] == values["loops"]["held-out"]["value"] == 0
  assert values["loss"]["0"]["value"] < values["loss"]["inf"]["value"]


def test_texts_match_the_sample_command(charrnn, trained, report):
  result = charrnn(
    "sample",
    trained["a"],
    *("--num=3", "--length=200", "--seed=5", "--prime=7 green", "--temperature=0.5", "--json"),
  )
  first = json.loads(result.out.splitlines()[0])["text"]
  assert report["excerpts"]["0.5"] == first[:160]


def test_stdout_contains_the_table_and_excerpts(charrnn, trained, tmp_path):
  result = charrnn("temperature", trained["a"], *FAST, "--top-k=2", "--out", tmp_path)
  assert result.code == 0
  lines = result.out.splitlines()
  table = [line.split() for line in lines[4:9]]
  assert [row[0] for row in table] == [*NAMES, "held-out"]
  assert table[3][1] == f"{math.log(2):.3f}"  # uniform over two tokens
  excerpts = [line for line in lines if line.lstrip().startswith("inf ")]
  assert len(excerpts) == 2 and "\u21b5" in "".join(lines[-8:])
  assert "samples: " in result.err and "held-out text: " in result.err


def test_json_and_the_default_folder(charrnn, a):
  result = charrnn("temperature", a, "--num=1", "--length=100", "--temperatures=0.7", "--json")
  assert result.code == 0
  assert result.json == json.loads((a / "temperature" / "temperature.json").read_text())
  assert result.json["metrics"][0]["systems"]["0.7"]["interval"] is None


def test_earlier_results_remain_after_a_failure(charrnn, trained, tmp_path, monkeypatch):
  (tmp_path / "temperature.json").write_text("before")

  def fail(report, path):
    path.write_text("half")
    raise KeyboardInterrupt

  monkeypatch.setattr(temperature, "plot", fail)
  assert charrnn("temperature", trained["a"], *FAST, "--out", tmp_path).code == 130
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
    "temperature.json": "before"
  }


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--temperatures", "1", "-0.5"], "--temperatures=-0.5: must be 0, a positive number or inf"),
    (["--temperatures=nan"], "--temperatures=nan: must be 0, a positive number or inf"),
    (["--temperatures=warm"], "invalid float value"),
    (["--length=99"], "--length=99: must be at least 100"),
    (["--length=100000"], "--length=100000: the held-out text is too short; use at most "),
    (["--num=0"], "--num=0: must be"),
    (["--seed=-1"], "--seed=-1: must be from 0"),
    (["--top-k=0"], "--top-k=0: must be from 1"),
    (["--top-p=nan"], "--top-p=nan: must be above 0"),
    (["--step=15"], "has no step 15: use one of 10, 20"),
    (["--length=200", "--prime=\u00fc"], "'\u00fc' (U+00FC)"),
  ],
)
def test_invalid_input_raises_errors(charrnn, trained, tmp_path, argv, message):
  result = charrnn("temperature", trained["a"], "--out", tmp_path / "o", *argv)
  assert (result.code, result.out) == (2, "")
  assert message in result.err and "Traceback" not in result.err
  assert not (tmp_path / "o").exists()


def test_missing_run_and_invalid_output_folder(charrnn, trained, tmp_path):
  result = charrnn("temperature", tmp_path / "nowhere")
  assert (result.code, result.err.count("\n")) == (2, 1)
  (tmp_path / "file").write_text("")
  result = charrnn("temperature", trained["a"], *FAST, "--out", tmp_path / "file" / "o")
  assert result.code == 2 and "use another --out" in result.err


def test_the_band_of_a_curve_leaves_out_temperature_0_and_missing_intervals():
  """All texts of temperature 0 are the same, so their interval has no width."""
  figure, axes = plt.subplots()
  intervals = [(0.9, 1.1), (1.8, 2.3), (2.7, 3.1), None, (4.9, 5.2), (5.5, 6.5)]
  values = [{"value": n, "interval": interval} for n, interval in enumerate(intervals, 1)]
  style = {"label": "x", "colors": ("b", "r"), "has_intervals": True}
  xs = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
  reference = {"value": 1.5, "interval": None}
  temperature._curve(axes, xs, values, reference, "value", 1, **style)
  (band,) = axes.collections
  points = np.concatenate([path.vertices for path in band.get_paths()])
  assert {*points[:, 0].round(6)} == {0.1, 0.2, 0.4, 0.5}
  assert axes.lines[1].get_xdata().tolist() == xs  # The curve begins at temperature 0.
  plt.close(figure)


def test_intervals_are_over_texts(values):
  cell = values["loss"]["1"]
  assert len(cell["samples"]) == 3
  assert cell["interval"] == metrics.interval(200 * np.array(cell["samples"]), [200] * 3, seed=5)
