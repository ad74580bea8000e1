"""`charrnn eval`: compute the loss of a run on a split of its corpus, or on files."""

import argparse
import contextlib
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charrnn import console, errors, files, models
from charrnn.cli import arguments
from charrnn.data import batches, corpora, encoded, splits, tokenizers
from charrnn.evaluation import arrays, dynamic, error_analysis, pages, score
from charrnn.models import mixture
from charrnn.runs import run as run_lib

HELP = """\
compute the loss of a run on a split of its corpus, or on files

The loss is in nats and bits per token (character, byte, word or piece), and in bits per UTF-8 byte,
which are comparable between tokenizers. Each token is scored given all tokens before it. The first
token of a text has no context and is not scored. With --state=reset, the network's state, the
parameters of --dynamic and the memory of --errors are reset at the start of each document. With
--state=carried, all documents are one text.

--with scores the text with the mean of the probabilities that several runs predict.

--dynamic also learns from the text. After every 20 scored tokens, the parameters take a gradient
step that makes these tokens more probable. The runs themselves are not changed.

--errors counts the errors, which are characters with p < 0.5, by type (arXiv 1506.02078). Each
error counts under the first type that applies:

n-gram       a 1- to 9-gram of the training text predicts the character
memory n     it continues a word that occurs in the last n characters
rare word    it is in a word that occurs at most 5 times in the training text
word start   it begins a word, or follows white space or a double quote
punctuation  it is neither white space nor a letter, digit or underscore
boost b      p + b is at least 0.5"""
RATE = 0.3  # the best measured rate; see evaluation/dynamic.py
MAX_TEMPERATURE = 1e6  # The inverse is the minimum. Between them, no loss overflows float32.
MAX_EXCERPT = 50  # maximum number of characters of a document in the table
MAX_EXPONENT = 700.0  # nats; exp(x) overflows for x above about 709


def add_arguments(parser):
  add = parser.add_argument
  arguments.add_run(parser)
  add("files", metavar="FILE", nargs="*", help="texts to score instead of a split")
  add("--split", choices=("train", "valid", "test"), help="the split to score (default: valid)")
  arguments.add_step(parser)
  arguments.add_corpus(parser)
  text = (
    "number of streams to score in parallel, each with some preceding text as context (default: "
    "eval_streams of the run); 1 reads the whole text in order"
  )
  add("--streams", metavar="N", type=int, help=text)
  text = (
    "state at the start of each document: carried from the previous document, or reset (default: "
    "carried for a split; reset for FILEs, where each FILE is a document)"
  )
  add("--state", choices=("carried", "reset"), help=text)
  add(
    "--characters",
    metavar="N",
    type=int,
    help="score only the first N characters (tokens, if they are not characters) of the split or "
    "of each FILE",
  )
  text = "average the probabilities with those of this run at its best step; repeatable"
  add("--with", dest="others", metavar="RUN", action="append", default=[], help=text)
  text = (
    "divide the logits by T (default: 1); values below 1 sharpen the predictions. Choose T on a "
    "different text from the one whose loss you report"
  )
  add("--temperature", metavar="T", type=float, default=1.0, help=text)
  text = f"dynamic evaluation with this learning rate, in one stream (default: {RATE})"
  add("--dynamic", metavar="RATE", nargs="?", type=_rate, const=RATE, help=text)
  add("--errors", action="store_true", help="count the errors by type")
  arguments.add_unknown(parser, "FILEs")
  text = (
    "one line for each document: its number of tokens, nats per token, nats, name and beginning"
  )
  add("--per-document", action="store_true", help=text)
  text = (
    "write a table to F, with the columns index, character, nats, p and rank; with --per-document, "
    "the table of the documents, with their whole text"
  )
  add("--tsv", metavar="F", help=text)
  text = (
    "write to F, a .npz file: log_p [N, V], the log-probabilities in nats of all V tokens at each "
    "of the N scored positions; ids [N] and tokens [N], the token that the text has there; "
    "positions [N]; and vocabulary [V], the texts of all tokens"
  )
  add("--distributions", metavar="F", help=text)
  add("--html", metavar="F", help="write an HTML page of the text to F, colored by surprisal")
  arguments.add_json(parser)


def _rate(text):
  try:
    return float(text)
  except ValueError:
    message = f"{text!r} is not a number: use --dynamic={RATE}, or put --dynamic last"
    raise argparse.ArgumentTypeError(message) from None


