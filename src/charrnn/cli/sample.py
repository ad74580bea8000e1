"""`charrnn sample`: write text with a trained model."""

import contextlib
import functools
import json
import math
import pathlib
import secrets
import sys
import time
from collections.abc import Iterable, Iterator

from charrnn import console, errors, files, runtime
from charrnn.cli import arguments
from charrnn.runs import run as run_lib
from charrnn.sampling import beam, clamps, constraints, sampler, streaming

HELP = """\
write text with a trained model

The text begins with the prompt. Without one, the model starts after a line end, which is not
printed. Only text goes to stdout; all messages go to stderr. In a pipe or a file the text is
exactly what the model wrote. On a terminal, control characters except line ends and tabs are shown
as \\x1b and the like.

--require and --forbid constrain what is written, not the prompt and not the stop text. Each step
leaves out the tokens after which no allowed text can be completed; a text ends where no token is
left. The constraint ignores how probable a continuation is: a required match that has not appeared
is written where no room for more is left. So these texts are not distributed like the model's own
texts that satisfy the constraint. Weights exp(log p - log q) correct this: log p is the model's,
log q that of the constrained draw.
A REGEX has Python's syntax, restricted to literals, . \\d \\w \\s [...] (...) | * + ? {m,n}, and
^ $ at the ends of alternatives; $ is the very end. With a byte vocabulary it must be ASCII, and the
dot is one byte.

--beam compares texts by log p, not divided by their length: texts that --stop or a REGEX ends early
have an advantage.

--interactive reads one line after another, with its line end, and continues after each up to --stop
(by default an empty line), which is written too, or for --length tokens. The network keeps its
state. After an empty line it just continues; Ctrl-C stops a text, Ctrl-D ends."""

EXCLUDED = {  # options that have no meaning with a mode
  "interactive": ("beam", "num", "json", "out"),
  "beam": ("temperature", "top_k", "top_p", "seed"),
}
MIN_EFFECTIVE = 10  # effective sample size of a reliable estimate
LINES = "samples.jsonl"
MARK = "> "


def add_arguments(parser):
  add = parser.add_argument
  arguments.add_run(parser)
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument("--prime", metavar="TEXT", default="", help="the prompt")
  text = "a UTF-8 file with the prompt; - is stdin"
  prompt.add_argument("--prime-file", metavar="FILE", help=text)
  add("--length", metavar="N", type=int, default=1000, help="tokens of a text (default: 1000)")
  arguments.add_temperature(parser)
  arguments.add_filters(parser)
  add("--num", metavar="N", type=int, help="number of texts, sampled side by side (default: 1)")
  arguments.add_seed(parser, None)
  text = (
    "set a unit at every step after the prompt, as 1:37=2.5, or freeze it with 1:37=hold; 1:37 is "
    "an LSTM's c, or h if there is no c; 1:h37 is h (repeat for several units)"
  )
  add("--clamp", metavar="LAYER:UNIT=VALUE", action="append", default=[], help=text)
  add("--stop", metavar="TEXT", help="end before the first TEXT that the model writes")
  for name, relation in (("require", "with"), ("forbid", "without")):
    text = f"only texts {relation} a match of REGEX, where ^ and $ are the ends (may be repeated)"
    add(f"--{name}", metavar="REGEX", action="append", default=[], help=text)
  text = "search for the --num most probable texts among K at a time instead of sampling"
  add("--beam", metavar="K", type=int, help=text)
  add("--interactive", action="store_true", help="read prompts from a terminal or a pipe")
  arguments.add_out(parser, f"write each text to a file: 001.txt and so on, and {LINES}")
  arguments.add_step(parser)
  add("--quiet", action="store_true", help="write only errors to stderr")
  arguments.add_json(parser, "one JSON object a line for each text")


