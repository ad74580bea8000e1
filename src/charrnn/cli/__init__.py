"""The `charrnn` command. It imports only the module of the subcommand that runs."""

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Sequence

from charrnn import __version__, errors, process

COMMANDS = {
  "sample": "sample text from a trained model",
  "eval": "compute the loss of a run on a split of its corpus, or on files",
  "states": "write all states and gates of a network on a text to a .npz file",
  "inspect": "show the origin, config, losses, checkpoints and parameters of a run",
  "diff": "compare the config, corpus, vocabulary, versions and weights of two runs",
  "verify": "check the checkpoints, config, vocabulary and metrics of a run for damage",
  "export": "write a run to one file: its weights, its network, or a page that writes text",
  "rerun": "repeat a run from its provenance, and compare the results",
  "cells": "find units that follow structure in the text, and write an interactive page",
  "rates": "count the networks of a sweep in which a unit follows structure in the text",
  "scorecard": "measure generated plays, C, names or tunes, and compare them with held-out text",
  "memorization": "find copies of the training text in generated text",
  "temperature": "measure generated text at several sampling temperatures",
  "ngrams": "compare the losses of runs and n-grams that have the same training text",
  "compare": "compare runs and sweeps by validation loss",
  "ladder": "compare models and tokenizers: losses, costs, use of the context, and samples",
  "corpus": "list the named corpora, or describe a corpus",
  "bench": "measure the speed of training and sampling on this machine",
}


class Parser(argparse.ArgumentParser):
  """An argument parser that reports errors as a UserError, in one line."""

  def parse_known_args(self, args=None, namespace=None):
    # Report a misspelled option before anything that is missing because of it.
    # Words after -- are no options, and neither is text such as "-- a comment" for --prime.
    words = itertools.takewhile(lambda word: word != "--", args or ())
    for name in (word.partition("=")[0] for word in words if word.startswith("--")):
      if " " not in name and name not in self._option_string_actions:
        self.error(f"unknown option {name}{errors.suggestion(name, self._listed())}")
    return super().parse_known_args(args, namespace)

  def parse_args(self, args=None, namespace=None):
    namespace, rest = self.parse_known_args(args, namespace)
    if rest:
      # argparse collects a repeated positional argument only before the first option.
      actions = self._get_positional_actions()
      repeated = [action.metavar for action in actions if action.nargs in ("*", "+")]
      remedy = f": put every {repeated[0]} before the options" if repeated else ""
      self.error(f"unrecognized arguments: {' '.join(rest)}{remedy}")
    return namespace

  def _listed(self) -> list[str]:
    """Return the options that --help lists."""
    actions = [action for action in self._actions if action.help != argparse.SUPPRESS]
    return [name for action in actions for name in action.option_strings if name.startswith("--")]

  def _get_values(self, action, arg_strings):
    # Python 3.11 would drop the value of --prime=--.
    if action.option_strings and action.nargs is None and arg_strings == ["--"]:
      value = self._get_value(action, "--")
      self._check_value(action, value)
      return value
    return super()._get_values(action, arg_strings)

  def error(self, message):
    raise errors.UserError(f"{message} (run {self.prog} --help for usage)")

  def _print_message(self, message, file=None):
    (file or sys.stdout).write(message)  # argparse ignores errors of writing


def parser(command: str) -> Parser:
  """Return the parser of a subcommand. It sets `run_command` to the function that runs it."""
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
  """Return the subcommand and its arguments; print and exit for --help and --version."""
  width = max(map(len, COMMANDS))
  table = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
  top = Parser(
    prog="charrnn",
    description="Sample from, evaluate, analyze and compare the runs that launch.py has trained.",
    epilog=f"commands:\n{table}\n\nRun charrnn COMMAND --help for the options of a command.",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage="charrnn [-h] [--version] COMMAND ...",
    allow_abbrev=False,
  )
  top.add_argument("--version", action="version", version=__version__)
  top.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
  options = [arg for arg in argv[:1] if arg.startswith("-")]
  top.parse_args(options)
  if options or not argv:
    top.error("COMMAND is missing")
  if (name := argv[0]) not in COMMANDS:
    top.error(f"unknown command {name!r}{errors.suggestion(name, COMMANDS)}")
  return name, argv[1:]


def main(argv: Sequence[str] | None = None) -> int:
  """Run a subcommand and return its exit code.

  0: success; 1: a difference, damage or a failed benchmark; 2: wrong usage or another UserError;
  75: a signal stopped a rerun, which has saved; 130: a signal stopped any other command.
  """
  # JAX would reserve three quarters of the GPU memory, which a training process may need.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  # The threads of OpenBLAS, which NumPy and LAPACK in JAX use, wait in busy loops. With two, the
  # initial parameters of a small network take 50 times as much processor time.
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

  def program():
    command, arguments = _choose(sys.argv[1:] if argv is None else list(argv))
    args = parser(command).parse_args(arguments)
    return args.run_command(args)

  return process.run("charrnn", program, ends_process=argv is None)
