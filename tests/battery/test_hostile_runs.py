"""Trial 12: a run directory from somebody else cannot harm the user who opens it.

Every case changes a copy of a run, with valid digests where that is possible, and runs commands on
it in a process with little memory. A command may work or fail with one line. It must not run code,
change a file outside the run, wait, or need much memory.
"""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import pytest

from charrnn import files
from charrnn.runs import checkpoints

pytestmark = pytest.mark.trial(12)

MAX_BYTES = 2_500_000_000  # memory that a command may use, of which JAX and Orbax need most
COMMANDS = {
  "inspect": ["inspect", "RUN"],
  "verify": ["verify", "RUN"],
  "sample": ["sample", "RUN", "--length=3", "--seed=1", "--quiet"],
  "eval": ["eval", "RUN"],
}
# The peak of the memory in use is printed by the process itself.
PROGRAM = """
import resource, sys
from charrnn import cli
code = cli.main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(f"peak {peak}", file=sys.stderr)
sys.exit(code)
"""


def reseal(run, name, change):
  """Change the content of a JSON file, and give it a valid digest."""
  value = files.read_sealed(run / name)
  value = change(value) or value
  files.write_json(run / name, files.seal(value))


def set_field(name, value):
  """Return a function that sets a field of the config, also in the checkpoints."""

  def change(run):
    def update(config):
      section, _, key = name.rpartition(".")
      (config[section] if section else config)[key] = value

    reseal(run, "config.json", update)
    config = files.read_sealed(run / "config.json")
    for step in checkpoints.steps(run / "checkpoints"):
      meta = checkpoints.read_meta(run / "checkpoints", step)
      checkpoints.write_meta(run / "checkpoints", meta | {"run": meta["run"] | {"config": config}})

  return change


def set_record(*keys, value):
  """Return a function that sets a value in run.json."""

  def change(run):
    def update(record):
      for key in keys[:-1]:
        record = record[key]
      record[keys[-1]] = value

    reseal(run, "run.json", update)

  return change


def set_vocabulary(**values):
  return lambda run: reseal(run, "alphabet.json", lambda vocabulary: vocabulary.update(values))


def set_meta(**values):
  """Return a function that sets values in the metadata of a checkpoint."""

  def change(run):
    meta = checkpoints.read_meta(run / "checkpoints", 20)
    checkpoints.write_meta(run / "checkpoints", meta | values)

  return change


def write(name, content):
  return lambda run: (run / name).write_bytes(content)


def link(name, target):
  """Return a function that replaces a file or folder by a link."""

  def change(run):
    path = run / name
    if path.is_dir():
      shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target.format(outside=run.parent / "outside"))

  return change


def huge_file(name):
  """Return a function that makes a file of a terabyte, which has no blocks on disk."""

  def change(run):
    with (run / name).open("r+b") as file:
      file.truncate(1 << 40)

  return change


def fifo(name):
  def change(run):
    (run / name).unlink()
    os.mkfifo(run / name)

  return change


def declare(shape):
  """Return a function that declares another shape for an array of the newest checkpoint."""

  def change(run):
    import tensorstore as ts

    state = run / "checkpoints" / "20" / "state"
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
    key = b"params.layer_0.W_hh/.zarray"
    array = json.loads(store.read(key).result().value)
    for name, value in shape.items():
      array[name] = value
    store.write(key, json.dumps(array).encode()).result()

  return change


def compressed_zeros(run):
  """Replace a chunk of an array by a Zstandard frame of 10 GB in 320 KB."""
  import tensorstore as ts

  state = run / "checkpoints" / "20" / "state"
  store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
  size, count = 1 << 17, 80_000
  blocks = b"".join(
    (size << 3 | 1 << 1 | (n == count - 1)).to_bytes(3, "little") + b"\0" for n in range(count)
  )
  store.write(b"params.layer_0.W_hh/0.0", b"\x28\xb5\x2f\xfd\x00\x38" + blocks).result()