def run(args):
  settings, seed = _check(args)
  required = [constraints.Regex("--require", text) for text in args.require]
  forbidden = [constraints.Regex("--forbid", text) for text in args.forbid]
  clamped = [clamps.parse(each) for each in args.clamp]
  prompt = _read_prompt(args)
  paths = None if args.out is None else _new_files(args.out, args.num)

  runtime.start()
  source = run_lib.Run.open(args.run, args.step).load()
  tokenizer = source.tokenizer
  prompt_ids = tokenizer.encode(_decode_prompt(prompt, tokenizer, args.prime_file))
  if args.interactive and args.stop is None and "\n" in tokenizer.tokens:
    args.stop = "\n\n"
  unknown = set(args.stop or "") - set(tokenizer.tokens)
  if unknown and tokenizer.kind == "char":
    raise errors.UserError(
      f"--stop: not in the run's vocabulary: {', '.join(sorted(map(repr, unknown)))}"
    )
  options = {
    "length": args.length,
    "clamp": clamps.arrays([clamped], source.model) if clamped else None,
    "automaton": constraints.build(required, forbidden, args.stop, tokenizer, args.length),
  }
  options |= {"beam": args.beam} if args.beam else {"seed": seed, "settings": settings}
  say = (lambda _: None) if args.quiet else console.say
  loss = source.meta.get("valid_loss")
  known = "" if loss is None else f", validation loss {loss:.4f}"
  mode = f"--beam={args.beam}" if args.beam else f"--seed={seed}"
  say(f"{source.path}: step {source.step}{known}, {mode}")
  if args.interactive:
    _converse(source, prompt_ids, options)
  else:
    _write(args, source, prompt_ids, options, paths, say)


def _check(args) -> tuple[sampler.Settings, int]:
  """Check what does not depend on the run; return the settings and the seed."""
  for mode, others in EXCLUDED.items():
    for name in others if _is_set(args, mode) else ():
      if _is_set(args, name):
        raise errors.UserError(f"--{name.replace('_', '-')}: has no meaning with --{mode}")
  args.temperature = 1.0 if args.temperature is None else args.temperature
  args.num = 1 if args.num is None else args.num
  settings = sampler.Settings(args.temperature, args.top_k, args.top_p)
  seed = secrets.randbelow(2**32) if args.seed is None else args.seed
  sampler.check(length=args.length, num=args.num, seed=seed)
  if args.beam is not None:
    beam.check(args.beam, args.num)
  if args.stop == "":
    raise errors.UserError("--stop: the text is empty")
  if args.interactive and args.prime_file == "-":
    raise errors.UserError("--prime-file=-: stdin is for the lines of --interactive")
  return settings, seed


def _is_set(args, name: str) -> bool:
  return getattr(args, name) is not None and getattr(args, name) is not False


def _read_prompt(args) -> bytes | str:
  """Return the prompt as bytes or, from the command line, as text."""
  if not args.prime_file:
    return args.prime
  try:
    if args.prime_file == "-":
      return sys.stdin.buffer.read()
    return pathlib.Path(args.prime_file).read_bytes()
  except OSError as error:
    raise errors.UserError(f"--prime-file={args.prime_file}: {error.strerror}") from error


def _decode_prompt(prompt: bytes | str, tokenizer, name: str) -> str:
  """Return the unaltered prompt as text; only a byte tokenizer takes what is not UTF-8."""
  if isinstance(prompt, str):
    return prompt
  try:
    return prompt.decode("utf-8", "surrogateescape" if tokenizer.kind == "byte" else "strict")
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"--prime-file={name}: not UTF-8 at byte {error.start}: convert it first"
    ) from error


