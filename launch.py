"""Trains what an experiment file describes, or goes on where it stopped.

  python launch.py --config=experiments/shakespeare.py[:variant] [--workdir=RUN]
                   [--config.x.y=value ...] [--distributed]

--config       an experiment file, with one of its variants after a colon
--config.x.y   overrides a field; src/charrnn/config.py explains each
--workdir      the run's directory; default: runs/<experiment>[-variant][-overrides], so that the
               same command again resumes
--distributed  this is one of several processes, as SLURM or a TPU pod starts them

Exit codes: 0 done; 2 something asked for is wrong; 75 stopped by a signal, resume any time.
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


def main(argv):
  if {"--help", "-h"} & set(argv):
    found = sorted(pathlib.Path("experiments").glob("*.py"))
    print(__doc__, *(f"\n  {path}" for path in found), sep="")
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
  except KeyboardInterrupt:
    sys.exit(130)
