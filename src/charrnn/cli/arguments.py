"""Command-line arguments and output that several subcommands share."""

import argparse
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from charrnn import console, errors


def add_run(parser: argparse.ArgumentParser):
  parser.add_argument("run", metavar="RUN", help="run directory, as written by launch.py")


def add_step(parser: argparse.ArgumentParser):
  text = "step of the checkpoint to use (default: the best by validation loss)"
  parser.add_argument("--step", metavar="N", type=int, help=text)


def add_corpus(parser: argparse.ArgumentParser, text: str = ""):
  """Add --corpus and --fetch."""
  default = "(default: where it was when the run was launched)"
  text = text or f"the corpus of the run, if it has moved {default}"
  text += "; valid_source=PATH and test_source=PATH are separate texts of these splits; repeatable"
  parser.add_argument("--corpus", metavar="NAME|PATH|URL", action="append", help=text)
  text = "download the corpus that the run names, if it is not in the cache folder"
  parser.add_argument("--fetch", action="store_true", help=text)


def add_seed(parser: argparse.ArgumentParser, default: int | None = 0):
  name = "random" if default is None else default
  text = f"random seed; the same seed gives the same result (default: {name})"
  parser.add_argument("--seed", metavar="S", type=int, default=default, help=text)


def add_unknown(parser: argparse.ArgumentParser, text: str):
  """Add --unknown; `text` names what may contain unknown characters."""
  text = (
    f"characters in {text} that are not in the vocabulary: refuse names them in an error; skip "
    "continues without them, and reports how many there are (default: refuse)"
  )
  parser.add_argument("--unknown", choices=("refuse", "skip"), default="refuse", help=text)


def add_json(parser: argparse.ArgumentParser, text: str = "print one JSON object, unrounded"):
  parser.add_argument("--json", action="store_true", help=text)


def show(args: argparse.Namespace, data: dict[str, Any], lines: Iterable[str]):
  """Print the result of a command: `data` as one JSON object with --json, otherwise the lines."""
  if args.json:
    print(json.dumps(data))
  else:
    console.show(lines)


def add_force(parser: argparse.ArgumentParser, name: str):
  """Add --force, with which `check_new` accepts an output file that exists."""
  parser.add_argument("--force", action="store_true", help=f"replace {name} if it exists")


def check_new(out: pathlib.Path, force: bool):
  """Raise UserError if an output file exists, unless there is --force."""
  if out.exists() and not force:
    raise errors.UserError(f"{out} exists: use --force to replace it")


def add_out(parser: argparse.ArgumentParser, text: str):
  parser.add_argument("--out", metavar="DIR", help=text)


def add_temperature(parser: argparse.ArgumentParser):
  text = "sampling temperature; 0 is greedy, higher values flatten the distribution (default: 1)"
  parser.add_argument("--temperature", metavar="T", type=float, help=text)


def add_filters(parser: argparse.ArgumentParser):
  """Add --top-k and --top-p."""
  text = "sample only from the K most probable tokens"
  parser.add_argument("--top-k", metavar="K", type=int, help=text)
  text = "sample only from the most probable tokens whose total probability reaches P"
  parser.add_argument("--top-p", metavar="P", type=float, help=text)


def add_systems(parser: argparse.ArgumentParser, folder: str, num: str = "40"):
  """Add the arguments of commands that compare systems.

  `folder` names their output folder, and `num` describes the default number of samples.
  """
  add = parser.add_argument
  add("targets", metavar="RUN|FILE", nargs="+", help="run directories or text files to compare")
  text = "steps of checkpoints; each one is a system (default: the best by validation loss)"
  add("--step", metavar="N", type=int, nargs="+", help=text)
  text = f"number of samples from each model (default: {num})"
  add("--num", metavar="N", type=int, help=text)
  text = (
    "number of tokens in each sample of a model, and of characters in each sample of a text "
    "(default: 2500)"
  )
  add("--length", metavar="N", type=int, default=2500, help=text)
  add_temperature(parser)
  add_filters(parser)
  text = "order of the n-gram; 0: no n-gram (default: 10)"
  add("--order", metavar="N", type=int, default=10, help=text)
  text = "the corpus of the runs, if it has moved; without a RUN, it provides the held-out text"
  add_corpus(parser, text)
  add_out(parser, f"output folder (default: RUN/{folder}; without a RUN, nothing is written)")
  add_seed(parser)
