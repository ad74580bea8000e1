"""`charrnn sample`: write text with a trained model."""

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
from charrnn.runs import run as run_lib
from charrnn.sampling import beam, clamps, constraints, sampler, streaming

HELP = """\
write text with a trained model

The text begins with the prompt. Without one, the model starts after a line end (else the most
frequent character), which is not printed. Texts go to stdout, status lines to stderr. In a pipe or
a file the text is exactly what the model wrote. On a terminal, control characters except line ends
and tabs are shown as \\x1b and the like.

--require and --forbid constrain the generated text, not the prompt and not the stop text. Each step
leaves out the tokens after which no allowed text can be completed. A text stops before --length
only at --stop or when no further token is allowed. This is not the model's distribution conditioned
on the constraint: each step checks what is possible, not what is probable, so a required match may
appear only at the very end. Weights exp(log p - log q) correct for it: log p is the model's
log-probability of the text, log q that of sampling it under the constraint.
A REGEX has Python's syntax, restricted to literals, . \\d \\w \\s [...] (...) | * + ? {m,n}, and
^ $ at the ends of alternatives: the beginning and the end of the generated text. With a byte
vocabulary it must be ASCII, and the dot is one byte.

--beam compares texts by log p, not divided by their length: texts that --stop or a REGEX ends early
have an advantage. It excludes --temperature, --top-k, --top-p and --seed.

--interactive reads one line after another, with its line end, and continues after each up to --stop
(by default an empty line), which is written too, or for --length tokens. The network keeps its
state. After an empty line it just continues; Ctrl-C stops a text, Ctrl-D ends. Excludes --beam,
--num, --json and --out."""

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
  prompt.add_argument("--prime", metavar="TEXT", default="", help="the prompt (default: none)")
  text = "a UTF-8 file with the prompt; - is stdin"
  prompt.add_argument("--prime-file", metavar="FILE", help=text)
  add("--length", metavar="N", type=int, default=1000, help="tokens of a text (default: 1000)")
  arguments.add_temperature(parser)
  arguments.add_filters(parser)
  add("--num", metavar="N", type=int, help="number of texts, sampled side by side (default: 1)")
  arguments.add_seed(parser, None)
  text = (
    "set a unit at every step after the prompt, as 1:37=2.5, or freeze it with 1:37=hold; 1:37 is "
    "an LSTM's c, or h if there is no c; 1:h37 is h; both count from 0 (repeatable)"
  )
  add("--clamp", metavar="LAYER:UNIT=VALUE", action="append", default=[], help=text)
  add("--stop", metavar="TEXT", help="end before the first TEXT that the model writes")
  for name, relation in (("require", "with"), ("forbid", "without")):
    text = f"only texts {relation} a match of REGEX, where ^ and $ are the ends (repeatable)"
    add(f"--{name}", metavar="REGEX", action="append", default=[], help=text)
  text = "search for the --num most probable texts among K at a time instead of sampling"
  add("--beam", metavar="K", type=int, help=text)
  add("--interactive", action="store_true", help="read prompts from a terminal or a pipe")
  arguments.add_out(parser, f"write each text to a file: 001.txt and so on, and {LINES}")
  arguments.add_step(parser)
  add("--quiet", action="store_true", help="write only errors to stderr")
  arguments.add_json(parser, "one JSON object on a line for each text")


def run(args):
  settings = _check(args)
  required = [constraints.Regex("--require", text) for text in args.require]
  forbidden = [constraints.Regex("--forbid", text) for text in args.forbid]
  clamped = [clamps.parse(each) for each in args.clamp]

  runtime.start()
  source = run_lib.Run.open(args.run, args.step).load()
  tokenizer = source.tokenizer
  prompt_ids = tokenizer.encode(_read_prompt(args, tokenizer))
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
  options |= {"beam": args.beam} if args.beam else {"seed": args.seed, "settings": settings}
  paths = None if args.out is None else _new_files(args.out, args.num)
  say = (lambda _: None) if args.quiet else console.say
  loss = source.meta.get("valid_loss")
  known = "" if loss is None else f", validation loss {loss:.4f}"
  mode = f"--beam={args.beam}" if args.beam else f"--seed={args.seed}"
  say(f"{source.path}: step {source.step}{known}, {mode}")
  if args.interactive:
    _converse(source, prompt_ids, options)
  else:
    _write(args, source, prompt_ids, options, paths, say)