class Exploit:
  def __reduce__(self):
    return os.system, ("touch executed",)


CASES = {
  # links and special files
  **{f"link-{name}": link(name, "{outside}/file") for name in ("config.json", "lock", "loss.png")},
  **{f"link-{name}": link(name, "{outside}") for name in ("samples", "damaged", "cells")},
  "link-checkpoints": link("checkpoints/20", "{outside}"),
  "link-passwd": link("alphabet.json", "/etc/passwd"),
  **{f"fifo-{name}": fifo(name) for name in ("run.json", "metrics.jsonl", "config.json")},
  "fifo-meta": fifo("checkpoints/20/meta/metadata"),
  "fifo-state": fifo("checkpoints/20/state/_METADATA"),
  **{f"huge-{name}": huge_file(name) for name in ("config.json", "run.json", "metrics.jsonl")},
  "huge-meta": huge_file("checkpoints/20/meta/metadata"),
  "huge-state": huge_file("checkpoints/20/state/_METADATA"),
  # deep and damaged JSON
  **{
    f"deep-{name}": write(name, b"[" * 1_000_000)
    for name in ("config.json", "run.json", "alphabet.json", "metrics.jsonl", "outcome.json")
  },
  "deep-meta": write("checkpoints/20/meta/metadata", b'{"a":' * 1_000_000),
  "deep-state": write("checkpoints/20/state/_METADATA", b'{"a":' * 1_000_000),
  "pickle-config": write("config.json", pickle.dumps(Exploit())),
  "pickle-state": write("checkpoints/20/state/_METADATA", pickle.dumps(Exploit())),
  "long-number": write("config.json", b'{"seed": ' + b"9" * 100_000 + b"}"),
  # sizes
  "hidden": set_field("model.hidden", 100_000),
  "layers": set_field("model.layers", 1_000_000),
  "embed": set_field("model.embed", 10_000_000),
  "batch": set_field("batch_size", 2**31 - 1),
  "shape": declare({"shape": [100_000, 100_000]}),
  "chunks": declare({"shape": [100_000, 100_000], "chunks": [100_000, 100_000]}),
  "chunk": declare({"chunks": [100_000, 100_000]}),
  "negative": declare({"shape": [-1, 32]}),
  "dtype": declare({"dtype": "<f8"}),
  "zeros": compressed_zeros,
  # types
  **{f"config-{value!r}": set_field("model.hidden", value) for value in ("8", None, [8], 8.5, -1)},
  **{f"cell-{value!r}": set_field("model.cell", value) for value in ("os.system", None, 3, "")},
  **{f"split-{value!r}": set_field("text.split", value) for value in ("x", None, 3)},
  "unknown-field": set_field("model.code", "import os"),
  "section": set_field("model", 3),
  "inf": set_field("model.forget_bias", float("inf")),
  **{
    f"launches-{value!r}": set_record("launches", value=value)
    for value in ([], {}, None, [None], [{}], "x", [[]])
  },
  **{
    f"launch-{key}": set_record("launches", 0, key, value=value)
    for key, value in (
      ("time", 3),
      ("devices", None),
      ("packages", []),
      ("git", 1),
      ("command", []),
    )
  },
  **{
    f"corpus-{key}": set_record("corpus", key, value=value)
    for key, value in (("characters", "x"), ("bytes", None), ("sha256", 1), ("alphabet", 3))
  },
  "characters": set_record("corpus", "characters", value=-1),
  "many-characters": set_record("corpus", "characters", value=2**62),
  "tokens-type": set_vocabulary(tokens=3),
  "tokens-empty": set_vocabulary(tokens=[], counts=[]),
  "tokens-long": set_vocabulary(tokens=["ab"], counts=[1]),
  "counts": set_vocabulary(counts=["x"]),
  "kind": set_vocabulary(kind="eval"),
  "meta-arrays": set_meta(arrays=[]),
  "meta-loss": set_meta(valid_loss="x"),
  "meta-step": set_meta(run=3),
  "meta-metrics": set_meta(metrics={"bytes": "x", "sha256": 3}),
  "meta-memory": set_meta(memory=[]),
  "metrics": write("metrics.jsonl", b'{"step": 20, "train/loss": "x", "valid/loss": []}\n' * 3),
  "meta-array-names": set_meta(arrays=dict.fromkeys(("params/²", "9" * 5000, "", "a\n"), "x")),
  "meta-seconds": set_meta(memory={"seconds": float("nan"), "pending": [None], "rollbacks": -1}),
  "metrics-numbers": write(
    "metrics.jsonl",
    b"".join(
      b'{"step": 20, "train/loss": %s, "valid/loss": %s}\n' % (value, value)
      for value in (b"1", b"NaN", b"1e999", b"true", b"1" + b"0" * 400, b"-1e308")
    ),
  ),
  "null-digest": lambda run: files.write_json(
    run / "config.json", files.read_json(run / "config.json") | {"sha256": None, "seed": 2}
  ),
  "outcome": write("outcome.json", b'{"status": [], "code": {}, "seconds": "x"}'),
}
SHORT = ("link-samples", "fifo-run.json", "shape", "launches-[None]")


