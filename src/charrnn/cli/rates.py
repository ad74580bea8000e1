"""`charrnn rates`: count the networks of a sweep in which a unit follows structure in the text."""

import collections
import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from charrnn import console, errors, files, runtime
from charrnn.analysis import explorer, rates, rates_report, recording, study
from charrnn.cli import arguments
from charrnn.runs import run as run_lib
from charrnn.runs.status import RunStatus
from charrnn.sweeps import comparison

HELP = """\
count the networks of a sweep in which a unit follows structure in the text

Networks that differ only in their seed form a group. Each finished run is studied as by `charrnn
cells`, but without probes, clamps and samples, and the results are stored in RUN/rates.json. Runs
with such results are not studied again, so an interrupted command continues when it is repeated.
For each group and hypothesis, the command prints the number of networks in which a unit is
significant, with a 95% interval of their share, the score of the best unit, and the first
checkpoint at which this unit exceeds the threshold. It also prints how the share of units that
follow a hypothesis varies over networks. It writes rates.json and rates.png, and adds the rates to
the RUN/cells/explorer.html of each run that has one."""
CHARACTERS = 100_000
EVERY = 10.0  # seconds between lines of progress in a log


def add_arguments(parser):
  text = "a sweep of experiments/rates.py, or other directories with runs"
  parser.add_argument("targets", metavar="RUN|SWEEP", nargs="+", help=text)
  text = f"number of characters of held-out text to study (default: {CHARACTERS:,})"
  parser.add_argument("--characters", metavar="N", type=int, default=CHARACTERS, help=text)
  arguments.add_corpus(parser, "the corpus of the runs, if it has moved")
  arguments.add_out(parser, "output folder (default: rates/ in the first target)")
  arguments.add_seed(parser)
  arguments.add_json(parser, "print the JSON file to stdout instead of the tables")


def run(args):
  errors.check("--seed", args.seed, 0 <= args.seed < 2**32, "must be from 0 to 2^32 - 1")
  least = recording.MIN_CHARACTERS
  errors.check(
    "--characters", args.characters, args.characters >= least, f"must be at least {least}"
  )
  compared = comparison.compare(comparison.read_runs(comparison.find_runs(args.targets)))
  groups = _groups(compared)
  if not groups:
    raise errors.UserError(f"{args.targets[0]}: no run has finished: train one to the end")
  out = files.make_folder(args.out, pathlib.Path(args.targets[0], rates.FOLDER))
  runtime.start()
  opened = [
    [run_lib.Run.open(each.path, None, args.corpus, args.fetch) for each in group]
    for group in groups
  ]
  for each in itertools.chain(*opened):
    study.check_run(each)
  entries = list(_study(args, groups, opened, out))
  result = {"characters": args.characters, "seed": args.seed, "groups": _labeled(entries, groups)}
  with files.replace_in_folder(out) as new:
    files.write_json(new / rates.FILE, result)
    rates_report.plot(result, new / "rates.png")
  finished = list(itertools.chain(*groups))
  if unfinished := [each.name for each in compared.runs if each not in finished]:
    console.say(f"left out, because they have not finished: {errors.some(unfinished, 5)}")
  added = _add_to_pages(result, itertools.chain(*opened))
  lines = [*rates_report.lines(result), "", f"data and picture: {out}", *added]
  arguments.show(args, result, lines)


def _add_to_pages(result, runs) -> list[str]:
  """Add the rates to the explorers of the same weights; return lines about it."""
  added, others, lines = 0, [], []
  for run in runs:
    path = run.path / explorer.FOLDER / explorer.PAGE
    if not os.path.exists(path):  # Unlike Path.exists, this raises no error.
      continue
    around = rates.around(result, run.weights)
    try:
      page = explorer.with_rates(explorer.read(path), run.weights, around)
      if page is None:
        others.append(str(run.path))
      else:
        files.write_text(path, page)
        added += 1
    except errors.UserError as error:
      lines.append(f"explorer: {error}")
  if added:
    lines.append(f"explorer: the tab Rates of {errors.plural(added, 'page')} shows these results")
  if others:
    lines.append(
      f"explorer: nothing was added to the pages of {errors.some(others, 5)}, which are of another "
      "checkpoint or version: run charrnn cells to write them again"
    )
  return lines


def _groups(compared: comparison.Comparison) -> list[list[comparison.ComparedRun]]:
  """Return the finished runs of each setting by seed, with the settings of a text together."""
  settings = sorted(compared.settings, key=lambda each: (each.text, each.runs[0].model or ""))
  groups = []
  for setting in settings:
    runs = [each for each in setting.runs if each.status == RunStatus.FINISHED and each.best]
    groups.append(sorted(runs, key=lambda each: (each.fields.get("seed"), each.name)))
  return [group for group in groups if group]


def _study(args, groups, opened, out: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yield the rates of each group, after its runs have been studied."""
  settings, total, done = recording.Settings(seed=args.seed), sum(map(len, groups)), 0
  with (
    console.Progress(EVERY) as progress,
    tempfile.TemporaryDirectory(prefix=".", dir=out) as folder,
  ):
    update = progress("studied networks")

    def show(run, phase):
      update(done, total, f"{run.path.name}: {phase}")

    for group, runs in zip(groups, opened):
      networks, path = {}, pathlib.Path(folder)
      studied = rates.study_group(runs, args.characters, settings, path, show)
      for compared, results in zip(group, studied):
        networks[compared.name], done = results, done + 1
        update(done, total)
      yield rates.aggregate(networks)


def _labeled(entries, groups) -> list[dict[str, Any]]:
  """Return the entries with a short `label`, which is unique among the groups of a text."""
  pairs = [(entry["text"]["name"], group[0].model) for entry, group in zip(entries, groups)]
  counts = collections.Counter(pairs)
  return [
    {"label": model if counts[text, model] == 1 else f"{model}, {group[0].name}", **entry}
    for (text, model), group, entry in zip(pairs, groups, entries)
  ]