def _check(args) -> sampler.Settings:
  """Check what does not depend on the run, and fill in defaults; return the settings."""
  is_set = {name for name, value in vars(args).items() if value is not None and value is not False}
  for mode, names in EXCLUDED.items():
    for name in names:
      if {mode, name} <= is_set:
        raise errors.UserError(f"--{name.replace('_', '-')}: has no meaning with --{mode}")
  args.temperature = 1.0 if args.temperature is None else args.temperature
  args.num = 1 if args.num is None else args.num
  args.seed = secrets.randbelow(2**32) if args.seed is None else args.seed
  settings = sampler.Settings(args.temperature, args.top_k, args.top_p)
  sampler.check(length=args.length, num=args.num, seed=args.seed)
  if args.beam is not None:
    beam.check(args.beam, args.num)
  if args.stop == "":
    raise errors.UserError("--stop: the text is empty")
  if args.interactive and args.prime_file == "-":
    raise errors.UserError("--prime-file=-: stdin is for the lines of --interactive")
  return settings


def _read_prompt(args, tokenizer) -> str:
  """Return the prompt unaltered; only a byte tokenizer takes what is not UTF-8."""
  if not args.prime_file:
    return args.prime
  try:
    is_stdin = args.prime_file == "-"
    prompt = sys.stdin.buffer.read() if is_stdin else pathlib.Path(args.prime_file).read_bytes()
    return prompt.decode("utf-8", "surrogateescape" if tokenizer.kind == "byte" else "strict")
  except OSError as error:
    raise errors.UserError(f"--prime-file={args.prime_file}: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"--prime-file={args.prime_file}: not UTF-8 at byte {error.start}: convert it first"
    ) from error


def _write(args, source, prompt_ids, options, paths, say):
  """Write texts to stdout or to files; report their scores, the estimate and the speed."""
  prompt = streaming.TextStream(source.tokenizer, prompt_ids).prompt
  has_scores = bool(args.require or args.forbid or args.beam)
  is_printed = not (args.json or paths)
  is_live = is_printed and args.num == 1 and not args.beam  # print a text as it comes
  write, progress = _stdout(source.tokenizer), console.Progress()
  options = options | {"num": args.num, "stop": args.stop}
  if (args.beam or paths) and not args.quiet:
    options["progress"] = progress("searching" if args.beam else "writing")
  if is_live:
    write(prompt)
  times, counts = [time.perf_counter()], []
  if args.beam:
    samples = beam.search(source, prompt_ids, **options)
    progress.end()
  else:
    watch = functools.partial(_watch, times, counts, write if is_live else lambda _: None)
    samples = sampler.sample(source, prompt_ids, watch=watch, **options)
  record = functools.partial(_record, args, source.step, prompt)
  if paths:
    samples = _save(samples, prompt, paths, source.tokenizer, record)
  elif is_printed and not is_live:
    num = len(samples) if args.beam else args.num
    samples = _print_all(samples, prompt, num, write, say, has_scores)
  collected = list(samples)
  if is_printed and sys.stdout.isatty() and not (prompt + collected[-1].text).endswith("\n"):
    write("\n")  # keep the shell's next prompt off the text
  progress.end()
  if len(collected) < args.num:
    say(f"there are no more than {len(collected)} such texts")
  if is_live and has_scores:
    say(_score(collected[0]))
  estimate = _estimate(args, collected, say) if has_scores else None
  if not args.beam:
    say(_speed(times, counts))
  lines = record(collected, estimate)
  if paths:
    _write_new(paths[-1], lines.encode())
  if args.json:
    print(lines, end="", flush=True)


def _watch(times: list[float], counts: list[int], write, batches) -> sampler.Pieces:
  """Pass on pieces of text; write those of a single text, and note the time and the characters."""
  for pieces in batches:
    times.append(time.perf_counter())
    counts.append(sum(map(len, pieces)))
    write(pieces[0])
    yield pieces


