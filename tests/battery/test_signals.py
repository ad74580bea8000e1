"""Trial 2: four signals at 20 instants; the run saves, and continues as if nothing had happened."""

import re
import resource
import signal
import subprocess
import sys
import time

import programs
import psutil
import pytest

from charrnn import process
from charrnn.runs import checkpoints, metrics

pytestmark = pytest.mark.trial(2)

# Seconds after the program handles signals, and after it has reported the run, which is before it
# compiles the first programs.
IMPORTS = [("imports", seconds) for seconds in (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)]
COMPILATION = [("compilation", seconds) for seconds in (0.0, 0.3, 0.6, 1.0)]
STEPS = [("step", step) for step in (5, 35, 75, 110)]
SAVES = [("save", step) for step in (7, 21, 40, 80)]
INSTANTS = IMPORTS + COMPILATION + STEPS + SAVES
SHORT = [(signal.SIGUSR1, *SAVES[1])]
ALL = [(number, *instant) for number in process.STOP_SIGNALS for instant in INSTANTS]
CASES = [
  pytest.param(*case, id="-".join(map(str, case)), marks=[] if case in SHORT else pytest.mark.long)
  for case in ALL
]
# Maximum seconds of processor time from a signal during training to the end of the process. The
# time on a clock depends on other processes of the machine.
MAX_SECONDS = 5.0
LIMIT = 120.0


def wait_for(child, condition):
  end = time.monotonic() + LIMIT
  while child.poll() is None and not condition():
    assert time.monotonic() < end
    time.sleep(0.001)


def handles_signals(child):
  status = programs.proc_status(child.pid, "SigCgt")
  return bool(int(status, 16) >> (signal.SIGUSR1 - 1) & 1)


def reached(workdir, step):
  lines = metrics.read(workdir)
  return bool(lines) and lines[-1]["step"] >= step


def is_saving(folder, step):
  """Return whether the files of a step are being written, or have just been written."""
  return any(
    path.name.startswith(f"{step}.") or path.name == str(step) for path in folder.glob("*")
  )


def cpu_seconds(running=None):
  """Return the processor time of a running process, or of all that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return sum(running.cpu_times()[:2]) if running else usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(("number", "phase", "value"), CASES)
def test_a_signal_loses_nothing(folder, whole, tmp_path, number, phase, value):
  name, log = f"signal-{number}-{phase}-{value}", tmp_path / "log"
  workdir = folder / name
  command = [sys.executable, programs.ROOT / "launch.py", "--config=tiny.py", f"--workdir={name}"]
  with log.open("w") as err:
    child = subprocess.Popen(command, cwd=folder, stderr=err)
  if phase == "imports":
    wait_for(child, lambda: handles_signals(child))
  elif phase == "compilation":
    wait_for(child, lambda: re.search("^run ", log.read_text(), re.MULTILINE))
  elif phase == "step":
    wait_for(child, lambda: reached(workdir, value))
  else:
    wait_for(child, lambda: is_saving(workdir / "checkpoints", value))
  if phase in ("imports", "compilation"):
    time.sleep(value)
  seconds_before, others_before = cpu_seconds(psutil.Process(child.pid)), cpu_seconds()
  child.send_signal(number)
  code, text = child.wait(LIMIT), log.read_text()
  seconds = cpu_seconds() - others_before - seconds_before
  assert "Traceback" not in text and "Exception" not in text, text
  if phase in ("step", "save"):
    assert code == 75 and seconds < MAX_SECONDS, text
  else:
    assert code in (75, process.INTERRUPTED_CODE), text
  saved = checkpoints.steps(workdir / "checkpoints")
  if code == 75:
    assert f"stopped by a signal, saved after step {saved[-1]}: " in text
  else:
    assert not saved
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", f"--workdir={name}"))
  assert code == 0, err
  assert programs.result(workdir) == programs.result(whole)
