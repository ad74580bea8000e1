"""The reference of all commands and options in Markdown: docs/commands.md.

The page is built from the parsers' actions and not from the text of `--help`. That text depends on
the width of the terminal and on the version of Python.
"""

import argparse
import re
from collections.abc import Iterator

from charrnn import cli

# {nargs: usage of an argument}
_REPEATED = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
_HEAD = """\
# Commands

`python launch.py` trains networks and runs sweeps. `charrnn COMMAND` works with the results. Both
show this reference with `--help`. This page is generated from the code.

| command | purpose |
|---|---|
"""


def documentation(launch: str) -> str:
  """Return docs/commands.md. `launch` is the help text of launch.py."""
  purposes = {"launch.py": _prose(launch.partition("\n")[0])} | {
    f"charrnn {name}": _prose(text) for name, text in cli.COMMANDS.items()
  }
  table = "".join(
    f"| [`{name}`](#{re.sub('[^a-z -]', '', name).replace(' ', '-')}) | {_sentence(text)} |\n"
    for name, text in purposes.items()
  )
  sections = ["## launch.py", *_paragraphs(launch)]
  for name in cli.COMMANDS:
    sections += _section(cli.parser(name))
  return _HEAD + table + "\n" + "\n\n".join(sections) + "\n"


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
  """Yield the parts of a command's section."""
  yield f"## {parser.prog}"
  yield from _paragraphs(parser.description)
  shown = [
    action
    for action in parser._actions
    if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
  ]
  usage = [_signature(action) for action in shown if action.required or not action.option_strings]
  yield f"Usage: `{' '.join([parser.prog, *usage, '[options]'])}`"
  usual = (parser._positionals, parser._optionals)
  others = [group for group in parser._action_groups if group not in usual]
  for groups in (usual, *([group] for group in others)):
    actions = [action for group in groups for action in group._group_actions if action in shown]
    if groups[0] in others:
      yield _sentence(_prose(groups[0].title)).removesuffix(".") + ":"
    yield "\n".join(_item(action) for action in actions)
  for group in parser._mutually_exclusive_groups:
    names = [f"`{_name(action)}`" for action in group._group_actions if action in shown]
    if len(names) > 1:
      number = "exactly" if group.required else "at most"
      yield f"Use {number} one of {', '.join(names[:-1])} and {names[-1]}."
  if parser.epilog:
    yield from _paragraphs(parser.epilog)


def _item(action: argparse.Action) -> str:
  """Return the list item of an argument."""
  return f"- `{_signature(action)}`: {_prose((action.help or '') % vars(action))}"


def _signature(action: argparse.Action) -> str:
  names = ", ".join(action.option_strings)
  return " ".join(filter(None, [names, _values(action)]))


def _values(action: argparse.Action) -> str:
  """Return the placeholder of an argument's values; an empty text for a switch."""
  if action.nargs == 0:
    return ""
  name = action.metavar or (
    f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
  )
  return _REPEATED.get(action.nargs, "{0}").format(name)


def _name(action: argparse.Action) -> str:
  return action.option_strings[0] if action.option_strings else _values(action)


def _paragraphs(text: str) -> Iterator[str]:
  """Yield the paragraphs of a help text: prose, lists of aligned names, or code."""
  for number, paragraph in enumerate(text.strip("\n").split("\n\n")):
    items = re.findall(r"^(\S+(?: \S+)*)  +(\S.*(?:\n +.*)*)", paragraph, re.MULTILINE)
    if items:
      yield "\n".join(f"- `{name}`: {_prose(text)}" for name, text in items)
    elif paragraph.startswith(" "):
      yield f"```text\n{paragraph}\n```"
    else:
      yield _sentence(_prose(paragraph)) if number == 0 else _prose(paragraph)


def _sentence(text: str) -> str:
  text = text[0].upper() + text[1:]
  return text if text.endswith((".", ":")) else f"{text}."


def _prose(text: str) -> str:
  """Return text on one line with Markdown's special characters escaped; options become code."""
  parts = re.split(r"(`[^`]*`|(?<![\w-])--[a-z][\w=.-]*\w)", " ".join(text.split()))
  for n, part in enumerate(parts):
    if n % 2:
      parts[n] = part if part.startswith("`") else f"`{part}`"
    else:
      escaped = part.replace("&", "&amp;").replace("<", "&lt;")
      parts[n] = re.sub(r"([\\*_\[\]|])", r"\\\1", escaped)
  return "".join(parts)
