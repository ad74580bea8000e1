"""`charrnn sample`: sample text from a trained model."""

import contextlib
import functools
import json
import math
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator

from charrnn import console, errors, files, runtime
from charrnn.cli import arguments
from charrnn.data import corpora
from charrnn.runs import run as run_lib
from charrnn.sampling import beam, clamps, constraints, sampler, selection, streaming

HELP = """\
sample text from a trained model

Examples:

  charrnn sample runs/shakespeare --prime "ROMEO:" --temperature 0.7
  charrnn sample runs/shakespeare --num 3 --length 400 --top-p 0.9 --seed 7
  charrnn sample runs/shakespeare --length 400 --require '^ROMEO:' --forbid '[0-9]'
  charrnn sample runs/shakespeare --length 80 --beam 8
  charrnn sample runs/shakespeare --interactive
  charrnn sample runs/shakespeare --num 1000 --out texts
  charrnn sample runs/names --num 1000 --distinct --novel --length 30
"""
DETAILS = """\
Prompt and output: Each text begins with the prompt. Without a prompt, the model starts as if it had
just read a line end, or the most frequent token of its corpus if the corpus has no line end. That
token is not printed. Texts go to stdout, status lines to stderr. A pipe or a file receives exactly
the text. A terminal shows control characters as escapes (\\x1b), except line ends and tabs.

A run that was trained on documents (text.documents) writes one document per text: the prompt is its
beginning, and the text ends where the model ends the document, or after --length tokens.

Constraints (--require and --forbid): REGEX applies to the generated text, but not to the prompt or
the stop text. It has Python's syntax, restricted to literals, . \\d \\w \\s [...] (...) | * + ?
{m,n}, and ^ $ at the ends of an alternative. ^ and $ match the beginning and the end of the
generated text. Tokens may be bytes, words or pieces of words; REGEX is about their characters. A
byte that is not UTF-8 counts as one character.

Each step excludes the tokens after which no allowed text can be completed within --length. A text
ends before --length only at --stop, at the end of a document or when no further token is allowed.
This is not the model's distribution conditioned on the constraints: each step checks what is
possible, not what is probable. A required match may therefore appear only at the very end. The
weight exp(log p - log q) of a text corrects for this. log p is the log-probability of the text
under the model, and log q under constrained sampling.

Beam search (--beam): The search finds texts with a high log p instead of sampling. log p is not
divided by the length, so texts that end early, at --stop or by a constraint, have an advantage.
--beam cannot be combined with --temperature, --top-k, --top-p or --seed.

Many short texts (--distinct and --novel): Texts are sampled in parallel until --num of them are
selected, but at most --draws. They are printed one per line: a line end in a text becomes \\n, a
carriage return \\r, and a backslash \\\\. Without documents (text.documents), end them with --stop
or --length. A text that is a whole document is novel if no training document is the same. Any other
is novel if the training split does not contain it anywhere. A text includes the prompt, also with
--no-echo.

Sessions (--interactive): The model reads lines from a terminal or a pipe. After each line it writes
up to and including --stop (default: an empty line), but at most --length tokens. It remembers
everything read and written before. An empty line continues the text. Ctrl-C interrupts a text;
Ctrl-D ends the session. --interactive cannot be combined with --beam, --num, --json or --out.
"""

EXCLUDED = {  # options that cannot be combined with a mode
  "interactive": ("beam", "num", "json", "out", "distinct", "novel", "draws"),
  "beam": ("temperature", "top_k", "top_p", "seed", "distinct", "novel", "draws"),
}
LONG_PROMPT = 4096  # minimum tokens of a prompt for which the progress of reading it is shown
MIN_EFFECTIVE = 10  # smallest effective sample size of a reliable estimate
LINES = "samples.jsonl"
MARK = "> "  # prompt for input on a terminal


