"""`charrnn compare` on tiny runs: its output, damaged runs and errors."""

import csv
import fcntl
import io
import json
import math
import shutil

import edits
import pytest

from charrnn.cli import inspect
from charrnn.runs import metrics
from charrnn.runs import run as run_lib
from charrnn.sweeps import comparison, comparison_pictures, comparison_reference

FILES = {
  *("compare.md", "compare.csv", "compare.json"),
  *("curves.png", "settings.png", "grid.png", "sizes.png"),
}


@pytest.fixture
def _no_pictures(monkeypatch):
  """Replace the pictures by empty files, because plotting takes a second per test."""
  plot = lambda result, path: path.write_bytes(b"")  # noqa: E731
  for name in ("curves", "settings", "grid", "sizes"):
    monkeypatch.setattr(comparison_pictures, name, plot)


pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.fixture
def sweep(trained, counted, tmp_path):
  """Return a folder with copies of runs `a` and `b` and of an n-gram of the same text."""
  folder = tmp_path / "sweep"
  for name in ("a", "b"):
    shutil.copytree(trained[name], folder / name)
  shutil.copytree(counted, folder / "ngram")
  return folder


def rows(result):
  """Return the first table on stdout as a dict for each run."""
  head, *lines = (line.split() for line in result.out.partition("\n\n")[0].splitlines())
  return {line[0]: dict(zip([h for h in head if h not in ("at",)], line)) for line in lines}


def test_table_and_files(charrnn, sweep):
  result = charrnn("compare", sweep)
  assert result.code == 0 and "Traceback" not in result.err
  assert {path.name for path in (sweep / "compare").iterdir()} == FILES
  table = rows(result)
  assert set(table) == {"a", "b", "ngram"}
  losses = [float(row["nats"]) for row in table.values()]
  assert losses == sorted(losses)
  assert {row["status"] for row in table.values()} == {"finished"}
  best = min(line.get("valid/loss", 9) for line in metrics.read(sweep / "a"))
  assert table["a"]["nats"] == f"{best:.4f}" and table["a"]["bits"] == f"{best / math.log(2):.4f}"
  assert table["a"]["step"] == "20"
  # a and b differ in two fields, and the n-gram in its cell.
  assert [table["a"][name] for name in ("cell", "hidden", "learning_rate")] == ["lstm", "8", "0.01"]
  assert "window" not in table["a"] and "order" not in table["a"]
  assert table["ngram"]["parameters"] == table["ngram"]["hidden"] == "-"
  assert "compare" not in table  # The output folder is not a run, also when it already exists.
  assert rows(charrnn("compare", sweep)) == table


