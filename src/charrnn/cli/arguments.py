"""Command-line arguments that several subcommands share."""

import argparse


def add_run(parser: argparse.ArgumentParser):
  parser.add_argument("run", metavar="RUN", help="a run directory, as written by launch.py")


def add_step(parser: argparse.ArgumentParser):
  text = "the step of a stored checkpoint (default: the best by validation loss)"
  parser.add_argument("--step", metavar="N", type=int, help=text)


def add_seed(parser: argparse.ArgumentParser, default: int | None = 0):
  shown = "random" if default is None else default
  text = f"the same seed gives the same result (default: {shown})"
  parser.add_argument("--seed", metavar="S", type=int, default=default, help=text)


def add_json(parser: argparse.ArgumentParser, text: str = "one JSON object with exact values"):
  parser.add_argument("--json", action="store_true", help=text)


def add_out(parser: argparse.ArgumentParser, text: str):
  parser.add_argument("--out", metavar="DIR", help=text)


def add_temperature(parser: argparse.ArgumentParser):
  text = "0 is greedy; higher values flatten the distribution (default: 1)"
  parser.add_argument("--temperature", metavar="T", type=float, help=text)


def add_filters(parser: argparse.ArgumentParser):
  """Add --top-k and --top-p."""
  text = "sample from the K most probable tokens only"
  parser.add_argument("--top-k", metavar="K", type=int, help=text)
  text = "sample from the fewest tokens that together have probability P"
  parser.add_argument("--top-p", metavar="P", type=float, help=text)


def add_systems(parser: argparse.ArgumentParser, folder: str):
  """Add the arguments of the commands that compare systems; `folder` is their output folder."""
  add = parser.add_argument
  add("targets", metavar="RUN|FILE", nargs="+", help="run directories, and texts as files")
  text = "steps of stored checkpoints; each becomes a system (default: the best by validation loss)"
  add("--step", metavar="N", type=int, nargs="+", help=text)
  add("--num", metavar="N", type=int, help="samples of each model (default: 40)")
  add("--length", metavar="N", type=int, default=2500, help="tokens of a sample (default: 2500)")
  add_temperature(parser)
  add_filters(parser)
  text = "order of the n-gram; 0 leaves it out (default: 10)"
  add("--order", metavar="N", type=int, default=10, help=text)
  add("--corpus", metavar="NAME|PATH", help="held-out text, if all targets are FILEs")
  add_out(parser, f"output folder (default: RUN/{folder}, or {folder} here)")
  add_seed(parser)
