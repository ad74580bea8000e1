"""`charrnn corpus`: list the named corpora, or describe a corpus."""

import argparse
import json

from charrnn import files
from charrnn.cli import arguments
from charrnn.data import corpora, sources

HELP = """list the named corpora, or describe a corpus

The description contains the origin, size, vocabulary and beginning of the corpus."""


def add_arguments(parser):
  add = parser.add_argument
  text = "the corpus to show (default: list the named corpora)"
  add("source", metavar="NAME|PATH|URL", nargs="?", help=text)
  add("--tokenizer", default="char", help="char or byte (default: char)")
  # The former name of --tokenizer still works for one release.
  add("--alphabet", dest="tokenizer", default="char", help=argparse.SUPPRESS)
  add("--encoding", default="utf-8", help="encoding of the text (default: utf-8)")
  text = "line ends: keep, or lf to convert CRLF and CR to LF (default: keep)"
  add("--newlines", default="keep", help=text)
  arguments.add_json(parser)


def run(args):
  if args.source is None:
    names = sources.names()
    print(json.dumps(names) if args.json else "\n".join(f"{k:16}{v}" for k, v in names.items()))
    return
  corpus = corpora.load(
    args.source, tokenizer=args.tokenizer, encoding=args.encoding, newlines=args.newlines
  )
  if args.json:
    tokenizer = files.with_aliases(corpus.tokenizer.to_json(), {"tokens": "symbols"})
    documents = [document._asdict() for document in corpus.documents]
    print(json.dumps({**corpus.provenance, "alphabet": tokenizer, "documents": documents}))
  else:
    print(corpora.describe(corpus))
