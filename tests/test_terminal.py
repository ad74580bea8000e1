"""What is said when nobody is left to hear it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from charrnn import console
from charrnn import progress as phases
from charrnn.sweeps import board
from charrnn.runs import metrics

update = phases.Phases()("a phase")
table = board.Board([])
steps = metrics.Progress(9, 0, 1, 1, every=0.0)
time.sleep(0.2)
WAYS = {
  "say": lambda: console.say("a line"),
  "phase": lambda: update(1, 2),
  "board": lambda: table.update({}, final=True, note="x"),
  "steps": lambda: [steps.update(1, 1.0), steps.pause()],
}
print("begun", flush=True)
input()
for _ in range(2):
  time.sleep(0.2)
  WAYS[sys.argv[1]]()
console.say("the end")
print("done", flush=True)
"""


@pytest.mark.parametrize("way", ["say", "phase", "board", "steps"])
@pytest.mark.parametrize("make", [os.pipe, os.openpty])
def test_work_goes_on_when_the_reader_or_the_terminal_is_gone(make, way):
  reader, stderr = make()
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM, way],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
  )
  os.close(stderr)
  assert process.stdout.readline() == "begun\n"
  os.close(reader)
  out, _ = process.communicate("\n", timeout=60)
  assert out == "done\n" and process.returncode == 0