def add_arguments(parser):
  parser.epilog = DETAILS
  arguments.add_run(parser)
  arguments.add_step(parser)
  prompt = parser.add_argument_group("prompt and length")
  either = prompt.add_mutually_exclusive_group()
  either.add_argument("--prime", metavar="TEXT", default="", help="the prompt (default: none)")
  text = "read the prompt from a UTF-8 file, or from stdin if FILE is -"
  either.add_argument("--prime-file", metavar="FILE", help=text)
  arguments.add_unknown(prompt, "the prompt")
  text = "omit the prompt from the texts"
  prompt.add_argument("--no-echo", action="store_true", help=text)
  text = "maximum number of tokens to generate per text (default: 1000)"
  prompt.add_argument("--length", metavar="N", type=int, default=1000, help=text)
  text = (
    "end each text before the first TEXT that the model writes; the end of a document always does"
  )
  prompt.add_argument("--stop", metavar="TEXT", help=text)

  sampling = parser.add_argument_group("sampling")
  arguments.add_temperature(sampling)
  arguments.add_filters(sampling)
  arguments.add_seed(sampling, None)

  control = parser.add_argument_group("constraints and clamps (all repeatable)")
  for name, verb in (("require", "contains"), ("forbid", "does not contain")):
    text = f"write only text that {verb} a match of REGEX; ^ and $ match the ends of the text"
    control.add_argument(f"--{name}", metavar="REGEX", action="append", default=[], help=text)
  text = (
    "set a unit to VALUE at every step after the prompt; hold as VALUE freezes it; 1:37=2.5 sets "
    "unit 37 of layer 1 (both count from 0): the cell state c of an LSTM, the activation m of a "
    "transformer's MLP, or the hidden state h of other cells; 1:h37=0.5 sets h; a transformer has "
    "no state to hold"
  )
  control.add_argument(
    "--clamp", metavar="LAYER:UNIT=VALUE", action="append", default=[], help=text
  )

  modes = parser.add_argument_group("beam search and sessions")
  text = "search for the --num most probable texts with a beam of width K"
  modes.add_argument("--beam", metavar="K", type=int, help=text)
  text = "read lines from a terminal or a pipe, and continue after each line"
  modes.add_argument("--interactive", action="store_true", help=text)

  output = parser.add_argument_group("output")
  text = "number of texts, sampled in parallel (default: 1)"
  output.add_argument("--num", metavar="N", type=int, help=text)
  text = "select texts that differ from each other"
  output.add_argument("--distinct", action="store_true", help=text)
  text = "select texts that do not occur in the training text"
  output.add_argument("--novel", action="store_true", help=text)
  text = (
    "maximum number of texts to sample for --distinct and --novel (default: "
    f"{selection.DRAWS} for each of --num)"
  )
  output.add_argument("--draws", metavar="N", type=int, help=text)
  arguments.add_corpus(output, "the corpus of the run, for --novel, if it has moved")
  arguments.add_out(output, f"write each text to a file in DIR (001.txt, ...), and {LINES}")
  arguments.add_json(output, "write one line of JSON per text to stdout")
  output.add_argument("--quiet", action="store_true", help="write only errors to stderr")


def run(args):
  settings = _check(args)
  required = [constraints.Regex("--require", text) for text in args.require]
  forbidden = [constraints.Regex("--forbid", text) for text in args.forbid]
  clamped = [clamps.parse(each) for each in args.clamp]

  runtime.start()
  source = run_lib.Run.open(args.run, args.step, args.corpus, args.fetch).load()
  tokenizer = source.tokenizer
  prompt = _read_prompt(args, tokenizer)
  if args.unknown == "skip":
    prompt = run_lib.skip_unknown(tokenizer, prompt, "the prompt")
  prompt_ids = tokenizer.encode(prompt)
  if args.interactive and args.stop is None and "\n" in tokenizer.tokens:
    args.stop = "\n\n"
  options = {
    "length": args.length,
    "clamp": clamps.arrays([clamped], source.model) if clamped else None,
    "automaton": constraints.build(required, forbidden, args.stop, tokenizer, args.length),
  }
  options |= {"beam": args.beam} if args.beam else {"seed": args.seed, "settings": settings}
  training = selection.Training.of(source) if args.novel else None
  paths = None if args.out is None else _new_files(args.out, args.num)
  say = (lambda _: None) if args.quiet else console.say
  loss = source.meta.get("valid_loss")
  note = "" if loss is None else f", validation loss {loss:.4f}"
  mode = f"--beam={args.beam}" if args.beam else f"--seed={args.seed}"
  say(f"{source.path}: step {source.step}{note}, {mode}")
  if args.interactive:
    _converse(args, source, prompt_ids, options)
  else:
    _write(args, source, prompt_ids, options, paths, training, say)