def _write(args, source, prompt_ids, options, paths, say):
  """Write texts to stdout or to files; report their scores, the estimate and the speed."""
  prompt = streaming.TextStream(source.tokenizer, prompt_ids).prompt
  has_scores = bool(args.require or args.forbid or args.beam)
  is_live = args.num == 1 and not (args.beam or args.json or paths)  # print a text as it comes
  clock, progress = _Clock(), console.Progress()
  options = options | {"num": args.num, "stop": args.stop}
  if (args.beam or paths) and not args.quiet:
    options["progress"] = progress("searching" if args.beam else "writing")
  write = _stdout(source.tokenizer)

  def watch(pieces):
    return _print_live(clock.watch(pieces), prompt, write) if is_live else clock.watch(pieces)

  if args.beam:
    samples = beam.search(source, prompt_ids, **options)
    progress.end()
  else:
    samples = sampler.sample(source, prompt_ids, watch=watch, **options)
  if paths:
    samples = _save(samples, prompt, paths, source.tokenizer)
  elif not (is_live or args.json):
    num = len(samples) if args.beam else args.num
    samples = _print_all(samples, prompt, num, write, say, has_scores)
  record = functools.partial(_record, args, source, prompt, options)
  collected = _collect(samples, paths, record)
  progress.end()
  if len(collected) < args.num:
    say(f"there are no more than {len(collected)} such texts")
  if is_live and has_scores:
    say(_score(collected[0]))
  estimate = _estimate(args, collected) if has_scores else None
  if estimate:
    say(_report(estimate, len(collected)))
  if not args.beam:
    say(str(clock))
  lines = record(collected, estimate)
  if paths:
    _write_new(paths[-1], lines.encode())
  if args.json:
    print(lines, end="", flush=True)


def _collect(samples, paths, record) -> list[sampler.Sample]:
  """Return all samples; on Ctrl-C write the lines of those whose files are complete."""
  collected = []
  try:
    for sample in samples:
      collected.append(sample)
  except KeyboardInterrupt:
    if paths:
      _write_new(paths[-1], record(collected, None).encode())
    raise
  return collected


def _record(args, source, prompt: str, options, samples, estimate) -> str:
  """Return a line of JSON for each sample."""
  common = {"prime": prompt, "step": source.step, "clamp": args.clamp}
  common |= {"require": args.require, "forbid": args.forbid}
  if args.beam:
    common |= {"beam": args.beam}
  else:
    common |= {"seed": options["seed"], "temperature": args.temperature}
    common |= {"top_k": args.top_k, "top_p": args.top_p}
    common |= {"estimate": estimate and _plain(estimate)}
  records = (_plain(sample) | {"sample": n} | common for n, sample in enumerate(samples, 1))
  lines = (json.dumps(files.with_aliases(each, {"tokens": "symbols"})) for each in records)
  return "".join(f"{line}\n" for line in lines)


def _plain(record) -> dict:
  """Return a NamedTuple for JSON, which has no infinity: null in its place."""
  items = record._asdict().items()
  return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in items}


class _Clock:
  """The speed of texts. The first piece, which includes reading and compiling, is set apart."""

  def __init__(self):
    self._times, self._counts = [time.perf_counter()], []

  def watch(self, batches: Iterable[list[str]]) -> Iterator[list[str]]:
    for pieces in batches:
      self._times.append(time.perf_counter())
      self._counts.append(sum(map(len, pieces)))
      yield pieces

  def __str__(self):
    start, first, *_, last = *self._times, self._times[-1]
    line = f"{sum(self._counts)} characters in {last - start:.2f} s"
    if later := sum(self._counts[1:]):
      speed = later / (last - first)
      line += f": {first - start:.2f} s to the first, then {speed:.0f} characters/s"
    return line


def _score(sample: sampler.Sample) -> str:
  if sample.log_q is not None:
    return f"log p {sample.log_p:.2f}, log q {sample.log_q:.2f}"
  mean = sample.log_p / max(sample.tokens, 1)
  return f"log p {sample.log_p:.2f}, {mean:.3f} a token of {sample.tokens}"


def _estimate(args, samples) -> sampler.Estimate | None:
  # Filters make some texts impossible, and no weights of the others can replace them.
  is_filtered = args.beam or args.temperature == 0 or args.top_k or args.top_p
  return None if is_filtered or len(samples) < 2 else sampler.estimate(samples)


def _report(estimate: sampler.Estimate, num: int) -> str:
  # A few large weights make up most of a mean, and may not have been sampled yet.
  too_small = estimate.effective < min(MIN_EFFECTIVE, 0.8 * num)
  return (
    f"probability of such a text without the constraint: {math.exp(estimate.log_p):.3g} "
    f"(log p {estimate.log_p:.2f}) +- {estimate.error:.0%}, effective sample size "
    f"{estimate.effective:.1f}" + (": too small, probably far too low" if too_small else "")
  )


