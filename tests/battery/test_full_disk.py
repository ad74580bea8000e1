"""Trial 4: full disks, file size limits and a full cache folder; earlier steps are never lost.

Disks are memory file systems in a user namespace, which needs no rights on most machines.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import programs
import pytest

from charrnn.runs import checkpoints

pytestmark = pytest.mark.trial(4)

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
SIZES = 20
TIMEOUT = 300
LAUNCH = shlex.join([sys.executable, str(programs.ROOT / "launch.py"), "--config=tiny.py"])
REPORT = re.compile(
  r"launch\.py: error: cannot write to \S+: (No space left on device|File too large): "
  r"(free some disk space|raise the file size limit)"
)


def can_mount():
  """Return whether this user may mount a memory file system in a namespace."""
  if not shutil.which("unshare"):
    return False
  command = [*NAMESPACE, "sh", "-c", "mount -t tmpfs none /mnt && mount -o remount,size=9m /mnt"]
  return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs user namespaces and tmpfs")


def some(values, short):
  """Return the cases of a trial; only those in `short` run in continuous integration."""
  return [pytest.param(each, marks=[] if each in short else pytest.mark.long) for each in values]


def run(folder, script, environment=None):
  """Run a script in a namespace; return its stderr, and the exit codes that it prints."""
  done = subprocess.run(
    [*NAMESPACE, "bash", "-c", script],
    cwd=folder,
    env=os.environ | (environment or {}),
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=True,
  )
  return done.stderr, [int(code) for code in done.stdout.split()]


def assert_is_reported(err):
  """Assert that a failure is reported in one line, after the lines of the run itself."""
  lines = [line for line in err.splitlines() if "error" in line.lower()]
  assert len(lines) == 1 and REPORT.match(lines[0]), err
  assert "Traceback" not in err and err.rstrip().endswith(lines[0]), err


def assert_is_whole(workdir):
  """Assert that every step in a folder is verified, and return the steps."""
  steps = checkpoints.steps(workdir / "checkpoints")
  for step in steps:
    checkpoints.read(workdir / "checkpoints", step)
  return steps


@needs_mount
@pytest.mark.parametrize("part", some(range(1, SIZES + 1), [8]))
def test_a_run_on_a_full_disk_continues_when_there_is_space(folder, whole, tmp_path, part):
  used = int(subprocess.check_output(["du", "-sk", whole], text=True).split()[0])
  kilobytes = max(8, used * part // SIZES)
  failed, finished = tmp_path / "failed", tmp_path / "finished"
  script = f"""
mount -t tmpfs -o size={kilobytes}k none /mnt
{LAUNCH} --workdir=/mnt/run >&2; echo $?
cp -r /mnt/run {failed} >&2
mount -o remount,size=64m /mnt
{LAUNCH} --workdir=/mnt/run 2> {tmp_path}/err >&2; echo $?
cp -r /mnt/run {finished} >&2
"""
  err, (code, second) = run(folder, script)
  if code:
    assert code == 2
    assert_is_reported(err.partition("cp:")[0])
  steps = assert_is_whole(failed)
  assert second == 0, (tmp_path / "err").read_text()
  assert (
    not steps
    or f"from step {steps[-1]}" in (text := (tmp_path / "err").read_text())
    or ("already finished" in text)
  )
  assert programs.result(finished) == programs.result(whole)


@pytest.mark.parametrize("kilobytes", some([1, 2, 4, 8, 16, 32], []))
def test_a_limit_of_the_file_size(folder, whole, tmp_path, kilobytes):
  name = f"limit-{kilobytes}"
  # With bash, the limit is in units of 1024 bytes. The cache is not limited.
  script = f"ulimit -f {kilobytes}; exec {LAUNCH} --workdir={name}"
  environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
  done = subprocess.run(
    ["bash", "-c", script],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=False,
  )
  if done.returncode:
    assert done.returncode == 2, done.stderr
    assert_is_reported(done.stderr)
  if (folder / name).exists():
    assert_is_whole(folder / name)
  code, err = programs.finish(programs.start(folder, "--config=tiny.py", f"--workdir={name}"))
  assert code == 0, err
  assert programs.result(folder / name) == programs.result(whole)


@needs_mount
@pytest.mark.parametrize("options", some(["size=4k", "size=40k", "size=400k", "ro"], ["size=4k"]))
def test_a_full_or_read_only_cache(folder, tmp_path, options):
  script = f"""
mount -t tmpfs -o {options} none /mnt
{LAUNCH} --workdir={tmp_path}/run --config.max_steps=8 >&2; echo $?
"""
  environment = {"CHARRNN_CACHE": "/mnt", "JAX_COMPILATION_CACHE_DIR": "/mnt/jax"}
  err, (code,) = run(folder, script, environment)
  assert "Traceback" not in err and "Warning" not in err, err
  if code:
    assert code == 2 and err.count("\n") == 1, err
    assert "/mnt" in err and "CHARRNN_CACHE" in err, err
  else:
    assert assert_is_whole(pathlib.Path(tmp_path) / "run") == [7, 8]
