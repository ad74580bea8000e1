"""A program that runs a command on some of the cores and ends it when the parent process dies.

  python -m charrnn.sweeps.attached PARENT [CORE,CORE...] -- COMMAND...

It is a program, and not a `preexec_fn` of subprocess, because running Python between fork and exec
is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from charrnn import process


def command(arguments: Sequence[str], cores: Sequence[int] = ()) -> list[str]:
  """Return the command line that runs `arguments` on `cores` and ends them with this process."""
  cores_text = [",".join(map(str, cores))] if cores else []
  program = [sys.executable, "-m", "charrnn.sweeps.attached", str(os.getpid()), *cores_text]
  return [*program, "--", *arguments]


def main(argv: Sequence[str]):
  """Run the command of `argv`, and end it when the parent process ends."""
  separator = argv.index("--")
  parent, *cores = argv[:separator]
  if cores:
    process.use_cores([int(core) for core in cores[0].split(",")])
  # SLURM sends SIGUSR2 to all processes of a job step, and it must not kill the command.
  if process.SIGUSR2:
    signal.signal(process.SIGUSR2, signal.SIG_IGN)
  _end_with(int(parent))
  os.execvp(argv[separator + 1], argv[separator + 1 :])


def _end_with(parent: int):
  """Make Linux send SIGHUP to this process when its parent dies, even by SIGKILL; see prctl(2).

  The signal arrives once per thread of the parent. A run tolerates repeated SIGHUPs, but a second
  SIGTERM would end it before it has saved.
  """
  PR_SET_PDEATHSIG = 1
  if sys.platform == "linux":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup, the parent ignores SIGHUP.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:  # The parent died before prctl.
      os.kill(os.getpid(), signal.SIGHUP)


if __name__ == "__main__":
  main(sys.argv[1:])
