"""The record of a run: its code, with any git settings, its machine and its launches."""

import errno
import itertools
import os
import shutil
import subprocess
import types

import programs
import pytest
from absl import flags

from charrnn import command_line, errors, files
from charrnn import config as config_lib
from charrnn.data import tokenizers
from charrnn.launching import train
from charrnn.runs import checkpoints, provenance
from charrnn.runs import run as run_lib
from charrnn.training import loop

PHASES = ["python and flags", "text", "jax", "parameters", "first step", "total"]

FILES = {
  "launch.py": "import package\n",
  "package/a.py": "one = 1\n",
  "package/inner/b.py": "two = 2\n",
  "docs/text.md": "text\n",
}


def git(folder, *arguments):
  settings = ("-c", "user.name=n", "-c", "user.email=e")
  return subprocess.run(
    ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True
  )


def write(folder, files):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """Return a checkout with one commit, for a user with unusual git settings."""
  for name in [name for name in os.environ if name.startswith("GIT_")]:
    monkeypatch.delenv(name)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
  settings = "[diff]\nnoprefix = true\nexternal = false\nrelative = true\n[color]\nui = always\n"
  write(tmp_path, {"home/.gitconfig": settings})
  folder = tmp_path / "a checkout"
  write(folder, FILES)
  git(folder, "init", "-q")
  git(folder, "add", "-A")
  git(folder, "commit", "-qm", "x")
  return folder


@pytest.mark.parametrize("number", range(4))
def test_a_launch_whose_record_cannot_be_written_can_be_repeated(tmp_path, monkeypatch, number):
  """Each file is in turn the one for which the disk has no space."""
  corpus = types.SimpleNamespace(tokenizer=tokenizers.Tokenizer.from_text("ab"), provenance={})
  line = command_line.CommandLine(config_lib.default(), {}, "x", "", flags.FlagValues())
  new_file, calls = files._new_file, itertools.count()

  def write(path):
    if next(calls) == number:
      raise OSError(errno.ENOSPC, "No space left on device")
    return new_file(path)

  monkeypatch.setattr(provenance, "code", lambda folder: ("0" * 40, b"a change"))
  monkeypatch.setattr(files, "_new_file", write)
  with pytest.raises(errors.UserError, match="No space left on device"):
    provenance.record_launch(line, tmp_path, corpus, "1 CPU")
  assert len(list(tmp_path.iterdir())) == number
  run_lib.check_workdir(tmp_path)


def state(checkout):
  return provenance.code(checkout / "package")


def test_clean_checkout_has_no_changes(checkout):
  commit, changes = state(checkout)
  assert commit == git(checkout, "rev-parse", "HEAD").stdout.decode().strip()
  assert changes == b""


def test_commit_and_changes_reproduce_the_code(checkout, tmp_path):
  changed = {
    "launch.py": "import package.a\n",
    "package/a.py": b"one = '\xe9\r'\n",  # not UTF-8
    "package/new one.py": "three = 3",
  }
  others = {"docs/text.md": "other\n", "package/notes.txt": "mine", "private.py": "secret"}
  write(checkout, changed | others)
  (checkout / "package/inner/b.py").unlink()
  git(checkout, "add", "launch.py")  # Staged changes are uncommitted changes.
  before = git(checkout, "status", "--porcelain").stdout
  commit, changes = state(checkout)
  assert git(checkout, "status", "--porcelain").stdout == before
  git(tmp_path, "clone", "-q", str(checkout), "again")
  git(tmp_path / "again", "checkout", "-q", commit)
  (tmp_path / "changes.diff").write_bytes(changes)
  git(tmp_path / "again", "apply", str(tmp_path / "changes.diff"))
  for name, content in changed.items():
    expected = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "again" / name).read_bytes() == expected
  assert not (tmp_path / "again/package/inner/b.py").exists()
  for name in others:
    assert name.encode() not in changes


def test_there_is_no_commit_outside_of_git(tmp_path, checkout, monkeypatch):
  (tmp_path / "plain").mkdir()
  assert provenance.code(tmp_path / "plain") == (None, b"")
  # The package is installed in an environment inside a checkout of another project.
  write(checkout, {".gitignore": "env\n", "env/package/a.py": "one = 1\n"})
  assert provenance.code(checkout / "env" / "package") == (None, b"")
  monkeypatch.setenv("PATH", "")
  assert state(checkout) == (None, b"")


def test_changes_are_stored_by_digest_and_truncated(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "MAX_DIFF", 100)
  short, long, longer = b"x" * 100, b"x" * 101, b"x" * 102
  names = [provenance._store_changes(tmp_path, changes) for changes in (short, long, longer, short)]
  assert len(set(names)) == 3 and names[0] == names[3]
  assert (tmp_path / names[0]).read_bytes() == short
  assert (tmp_path / names[1]).read_bytes() == short + b"\n(truncated: 101 bytes in total)\n"


