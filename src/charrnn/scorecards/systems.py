"""Systems that are compared: held-out text, runs, files, an n-gram, and the shuffled control."""

import bisect
import collections
import importlib.util
import pathlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from charrnn import config as config_lib
from charrnn import console, errors, files, runtime
from charrnn.data import corpora
from charrnn.data import documents as documents_lib
from charrnn.models import ngram
from charrnn.runs import held_out
from charrnn.runs import run as run_lib
from charrnn.sampling import sampler
from charrnn.scorecards import metrics

HELD_OUT, SHUFFLED = "held-out", "shuffled"
OLD_NAMES = {HELD_OUT: "real"}  # old keys of JSON files
_TITLES = {HELD_OUT: "held-out text", SHUFFLED: "shuffled control"}
SAMPLING = ("num", "temperature", "top_k", "top_p")  # settings that only apply to models
MAX_CHARACTERS = 100_000_000  # maximum total length of the samples of a system
MAX_HELD_OUT = 200  # maximum number of samples of held-out text


class Settings(NamedTuple):
  """The systems to compare, and how to sample. The options of commands have the same names."""

  targets: Sequence[str]  # directories of runs, and files
  step: Sequence[int] | None = None  # steps of each run; None: the best one
  num: int | None = None  # samples from each model; None: the default of the domain
  length: int = 2500  # tokens of a sample of a model, and characters of a sample of a text
  temperature: float | None = None  # None: 1
  top_k: int | None = None
  top_p: float | None = None
  order: int = 10  # of the n-gram; 0: none
  seed: int = 0

  @classmethod
  def of(cls, args) -> "Settings":
    """Return the settings in the arguments of a command."""
    return cls(*(getattr(args, name) for name in cls._fields))

  @property
  def sampler(self) -> sampler.Settings:
    return sampler.Settings(self.temperature, self.top_k, self.top_p)


class System(NamedTuple):
  """A run at a step (None: the step with the lowest validation loss), or a file."""

  name: str
  target: pathlib.Path
  step: int | None = None


def title(name: str) -> str:
  """Return the name of a system as tables and pictures show it."""
  return _TITLES.get(name, name)


class Samples(NamedTuple):
  """The samples of all systems, and the training text to compare them with."""

  training: held_out.Text
  parse: Callable[[str], Any]  # maps a sample to the input of the domain's metrics
  texts: dict[str, list[str]]  # the samples of each system
  facts: dict[str, Any]  # JSON data: name of the training text, settings, and best steps of runs


def output_folder(args, folder: str) -> pathlib.Path | None:
  """Return the output folder of a command: by default, a folder of this name in the first run.

  Without a RUN and without --out, return None: nothing is written into the current folder.
  """
  targets = [pathlib.Path(target) for target in args.targets]
  for target in targets:
    run_lib.check_exists(target)
  runs = [target for target in targets if target.is_dir()]
  if not (runs or args.out):
    return None
  return files.output_folder(args.out, runs[0] / folder if runs else pathlib.Path())


def _check(
  settings: Settings, domain: metrics.Domain, corpus: str | None
) -> tuple[Settings, list[System]]:
  """Return the settings with all defaults, and the systems; raise UserError if they are invalid.

  `corpus` is the corpus to use if there are no runs.
  """
  if importlib.util.find_spec("pydivsufsort") is None:
    raise errors.UserError("pydivsufsort is missing: run pip install 'charrnn[scorecards]'")
  systems = _systems(settings)
  paths = [system.target for system in systems if system.target.is_dir()]
  for name in SAMPLING:
    if not (paths or settings.order) and getattr(settings, name) is not None:
      option = name.replace("_", "-")
      raise errors.UserError(f"--{option}: there is no model to sample from; omit the option")
  defaults = {"num": domain.num, "temperature": 1.0}
  settings = settings._replace(
    **{name: value for name, value in defaults.items() if getattr(settings, name) is None}
  )
  _ = settings.sampler  # raises UserError for invalid values
  num, length, order = settings.num, settings.length, settings.order
  sampler.check(length=length, num=num, seed=settings.seed)
  errors.check("--length", length, length >= 1, "must be at least 1")
  errors.check("--order", order, order >= 0, "must be at least 0")
  rule = (
    f"with --length={length}, this exceeds {MAX_CHARACTERS:,} tokens per system; use fewer or "
    "shorter samples"
  )
  errors.check("--num", num, num * length <= MAX_CHARACTERS, rule)
  if not (paths or corpus):
    raise errors.UserError("there is no training text: add a RUN, or set --corpus")
  if paths:
    run_lib.common_splits([run_lib.Run.open(path) for path in paths])
  return settings, systems