@pytest.fixture
def outside(a):
  """Return a folder outside the run, with a file that must not change."""
  folder = a.parent / "outside"
  folder.mkdir()
  (folder / "file").write_text("precious")
  return folder


@pytest.mark.parametrize(
  "case",
  [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in CASES],
)
def test_a_hostile_run_is_harmless(a, outside, case):
  CASES[case](a)
  before = tree(a)
  names = list(COMMANDS) if case not in SHORT else ["verify", "sample"]
  for name in names:
    arguments = [str(a) if word == "RUN" else word for word in COMMANDS[name]]
    done = run_python(outside, "-c", PROGRAM, *arguments)
    *lines, peak = done.stderr.splitlines()
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode != 2 or (len(lines) == 1 and "charrnn: error: " in lines[0]), lines
    assert int(peak.split()[1]) < MAX_BYTES
  assert tree(a) == before
  assert tree(outside) == {pathlib.Path("file"): b"precious"}


def run_python(folder, *arguments):
  """Run Python in a folder, and return its exit code and output."""
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def tree(folder):
  """Return the content of the regular files in a folder, and the targets of links."""
  return {
    path.relative_to(folder): os.readlink(path) if path.is_symlink() else describe(path)
    for path in folder.rglob("*")
    if path.is_symlink() or not path.is_dir()
  }


def describe(path):
  if not path.is_file() or path.stat().st_size > 1 << 30:
    return path.lstat().st_size
  return path.read_bytes()


@pytest.mark.parametrize(
  ("name", "target"),
  [
    pytest.param(*case, marks=() if case[0] == "samples" else pytest.mark.long)
    for case in (
      *((name, "{outside}") for name in ("samples", "damaged", "checkpoints/300", "cells")),
      *((name, "{outside}/new") for name in ("loss.png", "metrics.jsonl", "diverged.txt")),
      *((name, "{outside}/file") for name in ("lock", "run.json", "alphabet.json", "config.json")),
      *((name, "{outside}/file") for name in ("outcome.json", "events.out.tfevents.1.x")),
      ("checkpoints/20/meta/metadata", "{outside}/file"),
    )
  ],
)
def test_resuming_writes_nothing_outside(a, outside, name, target):
  link(name, target)(a)
  launch = pathlib.Path(__file__).parents[2] / "launch.py"
  done = run_python(outside, launch, f"--config={a / 'config.json'}", f"--workdir={a}")
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert done.stderr.count("\n") == 1 and pathlib.Path(name).name in done.stderr
  assert tree(outside) == {pathlib.Path("file"): b"precious"}
