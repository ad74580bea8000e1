"""The check of a machine with a GPU, at the smallest size and on a CPU."""

import subprocess
import sys
import types

import gpu_check
import pytest

from charrnn import errors


@pytest.mark.long
def test_all_sections_run_on_a_cpu(tmp_path):
  command = [sys.executable, gpu_check.__file__, "--small", f"--out={tmp_path}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  rows = [line.split()[:2] for line in done.stdout.splitlines()]
  for name in gpu_check.SECTIONS:
    assert [name, "done"] in rows
    assert (tmp_path / f"{name}.jsonl").read_text() and (tmp_path / f"{name}.log").exists()
  assert (tmp_path / "summary.txt").read_text() == done.stdout


@pytest.fixture
def check(tmp_path):
  return gpu_check.Check([], [], tmp_path, [], is_small=True, has_gpu=False)


def test_a_section_that_fails_or_takes_too_long_does_not_stop_the_others(
  check, monkeypatch, capsys
):
  """The sections are replaced by programs."""
  programs = {
    "broken": "import sys; sys.exit('no memory')",
    "slow": f"open('{check.folder}/slow.jsonl', 'w').write('[\"speed\", \"1\"]'); "
    "import time; time.sleep(60)",
    "good": "",
  }
  popen = subprocess.Popen

  def start(command, **options):
    name = command[-1].removeprefix("--only=")
    return popen([sys.executable, "-c", programs[name]], **options)

  monkeypatch.setattr(gpu_check.subprocess, "Popen", start)
  sections = {name: gpu_check.Section(None, 0.4 if name == "slow" else 30) for name in programs}
  monkeypatch.setattr(gpu_check, "SECTIONS", sections)
  assert gpu_check.run_all(list(programs), check) == 1
  lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  assert lines[1].startswith("broken FAILED, no memory in ")
  assert lines[2].startswith("slow FAILED, stopped at its time limit in ")
  assert lines[3] == "speed 1"  # what it had written before
  assert lines[4].startswith("good done in ")


def test_a_machine_without_a_gpu_is_rejected(check):
  with pytest.raises(errors.UserError, match="--small"):
    gpu_check.run_all(["environment"], check._replace(is_small=False))


def line(name, *events):
  keys = "name", "start_ns", "duration_ns"
  events = [types.SimpleNamespace(**dict(zip(keys, event))) for event in events]
  return types.SimpleNamespace(name=name, events=events)


def test_waits_launches_and_busy_time_are_read_from_a_profile():
  host = line(
    "thread", ("cuStreamSynchronize", 0, 5), ("cuLaunchKernel", 1, 1), ("cuGraphLaunch", 2, 1),
    ("dot.1", 0, 900),
  )  # fmt: skip
  streams = [line("Stream #1", ("a", 10, 20), ("b", 20, 30)), line("Stream #2", ("c", 45, 15))]
  other = line("XLA Modules", ("jit_step", 0, 1000))
  planes = [types.SimpleNamespace(name="/host:CPU", lines=[host])]
  assert gpu_check.read_profile(planes, {"dot.1"}) == (1, 2, 900e-9)
  planes.append(types.SimpleNamespace(name="/device:GPU:0", lines=[*streams, other]))
  assert gpu_check.read_profile(planes, {"dot.1"}) == (1, 2, 50e-9)
