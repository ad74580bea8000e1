"""Tests of the trackers, which receive a copy of the metrics of a run."""

import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import threading

import programs
import pytest
import tensorboardX
from tensorboardX.proto import event_pb2

from charrnn import config, errors
from charrnn.runs import metrics, tracking
from charrnn.runs.status import RunStatus

# A package that writes its calls to the file $CALLS, and fails in the one that $FAILS names.
FAKE_WANDB = """
import json, os

def record(name, /, **values):
  if name == os.environ.get("FAILS"):
    raise ValueError("no server\\nand a second line")
  with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps({"call": name} | values) + "\\n")

class Settings(dict):
  pass

class Run:
  offline, url, dir = True, None, "here"
  def define_metric(self, name, step_metric):
    assert (name, step_metric) == ("*", "step")
  def log(self, values):
    record("log", **values)
  def finish(self, exit_code):
    record("finish", code=exit_code)

def init(**options):
  assert options.pop("settings") == {"console": "off"}
  record("init", **options)
  return Run()
"""
OVERRIDES = ("--config.max_steps=10", "--config.eval_every=5", "--config.sample.length=0")


class Recorder:
  """A tracker that records its calls, and fails in one method."""

  name = "a recorder"

  def __init__(self, fails="", uses_network=False):
    self.calls, self._fails, self.uses_network = [], fails, uses_network

  def _record(self, method, *arguments):
    if method == self._fails:
      raise RuntimeError("first line\nsecond line")
    self.calls.append((method, *arguments))

  def start(self, first_step):
    self._record("start", first_step)

  def log(self, step, values):
    self._record("log", step, values)

  def finish(self, status):
    self._record("finish", status)


def a_run(workdir):
  return tracking.TrackedRun(workdir, {"model": {"hidden": 8}}, "0123456789abcdef")


def write(workdir, *trackers):
  """Log two steps."""
  with tracking.Log(workdir, trackers) as log:
    log.start(1)
    for step in (1, 2):
      log.log(step, {"a": 0.5, "b": math.nan})


def events(path):
  """Return the events of a file, without the checksums of tensorboardX's records."""
  data, result = path.read_bytes(), []
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    result.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return result


def test_tensorboard_gets_the_finite_values(tmp_path):
  with tracking.Log(tmp_path, [tracking.TensorBoard(a_run(tmp_path))]) as log:
    log.start(2)
    log.log(300, {"a": 2.5, "b": math.nan})
    log.log(301, {"a": 1e300})
    (path,) = tmp_path.glob("events.out.tfevents.*")  # complete before it is closed
    version, start, *steps = events(path)
  assert version.file_version == "brain.Event:2"
  assert start.session_log.status == start.session_log.START and start.step == 2
  values = [{value.tag: value.simple_value for value in event.summary.value} for event in steps]
  assert [event.step for event in steps] == [300, 301]
  assert values == [{"a": 2.5}, {"a": math.inf}]


@pytest.mark.parametrize("name", ["s3:", "gs:x", "s3:/bucket/run"])
def test_the_name_of_a_folder_is_never_a_bucket(tmp_path, monkeypatch, capsys, name):
  """tensorboardX uploads files to a bucket if their path begins like an address."""
  monkeypatch.chdir(tmp_path)
  folder = pathlib.Path(name)
  folder.mkdir(parents=True)
  write(folder, tracking.TensorBoard(a_run(folder)))
  (path,) = folder.glob("events.out.*")
  assert events(path)[-1].step == 2 and not capsys.readouterr().err


def test_a_tensorboard_file_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, capsys):
  full = open("/dev/full", "wb")  # noqa: SIM115 (the tracker closes it)
  monkeypatch.setattr(tensorboardX.record_writer, "open_file", lambda path: full)
  write(tmp_path, tracking.TensorBoard(a_run(tmp_path)))
  assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2]
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and "No space left on device" in err


@pytest.mark.parametrize("uses_network", [False, True])
@pytest.mark.parametrize("fails", ["", "start", "log", "finish"])
def test_a_tracker_that_fails_is_dropped_with_one_line(tmp_path, capsys, fails, uses_network):
  broken, other = Recorder(fails, uses_network), Recorder()
  write(tmp_path, broken, other)
  values = {"a": 0.5}
  calls = [("start", 1), ("log", 1, values), ("log", 2, values), ("finish", RunStatus.FINISHED)]
  assert other.calls == calls
  methods = [call[0] for call in calls]
  assert broken.calls == (calls[: methods.index(fails)] if fails else calls)
  text = "warning: cannot write to a recorder (first line): training continues without it\n"
  assert capsys.readouterr().err == (text if fails else "")
  assert metrics.read(tmp_path) == [{"step": step, "a": 0.5, "b": None} for step in (1, 2)]


