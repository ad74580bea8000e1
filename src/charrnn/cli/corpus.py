"""`charrnn corpus`: list the named corpora, or describe a corpus."""

import argparse

from charrnn import files
from charrnn.cli import arguments
from charrnn.data import corpora, downloads, sources

HELP = """list the named corpora, or describe a corpus

The description contains the origin, size, vocabulary and beginning of the corpus."""


def add_arguments(parser):
  add = parser.add_argument
  text = "the corpus to show (default: list the named corpora)"
  add("source", metavar="NAME|PATH|URL", nargs="?", help=text)
  text = "char, byte, word or bpe (default: char)"
  add("--tokenizer", default="char", help=text)
  text = "maximum number of tokens of word or bpe (default: chosen from the length)"
  add("--vocab-size", metavar="N", type=int, help=text)
  text = "replace characters or words that occur less often in the training split by <UNK>"
  add("--min-count", metavar="N", type=int, default=0, help=text)
  # The former name of --tokenizer still works for one release.
  add("--alphabet", dest="tokenizer", default="char", help=argparse.SUPPRESS)
  add("--encoding", default="utf-8", help="encoding of the text (default: utf-8)")
  text = "line ends: keep, or lf to convert CRLF and CR to LF (default: keep)"
  add("--newlines", default="keep", help=text)
  text = "divide it into documents: none, lines, files or blank_lines (default: none)"
  add("--documents", default="none", help=text)
  add("--refresh", action="store_true", help="download the corpus again, even if it is cached")
  arguments.add_json(parser)


def run(args):
  if args.source is None:
    names = sources.names()
    lines = (f"{name:16}{description}" for name, description in names.items())
    return arguments.show(args, names, lines)
  names = ("tokenizer", "encoding", "newlines", "documents", "vocab_size", "min_count")
  values = {name: getattr(args, name) for name in names}
  with downloads.mode(downloads.Mode.ALL if args.refresh else downloads.Mode.MISSING):
    corpus = corpora.load(args.source, options="--", **values)
  tokenizer = files.with_aliases(corpus.tokenizer.to_json(), {"tokens": "symbols"})
  data = {**corpus.provenance, "alphabet": tokenizer}
  if args.json:  # There may be millions of documents.
    data["documents"] = [document._asdict() for document in corpus.documents]
  return arguments.show(args, data, corpora.describe(corpus))
