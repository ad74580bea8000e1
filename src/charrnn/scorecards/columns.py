"""Columns of samples that are judged side by side: real text, runs, files, an n-gram, disorder."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.sampling import options

REAL, SHUFFLED = "real", "shuffled"
OF_MODELS = ("num", "temperature", "top_k", "top_p")  # arguments
MOST = 100_000_000  # characters of a column


class Column(NamedTuple):
  """A run at a step (None: its best), or a file."""

  name: str
  target: pathlib.Path
  step: int | None = None


class Asked(NamedTuple):
  """The arguments, checked."""

  columns: list[Column]
  settings: options.Settings
  out: pathlib.Path


class Gathered(NamedTuple):
  training: Any  # parts.Part
  read: Callable[[str], Any]  # a sample, as the kind's figures want it
  texts: dict[str, list[str]]  # by column
  steps: dict[str, int]  # of runs at their best


def add_arguments(add, folder: str):
  """What all commands ask for that judge columns; `folder` is where they write."""
  add("targets", metavar="RUN|FILE", nargs="+", help="run directories, and texts as files")
  add(
    "--step", metavar="N", type=int, nargs="+", help="kept steps, a column each (default: the best)"
  )
  add("--num", metavar="N", type=int, help="samples of each model (default 40)")
  add("--length", metavar="N", type=int, default=2500, help="characters of each (default 2500)")
  add("--temperature", metavar="T", type=float, help="of the models (default 1)")
  add("--top-k", metavar="K", type=int, help="as in charrnn sample")
  add("--top-p", metavar="P", type=float, help="as in charrnn sample")
  add("--order", metavar="N", type=int, default=10, help="of the n-gram; 0: none (default 10)")
  add("--corpus", metavar="NAME|PATH", help="the real text, where all targets are FILEs")
  add("--out", metavar="DIR", help=f"where to write (default: RUN/{folder}, or {folder} here)")
  add("--seed", metavar="S", type=int, default=0)


def check(args, folder: str, source: str | None) -> Asked:
  """Raises UserError for what can be told before anything is loaded.

  `source` is the corpus where neither a run nor --corpus says it.
  """
  from charrnn.runs import run as run_lib

  columns = _columns(args)
  trained = [each.target for each in columns if each.target.is_dir()]
  for name in OF_MODELS:
    if not (trained or args.order) and getattr(args, name) is not None:
      option = name.replace("_", "-")
      raise errors.UserError(f"--{option}: no model writes here, with FILEs alone and --order 0")
  args.num = 40 if args.num is None else args.num
  args.temperature = 1.0 if args.temperature is None else args.temperature
  settings = options.Settings(args.temperature, args.top_k, args.top_p)
  options.check(length=args.length, num=args.num, seed=args.seed)
  if args.length < 1:
    raise errors.UserError(f"--length={args.length}: must be at least 1")
  if args.order < 0:
    raise errors.UserError(f"--order={args.order}: must be at least 0")
  if args.num * args.length > MOST:
    raise errors.UserError(
      f"--num={args.num}: with --length={args.length} this is more than {MOST:,} characters"
    )
  if trained and args.corpus:
    raise errors.UserError(f"--corpus={args.corpus}: real text is the run's own: leave it out")
  if not (trained or args.corpus or source):
    raise errors.UserError("which text might have been copied? Give a RUN, or a text with --corpus")
  if trained:
    run_lib.common_splits([run_lib.Run.open(path) for path in trained])
  default = trained[0] / folder if trained else pathlib.Path(folder)
  return Asked(columns, settings, files.output_folder(args.out, default))


def _columns(args) -> list[Column]:
  columns, targets = [], list(map(pathlib.Path, args.targets))
  runs = sum(map(os.path.isdir, targets))
  if args.step and not runs:
    raise errors.UserError(f"--step={args.step[0]}: a FILE has no steps: leave it out")
  for target in targets:
    if not os.path.exists(target):
      raise errors.UserError(f"there is no {target}: a run directory or a text is wanted")
    name = target.resolve().name
    if target.is_dir() and args.step:
      before = "" if runs == 1 else f"{name} "
      steps = dict.fromkeys(args.step)
      columns += [Column(f"{before}step {step}", target, step) for step in steps]
    else:
      columns.append(Column(name, target))
  counted = [f"{args.order}-gram"] if args.order else []
  names = [REAL, SHUFFLED, *counted, *(each.name for each in columns)]
  files = list(map(_file_name, names))
  for name, file in zip(names, files):
    if files.count(file) > 1:
      raise errors.UserError(f"two columns would be named {name}: rename one, or judge them apart")
  return columns


def gather(args, asked: Asked, kind, progress) -> Gathered:
  """The training text and the samples of every column; `kind` is a judge.Kind."""
  from charrnn.models import ngram
  from charrnn.runs import held_out
  from charrnn.runs import run as run_lib
  from charrnn.sampling import write as write_lib
  from charrnn.scorecards import judge

  loaded = {
    c: run_lib.Run.open(c.target, c.step).load() for c in asked.columns if c.target.is_dir()
  }
  progress("real text")
  if loaded:
    first = next(iter(loaded.values()))
    config, alphabet = first.config, first.tokenizer
    parts = held_out.load(first)
  else:
    source = args.corpus or kind.source
    config = config_lib.replace(config_lib.default(), {"text.source": source})
    corpus = run_lib.load_corpus(config)
    alphabet = corpus.tokenizer
    parts = held_out.divide(corpus, run_lib.split_corpus(config, len(corpus.ids)), alphabet)
  if args.order:
    ngram.check_order("--order", args.order, parts.splits.train)
  files = {c: _read(c.target, config.text) for c in asked.columns if c not in loaded}
  read = kind.reader(parts.training.text)
  texts = {REAL: judge.real(kind, parts.held_out, args.length)}
  for column in asked.columns:
    if column in files:
      texts[column.name] = judge.pieces(kind, files[column], args.length)
    else:
      run = loaded[column]
      own = write_lib.Writer(run.model, run.params, run.tokenizer)
      texts[column.name] = _written(own, args, asked.settings, kind, progress(column.name))
  if args.order:
    name = f"{args.order}-gram"
    update = progress(name)
    counted = write_lib.Writer(*_ngram(parts, alphabet.vocab_size, args.order), alphabet)
    texts[name] = _written(counted, args, asked.settings, kind, update)
  texts[SHUFFLED] = judge.shuffled(kind, texts[REAL], args.seed)
  steps = {column.name: run.step for column, run in loaded.items() if column.step is None}
  return Gathered(parts.training, read, texts, steps)


def _read(path: pathlib.Path, text_config) -> str:
  """A file as the run's own text was read, but whatever is in it: U+FFFD for what is no text."""
  encoding = "utf-8" if text_config.tokenizer == "byte" else text_config.encoding
  try:
    text = path.read_bytes().decode(encoding, "replace")
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  if not text:
    raise errors.UserError(f"{path} is empty: there is nothing to judge")
  lf = text_config.newlines == "lf"
  return text.replace("\r\n", "\n").replace("\r", "\n") if lf else text


