"""What a record says of the code that ran: enough to have it again, whatever git is set to."""

import os
import subprocess

import pytest

from charrnn.runs import provenance

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
  """A checkout with one commit, of a user with settings of their own."""
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


def state(checkout):
  return provenance.code(checkout / "package")


def test_a_clean_checkout(checkout):
  commit, changes = state(checkout)
  assert commit == git(checkout, "rev-parse", "HEAD").stdout.decode().strip()
  assert changes == b""


def test_the_commit_and_its_changes_give_the_code_again(checkout, tmp_path):
  changed = {
    "launch.py": "import package.a\n",
    "package/a.py": b"one = '\xe9\r'\n",  # not UTF-8
    "package/new one.py": "three = 3",
  }
  others = {"docs/text.md": "other\n", "package/notes.txt": "mine", "private.py": "secret"}
  write(checkout, changed | others)
  (checkout / "package/inner/b.py").unlink()
  git(checkout, "add", "launch.py")  # staged is not committed
  before = git(checkout, "status", "--porcelain").stdout
  commit, changes = state(checkout)
  assert git(checkout, "status", "--porcelain").stdout == before
  git(tmp_path, "clone", "-q", str(checkout), "again")
  git(tmp_path / "again", "checkout", "-q", commit)
  (tmp_path / "changes.diff").write_bytes(changes)
  git(tmp_path / "again", "apply", str(tmp_path / "changes.diff"))
  for name, content in changed.items():
    want = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "again" / name).read_bytes() == want
  assert not (tmp_path / "again/package/inner/b.py").exists()
  for name in others:
    assert name.encode() not in changes


def test_outside_of_git_there_is_no_commit(tmp_path, checkout, monkeypatch):
  (tmp_path / "plain").mkdir()
  assert provenance.code(tmp_path / "plain") == (None, b"")
  # Installed into an environment within a checkout of something else.
  write(checkout, {".gitignore": "env\n", "env/package/a.py": "one = 1\n"})
  assert provenance.code(checkout / "env" / "package") == (None, b"")
  monkeypatch.setenv("PATH", "")
  assert state(checkout) == (None, b"")


def test_changes_are_kept_by_their_digest_and_cut_where_they_are_too_long(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "MAX_DIFF", 100)
  short, long, longer = b"x" * 100, b"x" * 101, b"x" * 102
  names = [provenance._store_changes(tmp_path, changes) for changes in (short, long, longer, short)]
  assert len(set(names)) == 3 and names[0] == names[3]
  assert (tmp_path / names[0]).read_bytes() == short
  assert (tmp_path / names[1]).read_bytes() == short + b"\n(cut here: 101 bytes in all)\n"


def test_the_facts_are_plain_and_the_same_as_long_as_nothing_changes(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "code", lambda folder: ("c0ffee", b"changes"))
  monkeypatch.setenv("XLA_FLAGS", "--xla_one")
  monkeypatch.setenv("SECRET", "word")
  found = provenance.facts(tmp_path)
  assert found["git"] == "c0ffee+" and (tmp_path / found["uncommitted"]).exists()
  assert found["settings"]["XLA_FLAGS"] == "--xla_one" and "word" not in str(found)
  assert {"jax", "jaxlib", "numpy", "optax"} <= found["packages"].keys()
  assert found["cores"] >= 1 and found["processor"]
  assert list(provenance.differences(found, provenance.facts(tmp_path))) == []


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
  old = {"packages": {}, "devices": "2 x cpu"}  # of an older version, which kept less
  assert list(provenance.differences(old, now)) == []