def test_training_waits_for_a_server_only_at_the_end_and_not_forever(tmp_path, monkeypatch, capsys):
  event = threading.Event()
  tracker = Recorder(uses_network=True)
  tracker.start = lambda first_step: event.wait()
  monkeypatch.setattr(tracking, "MAX_WAIT", 0.05)
  write(tmp_path, tracker)
  event.set()
  (line,) = capsys.readouterr().err.splitlines()
  assert "a recorder (it did not receive all metrics within 0.05 s)" in line
  assert len(metrics.read(tmp_path)) == 2


@pytest.mark.parametrize(
  ("error", "status"),
  [(errors.DivergedError("too high"), RunStatus.DIVERGED), (OSError(5, "x"), RunStatus.FAILED)],
)
def test_trackers_learn_how_training_ended(tmp_path, error, status):
  def fail():
    with tracking.Log(tmp_path, [recorder]) as log:
      log.start(1)
      raise error

  recorder = Recorder()
  with pytest.raises(type(error)):
    fail()
  assert recorder.calls[-1] == ("finish", status)


def test_metrics_of_the_run_that_cannot_be_written_end_the_run(tmp_path):
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(errors.UserError, match=r"metrics\.jsonl"):
    write(tmp_path, Recorder())


def test_a_run_keeps_its_id_and_knows_its_sweep(tmp_path):
  def run(workdir, *launches):
    return tracking.TrackedRun.of(workdir, config.default(), {"launches": launches})

  first = {"time": "2026-01-01", "command": "launch.py --workdir=a", "directory": "/work"}
  trial = tmp_path / "sweep" / "seed=1"
  trial.mkdir(parents=True)
  alone = run(trial, first)
  resumed = run(tmp_path / "other machine" / "seed=1", first | {"startup_seconds": 3}, {})
  assert alone.id == resumed.id and len(alone.id) == 16
  others = run(tmp_path / "copy", first), run(trial, first | {"command": "launch.py --workdir=b"})
  assert len({alone.id, *(other.id for other in others)}) == 3
  assert (alone.name, alone.group) == ("seed=1", None)
  (trial.parent / "sweep.json").write_text("{}")
  assert alone.group == "sweep"


@pytest.mark.parametrize("has_folder", [False, True])  # It has the package's name, but is none.
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_reported_with_the_command_that_installs_it(
  main, folder, tmp_path, monkeypatch, name, has_folder
):
  if has_folder:
    (tmp_path / name).mkdir()
  find = importlib.machinery.PathFinder.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name, [str(tmp_path)]))
  with pytest.raises(errors.UserError, match=rf"tracker={name}: .*pip install 'charrnn\[{name}\]'"):
    main("--config=tiny.py", f"--config.tracker={name}", f"--workdir={tmp_path / 'run'}")
  sweep = (folder / "tiny.py").read_text() + "\ndef sweep():\n  return [{'seed': 1}, {'seed': 2}]\n"
  (tmp_path / "swept.py").write_text(sweep)
  with pytest.raises(errors.UserError, match=r"trial seed=1: --config\.tracker"):
    main(
      f"--config={tmp_path / 'swept.py'}",
      *("--sweep", f"--config.tracker={name}", f"--workdir={tmp_path / 'run'}"),
    )
  assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_reported(main):
  with pytest.raises(errors.UserError, match=r"use one of none, wandb, mlflow; did you mean wandb"):
    main("--config=tiny.py", "--config.tracker=wandbb", "--workdir=untracked")


@pytest.fixture
def calls(tmp_path, monkeypatch):
  """Return a function that reads the calls of a fake package `wandb`."""
  (tmp_path / "packages").mkdir()
  (tmp_path / "packages" / "wandb.py").write_text(FAKE_WANDB)
  monkeypatch.syspath_prepend(tmp_path / "packages")
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  path = tmp_path / "calls"
  yield lambda: list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
  sys.modules.pop("wandb", None)