def _check(args) -> sampler.Settings:
  """Check the options that do not depend on the run, and fill in defaults; return the settings."""
  is_set = {name for name, value in vars(args).items() if value is not None and value is not False}
  for mode, names in EXCLUDED.items():
    for name in names:
      if {mode, name} <= is_set:
        option = name.replace("_", "-")
        raise errors.UserError(f"--{option}: cannot be combined with --{mode}: leave one out")
  args.temperature = 1.0 if args.temperature is None else args.temperature
  args.num = 1 if args.num is None else args.num
  args.seed = secrets.randbelow(2**32) if args.seed is None else args.seed
  settings = sampler.Settings(args.temperature, args.top_k, args.top_p)
  sampler.check(length=args.length, num=args.num, seed=args.seed)
  _check_selection(args, settings)
  if args.beam is not None:
    beam.check(args.beam, args.num)
  if args.stop == "":
    raise errors.UserError("--stop: must not be empty")
  if args.interactive and args.prime_file == "-":
    raise errors.UserError("--prime-file=-: stdin is used by --interactive: use a file")
  return settings


def _check_selection(args, settings: sampler.Settings):
  """Check the options of --distinct and --novel, and fill in --draws."""
  is_selecting = args.distinct or args.novel
  if args.draws is not None and not is_selecting:
    raise errors.UserError("--draws: applies to --distinct and --novel: add one of them")
  if (args.corpus is not None or args.fetch) and not args.novel:
    option = "--fetch" if args.corpus is None else "--corpus"
    raise errors.UserError(f"{option}: applies to --novel: add it")
  if is_selecting:
    args.draws = selection.check(args.num, args.draws, settings)


def _read_prompt(args, tokenizer) -> str:
  """Return the prompt exactly as it is. Invalid UTF-8 is an error unless tokens represent bytes."""
  if not args.prime_file:
    return args.prime
  if args.prime_file == "-":
    name, content = "stdin", sys.stdin.buffer.read(files.MAX_STREAM)
  else:
    name = args.prime_file
    content = files.read_input(name, f"--prime-file={name}")
  return corpora.read_text(name, content, tokenizer=tokenizer.kind)


def _reading(args, count: int, progress: console.Progress, begin) -> sampler.Progress | None:
  """Return the callback for reading a prompt of `count` tokens, which calls `begin` at its end.

  If the prompt is short, call `begin` now and return None.
  """
  if args.quiet or count < LONG_PROMPT:
    begin()
    return None
  update = progress("reading the prompt")

  def report(done, total):
    update(done, total)
    if done >= total:
      progress.end()
      begin()

  return report


def _write(args, source, prompt_ids, options, paths, training, say):
  """Write the texts to stdout or to files; report their scores, the estimate and the speed."""
  prompt = streaming.TextStream(source.tokenizer, prompt_ids).prompt
  echo, progress = "" if args.no_echo else prompt, console.Progress()
  is_selecting = args.distinct or args.novel
  has_scores = bool(args.require or args.forbid or args.beam) and not is_selecting
  # Print the text while it is sampled.
  is_live = args.num == 1 and not (args.json or paths or args.beam or is_selecting)
  times, counts = [time.perf_counter()], []
  watch = functools.partial(_watch, times, counts, _print if is_live else lambda _: None)
  options |= {"num": args.num, "stop": args.stop}
  is_waiting = args.beam or paths or (is_selecting and not sys.stdout.isatty())
  has_progress = bool(is_waiting) and not args.quiet
  update = progress.update if has_progress else None

  def begin():
    if has_progress:
      progress("searching" if args.beam else "sampling")
    if is_live:
      _print(echo)

  options["reading"] = _reading(args, len(prompt_ids), progress, begin)
  has_stop = args.stop is not None
  selected = selection.Selection(args.distinct, training, has_stop=has_stop)
  if is_selecting:
    options |= {"draws": args.draws, "watch": watch, "progress": update}
    samples = selected.sample(source, prompt_ids, **options)
  elif args.beam:
    samples = beam.search(source, prompt_ids, progress=update, **options)
    progress.end()
  else:
    samples = sampler.sample(source, prompt_ids, watch=watch, progress=update, **options)
  record = functools.partial(_record, args, source.step, prompt, selected)
  if paths:
    results = list(_save(samples, echo, paths, record))
  elif args.json:
    results = list(samples)
  else:
    results = _show(args, samples, echo, is_live, has_scores, say)
  progress.end()
  estimate = _estimate(args, results, say) if has_scores else None
  if is_selecting or len(results) < args.num:
    say(_summary(args, selected, len(results)))
  if not args.beam:
    say(_speed(times, counts))
  lines = record(results, estimate)
  if paths:
    _write_new(paths[-1], lines.encode())
  if args.json:
    print(lines, end="", flush=True)


