"""What run.json keeps of each launch."""

import shutil
import sys

import programs
import pytest

from charrnn import command_line, errors, files, runtime
from charrnn.launching import train
from charrnn.runs import checkpoints, provenance
from charrnn.training import loop

PHASES = ["python and flags", "text", "jax", "parameters", "first step", "total"]


def launches(workdir):
  return files.read_json(workdir / "run.json")["launches"]


def test_where_the_time_went_until_the_first_step(whole):
  (launch,) = launches(whole)
  *phases, total = launch["startup_seconds"].values()
  assert list(launch["startup_seconds"]) == PHASES
  assert all(seconds >= 0 for seconds in phases)
  assert total == pytest.approx(sum(phases), abs=0.01)


def test_what_is_not_committed_is_kept_with_the_run(main, tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "code", lambda folder: ("c0ffee", b"changes"))
  main("--config=tiny.py", "--config.max_steps=1", f"--workdir={tmp_path / 'run'}")
  (launch,) = launches(tmp_path / "run")
  assert launch["git"] == "c0ffee+"
  assert (tmp_path / "run" / launch["uncommitted"]).read_bytes() == b"changes"


def test_the_weights_that_a_run_began_with(main, whole, tmp_path):
  source = shutil.copytree(whole, tmp_path / "source")
  arguments = ("--config=tiny.py", f"--config.init_from={source}", "--config.max_steps=1")
  main(*arguments, f"--workdir={tmp_path / 'run'}")
  kept = files.read_json(tmp_path / "run" / "run.json")["weights"]
  assert kept == provenance.initial_weights(source) and kept["step"] == checkpoints.best_step(
    source / "checkpoints"
  )
  # They are needed no more: a run goes on without them.
  shutil.rmtree(source / "checkpoints")
  main(*arguments, f"--workdir={tmp_path / 'run'}")
  assert files.read_json(tmp_path / "run" / "run.json")["weights"] == kept
  older = files.read_json(tmp_path / "run" / "run.json")
  del older["weights"]
  files.write_json(tmp_path / "run" / "run.json", older)
  main(*arguments, f"--workdir={tmp_path / 'run'}")
  with pytest.raises(errors.UserError, match="no undamaged checkpoint"):
    provenance.initial_weights(source)


def test_a_run_made_again_says_what_is_different(main, whole, tmp_path, capsys):
  (launch,) = launches(whole)

  def make_again(name, then):
    argument = f"--config={whole / 'config.json'}"
    line = command_line.parse(["launch.py", argument, "--config.max_steps=1"])
    line = line._replace(original=provenance.Original(whole, then))
    assert train.run(line, tmp_path / name) == 0
    return capsys.readouterr().err.splitlines()

  lines = make_again("a", launch | {"python": "3.1", "devices": "99 x cpu"})
  assert f"different python: 3.1, now {launch['python']}" in lines
  assert any(line.startswith("different devices: 99 x cpu, now ") for line in lines)
  assert files.read_json(tmp_path / "a" / "run.json")["rerun_of"] == str(whole)
  (again,) = launches(tmp_path / "a")
  lines = [line for line in make_again("b", again) if line.startswith("different")]
  assert lines == ["different nothing: machine, packages and code are those of the record"]


def test_the_config_of_a_run_is_the_same_run(main, whole, tmp_path, capsys):
  finished = shutil.copytree(whole, tmp_path / "finished")
  assert main(f"--config={finished / 'config.json'}", f"--workdir={finished}") == 0
  assert f"finished at step {programs.STEPS}" in capsys.readouterr().err
  assert programs.result(finished) == programs.result(whole)


def test_a_launch_without_a_first_step_has_no_such_record(main, whole, tmp_path, monkeypatch):
  finished = shutil.copytree(whole, tmp_path / "finished")
  assert main("--config=tiny.py", f"--workdir={finished}") == 0
  first, second = launches(finished)
  assert "startup_seconds" in first and "startup_seconds" not in second

  def train(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop.Trainer, "train", train)
  with pytest.raises(KeyboardInterrupt):
    main("--config=tiny.py", f"--workdir={tmp_path / 'killed'}")
  (launch,) = launches(tmp_path / "killed")
  assert "startup_seconds" not in launch


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_watch_starts_with_the_process(monkeypatch):
  before = runtime._IMPORTED
  assert 0 < before - runtime._process_start() < 600
  monkeypatch.setattr(runtime.pathlib.Path, "read_text", lambda path: "elsewhere")
  assert runtime._process_start() == before


def test_the_phases_come_in_their_order_and_last_their_total(monkeypatch):
  seconds = iter([12.0, 12.5, 15.0])
  monkeypatch.setattr(runtime, "_process_start", lambda: 10.0)
  monkeypatch.setattr(runtime.time, "monotonic", lambda: next(seconds))
  watch = runtime.Stopwatch()
  for phase in ("b", "c", "a"):
    watch.mark(phase)
  assert list(watch.seconds().items()) == [("b", 2.0), ("c", 0.5), ("a", 2.5), ("total", 5.0)]