def test_a_run_and_its_resumption_are_one_run_of_the_service(main, calls, tmp_path, capsys):
  workdir = tmp_path / "tracked"
  command = ("--config=tiny.py", "--config.tracker=wandb", *OVERRIDES, f"--workdir={workdir}")
  assert main(*command) == 0
  assert main(*command, "--config.max_steps=20") == 0
  first, *logged, end = calls()[: len(calls()) // 2]
  again = next(call for call in calls()[1:] if call["call"] == "init")
  assert first["id"] == again["id"] and first["resume"] == "allow" and first["group"] is None
  assert first["name"] == "tracked" and first["project"] == "charrnn"
  assert first["config"]["max_steps"] == 10 and first["config"]["model"]["hidden"] == 8
  assert end == {"call": "finish", "code": 0}
  lines = [line for line in metrics.read(workdir) if line["step"] <= 10]
  assert [{"call": "log"} | {k: v for k, v in line.items() if v is not None} for line in lines] == (
    logged
  )
  assert "tracker   Weights & Biases: offline, in here" in capsys.readouterr().err


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_training_does_not_depend_on_the_service(main, calls, tmp_path, monkeypatch, capsys, fails):
  monkeypatch.setenv("FAILS", fails)
  workdir = tmp_path / "tracked"
  command = ("--config=tiny.py", "--config.tracker=wandb", *OVERRIDES, f"--workdir={workdir}")
  assert main(*command) == 0
  lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
  assert lines == [
    "warning: cannot write to Weights & Biases (no server): training continues without it"
  ]
  assert metrics.read(workdir)[-1]["step"] == 10


def test_counting_n_grams_is_tracked_too(main, calls, folder, tmp_path):
  experiment = f"--config={programs.ROOT / 'experiments' / 'ngram.py'}:{folder / 'text.txt'}"
  overrides = ("--config.tracker=wandb", "--config.model.order=3", "--config.sample.length=0")
  assert main(experiment, *overrides, f"--workdir={tmp_path / 'counted'}") == 0
  first, *logged, end = calls()
  assert first["config"]["model"]["order"] == 3 and end == {"call": "finish", "code": 0}
  assert logged == [{"call": "log"} | line for line in metrics.read(tmp_path / "counted")]


def offline(name, tmp_path, workdir, **environment):
  """Log to an installed service without a network, twice; skip the test if it is not installed."""
  if importlib.util.find_spec(name) is None:
    pytest.skip(f"{name} is not installed")
  program = f"""import pathlib
from charrnn import config
from charrnn.runs import tracking
workdir = pathlib.Path({str(workdir)!r})
run = tracking.TrackedRun(workdir, config.to_json(config.default()), "0123456789abcdef")
with tracking.Log(workdir, tracking.make({name!r}, run)) as log:
  log.start(1)
  log.log(1, {{"train/loss": 1.5}})
  log.start(1)
  log.log(1, {{"train/loss": 0.5, "valid/loss": float("nan")}})"""
  for _ in range(2):
    result = subprocess.run(
      [sys.executable, "-c", program],
      cwd=tmp_path,
      env=os.environ | environment,
      capture_output=True,
      text=True,
      check=True,
      timeout=300,
    )
    assert "warning" not in result.stderr, result.stderr
    assert "tracker   " in result.stderr
  assert set(os.listdir(workdir)) == {"metrics.jsonl", *(p.name for p in workdir.glob("events*"))}
  return tmp_path


@pytest.mark.long
def test_weights_and_biases_offline(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  folder = offline("wandb", tmp_path, workdir, WANDB_MODE="offline")
  assert len(list(folder.glob("wandb/offline-run-*-0123456789abcdef/*.wandb"))) == 2


@pytest.mark.long
def test_mlflow_offline(tmp_path):
  workdir = tmp_path / "sweep" / "run"
  workdir.mkdir(parents=True)
  (workdir.parent / "sweep.json").write_text("{}")
  uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
  offline("mlflow", tmp_path, workdir, MLFLOW_TRACKING_URI=uri)
  program = """import json, mlflow
client = mlflow.MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("charrnn").experiment_id])
history = [m.value for m in client.get_metric_history(run.info.run_id, "train/loss")]
print(json.dumps([run.info.status, run.info.run_name, run.data.tags["group"], history]))
print(json.dumps([run.data.params["model.cell"], sorted(run.data.metrics)]))"""
  result = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"MLFLOW_TRACKING_URI": uri},
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  status, name, group, history = json.loads(result.stdout.splitlines()[-2])
  assert (status, name, group) == ("FINISHED", "run", "sweep")
  assert sorted(history) == [0.5, 0.5, 1.5, 1.5]
  assert json.loads(result.stdout.splitlines()[-1]) == ["lstm", ["train/loss"]]