def _show(args, samples, echo, is_live, has_scores, say) -> list[sampler.Sample]:
  """Print the samples, unless `is_live`; return them."""
  if args.distinct or args.novel:
    return list(_print_lines(samples, echo))
  if not is_live:
    num = len(samples) if args.beam else args.num
    samples = _print_all(samples, echo, num, say, has_scores)
  results = list(samples)
  if sys.stdout.isatty() and not (echo + results[-1].text).endswith("\n"):
    _print("\n")  # the shell's prompt must not follow the text on its line
  if is_live and has_scores:
    say(_score(results[0]))
  return results


def _watch(times: list[float], counts: list[int], write, batches) -> sampler.Pieces:
  """Yield the pieces of each batch; write the first text's piece, and record times and counts."""
  for pieces in batches:
    times.append(time.perf_counter())
    counts.append(sum(map(len, pieces)))
    write(pieces[0])
    yield pieces


def _print_all(samples, prompt, num, say, has_scores) -> Iterator[sampler.Sample]:
  """Yield each sample after printing it, with an empty line between samples."""
  for n, sample in enumerate(samples, 1):
    text = prompt + sample.text
    say(f"--- sample {n} of {num}" + (f": {_score(sample)}" if has_scores else ""))
    _print(text)
    if n < num:
      _print("\n" if text.endswith("\n") else "\n\n")
    yield sample


def _print_lines(samples, prompt) -> Iterator[sampler.Sample]:
  """Yield each sample after printing it on one line."""
  escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})
  for sample in samples:
    _print((prompt + sample.text).translate(escapes) + "\n")
    yield sample


def _summary(args, selected: selection.Selection, found: int) -> str:
  """Return how many texts were found, and of how many."""
  if args.beam:
    return f"only {errors.plural(found, 'text')} possible"
  counts = [(args.distinct, selected.repeated, "repeated")]
  counts += [(args.novel, selected.copied, "in the training text")]
  rejected = ", ".join(f"{count:,} {reason}" for is_used, count, reason in counts if is_used)
  drawn = errors.plural(selected.drawn, "draw")
  if found == args.num:
    return f"{errors.plural(found, 'text')} from {drawn}: {rejected}"
  return (
    f"only {found:,} of {args.num:,} texts found in {drawn} ({rejected}): use a higher "
    "--temperature, or more --draws"
  )


def _save(samples, prompt, paths, record) -> Iterator[sampler.Sample]:
  """Yield each sample after writing its file; on Ctrl-C, write the JSON of the complete samples."""
  complete = []
  try:
    for path, sample in zip(paths, samples):
      _write_new(path, console.encode(prompt + sample.text))
      complete.append(sample)
      yield sample
  except KeyboardInterrupt:
    _write_new(paths[-1], record(complete, None).encode())
    raise


def _record(args, step: int, prompt: str, selected, samples, estimate) -> str:
  """Return one line of JSON per sample."""
  settings = ("beam",) if args.beam else ("seed", "temperature", "top_k", "top_p")
  names = ("clamp", "require", "forbid", *settings)
  common = {"prime": prompt, "step": step} | {name: getattr(args, name) for name in names}
  if not args.beam:
    common["estimate"] = estimate and _plain(estimate)
  if args.distinct or args.novel:
    common |= {"distinct": args.distinct, "novel": args.novel, "drawn": selected.drawn}
  records = (_plain(sample) | {"sample": n} | common for n, sample in enumerate(samples, 1))
  lines = (json.dumps(files.with_aliases(each, {"tokens": "symbols"})) for each in records)
  return "".join(f"{line}\n" for line in lines)


def _plain(record) -> dict:
  """Return a NamedTuple as a dict for JSON, which has no infinity: it becomes null."""
  items = record._asdict().items()
  return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in items}


def _speed(times: list[float], counts: list[int]) -> str:
  """Return the speed as text. The first piece is separate: it includes compiling and the prompt."""
  start, first, *_, last = *times, times[-1]
  line = f"{errors.plural(sum(counts), 'character')} in {last - start:.2f} s"
  if later := sum(counts[1:]):
    speed = later / (last - first)
    line += (
      f": {first - start:.2f} s to the first (with compilation), then {speed:.0f} characters/s"
    )
  return line


