"""`charrnn corpus`: the corpora there are by name, or what a name, a path or a URL resolves to."""

import argparse
import json

HELP = "list the known corpora, or show one: where it is from, its size, vocabulary and beginning"


def add_arguments(parser):
  parser.add_argument("source", metavar="NAME|PATH|URL", nargs="?", help="default: list the names")
  parser.add_argument("--tokenizer", default="char", help="char (default) or byte")
  parser.add_argument("--alphabet", dest="tokenizer", help=argparse.SUPPRESS)  # the former name
  parser.add_argument("--encoding", default="utf-8", help="of the text (default utf-8)")
  parser.add_argument("--newlines", default="keep", help="keep (default) or lf")
  parser.add_argument("--json", action="store_true", help="exact values, one JSON object")


def run(args):
  from charrnn.data import corpora

  if args.source is None:
    names = corpora.names()
    print(json.dumps(names) if args.json else "\n".join(f"{k:16}{v}" for k, v in names.items()))
    return
  corpus = corpora.load(
    args.source, tokenizer=args.tokenizer, encoding=args.encoding, newlines=args.newlines
  )
  if args.json:
    documents = [document._asdict() for document in corpus.documents]
    tokenizer = corpus.tokenizer.to_json()
    print(json.dumps({**corpus.provenance, "alphabet": tokenizer, "documents": documents}))
  else:
    print(corpora.describe(corpus))
