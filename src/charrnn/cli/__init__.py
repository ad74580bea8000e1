"""The `charrnn` command. Only the chosen subcommand's module is imported."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from charrnn import __version__, console, errors

COMMANDS = {
  "sample": "write text with a trained model",
  "eval": "score a split of the corpus, or files",
  "inspect": "show a run: origin, config, losses, checkpoints, parameters",
  "diff": "compare two runs: config, corpus, versions, weights",
  "verify": "check every array and file of a run",
  "export": "write parameters, config and vocabulary to one file",
  "rerun": "train a run again from its record, and compare",
  "cells": "find the units that follow structure of the text, and explore them in a page",
  "scorecard": "compare generated plays or C with held-out text and an n-gram",
  "memorization": "find copies of the training text in generated text",
  "temperature": "measure text at a range of sampling temperatures",
  "ngrams": "compare a run with n-grams of every order",
  "compare": "compare runs and sweeps by validation loss",
  "corpus": "list the known corpora, or show one",
  "bench": "time training and sampling beside PyTorch and Flax",
}


class Parser(argparse.ArgumentParser):
  """A parser whose errors are one line."""

  def error(self, message):
    raise errors.UserError(f"{message} ({self.prog} --help shows all options)")


def parser(command: str) -> Parser:
  """Return the parser of a subcommand; `run` of its namespace is the program."""
  module = importlib.import_module(f"charrnn.cli.{command}")
  subparser = Parser(
    prog=f"charrnn {command}",
    description=module.HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  module.add_arguments(subparser)
  subparser.set_defaults(run_command=module.run)
  return subparser


def _choose(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
  """Return the subcommand and its arguments; exit after --help and --version."""
  width = max(map(len, COMMANDS))
  listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
  top = Parser(
    prog="charrnn",
    description="Work with runs of launch.py and with texts.",
    epilog=f"commands:\n{listed}\n\ncharrnn COMMAND --help shows the options of a command.",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage="charrnn [-h] [--version] COMMAND ...",
    allow_abbrev=False,
  )
  top.add_argument("--version", action="version", version=__version__)
  top.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
  options = [arg for arg in argv[:1] if arg.startswith("-")]
  top.parse_args(options)
  if options or not argv:
    top.error("no command")
  if (name := argv[0]) not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    top.error(f"no command {name!r}" + (f": did you mean {near[0]}?" if near else ""))
  return name, argv[1:]


def main(argv: Sequence[str] | None = None) -> int:
  """Run a subcommand: 0 done, 1 something differs or is damaged, 2 bad usage."""
  # A GPU may be training meanwhile: take the memory that is needed, not three quarters of it.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

  def program():
    command, arguments = _choose(sys.argv[1:] if argv is None else list(argv))
    args = parser(command).parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a name may hold what the terminal cannot show
    return args.run_command(args)

  return console.run("charrnn", program)
