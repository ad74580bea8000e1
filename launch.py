"""Train the model that an experiment file describes, resume a run, or start a sweep or a search.

  python launch.py --config=experiments/shakespeare.py[:variant] [--workdir=RUN]
                   [--config.x.y=value ...] [--distributed] [--rollback]
                   [--time_limit=MINUTES]
  python launch.py --config=experiments/grid2015.py --sweep[=NAME,...] [--parallel=N]
                   [--backend=slurm] [--workdir=SWEEP] [--time_limit=MINUTES] [--dry_run]
  python launch.py --config=experiments/learning_rate.py --search=optuna [--trials=N] ...

--config       an experiment file, optionally followed by a colon and a variant; or the config.json
               of a run
--config.x.y   override a field of the config; docs/config.md explains all fields
--workdir      the run directory (default: runs/<experiment>[-variant][-overrides], so that the
               same command resumes the run)
--distributed  run as one of several processes, started by SLURM, by a TPU pod, or manually with
               CHARRNN_COORDINATOR (see docs/sweeps.md)
--fetch        allow the download of a corpus that the config.json of a run names; for an experiment
               file, this is always allowed
--rollback     when training diverges, return to the checkpoint with the lowest validation loss, and
               train with half the learning rate; at most 5 times
--sweep        run the trials of sweep() in the experiment file, or the product of the named
               sweep_NAME() functions; the same command again runs the missing trials
--search       random or optuna: run --trials trials (default: 20) from space() in the experiment
               file
--backend      where the trials run: local (default), or slurm for a job array with the resources
               of slurm() in the experiment file
--parallel     maximum number of trials that run in parallel and share the cores and devices
               (default: 1)
--time_limit   maximum minutes of this launch of a run, which then saves and exits with code 75, or
               of all launches of a trial of a sweep together; at least one step is made
--dry_run      print the commands of the trials without running them

Exit codes: 0: finished; 1: a trial of the sweep failed, or an unexpected error; 2: an error, or
training diverged; 75: stopped by a signal or at the time limit, and saved, run the same command to
resume; 130: stopped by a signal before there was anything to save, or by a second Ctrl-C or
SIGTERM. The signals are SIGTERM, SIGINT, SIGHUP and SIGUSR1.
"""

import pathlib
import sys

from charrnn import errors, process

# The other modules are imported in the functions, so that signals are handled during the imports.

SWEEP_FLAGS = ("trials", "backend", "parallel", "dry_run")


def define_flags(values):
  """Define the flags of launch.py other than --config."""
  from absl import flags

  define = {"flag_values": values}
  flags.DEFINE_string("workdir", None, "directory of the run or the sweep", **define)
  flags.DEFINE_boolean("distributed", False, "run as one of several processes", **define)
  flags.DEFINE_boolean("rollback", False, "return to the best step on divergence", **define)
  flags.DEFINE_string("sweep", None, "names of sweeps in the experiment file", **define)
  flags.DEFINE_string("search", None, "random or optuna", **define)
  flags.DEFINE_integer("trials", 20, "number of trials of a search", **define)
  flags.DEFINE_string("backend", "local", "local or slurm", **define)
  flags.DEFINE_integer("parallel", 1, "number of trials that run in parallel", **define)
  flags.DEFINE_float("time_limit", None, "time limit in minutes", **define)
  flags.DEFINE_boolean("fetch", False, "download the corpus of a config.json", **define)
  flags.DEFINE_boolean("dry_run", False, "print the commands of the trials", **define)


def parse(argv):
  """Return the parsed command line; raise UserError if it is invalid."""
  from charrnn import command_line

  # absl requires a value for every flag. `--sweep` without a name runs sweep() of the experiment
  # file; `--search` without a name is reported as an error later.
  with_values = {"--sweep": "--sweep=", "--search": "--search="}
  return command_line.parse([with_values.get(each, each) for each in argv], define_flags)


def main(argv):
  """Run the command and return its exit code."""
  from charrnn import command_line
  from charrnn.launching import train
  from charrnn.sweeps import runner

  if {"--help", "-h"} & set(argv):
    own = command_line.experiment_files(process.launching_folder())
    paths = command_line.experiment_files() or own
    print(__doc__, "\nExperiment files:", *(f"\n  {path}" for path in paths), sep="")
    return 0
  line = parse(argv)
  if line.flags.workdir == "":
    raise errors.UserError("--workdir is empty: use --workdir=DIR, or leave it out")
  line = line._replace(fetch=line.fetch or line.flags.fetch)
  name = command_line.run_name(line)
  sweep, search = line.flags.sweep, line.flags.search
  if sweep is not None or search is not None:
    kind = ("search", search) if sweep is None else ("sweep", sweep.replace(",", "-"))
    parts = "-".join(filter(None, [name, *kind]))
    return runner.run(line, pathlib.Path(line.flags.workdir or pathlib.Path("runs") / parts))
  for flag in SWEEP_FLAGS:
    if line.flags[flag].present:
      raise errors.UserError(
        f"--{flag} is for a sweep or a search: add --sweep or --search, or remove it"
      )
  runner.check_time_limit(line.flags.time_limit)
  workdir = pathlib.Path(line.flags.workdir or pathlib.Path("runs") / name)
  return train.run(
    line,
    workdir,
    distributed=line.flags.distributed,
    rollback=line.flags.rollback,
    time_limit=line.flags.time_limit,
  )


if __name__ == "__main__":
  sys.exit(process.run("launch.py", lambda: main(sys.argv), ends_process=True))
