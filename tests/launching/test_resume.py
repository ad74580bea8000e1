"""Runs that are stopped resume to bit-identical results. tests/battery/test_kills.py kills runs."""

import shutil
import signal
import subprocess
import sys

import programs
import pytest

from charrnn import errors
from charrnn.runs import checkpoints, metrics
from charrnn.runs import run as run_lib
from charrnn.training import loop


def resume(folder, name):
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", f"--workdir={name}"))
  assert code == 0, err
  return err


@pytest.mark.long
def test_a_signal_stops_a_run_whose_directory_no_other_process_can_use(folder, whole):
  workdir = folder / "stopped"
  first = programs.start(folder, "--config=tiny.py", "--workdir=stopped")
  programs.wait_for_step(first, workdir, 20)
  first.send_signal(signal.SIGSTOP)  # It must not finish before the second process.
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", "--workdir=stopped"), 20)
  assert code == 2
  assert err.startswith("launch.py: error: another process is training in stopped")
  assert err.count("\n") == 1
  first.send_signal(signal.SIGTERM)
  first.send_signal(signal.SIGCONT)
  code, err = programs.finish(first)
  assert code == 75
  step = checkpoints.steps(workdir / "checkpoints")[-1]
  assert step < programs.STEPS
  assert f"stopped by a signal, saved after step {step}: run the same command to resume" in err
  assert f"resuming from step {step}" in resume(folder, "stopped")
  assert programs.result(workdir) == programs.result(whole)


def test_settings_of_jax_in_the_environment_do_not_change_the_result(folder, whole):
  environment = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_NUM_CPU_DEVICES": "5",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
  }
  arguments = "--config=tiny.py", "--workdir=settings"
  code, err = programs.finish(programs.start(folder, *arguments, environment=environment))
  assert code == 0, err
  assert programs.result(folder / "settings") == programs.result(whole)
  for name, value in environment.items():
    assert name in err or value in err
  code, err = programs.finish(programs.start(folder, *arguments))
  assert code == 0 and "different from the last launch: JAX_ENABLE_X64: 1, now none" in err


SHORT = ("eval_every=4", "checkpoint_every=0", "sample.length=0", "log_every=1")


def train(main, workdir, *fields, code=0, options=()):
  fields = [f"--config.{field}" for field in (*SHORT, *fields)]
  assert main("--config=tiny.py", f"--workdir={workdir}", *fields, *options) == code
  run = run_lib.Run.open(workdir)
  return metrics.curve(run.metrics, "train/loss"), run.checkpoint(run.steps[-1])[1]["arrays"]


@pytest.mark.long
def test_a_finished_run_can_be_trained_for_longer_with_wsd(main, tmp_path, capsys):
  wsd = ("schedule.name=wsd", "schedule.decay_fraction=0.5", "keep=1")
  whole = train(main, tmp_path / "whole", *wsd, "max_steps=16")
  train(main, tmp_path / "run", *wsd, "max_steps=8")
  capsys.readouterr()
  assert train(main, tmp_path / "run", *wsd, "max_steps=16") == whole
  err = capsys.readouterr().err
  assert "changed   max_steps 8 -> 16" in err and "resuming from step 4" in err
  assert f"later checkpoints, up to step 8, are now in {tmp_path / 'run' / 'replaced'}" in err
  train(main, tmp_path / "run", *wsd, "max_steps=16")
  assert "already finished at step 16" in capsys.readouterr().err


def test_a_time_limit_stops_a_run_with_exit_code_75(main, tmp_path):
  whole = train(main, tmp_path / "whole", "max_steps=3")
  limited = {"code": 75, "options": ["--time_limit=0.001"]}
  for step in (1, 2):
    train(main, tmp_path / "run", "max_steps=3", **limited)
    run = run_lib.Run.open(tmp_path / "run")
    assert run.steps[-1] == step
  # The last step completes the run, so it is not stopped.
  assert train(main, tmp_path / "run", "max_steps=3", **limited | {"code": 0}) == whole
  for value in ("0", "-1", "nan", "inf"):
    with pytest.raises(errors.UserError, match=f"--time_limit={value}"):
      main("--config=tiny.py", f"--time_limit={value}")


def test_a_rollback_is_recorded(main, tmp_path, monkeypatch, capsys):
  update = loop.Trainer._update

  def spoiled(trainer, step, state, batch):
    state, out = update(trainer, step, state, batch)
    is_bad = step >= 10 and trainer.peak_rate > 0.004
    return state, out | ({"loss": out["loss"] * 100} if is_bad else {})

  monkeypatch.setattr(loop.Trainer, "_update", spoiled)
  workdir = tmp_path / "run"
  fields = "max_steps=20", "eval_every=8", "checkpoint_every=0", "sample.length=0"
  arguments = ["--config=tiny.py", f"--workdir={workdir}", *(f"--config.{f}" for f in fields)]
  with pytest.raises(errors.DivergedError, match="or add --rollback"):
    main(*arguments)
  assert run_lib.Run.open(workdir).status == "diverged"
  assert main(*arguments, "--rollback") == 0
  assert "rollback 2 of at most 5: training diverged at step" in capsys.readouterr().err
  run = run_lib.Run.open(workdir)
  assert [r["learning_rate"] for r in run.origin["rollbacks"]] == [0.005, 0.0025]
  assert {r["step"] for r in run.origin["rollbacks"]} == {8} and run.status == "finished"
  assert main(*arguments) == 0
  assert len(run_lib.Run.open(workdir).origin["rollbacks"]) == 2


