"""`charrnn memorization`: find copies of the training text in generated text."""

import re

from charrnn import console, errors, files
from charrnn.cli import arguments
from charrnn.scorecards import memorization, metrics, report, systems

HELP = """\
find copies of the training text in generated text

Find the longest match with the training text from every position of each system: samples of each
RUN, each FILE, held-out text, an n-gram and the shuffled control. Print the median, the 95th
percentile and the maximum of the lengths, the share of sequences of n characters that the training
text does not contain, and the longest copies with their sources. Write memorization.json,
memorization.png and the samples."""
FOLDER = "memorization"
SAMPLES = f"{FOLDER}-samples"
MAX_COPIES = 10  # maximum number of copies that are listed per system
SHOWN = (3, 5, 7, 10, 15, 20, 30, 50)  # lengths of the sequences in the table, in characters
LEGEND = (
  "median, p95, longest: quantiles of the length in characters of the longest match at a position",
  "new n: share of sequences of n characters that the training text does not contain",
)
# The domain of any other text. It has no metrics, and its samples end with a complete line.
ANY = metrics.Domain({}, lambda _: str, re.compile(r"\n"), re.compile(r"(?P<token>\w+)"), "", None)


def add_arguments(parser):
  arguments.add_systems(parser, FOLDER)
  add = parser.add_argument
  text = f"number of copies to print per system, at most {MAX_COPIES} (default: 3)"
  add("--copies", metavar="N", type=int, default=3, help=text)
  add("--tsv", action="store_true", help="also write matches.tsv, with one line per character")
  arguments.add_json(parser, "print memorization.json to stdout instead of the table")


def run(args):
  is_valid = 0 <= args.copies <= MAX_COPIES
  errors.check("--copies", args.copies, is_valid, f"must be from 0 to {MAX_COPIES}")
  settings, out = systems.Settings.of(args), systems.output_folder(args, FOLDER)
  with console.Progress() as progress:
    samples = systems.sample(settings, ANY, progress, args.corpus, args.fetch)
    progress("matches")
    matches = memorization.match_systems(samples.training.text, samples.texts)
    sources = memorization.Sources(samples.training)
    measured = memorization.measure(samples.texts, matches, sources, MAX_COPIES)
  result = samples.facts | {"systems": measured}
  data = files.with_aliases(result, metrics.OLD_KEYS | systems.OLD_NAMES)
  title = f"Novelty of character sequences; training text: {result['training']}"
  if out:
    with files.replace_in_folder(out) as new:
      files.write_json(new / "memorization.json", data)
      memorization.plot(measured, systems.HELD_OUT, new / "memorization.png", title)
      systems.write_samples(new / SAMPLES, samples.texts)
      if args.tsv:
        with (new / "matches.tsv").open("w", encoding="utf-8", newline="") as file:
          lines = memorization.tsv(samples.texts, matches, sources)
          file.writelines(f"{line}\n" for line in lines)
  arguments.show(args, data, _lines(result, args.copies, out))


def _lines(result, count, out):
  yield f"copies of training text in each system; training text: {result['training']}"
  yield from report.steps(result["steps"])
  yield from ("", *LEGEND, "")
  header = ("system", "characters", *memorization.QUANTILES, *(f"new {size}" for size in SHOWN))
  rows = []
  for name, system in result["systems"].items():
    quantiles = [f"{value:.0f}" for value in system["match"].values()]
    shares = [each["share"] for each in system["novelty"] if each["size"] in SHOWN]
    new = ["-" if share is None else f"{share:.1%}" for share in shares]
    rows.append((systems.title(name), f"{system['characters']:,}", *quantiles, *new))
  copies = {name: system["copies"] for name, system in result["systems"].items()}
  yield from (*console.table(header, rows), "", *report.copies(copies, count), "")
  names = {"picture": "memorization.png", "data": "memorization.json", "samples": SAMPLES}
  yield report.outputs(out, names)
