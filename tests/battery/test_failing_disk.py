"""Trial 4: each operation that writes a file of a run fails in turn; no saved step is lost."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import failing_disk
import pytest

pytestmark = [
  pytest.mark.trial(4),
  pytest.mark.skipif(not shutil.which("gcc") or sys.platform != "linux", reason="needs gcc"),
]

SOURCE = pathlib.Path(failing_disk.__file__).with_suffix(".c")
# The error, and the distance between two operations that fail.
CASES = [
  pytest.param(errno.EIO, 40),
  *(pytest.param(code, 1, marks=pytest.mark.long) for code in (errno.EIO, errno.ENOSPC)),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
  path = tmp_path_factory.mktemp("library") / "failing_disk.so"
  subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", path, SOURCE, "-ldl"], check=True)
  return path


@pytest.mark.parametrize("code, stride", CASES)
def test_each_operation_on_a_disk_fails_in_turn(library, tmp_path, code, stride, record_property):
  command = [sys.executable, failing_disk.__file__, library, tmp_path, str(code), str(stride)]
  done = subprocess.run(
    command,
    env=os.environ | {"LD_PRELOAD": str(library), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=3600,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  lines = done.stdout.splitlines()
  assert len(lines) >= 100 // stride
  assert any(line.endswith(": ok") for line in lines) or stride > 1
  assert sum(os.strerror(code) in line for line in lines) > len(lines) // 2
  record_property("note", f"{len(lines)} operations failed with {errno.errorcode[code]}")
