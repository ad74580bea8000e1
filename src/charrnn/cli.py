"""The `charrnn` command: one subcommand a program, each a module of `charrnn.commands`."""

import argparse
import errno
import importlib
import os
import sys

from charrnn import __version__, errors, terminal

COMMANDS = (
  *("sample", "eval", "inspect", "diff", "verify", "export", "rerun"),
  *("cells", "scorecard", "memorization", "temperature"),
  *("ngrams", "compare", "corpus", "bench"),
)


class Parser(argparse.ArgumentParser):
  def error(self, message):
    """One line instead of the whole usage."""
    raise errors.UserError(f"{message} ({self.prog} --help shows all options)")


def parser():
  top = Parser(prog="charrnn", description="Work with runs of launch.py and with texts.")
  top.add_argument("--version", action="version", version=__version__)
  subparsers = top.add_subparsers(metavar="COMMAND", required=True, dest="command")
  for name in COMMANDS:
    module = importlib.import_module(f"charrnn.commands.{name}")
    sub = subparsers.add_parser(
      name,
      help=module.HELP.splitlines()[0],
      description=module.HELP,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    module.add_arguments(sub)
    sub.set_defaults(program=module.run)
  return top


def main(argv=None):
  """Runs a subcommand: 0 done, 1 something differs or is damaged, 2 what was asked is wrong."""
  # A GPU may be training meanwhile: take of its memory what is needed, not three quarters.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:  # closed by whoever called
      setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
  try:
    args = parser().parse_args(argv)
    sys.stdout.reconfigure(errors="replace")  # a name may hold what the terminal cannot show
    code = args.program(args) or 0
    sys.stdout.flush()
  except errors.UserError as error:
    terminal.say(f"charrnn: error: {error}")
    return 2
  except BrokenPipeError:  # the reader, `head` perhaps, has what it wants
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except OSError as error:  # stdout's: a command says itself what it cannot read or write
    if error.errno != errno.ENOSPC:
      raise
    terminal.say(f"charrnn: error: cannot write all of it: {error.strerror}")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 2
  except KeyboardInterrupt:
    return 130
  return code


if __name__ == "__main__":
  sys.exit(main())
