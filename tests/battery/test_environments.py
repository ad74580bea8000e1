"""Trial 17: unusual environments; each command works, or fails with one line."""

import os
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import programs
import pytest

pytestmark = pytest.mark.trial(17)

TIMEOUT = 300
LAUNCH = shlex.join([sys.executable, str(programs.ROOT / "launch.py"), "--config=tiny.py"])
CHARRNN = shlex.join([sys.executable, "-m", "charrnn.cli"])
NAMESPACE = "unshare --user --map-user=54321"  # a user id without a name
READ_ONLY = "unshare --user --map-root-user --mount"
ONE_LINE = "one line"  # the command fails with exit code 2 and one line
EITHER = "either"  # the command works, or fails with one line


class Case(NamedTuple):
  """A script that sets up an environment, and runs the commands of `script` in it."""

  before: str  # commands of a shell
  expected: str = ""  # "" if all commands work
  short: bool = False  # whether the case runs in continuous integration
  needs: str = ""  # a command that must work on this machine


NAMESPACES = f"{NAMESPACE} true"
MOUNTS = f"{READ_ONLY} mount -t tmpfs -o ro none /mnt"
CASES = {
  "no HOME": Case("unset HOME"),
  "no environment but the cache": Case('exec env -i CHARRNN_CACHE="$CHARRNN_CACHE" bash -c "$RUN"'),
  "unknown uid": Case(f'unset HOME; exec {NAMESPACE} bash -c "$RUN"', needs=NAMESPACES),
  "unknown uid, no cache": Case(
    f'unset HOME CHARRNN_CACHE XDG_CACHE_HOME; exec {NAMESPACE} bash -c "$RUN"',
    ONE_LINE,
    needs=NAMESPACES,
  ),
  "HOME is missing": Case("export HOME=/nowhere"),
  "HOME is a file": Case("export HOME=/dev/null"),
  "HOME is relative": Case("export HOME=here"),
  "HOME is not writable": Case("export HOME=/proc; unset CHARRNN_CACHE XDG_CACHE_HOME", ONE_LINE),
  "cache is a file": Case("export CHARRNN_CACHE=$PWD/text.txt", ONE_LINE, short=True),
  "cache cannot be made": Case("export CHARRNN_CACHE=/proc/none", ONE_LINE),
  "workdir cannot be made": Case("export WORKDIR=/proc/none", ONE_LINE),
  "workdir below a file": Case("export WORKDIR=$PWD/text.txt/run", ONE_LINE),
  "workdir is read-only": Case(
    f'export WORKDIR=/mnt/run; exec {READ_ONLY} bash -c "mount -t tmpfs -o ro none /mnt; $RUN"',
    ONE_LINE,
    needs=MOUNTS,
  ),
  "TMPDIR is missing": Case("export TMPDIR=/nowhere"),
  "C locale": Case("export LC_ALL=C"),
  "POSIX locale without UTF-8": Case(
    "export LC_ALL=POSIX PYTHONCOERCECLOCALE=0 PYTHONUTF8=0", short=True
  ),
  "latin-1": Case("export PYTHONIOENCODING=latin-1"),
  "stdin closed": Case("exec <&-"),
  "stdout closed": Case("exec >&-"),
  "stderr closed": Case("exec 2>&-"),
  "all closed": Case("exec <&- >&- 2>&-"),
  "stderr full": Case("exec 2>/dev/full"),
  "stderr without a reader": Case("exec 2> >(true); sleep 0.2"),
  "python -O": Case("export PYTHONOPTIMIZE=1"),
  "python -OO": Case("export PYTHONOPTIMIZE=2"),
  "unbuffered": Case("export PYTHONUNBUFFERED=1"),
  "no bytecode": Case("export PYTHONDONTWRITEBYTECODE=1"),
  "few files": Case("ulimit -n 64", EITHER),
  "very few files": Case("ulimit -n 24", EITHER),
  "small files": Case("ulimit -f 2", EITHER),
  "little memory": Case("ulimit -v 4000000", EITHER),
  "small stack": Case("ulimit -s 512", EITHER),
  "no core files": Case("ulimit -c 0"),
  "umask 077": Case("umask 077"),
  "umask 777": Case("umask 777", EITHER),
  "no programs in PATH": Case("export PATH=/nowhere"),
  "dumb terminal": Case("export TERM=dumb"),
  "no terminal": Case("unset TERM COLUMNS LINES"),
  "absurd width": Case("export COLUMNS=0 LINES=-1"),
  "an unknown platform": Case("export JAX_PLATFORMS=cuda,cpu", EITHER),
  "TZ is wrong": Case("export TZ=nowhere/none"),
  "current folder is read-only": Case("cd /proc/self", EITHER),
  "current folder is deleted": Case('mkdir gone.$$; cd gone.$$; rmdir "$PWD"', EITHER),
}


def works(command):
  if not command:
    return True
  if not shutil.which(command.split()[0]):
    return False
  return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=[] if case.short else pytest.mark.long) for n, case in CASES.items()],
)
def test_an_environment(folder, tmp_path, name):
  case = CASES[name]
  if not works(case.needs):
    pytest.skip(f"this machine does not allow: {case.needs}")
  code, err = tmp_path / "code", tmp_path / "err"
  workdir = tmp_path / "run"
  commands = f"""
WORKDIR=${{WORKDIR:-{workdir}}}
{LAUNCH} --workdir=$WORKDIR --config.max_steps=8 --config.sample.length=3
echo $? >> {code}
"""
  if not case.expected:
    commands += f"{CHARRNN} sample $WORKDIR --length 20; echo $? >> {code}\n"
  environment = os.environ | {"RUN": commands}
  with err.open("w") as file:
    subprocess.run(
      ["bash", "-c", f'{case.before}\neval "$RUN"'],
      cwd=folder,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=file,
      timeout=TIMEOUT,
      check=False,
    )
  codes = [int(line) for line in code.read_text().split()] if code.exists() else []
  text = err.read_text(errors="replace")
  assert "Traceback" not in text and "Warning" not in text, text
  failures = [line for line in text.splitlines() if "error: " in line]
  if case.expected == ONE_LINE or (case.expected == EITHER and codes != [0]):
    assert codes == [2] and len(failures) == 1, text
    assert case.expected == EITHER or text.count("\n") == 1, text
  else:
    assert codes == ([0] if case.expected else [0, 0]) and not failures, text