def run(args):
  _check(args)
  loaded = run_lib.Run.open(args.run, args.step, args.corpus, args.fetch)
  config = loaded.config
  opened = [loaded, *(run_lib.Run.open(path, fetch=args.fetch) for path in args.others)]
  _check_mixture(args, opened)
  if args.state and loaded.tokenizer.end_id is not None:
    raise errors.UserError(
      f"--state={args.state}: the state is always reset between the documents of {args.run} "
      f"(text.documents={config.text.documents}): omit --state"
    )
  if args.errors and not loaded.tokenizer.has_characters:
    raise errors.UserError(
      f"--errors: applies to characters, but in {args.run} {loaded.tokenizer.other_tokens}: omit it"
    )
  documents = []
  for path in args.files:
    content = loaded.encode_file(path, skips=args.unknown == "skip")
    documents.append((path, content.first(args.characters)))
  run_lib.use_devices(loaded, args.streams or config.eval_streams)
  model, params = _model(args, [each.load() for each in opened])
  corpus = loaded.corpus() if args.errors or not documents else None
  has_ends = loaded.tokenizer.end_id is not None
  state = args.state or ("reset" if documents or has_ends else "carried")
  text = _join(documents) if documents else _split(loaded, corpus, args)
  if state == "carried":
    text = text._replace(starts=[0])
  origin = {"run": str(args.run), "step": loaded.step, "state": state, "dynamic": args.dynamic}
  origin["with"] = [{"run": str(each.path), "step": each.step} for each in opened[1:]]
  origin["temperature"] = args.temperature
  with console.Progress() as progress:
    result = _score(args, loaded, (model, params), text, corpus, _system(origin), progress)
  arguments.show(args, origin | result, [_system(origin), *_lines(result)])


def _check(args):
  streams, characters, rate = args.streams, args.characters, args.dynamic
  errors.check("--streams", streams, streams is None or streams >= 1, "must be at least 1")
  if args.split and args.files:
    raise errors.UserError(f"--split={args.split}: cannot be combined with files: omit one of them")
  rule = "must be at least 2"
  errors.check("--characters", characters, characters is None or characters >= 2, rule)
  T, rule = args.temperature, f"must be from {1 / MAX_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
  errors.check("--temperature", f"{T:g}", 1 / MAX_TEMPERATURE <= T <= MAX_TEMPERATURE, rule)
  if rate is not None:
    errors.check("--dynamic", rate, 0 <= rate < math.inf, "must be finite and at least 0")
    rule = "--dynamic uses a single stream: omit --streams"
    errors.check("--streams", streams, streams in (None, 1), rule)
  if args.errors and args.split == "train":
    raise errors.UserError("--errors: does not apply to the training text: use another --split")
  _check_outputs(args)


def _check_mixture(args, runs):
  """Raise UserError if a run cannot learn, or if the runs cannot be mixed."""
  for each in runs:
    if args.dynamic is not None and not models.has_gradient(each.config.model):
      raise errors.UserError(
        f"--dynamic: {each.path} is an n-gram, which has no gradient: omit --dynamic"
      )
    if each.tokenizer.to_json() != runs[0].tokenizer.to_json():
      raise errors.UserError(
        f"--with={each.path}: its vocabulary differs from that of {runs[0].path}: use runs with "
        "the same text and tokenizer"
      )
  if not args.files:  # Otherwise, a run may have been trained on the split of another one.
    run_lib.common_splits(runs, remedy="use runs with the same splits, or score a FILE")


def _model(args, runs):
  """Return the model that scores the text, and its parameters."""
  if len(runs) == 1 and args.temperature == 1:
    return runs[0].model, runs[0].params
  parts = mixture.Mixture([each.model for each in runs], args.temperature)
  return parts, tuple(each.params for each in runs)


def _check_outputs(args):
  """Raise UserError for outputs that cannot be written or that are also inputs."""
  names = {"--tsv": args.tsv, "--html": args.html, "--distributions": args.distributions}
  outputs = {f"{key}={name}": pathlib.Path(name) for key, name in names.items() if name is not None}
  if outputs and len(args.files) > 1:
    raise errors.UserError(f"{next(iter(outputs))}: only one text can be written: use one FILE")
  for option, path in outputs.items():
    files.check_output(path, option)
    if path.resolve() in [pathlib.Path(name).resolve() for name in args.files]:
      raise errors.UserError(f"{option}: is also the text to score: use another name")
  for first, second in itertools.combinations(outputs, 2):
    if outputs[first].resolve() == outputs[second].resolve():
      raise errors.UserError(f"{first}: is the same file as that of {second}: use another name")
  if args.distributions is not None:
    arrays.check_output(pathlib.Path(args.distributions), "--distributions")
    if args.dynamic is not None:
      raise errors.UserError("--distributions: cannot be combined with --dynamic: omit one of them")


