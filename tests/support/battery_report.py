"""The trials of the battery, the recorder of their results, and the page docs/battery.md.

After a run with --battery-report=docs/battery.json, this command writes the page:

  python tests/support/battery_report.py
"""

import collections
import datetime
import importlib.metadata
import json
import pathlib
import platform
import string
from typing import Any, NamedTuple

import pytest

from charrnn import files, runtime
from charrnn.runs import provenance

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint")
INTRODUCTION = """\
# Test battery

The battery attacks charrnn: it kills training, damages files, fills disks, and feeds it bad input.
A trial is a group of cases of one kind, and each case is one test in `tests/battery/`. Continuous
integration runs a few cases of each trial except for trial 16, whose cases take minutes. These
commands run all cases and regenerate this page:

```sh
python -m pytest tests/battery -m "long or not long" --battery-report=docs/battery.json
python tests/support/battery_report.py
```

To run and record only some trials again, replace the folder with the path of a file in it. The
time is the sum over all cases, which run one after the other.
"""


class Trial(NamedTuple):
  """A group of cases of one kind."""

  title: str
  passes_when: str


TRIALS = {
  1: Trial(
    "SIGKILL at 50 random instants, including saves and deletions",
    "parameters, optimizer, carry and losses equal those of the uninterrupted run",
  ),
  2: Trial(
    "SIGTERM, SIGINT, SIGHUP, SIGUSR1 at 20 instants, including imports, compilation and saves",
    "exit code 75 within 5 s of the end of the step (130 before there is anything to save); the "
    "resumed run is identical",
  ),
  3: Trial(
    "Every file of a run: 20 bit flips, truncated, emptied, deleted, replaced by a link, FIFO or "
    "device",
    "no silent error; the file is named; the newest good step is used; if there is none, the "
    "program stops and changes nothing",
  ),
  4: Trial(
    "Disk full at 20 sizes, file size limits, full cache folder",
    "one line with path and remedy, exit code 2; earlier steps are unchanged; the same command "
    "continues after space is freed",
  ),
  5: Trial("Exit, exception or Ctrl-C after a save was reported", "the save is there"),
  6: Trial("20 kinds of stray directories and leftovers", "ignored or removed"),
  7: Trial(
    "NaN and infinity in gradients, loss, carry, parameters and moments",
    "the step is skipped and counted, or the run stops; nothing non-finite is saved; `--rollback` "
    "returns to the last good step with a lower learning rate",
  ),
  8: Trial(
    "Resume on 8, 2, 1, 8 devices", "same global batch; losses agree within 1e-5 over 10 steps"
  ),
  9: Trial(
    "Every config field changed on resume", "refused with both values, or allowed and listed"
  ),
  10: Trial(
    "A second process in a run directory: by link, bind mount, copy, or after `rm lock`",
    "refused within 2 s, or harmless",
  ),
  11: Trial(
    "100 bad data files, arguments, configs and misspellings",
    "one line, exit code 2, at most 5 s, and a suggestion if there is a similar name",
  ),
  12: Trial(
    "Hostile run directories: links, bombs, shapes, deep JSON, wrong types",
    "no code runs, nothing is written outside, memory is bounded, fails with one line",
  ),
  13: Trial("Hostile text in HTML, terminal, CSV and file names", "inert"),
  14: Trial(
    "Generated input for vocabularies, splits, batches, filters, constraints, metadata readers and "
    "label parsers; fuzzing of the parsers",
    "no crash, no hang, invariants hold",
  ),
  15: Trial(
    "One hour of training with random kills, while memory and file handles are watched",
    "both stay flat; losses are identical to those of an uninterrupted run",
  ),
  16: Trial(
    "A sweep of 8 trials, some of which raise, diverge, are killed or hang; the launcher is killed "
    "10 times",
    "the other trials finish, each failure is reported, nothing runs twice",
  ),
  17: Trial(
    "Environments: no HOME, unknown user id, read-only directories, C locale, closed streams, "
    "small limits, `python -O`",
    "works, or fails with one line",
  ),
  18: Trial("500 reads of a run that is training", "never a false report of damage"),
  19: Trial(
    "Oldest and newest supported jax, flax and orbax on Python 3.11 to 3.13",
    "the core tests pass; `jit(shard_map)` of the body of a step equals `pmap` bit for bit",
  ),
}


class Case:
  """The result of one case."""

  def __init__(self):
    self.seconds, self.failed, self.skipped, self.notes = 0.0, False, False, []

  def add(self, report: pytest.TestReport):
    """Add the report of the setup, the test itself or the teardown."""
    self.seconds += report.duration
    self.failed |= report.failed
    self.skipped |= report.skipped
    self.notes = [value for name, value in report.user_properties if name == "note"]


