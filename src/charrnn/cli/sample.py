"""`charrnn sample`: a trained model writes."""

import functools
import pathlib
import secrets
import sys

from charrnn import console, errors, runtime
from charrnn.cli import chat, written
from charrnn.sampling import automata, clamps, options, regexes, stream

HELP = """\
write text with a trained model

The text begins with the prompt. Without one, a line end (which is not printed) stands before it.
Only text goes to stdout, all else to stderr. In a pipe or a file it is exactly what the model
wrote; on a terminal, control characters but line ends and tabs are shown as \\x1b and the like.

--require and --forbid judge what is written: neither the prompt nor the stop text. At each step
they leave out what no such text goes on with, and a text ends where nothing is left. How probable
the rest is plays no part: what is required and has not come by itself is written where there is no
room left for more. So these are not the model's own texts that happen to be like that. Weighted by
exp(log p - log q) they are: log p is the model's of the text, log q that of drawing it so.
A REGEX is Python's, of literals, . \\d \\w \\s [...] (...) | * + ? {m,n}, and ^ $ at the ends of
alternatives, $ being the very end; with a byte tokenizer it is ASCII and the dot is one byte.

--beam compares texts by log p, not divided by their length: those that --stop or a REGEX ends early
have an advantage.

--interactive reads line after line, each with its end, and writes on after it up to --stop (as a
rule, an empty line), which is written too, or --length characters. The network keeps its state. An
empty line makes it just go on; Ctrl-C stops a text, Ctrl-D ends."""

NOT_WITH = {
  "interactive": ("beam", "num", "json", "out"),
  "beam": ("temperature", "top_k", "top_p", "seed"),
}


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
    help="below 1 safer, above 1 wilder, 0 always the likeliest (default 1)",
  )
  add("--top-k", metavar="K", type=int, help="choose among the K likeliest only")
  add("--top-p", metavar="P", type=float, help="choose among the fewest that have mass P together")
  add("--num", metavar="N", type=int, help="samples, made side by side (default 1)")
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
  for name, what in (("require", "with a match"), ("forbid", "without a match")):
    add(
      f"--{name}",
      metavar="REGEX",
      action="append",
      default=[],
      help=f"only texts {what} of REGEX, in which ^ and $ are the ends of what is written "
      "(more than once: of each)",
    )
  add(
    "--beam",
    metavar="K",
    type=int,
    help="no samples: the --num likeliest texts that K at a time find",
  )
  add("--interactive", action="store_true", help="prompts in turn, from a terminal or a pipe")
  add("--out", metavar="DIR", help="each sample in a file: 001.txt and so on, and samples.jsonl")
  add("--step", metavar="N", type=int, help="a checkpoint (default: the best by validation loss)")
  add("--quiet", action="store_true", help="nothing on stderr but errors")
  add("--json", action="store_true", help="one JSON object a line for each sample")


def run(args):
  settings, seed = _check(args)
  required = [regexes.Regex("--require", text) for text in args.require]
  forbidden = [regexes.Regex("--forbid", text) for text in args.forbid]
  clamped = [clamps.parse(each) for each in args.clamp]
  prompt = _read_prompt(args)
  files = None if args.out is None else written.Files(args.out, args.num)

  runtime.start()  # slow: only once the arguments are known to be good
  from charrnn.runs import run as run_lib

  loaded = run_lib.Run.open(args.run, args.step).load()
  tokenizer = loaded.tokenizer
  prompt_ids = tokenizer.encode(_decode(prompt, tokenizer, args))
  stop = chat.stop(args.stop, tokenizer) if args.interactive else args.stop
  _check_stop(stop, tokenizer)
  asked = {
    "length": args.length,
    "clamp": clamps.arrays([clamped], loaded.model) if clamped else None,
    "automaton": automata.build(required, forbidden, stop, tokenizer, args.length),
  }
  asked |= {"beam": args.beam} if args.beam else {"seed": seed, "settings": settings}
  say = written.silent if args.quiet else console.say
  loss = loaded.meta.get("valid_loss")
  known = "" if loss is None else f", validation loss {loss:.4f}"
  how = f"--beam={args.beam}" if args.beam else f"--seed={seed}"
  say(f"{loaded.path}: step {loaded.step}{known}, {how}")
  if args.interactive:
    chat.talk(loaded, prompt_ids, **asked)
  else:
    _write(args, loaded, prompt_ids, asked, files, say)


