"""`charrnn rates` on tiny runs: its tables, files and errors."""

import json
import shutil

import made_up
import pytest

from charrnn import files
from charrnn.analysis import explorer, rates, recording
from charrnn.evaluation import pages
from charrnn.runs import run as run_lib


@pytest.fixture
def sweep(trained, tmp_path):
  """Return a folder with two finished runs, and one without a checkpoint."""
  for name, path in {**trained, "c": trained["b"]}.items():
    shutil.copytree(path, tmp_path / "sweep" / name)
  shutil.rmtree(tmp_path / "sweep" / "c" / "checkpoints")
  (tmp_path / "sweep" / "c" / "metrics.jsonl").write_text("")
  return tmp_path / "sweep"


@pytest.fixture
def text(trained, monkeypatch):
  """Make all characters of the runs' text held-out; the held-out part is too short."""
  path = str(trained["a"].with_name("text.txt"))

  def whole(run, characters):
    return recording.text_of_files(run, [(path, run.encode_file(path).ids)], characters)

  monkeypatch.setattr(recording, "held_out_text", whole)


def test_groups_of_runs_tables_and_files(charrnn, sweep, monkeypatch):
  groups = []

  def study_group(runs, characters, settings, folder, show):
    assert (characters, settings.seed) == (9000, 3) and folder.parent == sweep / "rates"
    groups.append([run.path.name for run in runs])
    yield from (made_up.network(significant=run.path.name == "a") for run in runs)

  monkeypatch.setattr(rates, "study_group", study_group)
  result = charrnn("rates", sweep, "--characters", 9000, "--seed", 3)
  assert result.code == 0, result.err
  assert groups == [["b"], ["a"]]  # other sizes are other groups
  assert "left out, because they have not finished: c" in result.err
  assert {each.name for each in (sweep / "rates").iterdir()} == {"rates.json", "rates.png"}
  stored = json.loads((sweep / "rates" / "rates.json").read_text())
  assert [group["label"] for group in stored["groups"]] == ["lstm 2 x 6", "lstm 2 x 8"]
  assert [group["families"]["if condition"]["count"] for group in stored["groups"]] == [0, 1]
  assert "code, lstm 2 x 8: 1 network" in result.out
  again = charrnn("rates", sweep, "--characters", 9000, "--seed", 3, "--json")
  assert again.json == stored


def test_rates_are_added_to_the_explorers_of_the_same_weights(charrnn, sweep, monkeypatch):
  def study_group(runs, *arguments):
    yield from (made_up.network(weights=run.weights) for run in runs)

  monkeypatch.setattr(rates, "study_group", study_group)
  weights = {"a": run_lib.Run.open(sweep / "a").weights, "b": made_up.WEIGHTS}
  paths, excerpt = {}, made_up.excerpt(made_up.prose(300))
  for name, each in weights.items():
    paths[name] = files.make_folder(None, sweep / name / "cells") / explorer.PAGE
    explorer.write(paths[name], made_up.study() | {"weights": each}, excerpt)
  before = paths["b"].read_bytes()
  result = charrnn("rates", sweep, "--characters", 9000)
  assert result.code == 0, result.err
  assert "the tab Rates of 1 page shows these results" in result.out
  assert f"nothing was added to the pages of {sweep / 'b'}, which are of another" in result.out
  block = pages.read_block(paths["a"].read_text(), "rates")
  assert block["weights"] == weights["a"]
  assert [group["label"] for group in block["rates"]["groups"]] == ["lstm 2 x 6", "lstm 2 x 8"]
  assert block["rates"]["groups"][block["rates"]["own"]]["label"] == "lstm 2 x 8"
  assert paths["b"].read_bytes() == before
  # A file of another program in place of the page does not hide the report.
  paths["a"].unlink()
  paths["a"].mkdir()
  result = charrnn("rates", sweep, "--characters", 9000)
  assert result.code == 0 and "is a folder" in result.out and "lstm 2 x 8: 1 network" in result.out


@pytest.mark.long
def test_runs_are_studied_once(charrnn, sweep, text):
  result = charrnn("rates", sweep, "--characters", 5000)
  assert result.code == 0, result.err
  groups = json.loads((sweep / "rates" / "rates.json").read_text())["groups"]
  for group in groups:
    assert group["text"]["characters"] == 5000
    assert group["hypotheses"]["line-position"]["of"] == 1
  before = {name: (sweep / name / rates.FILE).stat().st_mtime_ns for name in "ab"}
  assert charrnn("rates", sweep, "--characters", 5000, "--json").json["groups"] == groups
  assert before == {name: (sweep / name / rates.FILE).stat().st_mtime_ns for name in "ab"}
  assert not (sweep / "c" / rates.FILE).exists()


def test_errors(charrnn, sweep, counted, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "sweep.json").write_text('{"trials": {}}')
  for arguments, message in {
    (tmp_path / "missing",): "does not exist",
    (tmp_path / "empty",): "contains no runs",
    (sweep / "c",): "no run has finished",
    (sweep, "--characters", 4999): "at least 5000",
    (sweep, "--seed", -1): "from 0 to",
    (sweep,): "use a text of at least 5000",
    (counted,): "has no units to study",
  }.items():
    result = charrnn("rates", *arguments)
    assert result.code == 2 and message in result.err, result.err
    assert result.err.count("\n") == 1