class Text(NamedTuple):
  """A text to score. Each of its parts consists of spans that are scored under one name."""

  content: encoded.EncodedText
  parts: list[tuple[str, list[tuple[int, int]]]]
  starts: list[int]  # starts of documents, the first is 0; the token at a start has no context

  @property
  def ids(self) -> np.ndarray:
    return self.content.ids

  def sizes(self) -> list[encoded.Size]:
    """Return the size of the tokens of each part that can be scored."""
    scorable = (batches.scorable_spans(spans, self.starts) for _, spans in self.parts)
    return list(map(self.content.size, scorable))


def _join(documents: list[tuple[str, encoded.EncodedText]]) -> Text:
  """Return documents (path, text) as one text that has a part for each document."""
  texts = [text for _, text in documents]
  bounds = [0, *np.cumsum([len(text.ids) for text in texts]).tolist()]
  spans = itertools.pairwise(bounds)
  parts = [(path, [next(spans)]) for path, _ in documents]
  return Text(encoded.join(texts), parts, bounds[:-1])


def _split(run, corpus, args) -> Text:
  """Return a split of a run's corpus, truncated to --characters."""
  name, kind = args.split or "valid", run.config.text.split
  if not (spans := getattr(run.splits(), name)):
    raise errors.UserError(
      f"--split={name}: this run has no {name} split (text.split={kind}): use another split"
    )
  remaining, truncated = args.characters or len(corpus.ids), []
  for start, stop in spans:
    if remaining > 0:
      truncated.append((start, min(stop, start + remaining)))
    remaining -= stop - start
  starts = [0]  # The model is reset at END, from which it predicts the first token.
  if corpus.tokenizer.end_id is None:
    starts = [document.start for document in corpus.documents]
  return Text(corpus, [(f"{name} ({kind} split)", truncated)], starts)


def _score(args, loaded, model_and_params, text, corpus, system, progress) -> dict[str, Any]:
  """Return the loss of every part of the text; write the files of --tsv and --html."""
  config, model = loaded.config, (*model_and_params, text.ids)
  options = {"burn_in": config.eval_burn_in, "starts": text.starts}
  parallel = {"streams": args.streams or config.eval_streams, "window": config.window}
  if args.dynamic is not None:
    spans = [span for _, spans in text.parts for span in spans]
    update = progress("scoring and learning")
    whole = dynamic.score(*model, spans, rate=args.dynamic, progress=update, **options)
    scores = [whole.within(spans) for _, spans in text.parts]
  elif args.tsv or args.html or args.errors or args.distributions or args.per_document:
    parallel["progress"] = progress("scoring")
    with _distributions(args, loaded.tokenizer, text) as parallel["distributions"]:
      scores = [score.score(*model, spans, **options, **parallel) for _, spans in text.parts]
  else:
    losses = [score.loss(*model, spans, **options, **parallel) for _, spans in text.parts]
    return _summary(text, losses)
  result = _summary(text, [each.mean for each in scores])
  if args.errors:
    result["errors"] = _errors(loaded, text, scores, corpus, progress)
  if args.per_document:
    result["documents"] = _documents(text, corpus, scores)
  if args.tsv:
    with files.replace_file(pathlib.Path(args.tsv)) as file:
      if args.per_document:
        lines = _document_table(result["documents"])
      else:
        lines = _table(loaded.tokenizer, text.ids, scores[0])
      file.writelines(f"{line}\n".encode() for line in lines)
  if args.html:
    title = f"Surprisal of {result['results'][0]['text']}: {system}"
    facts = _facts(result["unit"], result["results"][0])
    page = pages.surprisal_page(title, facts, loaded.tokenizer, text.ids, scores[0])
    with files.replace_file(pathlib.Path(args.html)) as file:
      file.write(page.encode())
  return result


