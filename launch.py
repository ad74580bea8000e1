"""Trains what an experiment file describes, or goes on where it stopped.

  python launch.py --config=experiments/shakespeare.py[:variant] [--workdir=RUN] [--config.x.y=v]

Without --workdir a run goes to runs/<experiment>[-variant][-overrides], so that the same command
again resumes it. Exit codes: 0 done; 2 something asked for is wrong; 75 stopped by a signal.
"""

import pathlib
import sys

from absl import flags

from charrnn import config, errors
from charrnn.launching import train


def define(values):
  flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
  flags.DEFINE_boolean(
    "distributed", False, "one of several processes, found by SLURM or TPU", flag_values=values
  )
  flags.DEFINE_boolean("help", False, "show this text", short_name="h", flag_values=values)


def main(argv):
  if {"--help", "-h"} & set(argv):
    print(__doc__)
    return 0
  line = config.parse(argv, define)
  workdir = pathlib.Path(line.flags.workdir or pathlib.Path("runs") / config.run_name(line))
  return train.run(line, workdir, line.flags.distributed)


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv))
  except errors.UserError as error:
    print(f"launch.py: error: {error}", file=sys.stderr)
    sys.exit(2)
