"""Becomes a command that ends when its parent does, on some of the cores.

  python -m charrnn.sweeps.attached PARENT [CORE,CORE...] -- COMMAND...

A program of its own, since nothing may run between fork and exec in a process that has threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence


def command(line: Sequence[str], cores: Sequence[int] = ()) -> list[str]:
  """What runs a command so, as a child of this process."""
  some = [",".join(map(str, cores))] if cores else []
  own = [sys.executable, "-m", "charrnn.sweeps.attached", str(os.getpid()), *some]
  return [*own, "--", *line]


def main(argv: Sequence[str]):
  mark = argv.index("--")
  parent, *cores = argv[:mark]
  if cores and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, map(int, cores[0].split(",")))
  # SLURM asks its jobs to save by SIGUSR2, all of them in a step: they are not to die of it.
  signal.signal(signal.SIGUSR2, signal.SIG_IGN)
  _end_with(int(parent))
  os.execvp(argv[mark + 1], argv[mark + 1 :])


def _end_with(parent: int):
  """SIGHUP for this process when its parent dies, even by SIGKILL; Linux's prctl(2).

  Once for each thread of the parent: so a signal of which a run takes any number, unlike SIGTERM.
  """
  PR_SET_PDEATHSIG = 1
  if sys.platform == "linux":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a parent under nohup ignores it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:  # it was too late
      os.kill(os.getpid(), signal.SIGHUP)


if __name__ == "__main__":
  main(sys.argv[1:])
