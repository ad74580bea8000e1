"""What a trial needs of a cluster, as an experiment file says it, and as SLURM's sbatch is told.

def slurm():
  return {"partition": "gpu", "gpus": 1, "cpus": 4, "time": 240, "sbatch": {"account": "lab"}}
"""

import math
from typing import Any, NamedTuple

from charrnn import errors
from charrnn.sweeps import experiment, job

# The fields' names in sbatch, and its options that belong to the launcher.
NAMES = {
  "partition": "partition",
  "nodes": "nodes",
  "tasks": "ntasks-per-node",
  "cpus": "cpus-per-task",
  "gpus": "gpus-per-node",
  "memory": "mem",
  "time": "time",
}
OURS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal")


class Resources(NamedTuple):
  """The fields that slurm() may set; each trial gets as much."""

  partition: str = ""  # "": SLURM's default
  nodes: int = 1
  tasks: int = 1  # processes on a node: if there are several in all, they train one run together
  cpus: int = 1  # cores of a process
  gpus: int = 0  # on a node
  memory: float = 0.0  # GB on a node; 0: SLURM's default
  time: int = 60  # minutes; a trial that needs longer saves, is queued again and goes on
  sbatch: dict[str, Any] = {}  # noqa: RUF012 (never changed); its other options, by long names

  @property
  def processes(self) -> int:
    return self.nodes * self.tasks


def read(module, variant: str = "") -> Resources:
  """What an experiment file's slurm() says, which is told the variant if it asks for it."""
  if not hasattr(module, "slurm"):
    return Resources()
  where = f"{module.__file__}, slurm()"
  values = experiment.called(module, "slurm", variant, into=dict)
  found = Resources(**{name: _checked(where, name, value) for name, value in values.items()})
  for name, value in found.sbatch.items():
    _check_option(where, name, value)
  if found.processes > 1 and found.gpus and found.gpus != found.tasks:
    raise errors.UserError(
      f"{where}: of several processes each has one GPU: set gpus to tasks, {found.tasks}"
    )
  return found


def _checked(where, name, value):
  defaults = Resources._field_defaults
  if name not in defaults:
    raise errors.UserError(
      f"{where} sets {name!r}: there are {', '.join(defaults)} (for all else that sbatch takes)"
    )
  kind, least = type(defaults[name]), int(bool(defaults[name]))
  if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
    raise errors.UserError(f"{where} sets {name} to {value!r}: {kind.__name__} is wanted")
  if isinstance(value, int | float) and not least <= value < math.inf:
    raise errors.UserError(f"{where} sets {name} to {value}: at least {least} is wanted")
  return value


def _check_option(where, name, value):
  plain = str(name).lstrip("-").replace("_", "-")
  if plain in OURS:
    raise errors.UserError(f"{where}: sbatch: {name!r} is set by launch.py")
  if own := [field for field, option in NAMES.items() if option == plain]:
    raise errors.UserError(f"{where}: sbatch: {name!r} is the field {own[0]!r}")
  if plain != name:
    raise errors.UserError(f"{where}: sbatch: {name!r} is written {plain!r}")
  if value is not True and (value is False or not isinstance(value, str | int | float)):
    raise errors.UserError(
      f"{where}: sbatch: {name} is {value!r}: text, a number or True is wanted"
    )


def options(wanted: Resources) -> dict[str, Any]:
  """What sbatch is told, by its options' long names."""
  values = {option: getattr(wanted, name) for name, option in NAMES.items()}
  if wanted.memory:
    values["mem"] = f"{wanted.memory * 1024:.0f}M"
  # Early enough to save, and not too early where the time is short.
  notice = min(90, wanted.time * 60 // 3)
  values |= {"requeue": True, "signal": f"{job.SAVE.name.removeprefix('SIG')}@{notice}"}
  return {name: value for name, value in values.items() if value} | wanted.sbatch