def _print_all(samples, prompt, num, write, say, has_scores) -> Iterator[sampler.Sample]:
  """Pass on samples; print each as it comes, with an empty line between them."""
  for n, sample in enumerate(samples, 1):
    text = prompt + sample.text
    say(f"--- sample {n} of {num}" + (f": {_score(sample)}" if has_scores else ""))
    write(text)
    if n < num:
      write("\n" if text.endswith("\n") else "\n\n")
    yield sample


def _save(samples, prompt, paths, tokenizer, record) -> Iterator[sampler.Sample]:
  """Pass on samples; write each to its file, and on Ctrl-C the lines of those that are complete."""
  saved = []
  try:
    for path, sample in zip(paths, samples):
      _write_new(path, streaming.encode(prompt + sample.text, tokenizer))
      saved.append(sample)
      yield sample
  except KeyboardInterrupt:
    _write_new(paths[-1], record(saved, None).encode())
    raise


def _record(args, step: int, prompt: str, samples, estimate) -> str:
  """Return a line of JSON for each sample."""
  settings = ("beam",) if args.beam else ("seed", "temperature", "top_k", "top_p")
  names = ("clamp", "require", "forbid", *settings)
  common = {"prime": prompt, "step": step} | {name: getattr(args, name) for name in names}
  if not args.beam:
    common["estimate"] = estimate and _plain(estimate)
  records = (_plain(sample) | {"sample": n} | common for n, sample in enumerate(samples, 1))
  lines = (json.dumps(files.with_aliases(each, {"tokens": "symbols"})) for each in records)
  return "".join(f"{line}\n" for line in lines)


def _plain(record) -> dict:
  """Return a NamedTuple for JSON, which has no infinity: null in its place."""
  items = record._asdict().items()
  return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in items}


def _speed(times: list[float], counts: list[int]) -> str:
  """Report the speed. The first piece, which includes reading and compiling, is set apart."""
  start, first, *_, last = *times, times[-1]
  line = f"{sum(counts)} characters in {last - start:.2f} s"
  if later := sum(counts[1:]):
    speed = later / (last - first)
    line += f": {first - start:.2f} s to the first, then {speed:.0f} characters/s"
  return line


def _score(sample: sampler.Sample) -> str:
  if sample.log_q is not None:
    return f"log p {sample.log_p:.2f}, log q {sample.log_q:.2f}"
  mean = sample.log_p / max(sample.tokens, 1)
  return f"log p {sample.log_p:.2f}, {mean:.3f} a token of {sample.tokens}"


def _estimate(args, samples, say) -> sampler.Estimate | None:
  """Report and return the estimate, if the settings allow one."""
  # Filters make some texts impossible, and no weights of the others can replace them.
  is_filtered = args.beam or args.temperature == 0 or args.top_k or args.top_p
  if is_filtered or len(samples) < 2:
    return None
  estimate = sampler.estimate(samples)
  # A few large weights make up most of a mean, and may not have been sampled yet.
  too_small = estimate.effective < min(MIN_EFFECTIVE, 0.8 * len(samples))
  say(
    f"probability of such a text without the constraint: {math.exp(estimate.log_p):.3g} "
    f"(log p {estimate.log_p:.2f}) +- {estimate.error:.0%}, effective sample size "
    f"{estimate.effective:.1f}" + (": too small, probably far too low" if too_small else "")
  )
  return estimate


def _stdout(tokenizer):
  """Return write(text) for stdout: exact, except that a terminal gets no control characters."""
  is_terminal, is_byte = sys.stdout.isatty(), tokenizer.kind == "byte"
  invalid = "surrogateescape" if is_byte and not is_terminal else "replace"
  sys.stdout.reconfigure(errors=invalid, newline="\n")

  def write(text: str):
    sys.stdout.write(text.translate(console.CONTROLS) if is_terminal else text)
    sys.stdout.flush()

  return write


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
      if is_typed and sys.stdout.isatty():
        line = input(MARK) + "\n"
      else:
        if is_typed:  # input() would write the mark to stdout, which goes elsewhere
          console.write(MARK)
        line = sys.stdin.readline()
    except EOFError:
      console.say()
      return
    except KeyboardInterrupt:
      if not is_typed:
        raise
      console.say()
      continue
    if not line:
      return
    yield line