class Recorder:
  """A pytest plugin that records the results of each trial in a JSON file.

  Records of trials that were not run are kept.
  """

  def __init__(self, path: pathlib.Path, command: str):
    self._path, self._command = path, command
    self._trials: dict[int, dict[str, Case]] = {}  # trial -> node id -> case
    self._deselected: set[int] = set()

  def pytest_deselected(self, items):
    self._deselected |= {number(item) for item in items}

  def pytest_runtest_logreport(self, report):
    properties = dict(report.user_properties)
    cases = self._trials.setdefault(properties["trial"], collections.defaultdict(Case))
    cases[report.nodeid].add(report)

  def pytest_sessionfinish(self, exitstatus):
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
      return  # The counts of an interrupted run would be wrong.
    stored = json.loads(self._path.read_text()) if self._path.exists() else {}
    records = stored | {str(n): self._record(n, cases) for n, cases in self._trials.items()}
    files.write_json(self._path, dict(sorted(records.items(), key=lambda item: int(item[0]))))

  def _record(self, trial, cases) -> dict[str, Any]:
    results = list(cases.values())
    return {
      **TRIALS[trial]._asdict(),
      "version": "short" if trial in self._deselected else "long",
      "cases": len(results),
      "passed": sum(not (case.failed or case.skipped) for case in results),
      "skipped": sum(case.skipped and not case.failed for case in results),
      "seconds": round(sum(case.seconds for case in results), 1),
      "notes": [note for case in results for note in case.notes],
      "command": self._command,
      "machine": machine(),
      "date": datetime.date.today().isoformat(),
    }


def number(item: pytest.Item) -> int:
  """Return the number of the trial to which a test belongs."""
  mark = item.get_closest_marker("trial")
  if mark is None or mark.args[:1] not in [(n,) for n in TRIALS]:
    raise pytest.UsageError(f"{item.nodeid}: add pytestmark = pytest.mark.trial(NUMBER)")
  return mark.args[0]


def machine() -> dict[str, Any]:
  """Return the processor, the number of cores and the versions that the results depend on."""
  return {
    "processor": provenance.processor(),
    "cores": len(runtime.cores()),
    "system": platform.system(),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in PACKAGES},
  }


def page(records: dict[str, dict[str, Any]]) -> str:
  """Return the page docs/battery.md for the content of docs/battery.json."""
  runs = list(dict.fromkeys(map(_run, records.values())))
  labels = dict(zip(runs, string.ascii_uppercase, strict=False))
  lines = [
    "| # | trial | passes when | cases | passed | time | version | run |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for n, trial in TRIALS.items():
    if record := records.get(str(n)):
      cells = (*_results(record), labels[_run(record)])
    else:
      cells = ("not run", "", "", "", "")
    lines.append(f"| {n} | {' | '.join([*trial, *cells])} |")
  lines += ["", *_statements(records), "", "## Runs", ""]
  lines += [f"- {label}: {run}" for run, label in labels.items()] or ["None."]
  return INTRODUCTION + "\n" + "\n".join(lines) + "\n"


def _run(record) -> str:
  """Return the description of a run of the battery."""
  machine = record["machine"]
  packages = ", ".join(f"{name} {machine[name]}" for name in ("python", *PACKAGES))
  return (
    f"`{record['command']}`, {record['date']}, {machine['cores']} cores of {machine['processor']}, "
    f"{machine['system']}, {packages}"
  )


def _results(record) -> tuple[str, ...]:
  """Return the cells of the table that show a record."""
  skipped = f" ({record['skipped']} skipped)" if record["skipped"] else ""
  minutes, seconds = divmod(round(record["seconds"]), 60)
  time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
  return f"{record['cases']}", f"{record['passed']}{skipped}", time, record["version"]


def _statements(records) -> list[str]:
  """Return the sentences below the table: what failed, what was not run, and the notes."""
  failed = [n for n, each in records.items() if each["passed"] + each["skipped"] < each["cases"]]
  skipped = [n for n, each in records.items() if each["skipped"]]
  missing = [str(n) for n in TRIALS if str(n) not in records]
  short = [n for n, each in records.items() if each["version"] == "short"]
  lines = [
    f"- {text}: {', '.join(numbers) or 'none'}."
    for text, numbers in (
      ("Trials with failed cases", failed),
      (
        "Trials with skipped cases, which need a program or a right that the machine lacks",
        skipped,
      ),
      ("Trials that were run only in their short version, that of continuous integration", short),
      ("Trials that were not run", missing),
    )
  ]
  notes = [f"- Trial {n}: {note}" for n, each in records.items() for note in each["notes"]]
  return lines + notes


if __name__ == "__main__":
  DOCS.joinpath("battery.md").write_text(page(json.loads((DOCS / "battery.json").read_text())))
