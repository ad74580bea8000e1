"""`charrnn scorecard`: measure generated plays, C, names or tunes beside held-out text."""

import argparse

from charrnn import console, files
from charrnn.cli import arguments
from charrnn.scorecards import metrics, report, systems

HELP = """\
measure generated plays, C, names or tunes, and compare them with held-out text

Compare these systems: held-out text of the corpus, samples of each RUN, each FILE, samples of an
n-gram of the same training text, and the shuffled control (held-out text with its words or tokens
shuffled). Samples are trimmed to complete speeches or functions; samples without one are dropped.
If the corpus is divided into documents (text.documents), a sample is a whole document, for example
a name or a tune in ABC notation. Print tables, and write scorecard.json, scorecard.png and the
samples. Without a RUN, the corpus is --corpus, or by default shakespeare (for plays), names, music,
or linux (for c; a download of about 150 MB, unless the source is on this machine)."""
FOLDER = "scorecard-{}"
SAMPLES = "scorecard-samples"
OLD_DOMAINS = {"shakespeare": "plays"}
TITLES = {"plays": "plays", "c": "C source code", "names": "names", "music": "tunes"}


def add_arguments(parser):
  numbers = "40; for names 1000, for music 200"
  arguments.add_systems(parser, FOLDER.format("DOMAIN"), numbers)
  domain = parser.add_mutually_exclusive_group(required=True)
  names = [*report.DOMAINS, *OLD_DOMAINS]
  listed = f"{{{','.join(report.DOMAINS)}}}"
  domain.add_argument("--domain", choices=names, metavar=listed, help="the metrics to use")
  domain.add_argument("--kind", dest="domain", choices=names, help=argparse.SUPPRESS)
  arguments.add_json(parser, "print scorecard.json to stdout instead of the tables")


def run(args):
  name = OLD_DOMAINS.get(args.domain, args.domain)
  domain = report.DOMAINS[name]
  settings = systems.Settings.of(args)
  # The old name of a domain also selects its old output folder.
  out = systems.output_folder(args, FOLDER.format(args.domain))
  with console.Progress() as progress:
    samples = systems.sample(settings, domain, progress, args.corpus, args.fetch)
    progress("metrics")
    scorecard = report.build(domain, samples, args.seed) | {"domain": name} | samples.facts
  data = report.to_json(scorecard, kind=args.domain)
  title = f"Scorecard for {TITLES[name]}: samples of each system compared with held-out text"
  if out:
    with files.replace_in_folder(out) as new:
      files.write_json(new / "scorecard.json", data)
      report.plot(scorecard, new / "scorecard.png", title)
      systems.write_samples(new / SAMPLES, samples.texts)
  arguments.show(args, data, _lines(scorecard, out))


def _lines(scorecard, out):
  yield f"scorecard for {TITLES[scorecard['domain']]}, training text: {scorecard['training']}"
  yield from report.steps(scorecard["steps"])
  few = f'"(of N)": only N items, fewer than {metrics.MIN_ITEMS}'
  yield from ("", f"metric values, with 95% intervals over samples in brackets; {few}")
  yield from ("", *report.values(scorecard), "")
  yield "distances from held-out text, with noise floors in parentheses"
  yield "(shares: difference; means: Wasserstein distance; frequencies: total variation, 0 to 1)"
  yield from ("", *report.distances(scorecard), "", *report.meanings(scorecard), "")
  yield "longest copies of the training text"
  yield from ("", *report.copies(scorecard["copies"]), "")
  names = {"picture": "scorecard.png", "data": "scorecard.json", "samples": SAMPLES}
  yield report.outputs(out, names)