def _stdout(tokenizer):
  """Return write(text) for stdout: exact, except that a terminal gets no control characters."""
  is_terminal, is_byte = sys.stdout.isatty(), tokenizer.kind == "byte"
  invalid = "surrogateescape" if is_byte and not is_terminal else "replace"
  sys.stdout.reconfigure(errors=invalid, newline="\n")

  def write(text: str):
    sys.stdout.write(text.translate(console.CONTROLS) if is_terminal else text)
    sys.stdout.flush()

  return write


def _end_line(write, text: str):
  """Keep the shell's next prompt off the text."""
  if sys.stdout.isatty() and not text.endswith("\n"):
    write("\n")


def _print_live(batches: Iterable[list[str]], prompt: str, write) -> Iterator[list[str]]:
  """Pass on the pieces of a single text; print each as it comes."""
  write(prompt)
  last = prompt
  for (piece,) in batches:
    write(piece)
    last = piece or last
    yield [piece]
  _end_line(write, last)


def _print_all(samples, prompt, num, write, say, has_scores) -> Iterator[sampler.Sample]:
  """Pass on samples; print each as it comes, with an empty line between them."""
  for n, sample in enumerate(samples, 1):
    text = prompt + sample.text
    say(f"--- sample {n} of {num}" + (f": {_score(sample)}" if has_scores else ""))
    write(text)
    if n < num:
      write("\n" if text.endswith("\n") else "\n\n")
    else:
      _end_line(write, text)
    yield sample


def _new_files(out: str, num: int) -> list[pathlib.Path]:
  """Make a folder; return the paths of `num` texts and of LINES, none of which may exist."""
  if not out:
    raise errors.UserError("--out: the name of the folder is empty")
  folder = files.make_folder(out, pathlib.Path())
  digits = max(3, len(str(num)))
  paths = [folder / name for name in (*(f"{n:0{digits}}.txt" for n in range(1, num + 1)), LINES)]
  if existing := set(paths).intersection(folder.iterdir()):
    name = min(existing).name
    raise errors.UserError(f"--out={out}: {name} exists already: choose another folder")
  return paths


def _save(samples, prompt, paths, tokenizer) -> Iterator[sampler.Sample]:
  """Pass on samples; write each to its file as it comes."""
  for path, sample in zip(paths, samples):
    _write_new(path, streaming.encode(prompt + sample.text, tokenizer))
    yield sample


def _write_new(path: pathlib.Path, content: bytes):
  try:
    with open(path, "xb") as file:
      file.write(content)
  except OSError as error:
    raise errors.UserError(f"cannot write {path}: {error.strerror}") from error


def _converse(source, prompt_ids, options):
  """Read the prompt, then one line of stdin after another, and write on after each of these."""
  is_typed, tokenizer = sys.stdin.isatty(), source.tokenizer
  session = sampler.Session(source, prompt_ids, **options)
  write = _stdout(tokenizer)
  write(streaming.TextStream(tokenizer, prompt_ids).prompt)
  for line in _lines(is_typed):
    text = "" if line == "\n" else line
    try:
      session.read(tokenizer.encode(text if "\n" in tokenizer.tokens else text.removesuffix("\n")))
    except errors.UserError as error:
      console.say(f"not read: {error}")
      continue
    last = ""
    try:
      for piece in session.write():
        write(piece)
        last = piece or last
    except KeyboardInterrupt:
      if not is_typed:
        raise
    if is_typed and not last.endswith("\n"):
      console.say()


def _lines(is_typed: bool) -> Iterator[str]:
  """Yield lines of stdin; on a terminal with a mark and line editing, and Ctrl-C for a new line."""
  sys.stdin.reconfigure(errors="surrogateescape")
  if is_typed:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401 (gives input() line editing, where there is one)
  while True:
    try:
      line = _ask() if is_typed else sys.stdin.readline()
    except KeyboardInterrupt:
      if not is_typed:
        raise
      console.say()
      continue
    if not line:
      return
    yield line


def _ask() -> str:
  # If stdout goes elsewhere, input() would write the mark there.
  if not sys.stdout.isatty():
    console.write(MARK)
    return sys.stdin.readline()
  try:
    return input(MARK) + "\n"
  except EOFError:
    console.say()
    return ""