def _written(writer, args, settings: options.Settings, kind, update) -> list[str]:
  from charrnn.sampling import write
  from charrnn.scorecards import samples

  prompt = "".join(symbol for symbol in kind.prompt if symbol in writer.tokenizer.tokens)
  asked = {"num": args.num, "length": args.length, "settings": settings, "seed": args.seed}
  texts = write.texts(writer, prompt=prompt, progress=update, **asked)
  return samples.complete(texts, kind.boundary)


def _ngram(parts, vocab: int, order: int):
  from charrnn.models import ngram

  counted = ngram.fit(parts.corpus.ids, order, vocab, parts.splits.train)
  return ngram.Model(vocab, order), counted.params()


def write(folder: pathlib.Path, texts: dict[str, list[str]]):
  """The samples, a file for each column."""
  folder.mkdir()
  for name, samples in texts.items():
    marked = (f"--- sample {n}\n{text}" for n, text in enumerate(samples, 1))
    path = folder / _file_name(name)
    path.write_text("\n".join(marked), "utf-8", "replace", newline="")


def _file_name(column: str) -> str:
  return f"{column.replace(' ', '-')}.txt"


def told(steps: dict[str, int]):
  """Which checkpoints were judged, a line."""
  if steps:
    yield "steps: " + ", ".join(f"{name} {step:,}" for name, step in steps.items())


def settings(args) -> dict:
  """What decides the samples, for the record."""
  names = "targets", "step", "num", "length", "temperature", "top_k", "top_p", "order", "seed"
  return {name: getattr(args, name) for name in names}


def load_judge():
  """The module that needs packages of the extra `scorecards`."""
  try:
    from charrnn.scorecards import judge
  except ImportError as error:
    raise errors.UserError(f"{error.name} is missing: pip install 'charrnn[scorecards]'") from error
  return judge