def _documents(text: Text, corpus, scores: list) -> list[dict[str, Any]]:
  """Return the loss of each document of the scored text, with the text that was scored.

  "complete" says whether that is the whole document.
  """
  end_id, found, items = text.content.tokenizer.end_id, [], []
  for name, spans in text.parts:
    if isinstance(text.content, corpora.Corpus):
      parts = splits.intersect(corpus.documents, spans)
      found.append([(each.name, *span, each[1:] == (*span,)) for each, *span in parts])
    elif end_id is None:
      found.append([(name, *span, True) for span in spans])
    else:
      ((first, last),) = spans  # A FILE begins with END, which belongs to no document.
      ends = (1 + first + np.flatnonzero(text.ids[first:last] == end_id)).tolist()
      pairs = [*itertools.pairwise(ends), *([(ends[-1], last)] if ends[-1] < last else [])]
      found.append(
        [(f"{name}:{n}", a, b, text.ids[b - 1] == end_id) for n, (a, b) in enumerate(pairs, 1)]
      )
  for documents, each in zip(found, scores):
    totals = np.concatenate([[0.0], np.cumsum(np.where(each.is_scored, each.nats, 0), dtype=float)])
    counts = np.concatenate([[0], np.cumsum(each.is_scored)])
    for name, start, stop, is_complete in documents:
      low, high = np.searchsorted(each.positions, (start, stop))
      count, nats = int(counts[high] - counts[low]), float(totals[high] - totals[low])
      is_end = end_id is not None and text.ids[stop - 1] == end_id
      content = text.content.text(start, stop - is_end)
      item = {"document": name, "tokens": count, "nats": nats, "text": content}
      items.append(item | {"complete": bool(is_complete)})
  return items


def _label(document: dict[str, Any]) -> str:
  """Return the name of a document, and whether it is cut by --characters or by the split."""
  return document["document"] + ("" if document["complete"] else " (cut)")


def _document_table(documents: list[dict[str, Any]]) -> Iterator[str]:
  """Yield the lines of the --tsv file of --per-document."""
  yield "document\ttokens\tnats\tnats_per_token\ttext"
  for each in documents:
    mean = f"{each['nats'] / each['tokens']:.7g}" if each["tokens"] else ""
    texts = escape(_label(each)), escape(each["text"])
    yield f"{texts[0]}\t{each['tokens']}\t{each['nats']:.7g}\t{mean}\t{texts[1]}"


@contextlib.contextmanager
def _distributions(args, tokenizer, text) -> Iterator[Callable | None]:
  """Yield the argument `distributions` of score.score that writes the file of --distributions."""
  if args.distributions is None:
    yield None
    return
  (_, spans), *_ = text.parts
  scored = [np.arange(*span) for span in batches.scorable_spans(spans, text.starts)]
  positions_N = np.concatenate([np.zeros(0, np.int64), *scored])
  whole = arrays.describe(tokenizer, np.asarray(text.ids)[positions_N])
  whole |= {"positions": positions_N, "vocabulary": arrays.texts(tokenizer)}
  shapes = {"log_p": (len(positions_N), tokenizer.vocab_size)}
  with arrays.replace_npz(pathlib.Path(args.distributions), shapes, **whole) as put:
    yield lambda at, log_p: put("log_p", np.searchsorted(positions_N, at), log_p)


def _errors(loaded, text, scores: list, corpus, progress) -> dict[str, Any]:
  """Return the errors of all parts by type; see error_analysis.table."""
  progress("counting n-grams and words of the training text")
  tokens = loaded.tokenizer.tokens
  training = error_analysis.count_training(corpus.ids, loaded.splits().train, tokens)
  progress("classifying errors")
  types = [
    error_analysis.classify(training, text.ids, each.positions, np.exp(-each.nats), text.starts)
    for each in scores
  ]
  return error_analysis.table(np.concatenate(types), sum(int(s.is_scored.sum()) for s in scores))


def _summary(text, losses: list[float]) -> dict[str, Any]:
  """Return the result of each part and, if there are several, of all characters together."""
  names, sizes = [name for name, _ in text.parts], text.sizes()
  for name, size, nats in zip(names, sizes, losses):
    if not math.isfinite(nats):
      diverged = "the run has diverged: use an earlier --step"
      reason = diverged if size.tokens else "there is nothing to score: use a longer text"
      raise errors.UserError(f"no loss on {name}: {reason}")
  unit = text.content.tokenizer.unit
  results = [_result(unit, *each) for each in zip(names, sizes, losses)]
  summary: dict[str, Any] = {"unit": unit, "results": results}
  if len(names) > 1:
    total = encoded.Size(*map(sum, zip(*sizes)))
    mean = sum(size.tokens * nats for size, nats in zip(sizes, losses)) / total.tokens
    summary["overall"] = _result(unit, f"all {len(names)} texts", total, mean)
  return summary