def _check(args):
  """What can be told before anything is loaded -> settings, seed."""
  for mode, others in NOT_WITH.items():
    for name in others if _given(args, mode) else ():
      if _given(args, name):
        raise errors.UserError(f"--{name.replace('_', '-')}: means nothing with --{mode}")
  args.temperature = 1.0 if args.temperature is None else args.temperature
  args.num = 1 if args.num is None else args.num
  settings = options.Settings(args.temperature, args.top_k, args.top_p)
  seed = secrets.randbelow(2**32) if args.seed is None else args.seed
  options.check(length=args.length, num=args.num, seed=seed)
  if args.beam is not None:
    options.check_beam(args.beam, args.num)
  if args.stop == "":
    raise errors.UserError("--stop: the text is empty")
  if args.interactive and args.prime_file == "-":
    raise errors.UserError("--prime-file=-: stdin is for the lines of --interactive")
  return settings, seed


def _given(args, name):
  return getattr(args, name) is not None and getattr(args, name) is not False


def _write(args, loaded, prompt_ids, asked, files, say):
  from charrnn.sampling import samples as samples_lib

  prompt = stream.Reader(loaded.tokenizer, prompt_ids).prompt
  constrained = bool(args.require or args.forbid)
  live = args.num == 1 and not (args.beam or args.json or files)  # as it comes
  clock, phases = written.Clock(), console.Progress()
  task = asked | {"num": args.num, "stop": args.stop}
  if (args.beam or files) and not args.quiet:
    task["progress"] = phases("searching" if args.beam else "writing")
  if args.beam:
    samples = samples_lib.search(loaded, prompt_ids, **task)
    phases.end()
  else:
    watch = (lambda pieces: written.live(clock.watch(pieces), prompt)) if live else clock.watch
    samples = samples_lib.draw(loaded, prompt_ids, watch=watch, **task)

  score = written.score if constrained or args.beam else None
  if files:
    samples = files.texts(samples, prompt)
  elif not (live or args.json):
    num = len(samples) if args.beam else args.num
    samples = written.many(samples, prompt, num, say, score)
  samples = _all(samples, files, functools.partial(_shared, args, loaded, prompt, asked, None))
  phases.end()
  if len(samples) < args.num:
    say(f"there are no more than {len(samples)} such texts")
  if live and score:
    say(score(samples[0]))
  # Filters leave out texts altogether: no weights of those that remain speak for them.
  filtered = args.beam or args.temperature == 0 or args.top_k or args.top_p
  estimate = None
  if constrained and len(samples) > 1 and not filtered:
    estimate = samples_lib.estimate(samples)
    say(written.estimate(estimate, len(samples)))
  if not args.beam:
    say(str(clock))
  lines = written.json_lines(samples, _shared(args, loaded, prompt, asked, estimate))
  if files:
    lines = files.lines(lines)
  if args.json:
    print(*lines, sep="\n", flush=True)


def _all(samples, files, shared):
  """Samples as a list; at Ctrl-C what is known of those that are in files is written too."""
  kept = []
  try:
    for sample in samples:
      kept.append(sample)
  except KeyboardInterrupt:
    if files:
      files.lines(written.json_lines(kept, shared()))
    raise
  return kept


def _shared(args, loaded, prompt, asked, estimate):
  """What all samples have in common, for JSON."""
  shared = {"prime": prompt, "step": loaded.step, "clamp": args.clamp}
  shared |= {"require": args.require, "forbid": args.forbid}
  if args.beam:
    return shared | {"beam": args.beam}
  shared |= {"seed": asked["seed"], "temperature": args.temperature}
  shared |= {"top_k": args.top_k, "top_p": args.top_p}
  return shared | {"estimate": estimate and written.plain(estimate)}


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


def _decode(prompt, tokenizer, args):
  """The prompt as text with nothing altered; only a byte tokenizer takes what is not UTF-8."""
  if isinstance(prompt, str):
    return prompt
  try:
    return prompt.decode("utf-8", "surrogateescape" if tokenizer.kind == "byte" else "strict")
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"--prime-file={args.prime_file}: not UTF-8 at byte {error.start}: convert it first"
    ) from error


def _check_stop(stop, tokenizer):
  foreign = set(stop or "") - set(tokenizer.tokens)
  if foreign and tokenizer.kind == "char":
    named = ", ".join(sorted(map(repr, foreign)))
    raise errors.UserError(f"--stop: would never come, not in the run's vocabulary: {named}")