def target_names(targets: Sequence[pathlib.Path]) -> list[str]:
  """Return a name for each path: its last part, after the one before if others have the same."""
  paths = [target.resolve() for target in targets]
  used = collections.Counter(path.name for path in paths)
  return [
    path.name if used[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths
  ]


def _systems(settings: Settings) -> list[System]:
  targets = [pathlib.Path(target) for target in settings.targets]
  for target in targets:
    run_lib.check_exists(target)
  folders = [target for target in targets if target.is_dir()]
  if steps := settings.step:
    errors.check("--step", steps[0], folders, "a FILE has no steps; omit the option")
  systems = []
  for target, name in zip(targets, target_names(targets)):
    if steps and target in folders:
      prefix = "" if len(folders) == 1 else f"{name} "
      systems += [System(f"{prefix}step {n}", target, n) for n in dict.fromkeys(steps)]
    else:
      systems.append(System(name, target))
  names = [HELD_OUT, OLD_NAMES[HELD_OUT], SHUFFLED, *(system.name for system in systems)]
  names += [f"{settings.order}-gram"] if settings.order else []
  used = collections.Counter(map(_file_name, names))
  for name in names:
    if used[_file_name(name)] > 1:
      remedy = "rename one of them, or compare them separately"
      raise errors.UserError(f"two systems would be named {name}: {remedy}")
  return systems


def sample(
  settings: Settings,
  domain: metrics.Domain,
  progress: console.Progress,
  corpus: Sequence[str] | None = None,
  fetch: bool = False,
) -> Samples:
  """Return the samples of all systems. Check all settings before loading anything.

  `corpus` is where the corpus of the runs is now (see run.moved_sources); without runs, it provides
  the held-out text. It is not downloaded unless `fetch` is true.
  """
  sources = {"source": domain.source} | run_lib.moved_sources(corpus)
  settings, systems = _check(settings, domain, sources["source"])
  num, length, order, seed = settings.num, settings.length, settings.order, settings.seed
  runtime.start()
  progress("held-out text")
  runs = [system for system in systems if system.target.is_dir()]
  loaded = {each: run_lib.Run.open(each.target, each.step, corpus, fetch).load() for each in runs}
  if loaded:
    first = next(iter(loaded.values()))
    config, tokenizer = first.config, first.tokenizer
    divided = held_out.load(first)
  else:
    text = {f"text.{name}": each for name, each in sources.items()}
    text["text.documents"] = domain.documents
    config = config_lib.replace(config_lib.default(), text)
    whole = run_lib.load_corpus(config, options="text.")
    tokenizer = whole.tokenizer
    divided = held_out.divide(whole, config_lib.split(config, *corpora.layout(whole.provenance)))
  if order:
    ngram.check_order("--order", order, divided.splits.train)
  others = [system for system in systems if system not in loaded]
  end_id, kind = tokenizer.end_id, config.text.documents
  decoding = run_lib.text_settings(config)
  read = {each: _file_samples(each.target, decoding, domain, length, kind) for each in others}
  parse = domain.parser(divided.training.text)
  if end_id is None:
    texts = {HELD_OUT: held_out_samples(domain, divided.held_out, length)}
  else:
    texts = {HELD_OUT: _held_out_documents(divided.held_out, tokenizer.texts[end_id], num)}
  options = {"settings": settings.sampler, "num": num, "length": length, "seed": seed}

  def sample_model(source, update, ids=()) -> list[str]:
    if end_id is None:
      prompt = "".join(token for token in domain.prompt if token in source.tokenizer.tokens)
      ids = source.tokenizer.encode(prompt)
    samples = [each.text for each in sampler.sample(source, ids, progress=update, **options)]
    return samples if end_id is not None else complete(samples, domain.boundary)

  for system in systems:
    if system in loaded:
      texts[system.name] = sample_model(loaded[system], progress(system.name))
    else:
      texts[system.name] = read[system]
  if order:
    name = f"{order}-gram"
    update = progress(name)
    source = sampler.Source(
      ngram.Model(tokenizer.vocab_size, order), _fit(divided, order), tokenizer
    )
    # The sampler adds the last of the END tokens that precede each document in `_fit`.
    texts[name] = sample_model(source, update, [end_id] * (order - 2))
  texts[SHUFFLED] = [
    shuffle(text, domain.tokens, seed + n) for n, text in enumerate(texts[HELD_OUT])
  ]
  facts = {
    "training": divided.training.name,
    "settings": settings._asdict(),
    "steps": {system.name: run.step for system, run in loaded.items() if system.step is None},
  }
  return Samples(divided.training, parse, texts, facts)


def _fit(divided: held_out.DividedCorpus, order: int):
  """Return the parameters of an n-gram of the training text.

  Each document follows order - 1 END tokens, so that all contexts are of full length, and none
  contains another document.
  """
  corpus, spans = divided.corpus, divided.splits.train
  ids, tokenizer = corpus.ids, corpus.tokenizer
  if (end_id := tokenizer.end_id) is not None:
    bounds = documents_lib.Bounds.of(ids, end_id).within(spans)
    before = np.full(order - 1, end_id, ids.dtype)
    pieces = [piece for start, stop in zip(*bounds) for piece in (before, ids[start:stop])]
    ids, stops = np.concatenate(pieces), np.cumsum(bounds.lengths + order - 1).tolist()
    spans = [*zip([0, *stops], stops)]
  return ngram.fit(ids, order, tokenizer.vocab_size, spans).params()


def _file_samples(
  path: pathlib.Path, settings, domain: metrics.Domain, size: int, documents: str
) -> list[str]:
  """Return the samples of a file: only one if the domain has no metrics or the text is short.

  `settings` and `documents` are those of the corpus; the file is decoded and divided like it.
  """
  if not (text := corpora.read_text(str(path), **settings)):
    raise errors.UserError(f"{path} is empty: use a file with text")
  if documents != "none":
    return documents_lib.texts(text, documents)
  if not domain.metrics:
    return [text]
  return complete(cut(text, size, domain.boundary) or [text], domain.boundary)


def held_out_samples(domain: metrics.Domain, part: held_out.Text, size: int) -> list[str]:
  """Return at most MAX_HELD_OUT samples, evenly spaced in the text of all documents."""
  documents = (part.text[each.start : each.stop] for each in part.passages)
  pieces = [piece for text in documents for piece in cut(text, size, domain.boundary)]
  samples = complete(pieces, domain.boundary)
  if len(samples) < 2:
    samples = pieces  # text of another domain may have almost no boundaries
  if len(samples) < 2:
    longest = max((each.stop - each.start for each in part.passages), default=0)
    largest = longest // 3 if len(part.passages) < 2 else longest
    remedy = f"use --length {max(1, min(largest, size // 2))}"
    problem = f"{part.name} has fewer than two samples of {size:,} characters"
    raise errors.UserError(f"{problem}: {remedy}")
  count = min(MAX_HELD_OUT, len(samples))
  return [samples[i * len(samples) // count] for i in range(count)]


def _held_out_documents(part: held_out.Text, end: str, num: int) -> list[str]:
  """Return as many documents as a model samples, or MAX_HELD_OUT; they are in random order."""
  passages = part.passages[: max(num, MAX_HELD_OUT)]
  return [part.text[each.start : each.stop].removesuffix(end) for each in passages]


def trim(text: str, boundary: re.Pattern) -> str:
  """Return the text up to its last boundary, or "" if there is none."""
  return text[: max((match.end() for match in boundary.finditer(text)), default=0)]


def complete(texts: list[str], boundary: re.Pattern) -> list[str]:
  """Trim all texts to their last boundaries, so that incomplete ends do not count as errors.

  Texts without a boundary are dropped. If no text has a boundary, return all texts unchanged.
  """
  return [trimmed for text in texts if (trimmed := trim(text, boundary))] or texts


def cut(text: str, size: int, boundary: re.Pattern) -> list[str]:
  """Split a text into pieces of `size` characters that begin at a boundary, like model samples.

  A piece begins at the last boundary of the previous piece or, if there is none, at the next
  boundary after it. Pieces may thus overlap; `complete` removes the overlap. A remainder of less
  than half the size is dropped.
  """
  pieces, start = [], 0
  starts = [match.end() for match in boundary.finditer(text)]
  while len(text) - start >= size / 2:
    pieces.append(text[start : start + size])
    start += len(trim(pieces[-1], boundary) or pieces[-1])
    after = bisect.bisect_left(starts, start)
    start = starts[after] if after < len(starts) else start
  return pieces


def shuffle(text: str, pattern: re.Pattern, seed: int = 0) -> str:
  """Return the text with the matches of the group `token` permuted and everything else in place.

  This is the shuffled control: the layout of the text, with its tokens in random order.
  """
  tokens = [match["token"] for match in pattern.finditer(text) if match["token"] is not None]
  random.Random(seed).shuffle(tokens)
  shuffled = iter(tokens)
  return pattern.sub(lambda match: match[0] if match["token"] is None else next(shuffled), text)


def write_samples(folder: pathlib.Path, texts: dict[str, list[str]]):
  """Write the samples of each system to a file named after the system."""
  folder.mkdir()
  for name, samples in texts.items():
    marked = (f"--- sample {n}\n{text}" for n, text in enumerate(samples, 1))
    (folder / _file_name(name)).write_bytes(console.encode("\n".join(marked)))


def _file_name(system: str) -> str:
  return f"{re.sub('[ /]', '-', system)}.txt"