def _result(unit: str, name: str, size: encoded.Size, nats: float) -> dict[str, Any]:
  result = {
    "text": name,
    "tokens": size.tokens,
    "bytes": size.bytes,
    "nats": nats,
    "bits": nats / math.log(2),
    "bits_per_byte": size.bits_per_byte(nats),
    "perplexity": math.exp(nats) if nats < MAX_EXPONENT else None,
  }
  if unit != "token":
    result["characters"] = size.tokens
  if size.unknown_tokens:
    result["unknown"] = {
      "tokens": size.unknown_tokens / size.tokens,
      "bytes": size.unknown_bytes / size.bytes,
    }
  return result


def _lines(result) -> Iterator[str]:
  for each in [*result["results"], result.get("overall")]:
    if each:
      perplexity = console.number(each["perplexity"])
      losses = f"{each['nats']:.4f} nats  {each['bits']:.4f} bits  perplexity {perplexity}"
      losses += f"  {each['bits_per_byte']:.4f} bits per byte"
      yield f"{each['tokens']:>12,} {result['unit']}s  {losses}  {each['text']}"
      if unknown := each.get("unknown"):
        yield (
          f"{'':>12} {tokenizers.UNKNOWN}: {unknown['tokens']:.2%} of the tokens, "
          f"{unknown['bytes']:.2%} of the bytes; bits per byte include their spelling"
        )
  if "errors" in result:
    yield ""
    yield from error_analysis.lines(result["errors"])
  if "documents" in result:
    yield ""
    yield f"{'tokens':>9}  {'nats/token':>10}  {'nats':>10}  document"
    for each in result["documents"]:
      count, nats, text = each["tokens"], each["nats"], escape(each["text"][:MAX_EXCERPT])
      mean = f"{nats / count:.4f}" if count else "-"
      yield f"{count:9,}  {mean:>10}  {nats:10.2f}  {_label(each)}  {text}"


def _system(origin) -> str:
  """Return the runs, and the settings that differ from the defaults."""
  rate, T = origin["dynamic"], origin["temperature"]
  runs = " + ".join(f"{each['run']}, step {each['step']}" for each in [origin, *origin["with"]])
  learning = "" if rate is None else f", dynamic evaluation at rate {rate:g}"
  return runs + ("" if T == 1 else f", temperature {T:g}") + learning


def _facts(unit: str, result) -> str:
  return (
    f"{result['tokens']:,} {unit}s: {result['nats']:.4f} nats = {result['bits']:.4f} bits per "
    f"{unit}, {result['bits_per_byte']:.4f} bits per byte, perplexity "
    f"{console.number(result['perplexity'])}"
  )


def _table(tokenizer, ids, scores) -> Iterator[str]:
  """Yield the lines of the --tsv file."""
  yield "index\tcharacter\tnats\tp\trank"
  names = list(map(escape, tokenizer.texts))
  tokens = np.asarray(ids)[scores.positions].tolist()
  for index, token, nats, rank in zip(scores.positions, tokens, scores.nats.tolist(), scores.rank):
    numbers = "\t\t" if math.isnan(nats) else f"{nats:.7g}\t{math.exp(-nats):.7g}\t{rank}"
    yield f"{index}\t{names[token]}\t{numbers}"


def escape(text: str) -> str:
  """Return the text of a token escaped as in Python, without line ends, tabs and double quotes.

  Bytes that are not UTF-8 are escaped as \\xHH, and so are characters that can begin a formula of a
  spreadsheet.
  """
  return "".join(_escape(c, n) for n, c in enumerate(text))


def _escape(character: str, position: int) -> str:
  byte = ord(character) - 0xDC00  # of a surrogate that represents a byte
  if 0x80 <= byte <= 0xFF or character == '"' or (character in "=+-@" and not position):
    return f"\\x{byte if byte > 0 else ord(character):02x}"
  if character.isprintable() and character != "\\":
    return character
  return character.encode("unicode_escape").decode()
