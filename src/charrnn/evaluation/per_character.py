"""The files of `charrnn eval` that tell of every character: a table and a page."""

import math
import pathlib

import numpy as np

from charrnn import errors, files
from charrnn.evaluation import scoring

_COLUMNS = ("index", "character", "nats", "p", "rank")


def check(args):
  """Raises UserError for names that cannot be written to, or that would be read and replaced."""
  named = {"--tsv": args.tsv, "--html": args.html}
  asked = {
    f"{option}={name}": pathlib.Path(name) for option, name in named.items() if name is not None
  }
  if asked and len(args.files) > 1:
    raise errors.UserError(f"{next(iter(asked))}: it is of one text: give one FILE")
  for said, path in asked.items():
    files.check_output(path, said)
    if path.resolve() in [pathlib.Path(name).resolve() for name in args.files]:
      raise errors.UserError(f"{said} is the text itself: give another name")
  if len({path.resolve() for path in asked.values()}) < len(asked):
    raise errors.UserError(f"--tsv and --html are both {args.tsv}: give two names")


def write(args, run, text, scores, result: dict):
  """What --tsv and --html ask for; `result`: the figures of all of the text."""
  from charrnn.evaluation import surprisal_page

  if args.tsv:
    with files.replace_file(pathlib.Path(args.tsv)) as file:
      file.writelines(f"{line}\n".encode() for line in _table(run.tokenizer, text.ids, scores))
  if args.html:
    title = f"How {result['text']} surprises {run.path}, step {run.step}"
    page = surprisal_page.page(title, _facts(args, result), run.tokenizer, text.ids, scores)
    with files.replace_file(pathlib.Path(args.html)) as file:
      file.write(page.encode())


def _facts(args, result) -> str:
  how = "" if args.dynamic is None else f", dynamic evaluation at rate {args.dynamic:g}"
  return (
    f"{result['characters']:,} characters: {result['nats']:.4f} nats, {result['bits']:.4f} bits "
    f"each, perplexity {scoring.perplexity(result)}{how}"
  )


def _table(alphabet, ids, scores):
  yield "\t".join(_COLUMNS)
  names = [_escaped(alphabet.kind, symbol) for symbol in alphabet.tokens]
  nats_N, rank_N, *_ = scores.predictions
  characters = np.asarray(ids)[scores.places].tolist()
  for index, symbol, nats, rank in zip(scores.places, characters, nats_N.tolist(), rank_N):
    known = math.isfinite(nats)
    said = f"{nats:.7g}\t{math.exp(-nats):.7g}\t{rank}" if known else "\t\t"
    yield f"{index}\t{names[symbol]}\t{said}"


def _escaped(kind: str, symbol: str) -> str:
  """As in a Python string: no line end, tab or quote is left to be taken for one of the table."""
  byte = kind == "byte" and ord(symbol) > 126
  if symbol.isprintable() and symbol not in '\\"' and not byte:
    return symbol
  return "\\x22" if symbol == '"' else symbol.encode("unicode_escape").decode()
