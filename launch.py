"""Train the network of an experiment file, or resume its training; run a sweep or a search.

  python launch.py --config=experiments/shakespeare.py[:variant] [--workdir=RUN]
                   [--config.x.y=value ...] [--distributed]
  python launch.py --config=experiments/grid2015.py --sweep[=NAME,...] [--parallel=N]
                   [--backend=slurm] [--workdir=SWEEP] [--time_limit=MINUTES] [--dry_run]
  python launch.py --config=experiments/learning_rate.py --search=optuna [--trials=N] ...

--config       an experiment file, optionally with a variant after a colon; or a run's config.json
--config.x.y   another value of a field; docs/config.md explains each
--workdir      the run directory; default: runs/<experiment>[-variant][-overrides], so the same
               command resumes the run
--distributed  this process is one of several: started by SLURM or a TPU pod, or by hand with
               CHARRNN_COORDINATOR, see docs/sweeps.md
--sweep        run the trials of the experiment file's sweep(), or the product of sweep_NAME()s;
               the same command runs the trials that are missing
--search       random or optuna: run --trials (default: 20) trials of the experiment file's space()
--backend      local (default), or slurm: an array of jobs with the resources of the experiment
               file's slurm()
--parallel     number of trials at a time, which share cores and devices (default: 1)
--time_limit   minutes after which a trial saves and ends
--dry_run      print the commands of the trials

Exit codes: 0 finished; 1 a trial of the sweep failed; 2 an error in the command; 75 stopped by a
signal, can be resumed.
"""

import pathlib
import sys

from absl import flags

from charrnn import command_line, console, errors
from charrnn.launching import train
from charrnn.sweeps import runner

SWEEP_FLAGS = ("trials", "backend", "parallel", "time_limit", "dry_run")


def define_flags(values):
  define = {"flag_values": values}
  flags.DEFINE_string("workdir", None, "directory of the run or the sweep", **define)
  flags.DEFINE_boolean("distributed", False, "one process of several", **define)
  flags.DEFINE_string("sweep", None, "names of sweeps in the experiment file", **define)
  flags.DEFINE_string("search", None, "random or optuna", **define)
  flags.DEFINE_integer("trials", 20, "number of trials of a search", **define)
  flags.DEFINE_string("backend", "local", "local or slurm", **define)
  flags.DEFINE_integer("parallel", 1, "trials at a time", **define)
  flags.DEFINE_float("time_limit", None, "minutes for each trial", **define)
  flags.DEFINE_boolean("dry_run", False, "print the trials' commands", **define)


def parse(argv):
  # absl requires a value: `--sweep` alone is the sweep() of the file, `--search` alone an error.
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
  for flag in SWEEP_FLAGS:
    if line.flags[flag].present:
      raise errors.UserError(f"--{flag} is for a sweep or a search: add one, or leave it out")
  workdir = pathlib.Path(line.flags.workdir or pathlib.Path("runs") / name)
  return train.run(line, workdir, line.flags.distributed)


if __name__ == "__main__":
  sys.exit(console.run("launch.py", lambda: main(sys.argv)))
