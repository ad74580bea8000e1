"""Contestants side by side: turns taken in rounds, so that a noisy minute meets all alike."""

import contextlib
import json
import select
import statistics
import subprocess
import sys
import tempfile

PATIENCE = 900  # seconds that a contestant may be silent, besides its turn


class OutError(Exception):
  """A contestant that cannot go on, in a line."""


class Contestant:
  """A process that waits for its turn, of about `turn_seconds`; `with` starts and ends it."""

  def __init__(self, name, kind, task, turn_seconds):
    self.name, self.kind, self.task, self.turn_seconds = name, kind, task, turn_seconds

  def __enter__(self):
    # -P: what lies about in this directory is no module.
    command = [sys.executable, "-P", "-m", "charrnn.benchmarks.worker", self.name, self.kind]
    self._said = tempfile.TemporaryFile("w+", errors="replace")  # a pipe would fill up unread
    self._process = subprocess.Popen(
      [*command, json.dumps(self.task._asdict())],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._said,
      text=True,
    )
    return self

  def __exit__(self, *_):
    self._process.kill()
    self._process.communicate()
    self._said.close()

  def answer(self):
    patience = PATIENCE + 10 * self.turn_seconds
    if not select.select([self._process.stdout], [], [], patience)[0]:
      raise OutError(f"no answer in {patience:.0f} seconds")
    line = self._process.stdout.readline()
    if not line:
      raise OutError(self._last_words())
    return json.loads(line)

  def turn(self, count):
    with contextlib.suppress(BrokenPipeError):  # it has ended, and `answer` says why
      print(count, file=self._process.stdin, flush=True)
    return self.answer()

  def _last_words(self):
    code = self._process.wait()
    self._said.seek(0)
    lines = [line.strip() for line in self._said if line.strip()]
    ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return lines[-1] if lines and code > 0 else ended


def race(contestants, *, rounds, say=lambda text: None):
  """{label: Contestant} -> ({label: what it did}, {label: why it could not}).

  What a contestant did: about itself, its memory, and the rate of every round: the amount of its
  work a second. All have compiled before the first round.
  """
  rows, out = {}, {}
  with contextlib.ExitStack() as stack:

    def attempt(label, act):
      try:
        act(label, contestants[label])
      except OutError as error:
        out[label] = str(error)
        rows.pop(label, None)

    def start(label, contestant):
      say(f"{label} gets ready")
      stack.enter_context(contestant)
      ready = contestant.answer()
      once = contestant.turn(1)["seconds"]
      rows[label] = ready | {"count": max(1, round(contestant.turn_seconds / once)), "rates": []}

    def turn(label, contestant):
      row = rows[label]
      done = contestant.turn(row["count"])
      row["rates"].append(contestant.task.amount * row["count"] / done.pop("seconds"))
      row.update(done)

    for label in contestants:
      attempt(label, start)
    for n in range(rounds):
      say(f"round {n + 1} of {rounds}")
      for label in list(rows)[:: -1 if n % 2 else 1]:  # to and fro: nobody is always first
        attempt(label, turn)
  for label, row in rows.items():
    _summarize(row, contestants[label].task.amount)
  return rows, out


def _summarize(row, amount):
  row["median"] = statistics.median(row["rates"])
  row["compile_seconds"] = max(0.0, row["first_seconds"] - amount / row["median"])
  in_process = row["peak_bytes"] - row["base_bytes"]
  row["memory_bytes"] = in_process if row["platform"] == "cpu" else row["device_peak_bytes"]
