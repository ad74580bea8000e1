"""Trial 10: a second process in a run directory is refused within two seconds, or harmless."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import programs
import pytest

from charrnn import errors
from charrnn.runs import checkpoints, lock

pytestmark = pytest.mark.trial(10)

MAX_SECONDS = 2.0
HOLDER = """
import pathlib, sys, time
from charrnn.runs import lock
with lock.hold(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
  """Return a directory that another process has locked."""
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "config.json").write_text("{}")
  command = [sys.executable, "-c", HOLDER, str(workdir)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "held\n"
    yield workdir
    process.kill()


def same_path(workdir):
  yield workdir


def relative_path(workdir):
  yield pathlib.Path(os.path.relpath(workdir))


def dotted_path(workdir):
  yield workdir / ".." / workdir.name


def link(workdir):
  workdir.with_name("link").symlink_to(workdir)
  yield workdir.with_name("link")


def link_to_the_parent(workdir):
  parent = workdir.parent.with_name(f"{workdir.parent.name}-link")
  parent.symlink_to(workdir.parent)
  yield parent / workdir.name


def renamed(workdir):
  yield workdir.rename(workdir.with_name("renamed"))


def after_rm_lock(workdir):
  (workdir / "lock").unlink()
  yield workdir


def after_mv_lock(workdir):
  (workdir / "lock").rename(workdir / "lock.old")
  yield workdir


def after_a_new_lock(workdir):
  (workdir / "lock").unlink()
  (workdir / "lock").touch()
  yield workdir


def bind_mount(workdir):
  target = workdir.with_name("mounted")
  target.mkdir()
  command = ["mount", "--bind", str(workdir), str(target)]
  if subprocess.run(command, capture_output=True, check=False).returncode:
    pytest.skip("this machine allows no bind mounts")
  try:
    yield target
  finally:
    subprocess.run(["umount", str(target)], check=True)


KINDS = (
  *(same_path, relative_path, dotted_path, link, link_to_the_parent, renamed),
  *(after_rm_lock, after_mv_lock, after_a_new_lock, bind_mount),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_process_is_refused(held, kind):
  for path in kind(held):
    before = sorted(held.rglob("*")) if held.exists() else None
    assert lock.is_held(path)
    start = time.monotonic()
    with pytest.raises(errors.UserError, match="another process is training"), lock.hold(path):
      pass
    assert time.monotonic() - start < MAX_SECONDS
    if kind is not after_rm_lock and kind is not after_mv_lock and before is not None:
      assert sorted(held.rglob("*")) == before


def test_an_error_is_reported_although_the_directory_is_deleted(tmp_path):
  workdir = tmp_path / "run"
  with pytest.raises(errors.UserError, match="was deleted"), lock.hold(workdir):
    shutil.rmtree(workdir)
    raise errors.UserError("the run directory was deleted")


def test_readers_do_not_prevent_a_launch(tmp_path):
  command = "import pathlib, sys\nfrom charrnn.runs import lock\n"
  command += "while True: lock.is_held(pathlib.Path(sys.argv[1]))"
  with subprocess.Popen([sys.executable, "-c", command, str(tmp_path)]) as process:
    try:
      for _ in range(20):
        with lock.hold(tmp_path):
          (tmp_path / "content").touch()
    finally:
      process.kill()


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_a_copy_of_a_running_run_is_harmless(folder, whole, number):
  """Both the run and a copy of it, made while it trains, reach the same result."""
  workdir, copy = folder / f"original-{number}", folder / f"copy-{number}"
  command = (folder, "--config=tiny.py")
  process = programs.start(*command, f"--workdir={workdir.name}")
  programs.wait_for_step(process, workdir, 60 * (number + 1))
  # Files that are replaced meanwhile are missing in the copy.
  subprocess.run(["cp", "-r", workdir, copy], capture_output=True, check=False)
  second = programs.start(*command, f"--workdir={copy.name}")
  for each in (process, second):
    code, err = programs.finish(each)
    assert code == 0, err
  assert programs.result(workdir) == programs.result(copy) == programs.result(whole)
  for path in (workdir, copy):
    assert checkpoints.steps(path / "checkpoints")
    shutil.rmtree(path)


@pytest.mark.long
@pytest.mark.parametrize("remove", [False, True], ids=["lock", "no-lock"])
def test_a_second_launch_is_refused(folder, whole, remove):
  workdir = folder / "refused"
  command = (folder, "--config=tiny.py", f"--workdir={workdir.name}")
  first = programs.start(*command)
  programs.wait_for_step(first, workdir, 40)
  if remove:
    (workdir / "lock").unlink()
  code, err = programs.finish(programs.start(*command))
  assert code == 2 and "another process is training" in err
  code, err = programs.finish(first)
  assert code == 0, err
  assert programs.result(workdir) == programs.result(whole)
  shutil.rmtree(workdir)