def test_a_rollback_needs_validation_losses(main, tmp_path):
  arguments = "--config=tiny.py", "--config.text.valid_fraction=0", f"--workdir={tmp_path / 'run'}"
  with pytest.raises(errors.UserError, match=r"^--rollback returns to the checkpoint with"):
    main(*arguments, "--rollback")
  assert not (tmp_path / "run").exists()
  # The validation split may also be another text, which is missing here.
  with pytest.raises(errors.UserError, match=r"none\.txt"):
    main(*arguments, "--rollback", "--config.text.valid_source=none.txt")


RUN_ON_A_TERMINAL = """
import os, pty, signal, sys
child, terminal = pty.fork()
if not child:
  signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
  os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
output = b""
# Wait until the program has just written its progress line.
while b"tokens/s" not in output.partition(b"step 40 ")[2]:
  output += os.read(terminal, 10_000)
os.kill(child, signal.SIGSTOP)
os.close(terminal)  # sends SIGHUP, and SIGCONT
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_closing_the_terminal_stops_and_saves_a_run(folder):
  line = ["--config=tiny.py", "--workdir=closed", "--config.max_steps=100000"]
  program = [sys.executable, "-c", RUN_ON_A_TERMINAL, programs.ROOT / "launch.py", *line]
  assert subprocess.run(program, cwd=folder, timeout=120, check=False).returncode == 75
  saved = checkpoints.steps(folder / "closed" / "checkpoints")[-1]
  logged = metrics.read(folder / "closed")[-1]["step"]
  assert 40 <= logged <= saved < logged + 5  # although checkpoints are written only every 7 steps
  process = programs.start(folder, *line)
  programs.wait_for_step(process, folder / "closed", saved + 10)
  process.send_signal(signal.SIGTERM)
  code, err = programs.finish(process)
  assert code == 75 and f"resuming from step {saved}" in err


@pytest.fixture
def copy(whole, folder, tmp_path):
  return shutil.copytree(whole, tmp_path / "copy")


def test_a_finished_run_is_not_changed(main, copy, whole, capsys):
  metrics = (copy / "metrics.jsonl").read_bytes()
  assert main("--config=tiny.py", f"--workdir={copy}") == 0
  assert programs.result(copy) == programs.result(whole)
  assert (copy / "metrics.jsonl").read_bytes() == metrics
  out, err = capsys.readouterr()
  assert not out
  assert "best validation loss" in err and f"charrnn sample {copy}" in err


@pytest.mark.parametrize(
  ("field", "old"),
  [
    ("text.limit=900", "text.limit=0"),
    ("window=9", "window=8"),
    ("optimizer.b1=0.5", "optimizer.b1=0.9"),
    ("seed=2", "seed=1"),
  ],
)
def test_a_changed_field_that_affects_the_result_is_rejected(main, copy, field, old):
  before = programs.contents(copy)
  with pytest.raises(errors.UserError, match=f"{field}: the run has {old}, which cannot change"):
    main("--config=tiny.py", f"--workdir={copy}", f"--config.{field}")
  assert programs.contents(copy) == before


def test_a_changed_text_is_rejected(main, folder, copy):
  text = (folder / "text.txt").read_text()
  (folder / "text.txt").write_text(text.replace("question", "quiestno"))
  before = programs.contents(copy)
  with pytest.raises(errors.UserError, match=r"text\.txt has changed since"):
    main("--config=tiny.py", f"--workdir={copy}")
  assert programs.contents(copy) == before
  (folder / "text.txt").write_text(text)


def test_a_changed_field_that_does_not_affect_the_result_is_accepted(main, copy):
  fields = ("log_every=7", "patience=3", "keep=1", "diverged=9", "sample.length=5")
  arguments = [f"--config.{field}" for field in fields]
  assert main("--config=tiny.py", f"--workdir={copy}", *arguments) == 0


def test_values_that_an_experiment_no_longer_sets_are_kept(main, copy):
  (copy.parent / "open.py").write_text(
    programs.EXPERIMENT.replace("c.model.layers, c.model.hidden, c.model.dropout = 1, 8, 0.2", "")
  )
  assert main(f"--config={copy.parent}/open.py", f"--workdir={copy}") == 0
