"""What a model wrote: on stdout, as JSON, in files; and how fast it came."""

import json
import math
import pathlib
import sys
import time

from charrnn import errors, files
from charrnn.sampling import stream

ENOUGH = 10  # samples, by effective size, for an estimate


def silent(_):
  pass


def writer(file):
  """write(text), at once and exactly, but that a terminal is shown no control characters."""
  # Exact, but for a lone surrogate, which no encoding has.
  file.reconfigure(errors="replace", newline="\n")
  table = stream.VISIBLE if file.isatty() else {}

  def write(text):
    file.write(text.translate(table))
    file.flush()

  return write


def end_line(write, text):
  """On a terminal, keeps the next shell prompt off the text."""
  if sys.stdout.isatty() and not text.endswith("\n"):
    write("\n")


class Clock:
  """Watches text go by; tells how fast it came, the first piece (reading, compiling) apart."""

  def __init__(self):
    self.times, self.counts = [time.perf_counter()], []

  def watch(self, pieces):
    for piece in pieces:
      self.times.append(time.perf_counter())
      self.counts.append(sum(map(len, piece)))
      yield piece

  def __str__(self):
    start, first, *_, last = *self.times, self.times[-1]
    line = f"{sum(self.counts)} characters in {last - start:.2f} s"
    if later := sum(self.counts[1:]):
      line += (
        f": {first - start:.2f} s to the first, then {later / (last - first):.0f} characters/s"
      )
    return line


def live(pieces, prompt):
  """Passes on the pieces of a single text, each written as it comes."""
  write = writer(sys.stdout)
  write(prompt)
  last = prompt
  for (piece,) in pieces:
    write(piece)
    last = piece or last
    yield [piece]
  end_line(write, last)


def many(samples, prompt, num, say, score=None):
  """Passes on samples, each written as it comes, with an empty line between them."""
  write = writer(sys.stdout)
  for n, sample in enumerate(samples, 1):
    text = prompt + sample.text
    say(f"--- sample {n} of {num}" + (f": {score(sample)}" if score else ""))
    write(text)
    if n < num:
      write("\n" if text.endswith("\n") else "\n\n")
    else:
      end_line(write, text)
    yield sample


def score(sample):
  """How probable a text is, for a person."""
  if sample.log_q is not None:
    return f"log p {sample.log_p:.2f}, log q {sample.log_q:.2f}"
  each = sample.log_p / max(sample.symbols, 1)
  return f"log p {sample.log_p:.2f}, {each:.3f} a symbol of {sample.symbols}"


def estimate(found, num):
  """Of `num` samples, for a person, who is warned: a few large weights make most of a mean, and may
  have yet to come.
  """
  line = (
    f"the model by itself writes like that with probability {math.exp(found.log_p):.3g} "
    f"(log p {found.log_p:.2f}) +- {found.error:.0%}, effective sample size {found.effective:.1f}"
  )
  return line + (
    ": too small, likely far too low" if found.effective < min(ENOUGH, 0.8 * num) else ""
  )


def json_lines(samples, shared):
  """A line of JSON for each of the samples."""
  return [json.dumps(plain(s) | {"sample": n} | shared) for n, s in enumerate(samples, 1)]


def plain(record):
  """A NamedTuple for JSON, which has no infinity: null in its place."""
  fields = record._asdict().items()
  return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in fields}


class Files:
  """001.txt and so on in a folder with prompt and text, and samples.jsonl with what --json says."""

  LINES = "samples.jsonl"

  def __init__(self, out, num):
    """Raises UserError if one of them is there: nothing is overwritten."""
    if not out:
      raise errors.UserError("--out: the name of the folder is empty")
    self._folder = files.make_folder(out, pathlib.Path())
    digits = max(3, len(str(num)))
    self._names = [f"{n:0{digits}}.txt" for n in range(1, num + 1)]
    there = {path.name for path in self._folder.iterdir()}
    if taken := there.intersection([*self._names, self.LINES]):
      raise errors.UserError(f"--out={out}: {min(taken)} is there already: give another folder")

  def texts(self, samples, prompt):
    """Passes on samples, each written as it comes."""
    for name, sample in zip(self._names, samples):
      self._write(name, prompt + sample.text)
      yield sample

  def lines(self, lines):
    self._write(self.LINES, "".join(f"{line}\n" for line in lines))
    return lines

  def _write(self, name, text):
    try:
      with open(self._folder / name, "xb") as file:
        file.write(text.encode("utf-8", "replace"))
    except OSError as error:
      raise errors.UserError(f"cannot write {self._folder / name}: {error.strerror}") from error
