"""`charrnn sample`: a trained model writes."""

import json
import pathlib
import secrets
import sys
import time

from charrnn import errors, startup
from charrnn.sampling import clamps, options, stream

HELP = """\
write text with a trained model

The text begins with the prompt. Without one, a line end (which is not printed) stands before it.
Only text goes to stdout, all else to stderr. In a pipe or a file it is exactly what the model
wrote; on a terminal, control characters but line ends and tabs are shown as \\x1b and the like."""


def add_arguments(parser):
  add = parser.add_argument
  add("run", metavar="RUN", help="a run directory, as made by launch.py")
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument("--prime", metavar="TEXT", default="", help="a prompt to continue")
  prompt.add_argument("--prime-file", metavar="F", help="a UTF-8 file as the prompt; - is stdin")
  add("--length", metavar="N", type=int, default=1000, help="characters to write (default 1000)")
  add(
    "--temperature",
    metavar="T",
    type=float,
    default=1.0,
    help="below 1 safer, above 1 wilder, 0 always the likeliest (default 1)",
  )
  add("--top-k", metavar="K", type=int, help="choose among the K likeliest only")
  add("--top-p", metavar="P", type=float, help="choose among the fewest that have mass P together")
  add("--num", metavar="N", type=int, default=1, help="samples, made side by side (default 1)")
  add("--seed", metavar="S", type=int, help="the same seed writes the same text (default: random)")
  add(
    "--clamp",
    metavar="LAYER:CELL=VALUE",
    action="append",
    default=[],
    help="set a cell after the prompt at every step, as 1:37=2.5, or 1:37=hold to freeze it; "
    "1:37 is an LSTM's c, or h where there is no c; 1:h37 is h (more than once: several cells)",
  )
  add("--stop", metavar="TEXT", help="end before the first TEXT that the model writes")
  add("--step", metavar="N", type=int, help="a checkpoint (default: the best by validation loss)")
  add("--quiet", action="store_true", help="nothing on stderr but errors")
  add("--json", action="store_true", help="one JSON object a line for each sample")


def run(args):
  settings = options.Settings(args.temperature, args.top_k, args.top_p)
  seed = secrets.randbelow(2**32) if args.seed is None else args.seed
  options.check(length=args.length, num=args.num, seed=seed)
  if args.stop == "":
    raise errors.UserError("--stop: the text is empty")
  clamped = [clamps.parse(each) for each in args.clamp]
  prompt = _read_prompt(args)

  startup.import_jax()  # slow: only once the arguments are known to be good
  from charrnn.sampling import generate
  from charrnn.training import runs

  loaded = runs.load(args.run, step=args.step)
  alphabet = loaded.alphabet
  prompt_ids = alphabet.encode(_decode(prompt, alphabet, args))
  _check_stop(args.stop, alphabet)
  clamp = clamps.arrays([clamped], loaded.model) if clamped else None
  say = (lambda text: None) if args.quiet else _say
  loss = loaded.meta.get("valid_loss")
  known = "" if loss is None else f", validation loss {loss:.4f}"
  say(f"{loaded.path}: step {loaded.step}{known}, --seed={seed}")

  blocks = generate.generate(
    loaded.model,
    loaded.params,
    prompt_ids if len(prompt_ids) else [alphabet.default_id()],
    length=args.length,
    num=args.num,
    seed=seed,
    settings=settings,
    clamp=clamp,
  )
  readers = [stream.Reader(alphabet, prompt_ids, args.stop) for _ in range(args.num)]
  clock = _Clock()
  pieces = clock.watch(stream.texts(blocks, readers))
  if args.json:
    _write_json(pieces, readers, args, seed, loaded.step)
  elif args.num == 1:
    _write_one(pieces, readers[0])
  else:
    _write_many(pieces, readers, say)
  say(clock)


def _read_prompt(args):
  """The prompt as bytes or, from the command line, as text."""
  if not args.prime_file:
    return args.prime
  try:
    if args.prime_file == "-":
      return sys.stdin.buffer.read()
    return pathlib.Path(args.prime_file).read_bytes()
  except OSError as error:
    raise errors.UserError(f"--prime-file={args.prime_file}: {error.strerror}") from error


def _decode(prompt, alphabet, args):
  """The prompt as text with nothing altered; only a byte alphabet takes what is not UTF-8."""
  if isinstance(prompt, str):
    return prompt
  try:
    return prompt.decode("utf-8", "surrogateescape" if alphabet.kind == "byte" else "strict")
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"--prime-file={args.prime_file}: not UTF-8 at byte {error.start}: convert it first"
    ) from error


def _check_stop(stop, alphabet):
  foreign = set(stop or "") - set(alphabet.symbols)
  if foreign and alphabet.kind == "char":
    named = ", ".join(sorted(map(repr, foreign)))
    raise errors.UserError(f"--stop: would never come, not in the run's alphabet: {named}")


class _Clock:
  """Watches text go by; tells how fast it came, the first piece (reading, compiling) apart."""

  def __init__(self):
    self.times, self.counts = [time.perf_counter()], []

  def watch(self, pieces):
    for piece in pieces:
      self.times.append(time.perf_counter())
      self.counts.append(sum(map(len, piece)))
      yield piece

  def __str__(self):
    start, first, *_, last = *self.times, self.times[-1]
    line = f"{sum(self.counts)} characters in {last - start:.2f} s"
    if later := sum(self.counts[1:]):
      line += (
        f": {first - start:.2f} s to the first, then {later / (last - first):.0f} characters/s"
      )
    return line


def _write_one(pieces, reader):
  write = _writer(sys.stdout)
  write(reader.prompt)
  last = reader.prompt
  for (piece,) in pieces:
    write(piece)
    last = piece or last
  _end_line(write, last)


def _write_many(pieces, readers, say):
  """One sample after another with an empty line between them."""
  write = _writer(sys.stdout)
  num = len(readers)
  for n, columns in enumerate(zip(*pieces), 1):
    text = readers[n - 1].prompt + "".join(columns)
    say(f"--- sample {n} of {num}")
    write(text)
    if n < num:
      write("\n" if text.endswith("\n") else "\n\n")
    else:
      _end_line(write, text)


def _write_json(pieces, readers, args, seed, step):
  shared = {"prime": readers[0].prompt, "seed": seed, "step": step}
  shared |= {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
  shared |= {"clamp": args.clamp}
  for n, columns in enumerate(zip(*pieces), 1):
    own = {"text": "".join(columns), "sample": n, "stopped": readers[n - 1].stopped}
    print(json.dumps(own | shared), flush=True)


def _writer(file):
  # Exact, but for a lone surrogate, which no encoding has.
  file.reconfigure(errors="replace", newline="\n")
  table = stream.VISIBLE if file.isatty() else {}

  def write(text):
    file.write(text.translate(table))
    file.flush()

  return write


def _end_line(write, text):
  """On a terminal, keeps the next shell prompt off the text."""
  if sys.stdout.isatty() and not text.endswith("\n"):
    write("\n")


def _say(text):
  print(text, file=sys.stderr, flush=True)
