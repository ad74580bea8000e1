"""Trains what an experiment file describes, or goes on where it stopped; one run, or a sweep.

  python launch.py --config=experiments/shakespeare.py[:variant] [--workdir=RUN]
                   [--config.x.y=value ...] [--distributed]
  python launch.py --config=experiments/grid2015.py --sweep[=NAME,...] [--parallel=N]
                   [--backend=slurm] [--workdir=SWEEP] [--time_limit=MINUTES] [--dry_run]
  python launch.py --config=experiments/learning_rate.py --search=optuna [--trials=N] ...

--config       an experiment file, with one of its variants after a colon; or a run's config.json
--config.x.y   overrides a field; docs/config.md explains each
--workdir      the run's directory; default: runs/<experiment>[-variant][-overrides], so that the
               same command again resumes
--distributed  this is one of several processes, as SLURM or a TPU pod starts them
--sweep        runs the trials of the experiment file's sweep(), or the product of sweep_NAME()s;
               the same command again runs what is missing
--search       random or optuna: as many --trials (default 20) of the experiment file's space()
--backend      local; or slurm, an array of jobs with what the experiment's slurm() asks for
--parallel     trials at a time, among which cores and devices are shared out (default 1)
--time_limit   minutes that a trial may take: then it saves and ends
--dry_run      prints the trials' commands

Exit codes: 0 done; 1 a trial of the sweep failed; 2 something asked for is wrong; 75 stopped by a
signal, resume any time.
"""

import pathlib
import sys

from absl import flags

from charrnn import command_line, console, errors
from charrnn.launching import train
from charrnn.sweeps import runner

OF_SWEEPS = ("trials", "backend", "parallel", "time_limit", "dry_run")


def define_flags(values):
  define = {"flag_values": values}
  flags.DEFINE_string("workdir", None, "directory of the run or the sweep", **define)
  flags.DEFINE_boolean("distributed", False, "one process of several", **define)
  flags.DEFINE_string("sweep", None, "names of sweeps in the experiment file", **define)
  flags.DEFINE_string("search", None, "how trials are chosen", **define)
  flags.DEFINE_integer("trials", 20, "of a search", **define)
  flags.DEFINE_string("backend", "local", "where trials run", **define)
  flags.DEFINE_integer("parallel", 1, "trials at a time", **define)
  flags.DEFINE_float("time_limit", None, "minutes for each trial", **define)
  flags.DEFINE_boolean("dry_run", False, "print the trials' commands", **define)


def parse(argv):
  # `--sweep` alone is the file's own; `--search` alone is refused with what there is.
  alone = {"--sweep": "--sweep=", "--search": "--search="}
  return command_line.parse([alone.get(each, each) for each in argv], define_flags)


def main(argv):
  if {"--help", "-h"} & set(argv):
    print(__doc__, *(f"\n  {path}" for path in command_line.experiment_files()), sep="")
    return 0
  line = parse(argv)
  name = command_line.run_name(line)
  sweep, search = line.flags.sweep, line.flags.search
  if sweep is not None or search is not None:
    kind = ("search", search) if sweep is None else ("sweep", sweep.replace(",", "-"))
    parts = "-".join(filter(None, [name, *kind]))
    return runner.run(line, pathlib.Path(line.flags.workdir or pathlib.Path("runs") / parts))
  for flag in OF_SWEEPS:
    if line.flags[flag].present:
      raise errors.UserError(f"--{flag} is of a sweep or a search: add one, or leave it out")
  workdir = pathlib.Path(line.flags.workdir or pathlib.Path("runs") / name)
  return train.run(line, workdir, line.flags.distributed)


if __name__ == "__main__":
  sys.exit(console.run("launch.py", lambda: main(sys.argv)))
