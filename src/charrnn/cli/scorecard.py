"""`charrnn scorecard`: metrics of generated plays or C beside held-out text and an n-gram."""

import argparse
import json

from charrnn import console, files
from charrnn.cli import arguments
from charrnn.scorecards import metrics, report, systems

HELP = """\
measure generated plays or C beside held-out text, an n-gram and the shuffled control

A system is a set of samples of about the same size: held-out text of the corpus, samples of each
RUN, each FILE, samples of an n-gram of the same training text, and the held-out samples with their
words shuffled. A sample ends with a complete speech or function; samples without one are dropped.
Writes scorecard.json, scorecard.png and the samples. Without a RUN, held-out text is that of
--corpus, by default of the corpus shakespeare or linux (downloaded, about 150 MB, unless the source
is on this machine)."""
FOLDER = "scorecard-{}"
SAMPLES = "scorecard-samples"
OLD_DOMAINS = {"shakespeare": "plays"}


def add_arguments(parser):
  arguments.add_systems(parser, FOLDER.format("DOMAIN"))
  domain = parser.add_mutually_exclusive_group(required=True)
  names = [*report.DOMAINS, *OLD_DOMAINS]
  listed = f"{{{','.join(report.DOMAINS)}}}"
  domain.add_argument("--domain", choices=names, metavar=listed, help="the metrics to use")
  domain.add_argument("--kind", dest="domain", choices=names, help=argparse.SUPPRESS)
  arguments.add_json(parser, "scorecard.json to stdout instead of the tables")


def run(args):
  name = OLD_DOMAINS.get(args.domain, args.domain)
  domain = report.DOMAINS[name]
  with console.Progress() as progress:
    # The old name of a domain also selects its old output folder.
    samples = systems.sample(args, FOLDER.format(args.domain), domain, progress)
    progress("metrics")
    scorecard = report.build(domain, samples, args.seed) | {"domain": name} | samples.facts
  data = report.to_json(scorecard, kind=args.domain)
  title = (
    f"metrics of {name} (bars: 95% intervals over samples; band: that of held-out text, or its "
    f"noise floor; hollow: fewer than {metrics.MIN_ITEMS} items)"
  )
  with files.replace_in_folder(samples.out) as new:
    files.write_json(new / "scorecard.json", data)
    report.plot(scorecard, new / "scorecard.png", title)
    systems.write_samples(new / SAMPLES, samples.texts)
  print(json.dumps(data) if args.json else "\n".join(_lines(scorecard, samples.out)))


def _lines(scorecard, out):
  yield f"{scorecard['domain']}, beside {scorecard['training']}; intervals: 95% over samples"
  yield from report.steps(scorecard["steps"])
  yield from ("", *report.values(scorecard), "")
  yield "distance from held-out text (in parentheses: the noise floor)"
  yield from ("", *report.distances(scorecard), "", *report.meanings(scorecard), "")
  yield "the longest copies of the training text"
  yield from (*report.copies(scorecard["copies"]), "")
  names = {"picture": "scorecard.png", "data": "scorecard.json", "text": SAMPLES}
  yield "    ".join(f"{what}: {out / name}" for what, name in names.items())