def test_facts_are_complete_and_reproducible(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "code", lambda folder: ("c0ffee", b"changes"))
  monkeypatch.setenv("XLA_FLAGS", "--xla_one")
  monkeypatch.setenv("SECRET", "word")
  facts = provenance.facts(tmp_path)
  assert facts["git"] == "c0ffee+" and (tmp_path / facts["uncommitted"]).exists()
  assert facts["settings"]["XLA_FLAGS"] == "--xla_one" and "word" not in str(facts)
  assert {"jax", "jaxlib", "numpy", "optax"} <= facts["packages"].keys()
  assert facts["cores"] >= 1 and facts["processor"]
  assert list(provenance.differences(facts, provenance.facts(tmp_path))) == []


def test_each_difference_is_a_line(tmp_path):
  now = provenance.facts(tmp_path) | {"devices": "2 x cpu"}
  then = now | {
    "devices": "1 x cpu",
    "cores": 99,
    "git": None,
    "packages": now["packages"] | {"jax": "0.1", "gone": "2"},
    "settings": {"NPROC": "3"},
  }
  lines = list(provenance.differences(then, now))
  assert "devices: 1 x cpu, now 2 x cpu" in lines
  assert f"cores: 99, now {now['cores']}" in lines
  assert f"jax: 0.1, now {now['packages']['jax']}" in lines
  assert "gone: 2, now none" in lines and "NPROC: 3, now none" in lines
  assert len({line.partition(":")[0] for line in lines}) == len(lines)
  old = {"packages": {}, "devices": "2 x cpu"}  # An older version stored fewer fields.
  assert list(provenance.differences(old, now)) == []


def launches(workdir):
  return files.read_json(workdir / "run.json")["launches"]


def test_startup_times_are_stored(whole):
  (launch,) = launches(whole)
  *phases, total = launch["startup_seconds"].values()
  assert list(launch["startup_seconds"]) == PHASES
  assert all(seconds >= 0 for seconds in phases)
  assert total == pytest.approx(sum(phases), abs=0.01)


def test_uncommitted_changes_are_stored_with_the_run(main, tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "code", lambda folder: ("c0ffee", b"changes"))
  main("--config=tiny.py", "--config.max_steps=1", f"--workdir={tmp_path / 'run'}")
  (launch,) = launches(tmp_path / "run")
  assert launch["git"] == "c0ffee+"
  assert (tmp_path / "run" / launch["uncommitted"]).read_bytes() == b"changes"


def test_initial_weights_are_recorded(main, whole, tmp_path, capsys):
  source = shutil.copytree(whole, tmp_path / "source")
  arguments = ("--config=tiny.py", f"--config.init_from={source}", "--config.max_steps=1")
  main(*arguments, f"--workdir={tmp_path / 'run'}")
  assert "rate      0.01 at the peak;" in capsys.readouterr().err
  weights = files.read_json(tmp_path / "run" / "run.json")["weights"]
  losses = checkpoints.losses(source / "checkpoints")
  assert weights == run_lib.Run(source).weights and weights["step"] == checkpoints.best(losses)
  # A resumed run no longer needs the checkpoints of its initial weights.
  shutil.rmtree(source / "checkpoints")
  main(*arguments, f"--workdir={tmp_path / 'run'}")
  assert files.read_json(tmp_path / "run" / "run.json")["weights"] == weights
  older = files.read_sealed(tmp_path / "run" / "run.json")
  del older["weights"]
  files.write_json(tmp_path / "run" / "run.json", files.seal(older))
  main(*arguments, f"--workdir={tmp_path / 'run'}")


def test_rerun_reports_differences(main, whole, tmp_path, capsys):
  (launch,) = launches(whole)

  def rerun(name, then):
    argument = f"--config={whole / 'config.json'}"
    line = command_line.parse(["launch.py", argument, "--config.max_steps=1"])
    line = line._replace(original=provenance.Original(whole, then))
    assert train.run(line, tmp_path / name) == 0
    return capsys.readouterr().err.splitlines()

  lines = rerun("a", launch | {"python": "3.1", "devices": "99 x cpu"})
  assert f"different from the original: python: 3.1, now {launch['python']}" in lines
  assert any(
    line.startswith("different from the original: devices: 99 x cpu, now ") for line in lines
  )
  assert files.read_json(tmp_path / "a" / "run.json")["rerun_of"] == str(whole)
  (again,) = launches(tmp_path / "a")
  lines = [line for line in rerun("b", again) if line.startswith(("different", "no difference"))]
  assert lines == ["no difference from the original: machine, packages and code are the same"]


def test_config_of_a_run_can_be_launched(main, whole, tmp_path, capsys):
  finished = shutil.copytree(whole, tmp_path / "finished")
  assert main(f"--config={finished / 'config.json'}", f"--workdir={finished}") == 0
  assert f"finished at step {programs.STEPS}" in capsys.readouterr().err
  assert programs.result(finished) == programs.result(whole)


def test_launch_without_a_step_has_no_startup_times(main, whole, tmp_path, monkeypatch):
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