def _score(sample: sampler.Sample) -> str:
  """Return the log-probabilities of a sample as text."""
  if sample.log_q is not None:
    return f"log p {sample.log_p:.2f}, log q {sample.log_q:.2f}"
  mean = sample.log_p / max(sample.tokens, 1)
  return f"log p {sample.log_p:.2f}, {mean:.3f} per token, {errors.plural(sample.tokens, 'token')}"


def _estimate(args, samples, say) -> sampler.Estimate | None:
  """Report the estimate and return it; return None if the settings allow no estimate."""
  # Filters exclude some allowed texts, and weights of other texts cannot correct for that.
  is_filtered = args.beam or args.temperature == 0 or args.top_k or args.top_p
  if is_filtered or len(samples) < 2:
    return None
  estimate = sampler.estimate(samples)
  # A few large weights dominate the mean, and may be missing from a small sample.
  too_small = estimate.effective < min(MIN_EFFECTIVE, 0.8 * len(samples))
  say(
    f"probability that an unconstrained text is allowed: {math.exp(estimate.log_p):.3g} "
    f"(log p {estimate.log_p:.2f}) +- {estimate.error:.0%}, effective sample size "
    f"{estimate.effective:.1f}"
    + (": unreliable and probably far too low; increase --num" if too_small else "")
  )
  return estimate


def _print(text: str):
  """Write text to stdout: exactly, or escaped for a terminal."""
  if sys.stdout.isatty():
    sys.stdout.write(console.visible(text, lines=True))
  else:
    sys.stdout.buffer.write(console.encode(text))
  sys.stdout.flush()


def _new_files(out: str, num: int) -> list[pathlib.Path]:
  """Create the folder; return the paths of `num` texts and LINES. Raise UserError if one exists."""
  if not out:
    raise errors.UserError("--out: must not be empty")
  folder = files.make_folder(out, pathlib.Path())
  digits = max(3, len(str(num)))
  paths = [folder / name for name in (*(f"{n:0{digits}}.txt" for n in range(1, num + 1)), LINES)]
  if existing := set(paths).intersection(folder.iterdir()):
    name = min(existing).name
    raise errors.UserError(f"--out={out}: {name} already exists: use another folder")
  return paths


def _write_new(path: pathlib.Path, content: bytes):
  """Write a file that must not exist yet."""
  try:
    with open(path, "xb") as file:
      file.write(content)
  except OSError as error:
    raise errors.UserError(errors.describe(error, path)) from error


def _converse(args, source, prompt_ids, options):
  """Read the prompt, then continue the text after each line of stdin."""
  is_terminal, tokenizer = sys.stdin.isatty(), source.tokenizer
  options["reading"] = _reading(args, len(prompt_ids), console.Progress(), lambda: None)
  session = sampler.Session(source, prompt_ids, **options)
  if not args.no_echo:
    _print(streaming.TextStream(tokenizer, prompt_ids).prompt)
  for line in _lines(is_terminal):
    text = "" if line == "\n" else line
    try:
      session.read(tokenizer.encode(text if "\n" in tokenizer.tokens else text.removesuffix("\n")))
    except errors.UserError as error:
      console.say(f"line ignored: {error}")
      continue
    last = ""
    try:
      for piece in session.write():
        _print(piece)
        last = piece or last
    except KeyboardInterrupt:
      if not is_terminal:
        raise
    if tokenizer.end_id is not None:
      _print("\n")
    elif is_terminal and not last.endswith("\n"):
      console.say()


def _lines(is_terminal: bool) -> Iterator[str]:
  """Yield the lines of stdin. A terminal shows MARK and has line editing; Ctrl-C drops a line."""
  encoding = sys.stdin.encoding if is_terminal else "utf-8"
  sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape")
  if is_terminal:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401 (adds line editing to input(), where available)
  while True:
    try:
      if is_terminal and sys.stdout.isatty():
        line = input(MARK) + "\n"
      else:
        if is_terminal:  # input() would write MARK to stdout, which is redirected
          console.write(MARK)
        line = sys.stdin.readline()
    except EOFError:
      console.say()
      return
    except KeyboardInterrupt:
      if not is_terminal:
        raise
      console.say()
      continue
    if not line:
      return
    yield line