def test_nothing_is_written_for_several_targets_unless_asked(charrnn, sweep, tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  result = charrnn("compare", sweep / "a", sweep / "b")
  assert result.code == 0 and "--out=DIR" in result.err and "a " in result.out
  assert not list((tmp_path / "here").iterdir()) and not (sweep / "a" / "compare").exists()


def test_values_match_inspect(charrnn, sweep):
  facts = charrnn("inspect", sweep / "a", "--json").json
  (own,) = charrnn("compare", sweep / "a", "--json").json["runs"]
  assert own["parameters"] == facts["parameters"]["total"]
  assert own["nats"] == facts["history"]["best_valid"]["loss"]
  assert own["characters_per_second"] == facts["history"]["characters_per_second"]
  assert own["epochs"] == pytest.approx(facts["progress"]["epochs"])
  assert own["step"] == facts["progress"]["step"] and own["characters"] == 20 * 4 * 16
  assert not own["seconds_are_estimated"] and 0 < own["seconds"] <= facts["history"]["seconds"]
  assert (sweep / "a" / "compare" / "compare.json").exists()


def test_markdown_csv_and_json_match(charrnn, sweep, tmp_path):
  out = tmp_path / "out"
  outputs = {
    name: charrnn("compare", sweep / "b", sweep / "a", "--out", out, f"--{name}").out
    for name in ("markdown", "csv", "json")
  }
  assert outputs["markdown"] == (out / "compare.md").read_text()
  assert outputs["csv"] == (out / "compare.csv").read_text()
  assert outputs["json"] == (out / "compare.json").read_text()
  content = json.loads(outputs["json"], parse_constant=pytest.fail)
  records = list(csv.DictReader(io.StringIO(outputs["csv"])))
  assert [float(record["nats"]) for record in records] == [each["nats"] for each in content["runs"]]
  assert {record["run"]: record["config.model.hidden"] for record in records} == {
    "a": "8",
    "b": "6",
  }
  lines = outputs["markdown"].splitlines()
  assert len({line.count("|") for line in lines[:4]}) == 1 and lines[1].startswith("| --- |")
  assert "![Loss curves](curves.png)" in lines


def test_seeds_are_one_setting(charrnn, sweep):
  shutil.copytree(sweep / "a", sweep / "c")
  edits.change(sweep / "c", "config.json", lambda config: config.update(seed=3))
  text = (sweep / "c" / "metrics.jsonl").read_text().splitlines()
  last = json.loads(text[-1]) | {"valid/loss": 0.25}
  (sweep / "c" / "metrics.jsonl").write_text("\n".join([*text[:-1], json.dumps(last)]))
  result = charrnn("compare", sweep / "a", sweep / "c", "--out", sweep / "out")
  setting = result.out.partition("\n\n")[2].splitlines()[1].split()
  best = min(line.get("valid/loss", 9) for line in metrics.read(sweep / "a"))
  assert setting[-6] == "2" and float(setting[-5]) == pytest.approx((best + 0.25) / 2, abs=1e-4)


def test_damaged_runs_are_reported_and_do_not_affect_others(charrnn, sweep):
  before = rows(charrnn("compare", sweep))["b"]
  for name in ("config", "lines", "alphabet", "about", "types", "empty"):
    shutil.copytree(sweep / "a", sweep / name)
  (sweep / "config" / "config.json").write_text("{")
  with (sweep / "lines" / "metrics.jsonl").open("ab") as file:
    file.write(b'{"step": 99, "valid/loss": -1')
  invalid = [
    {"step": 3, "valid/loss": "x", "epoch": [], "seconds": {}, "chars_per_second": None},
    [1],
  ]
  with (sweep / "lines" / "metrics.jsonl").open("ab") as file:
    file.write(b"\n\xff\n" + "\n".join(map(json.dumps, invalid)).encode())
  (sweep / "alphabet" / "alphabet.json").unlink()
  (sweep / "about" / "run.json").write_text("[]")
  values = {"batch_size": "many", "epochs": None, "model": {"cell": "tree", "layers": []}}
  edits.change(sweep / "types", "config.json", lambda config: config.update(values))
  (sweep / "empty" / "metrics.jsonl").unlink()
  result = charrnn("compare", sweep)
  table = rows(result)
  assert result.code == 0 and set(table) >= {"config", "lines", "alphabet", "about", "types"}
  assert table["config"]["status"] == "damaged"
  assert table["lines"]["nats"] == table["a"]["nats"]
  assert table["alphabet"]["parameters"] == "-" and table["empty"]["nats"] == "-"
  assert {name: table["b"][name] for name in before} == before
  for problem in ("config.json is damaged", "alphabet.json", "run.json is damaged"):
    assert problem in result.out


def test_statuses(charrnn, sweep):
  def status(name):
    return rows(charrnn("compare", sweep))[name]["status"]

  lines = (sweep / "a" / "metrics.jsonl").read_text().splitlines(keepends=True)
  (sweep / "a" / "metrics.jsonl").write_text("".join(lines[:3]))
  shutil.rmtree(sweep / "a" / "checkpoints" / "20")
  assert status("a") == "stopped"
  (sweep / "a" / "outcome.json").write_text('{"state": "diverged", "code": 2, "seconds": 3}')
  assert status("a") == "diverged"
  (sweep / "a" / "outcome.json").write_text('{"state": "dive')
  with (sweep / "a" / "lock").open("a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert status("a") == "running"
  (sweep / "sweep.json").write_text(json.dumps({"trials": {"a": {}, "later": {}, "../up": {}}}))
  table = rows(charrnn("compare", sweep))
  assert table["later"]["status"] == "waiting" and len(table) == 4
  (sweep / "later").mkdir()
  (sweep / "later" / "outcome.json").write_text('{"state": "failed", "code": 2, "seconds": 3}')
  result = charrnn("compare", sweep)
  assert rows(result)["later"]["status"] == "failed" and "it has no config.json" in result.out


def test_sweep_with_only_waiting_trials(charrnn, tmp_path):
  (tmp_path / "sweep.json").write_text(json.dumps({"trials": {"x": {}, "y": {}}}))
  result = charrnn("compare", tmp_path)
  assert result.code == 0 and result.out.count("waiting") == 2
  assert {path.name for path in (tmp_path / "compare").iterdir()} == FILES


def test_different_texts_are_reported(charrnn, sweep):
  edits.change(sweep / "b", "run.json", lambda run: run["corpus"].update(sha256="0" * 64))
  result = charrnn("compare", sweep)
  assert "losses are not comparable" in result.out and "sha256 000000000000" in result.out
  assert {name: row["text"] for name, row in rows(result).items()}["b"] == "B"


def test_repeated_targets_count_once_and_folders_may_contain_sweeps(charrnn, sweep):
  result = charrnn("compare", sweep / "a", sweep, f"{sweep}/../sweep/a", "--out", sweep / "o")
  assert sorted(rows(result)) == ["a", "b", "ngram"]
  result = charrnn("compare", sweep.parent, "--csv")
  assert sorted(line.partition(",")[0] for line in result.out.splitlines()) == [
    *("a", "b", "ngram", "run")
  ]


def test_special_characters_in_names_are_escaped(charrnn, sweep):
  (sweep / "b").rename(sweep / "x|<b>\x1b[31m$`y")
  result = charrnn("compare", sweep)
  assert result.code == 0 and "\x1b" not in result.out
  markdown = (sweep / "compare" / "compare.md").read_text()
  assert "x\\|&lt;b>" in markdown and "\x1b" not in markdown


def test_the_runs_are_compared_with_reference_runs(charrnn, sweep, tmp_path):
  content = charrnn("compare", sweep, "--json").json
  for each in content["runs"]:
    losses = [point["nats"] for point in each["curve"]]
    assert min(losses) == pytest.approx(each["nats"], abs=1e-5)
    each["source"] = "other"
  file = tmp_path / "reference.json"
  file.write_text(json.dumps(content))
  result = charrnn("compare", sweep / "a", f"--reference={file}")
  assert result.code == 0 and (sweep / "a" / "compare" / "reference.png").is_file()
  own, closest = (line.split() for line in result.out.splitlines() if " lstm 2 x 8 " in line)
  assert own[0] == "a" and closest[0] == "other"
  assert own[2:] == closest[1:-1] and float(closest[-1]) > 0  # the loss of the n-gram
  plain = charrnn("compare", sweep / "a")
  assert result.out.startswith(plain.out)
  as_json = charrnn("compare", sweep / "a", "--json", f"--reference={file}")
  assert as_json.json == charrnn("compare", sweep / "a", "--json").json


def test_runs_after_an_option_are_an_error_that_names_the_order(charrnn, sweep):
  result = charrnn("compare", sweep / "a", "--markdown", sweep / "b")
  assert (result.code, result.out) == (2, "")
  assert f"{sweep / 'b'}: put every RUN|SWEEP before the options" in result.err


def test_unusable_references_are_refused(charrnn, sweep, tmp_path, monkeypatch):
  missing, damaged = tmp_path / "missing.json", tmp_path / "damaged.json"
  damaged.write_text("{")
  old = tmp_path / "old.json"
  old.write_text('{"runs": [{"run": "a", "status": "finished"}]}')
  options = {
    f"--reference={missing}": "there is no such file",
    f"--reference={damaged}": "is damaged",
  }
  options |= {f"--reference={old}": "has no runs with curves"}
  options |= {f"--reference={sweep}": "put --reference last", "--reference": "name a file"}
  monkeypatch.setattr(comparison_reference, "FILE", tmp_path / "default.json")
  for option, message in options.items():
    result = charrnn("compare", sweep / "a", option)
    assert (result.code, result.out) == (2, "") and message in result.err
  assert not (sweep / "a" / "compare").exists()


def test_old_output_survives_an_interrupt(charrnn, sweep, monkeypatch):
  out = sweep / "out"
  out.mkdir()
  (out / "compare.md").write_text("before")

  def interrupt(result, path):
    raise KeyboardInterrupt

  monkeypatch.setattr(comparison_pictures, "sizes", interrupt)
  assert charrnn("compare", sweep, "--out", out).code == 130
  assert {path.name: path.read_text() for path in out.iterdir()} == {"compare.md": "before"}


def test_reading_runs_writes_nothing(sweep):
  before = sorted(path for path in sweep.rglob("*"))
  comparison.read_runs(comparison.find_runs([str(sweep)]))
  assert sorted(path for path in sweep.rglob("*")) == before
  assert inspect.summary(run_lib.Run.open(sweep / "a"))["progress"]["status"] == "finished"


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda path: None, "does not exist"),
    (lambda path: path.write_text(""), "is a file"),
    (lambda path: path.mkdir(), "is empty"),
    (lambda path: (path / "sub").mkdir(parents=True), "no config.json"),
  ],
)
def test_targets_without_runs_are_refused(charrnn, trained, tmp_path, make, message):
  make(tmp_path / "x")
  result = charrnn("compare", trained["a"], tmp_path / "x", "--out", tmp_path / "o")
  assert (result.code, result.out) == (2, "") and message in result.err
  assert result.err.count("\n") == 1 and not (tmp_path / "o").exists()


def test_invalid_options_are_refused(charrnn, trained, tmp_path):
  result = charrnn("compare", trained["a"], "--csv", "--json")
  assert (result.code, result.out) == (2, "") and "not allowed with" in result.err
  (tmp_path / "file").write_text("")
  result = charrnn("compare", trained["a"], "--out", tmp_path / "file" / "o")
  assert result.code == 2 and "use another --out" in result.err
  assert charrnn("compare").code == 2
