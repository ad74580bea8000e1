"""Trial 3: damage to any file of a run never gives a wrong result, and the message names it."""

import itertools
import os
import stat

import pytest

from charrnn import cli, errors
from charrnn.runs import checkpoints, lock
from charrnn.runs import run as run_lib

pytestmark = [
  pytest.mark.trial(3),
  # Orbax does not await its coroutines when it fails, which causes a warning.
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Patterns of the files of the run `a`, whose newest step is 20.
FILES = (
  *("config.json", "run.json", "alphabet.json", "metrics.jsonl", "events.*", "loss.png", "lock"),
  *("checkpoints/20/_CHECKPOINT_METADATA", "checkpoints/20/meta/metadata"),
  *("checkpoints/20/state/_METADATA", "checkpoints/20/state/manifest.ocdbt"),
  *("checkpoints/20/state/d/*", "checkpoints/20/state/ocdbt.process_0/manifest.ocdbt"),
  "checkpoints/20/state/ocdbt.process_0/d/*",
)
DERIVED = ("events.*", "loss.png", "lock")  # files that nothing reads
FLIPS = 20


def flip(number):
  """Return a function that flips a bit of a file; `number` selects its place."""

  def damage(path):
    content = bytearray(path.read_bytes())
    if content:
      position = (2 * number + 1) * len(content) * 8 // (2 * FLIPS)
      content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)

  return damage


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
  path.write_bytes(b"")


def delete(path):
  path.unlink()


def link(path):
  path.rename(path.parent.parent / f"{path.name}-elsewhere")
  path.symlink_to(path.parent.parent / f"{path.name}-elsewhere")


def fifo(path):
  path.unlink()
  os.mkfifo(path)


def device(path):
  path.unlink()
  try:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
  except PermissionError:
    pytest.skip("only root can make devices")


KINDS = {f"flip{number}": flip(number) for number in range(FLIPS)}
KINDS |= {each.__name__: each for each in (truncate, empty, delete, link, fifo, device)}
SHORT = {
  ("config.json", "flip7"),
  ("run.json", "delete"),
  ("alphabet.json", "empty"),
  ("metrics.jsonl", "device"),
  ("checkpoints/20/meta/metadata", "fifo"),
  ("checkpoints/20/state/ocdbt.process_0/d/*", "flip3"),
  ("checkpoints/20/state/_METADATA", "link"),
  ("loss.png", "link"),
}


def contents(run):
  """Return what commands use of a run, with the digests of the parameters."""
  corpus = run.origin["corpus"]
  launches = [(launch["command"], launch["overrides"]) for launch in run.origin["launches"]]
  return run.config, run.tokenizer, corpus, launches, checkpoints.digests(run.params)


def read(path, step):
  """Return (what commands use, None), or (None, error message)."""
  try:
    return contents(run_lib.Run.open(path, step).load()), None
  except errors.UserError as error:
    return None, str(error)


@pytest.mark.parametrize(
  ("pattern", "kind"),
  [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.long)
    for case in itertools.product(FILES, KINDS)
  ],
)
def test_damage_is_reported_or_harmless(a, pattern, kind, capsys):
  intact = {step: read(a, step)[0] for step in (10, 20)}
  run = run_lib.Run.open(a)
  metrics, identity = run.metrics, run.identity
  for path in sorted(a.glob(pattern)):
    KINDS[kind](path)
  place = "20" if "20" in pattern else pattern

  # Commands return the right result, or name the file or the step.
  messages = []
  for step in (10, 20):
    result, message = read(a, step)
    assert result == intact[step] or place in message, (result, message)
    messages += [message] if message else []
  assert pattern not in DERIVED or not messages

  # Without a step, commands use an intact one, and name the damaged one if it may be better.
  result, message = read(a, None)
  warnings = capsys.readouterr().err
  assert result in intact.values() or place in message, (result, message)
  assert not messages or place in (message or warnings)

  # charrnn verify notices everything that it does not read correctly.
  code = cli.main(["verify", str(a)])
  out, err = capsys.readouterr()
  assert "Traceback" not in err
  if code == 0:
    assert not messages and run_lib.Run.open(a).metrics == metrics
  else:
    assert place in out + err

  # Training does not write through links, and resumes from the newest intact step.
  if kind in ("link", "fifo", "device"):
    with pytest.raises(errors.UserError, match="is a"), lock.hold(a):
      pass
  findings = []
  arrays, meta = checkpoints.read_newest(a / "checkpoints", findings.append, identity)
  assert checkpoints.digests(arrays) == meta["arrays"]
  assert meta["step"] == 20 or (meta["step"] == 10 and "20" in findings[0])


@pytest.mark.parametrize("kind", ["flip3", "truncate", "delete", "fifo"])
def test_without_an_intact_step_nothing_is_changed(a, kind):
  for step in (10, 20):
    KINDS[kind](a / "checkpoints" / str(step) / "meta" / "metadata")
  before = sorted(a.rglob("*"))
  with pytest.raises(errors.UserError, match=r"no checkpoint in .* can be used"):
    checkpoints.read_newest(a / "checkpoints")
  with pytest.raises(errors.UserError, match=r"no checkpoint of .* can be used.*: restore one"):
    run_lib.Run.open(a).load()
  assert sorted(a.rglob("*")) == before
