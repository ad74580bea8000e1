"""What is said when nobody is left to hear it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import time
from charrnn import terminal
from charrnn.commands import progress as phases
from charrnn.launching import board
from charrnn.training import metrics
print("begun", flush=True)
input()
terminal.say("a line")
drawn = metrics.Progress(9, 0, 1, 1, every=0.0)
for step in range(1, 4):
  time.sleep(0.11)
  drawn.update(step, 1.0)
drawn.pause()
table = board.Board([])
table.update({}, note="x")
table.update({}, final=True)
update = phases.Phases()("p")
update(1, 2)
print("done", flush=True)
"""


@pytest.mark.parametrize("make", [os.pipe, os.openpty])
def test_work_goes_on_when_the_reader_or_the_terminal_is_gone(make):
  reader, stderr = make()
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
  )
  assert process.stdout.readline() == "begun\n"
  os.close(reader)
  if make is os.openpty:
    os.close(stderr)
  out, _ = process.communicate("\n", timeout=60)
  assert out == "done\n" and process.returncode == 0
  if make is os.pipe:
    os.close(stderr)
