"""Rates: in how many networks units follow a hypothesis, how strongly, and since which step.

A group has networks that differ only in their seed. Each network is studied as in `study`, but
without probes, ablation, steering and interchange interventions, and its results are stored in its
run directory. All networks of a group are compared with the same untrained networks.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from charrnn import errors, files
from charrnn.analysis import baselines, inference, recording, study
from charrnn.runs import run as run_lib

FILE = "rates.json"  # in a run directory: its results; in an output folder: all groups
FOLDER = "rates"  # default output folder in a sweep
VERSION = 2  # of the results of a run; results of another version are replaced
# A network has a unit of a family if one of these hypotheses is significant. None looks ahead.
FAMILIES = {
  "line length": ("line-position", "near-line-end"),
  "quotes": ("in-quotes", "string"),
  "depth": ("brace-depth", "syntax-depth"),
  "if condition": ("if-condition",),
  "comment": ("comment", "block-comment", "line-comment"),
}
KEYS = ("step", "model", "text", "hypotheses", "findings", "interpretable")  # copied from a study
QUARTILES = {"min": 0, "q1": 25, "median": 50, "q3": 75, "max": 100}  # percentiles by name


def study_group(
  runs: Sequence[run_lib.Run],
  characters: int,
  settings: recording.Settings,
  folder: pathlib.Path,
  show: Callable[[run_lib.Run, str], None],
) -> Iterator[dict[str, Any]]:
  """Yield the results of the runs of a group, in the format of FILE.

  A run whose FILE has results of its weights with the same settings is not studied again.
  Recordings are written to `folder`. `show(run, phase)` is called when a phase begins.
  """
  subject = null = None
  for run in runs:
    run.model = runs[0].model  # The models are equal; programs of one object are compiled once.
    request = _request(run, characters, settings)
    if (results := _stored(run, request)) is None:
      text = subject.text if subject else recording.held_out_text(run, characters)

      def progress(phase, run=run):
        show(run, phase)
        return lambda done, total: None

      progress("reading")
      recorded = recording.record(run.model, run.params, text.ids_N, folder / study.RECORDING)
      if subject is None:
        subject = study.make_subject("", recorded, text, settings, folder, progress)
      subject = subject._replace(name=str(run.path), run=run, recording=recorded, progress=progress)
      if null is None:
        null = baselines.untrained_effects(subject)
      found = study.find(subject, null)
      results = {key: found.results[key] for key in KEYS}
      results |= {"emergence": study.emergence(subject, found.scored), "settings": request}
      results = study.plain(results)
      with files.report_unwritable(run.path):
        files.write_json(run.path / FILE, files.seal(results))
    yield results


def _request(run: run_lib.Run, characters: int, settings: recording.Settings) -> dict[str, Any]:
  """Return what the results of a run depend on."""
  fields = {name: getattr(settings, name) for name in ("untrained", "shifts", "seed")}
  return {"version": VERSION, "characters": characters, **fields, "weights": run.weights}


def _stored(run: run_lib.Run, request: dict[str, Any]) -> dict[str, Any] | None:
  """Return the results in the run directory; None if there are none for the request."""
  with contextlib.suppress(errors.UserError):
    results = files.read_json(run.path / FILE)
    if results.pop("sha256", None) == files.digest(results) and results["settings"] == request:
      return results
  return None


def aggregate(networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
  """Return the rates of a group. `networks` maps the names of its runs to their results."""
  every = list(networks.values())
  names = [each["name"] for each in every[0]["hypotheses"] if each["kind"] != "controlled"]
  by_name = [{each["hypothesis"]: each for each in results["findings"]} for results in every]
  families = {}
  for family, members in FAMILIES.items():
    # A network in which no hypothesis of the family was tested is not counted.
    judged = [[_significant(own.get(name)) for name in members] for own in by_name]
    judged = [any(each) for each in judged if set(each) != {None}]
    if judged:
      families[family] = _share(judged) | {"hypotheses": [n for n in members if n in names]}
  shares = [each["interpretable"]["share"] for each in every if each["interpretable"]]
  return {
    "text": {key: value for key, value in every[0]["text"].items() if key != "nats"},
    "model": every[0]["model"],
    "networks": [
      {"run": run, "step": results["step"], "nats": results["text"]["nats"]}
      | {"share": results["interpretable"] and results["interpretable"]["share"]}
      | {"weights": results["settings"]["weights"]}
      for run, results in networks.items()
    ],
    "families": families,
    "hypotheses": {
      name: entry for name in names if (entry := _hypothesis(name, every, by_name)) is not None
    },
    "shares": summary(shares, QUARTILES),
  }


def _significant(finding: dict[str, Any] | None) -> bool | None:
  """Return whether a finding is significant; None if this was not tested."""
  return finding["significant"] if finding else None


def _share(judged: Sequence[bool]) -> dict[str, Any]:
  return dataclasses.asdict(inference.share(sum(judged), len(judged)))


def _hypothesis(name: str, every: Sequence[dict], by_name: Sequence[dict]) -> dict | None:
  """Return the rates of a hypothesis; None if it was tested in no network."""
  found = [own.get(name) for own in by_name]
  found = [None if _significant(finding) is None else finding for finding in found]
  tested = [(results, finding) for results, finding in zip(every, found) if finding]
  if not tested:
    return None
  significant = [pair for pair in tested if pair[1]["significant"]]
  counts = [results["interpretable"]["by_hypothesis"][name] for results, _ in tested]
  appearances = [_appearance(*pair) for pair in significant]
  known = [each for each in appearances if each]
  return {
    **_share([finding["significant"] for _, finding in tested]),
    "statistic": tested[0][1]["statistic"],
    "score": summary([finding["confirmation"]["score"] for _, finding in tested]),
    "scores": [finding and finding["confirmation"]["score"] for finding in found],
    "threshold": summary([threshold(finding) for _, finding in tested]),
    "units": summary(counts),
    "emergence": {
      "count": len(known),
      "at_first": sum(each["at_first"] for each in known),
      **{key: summary([each[key] for each in known]) for key in ("step", "nats")},
    },
  }


def around(result: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any] | None:
  """Return the groups of a network's text, for the explorer; None if the network is in no group.

  `result` has all groups, as in the JSON file of `charrnn rates`. `own` is the number of the
  network's group among those of the text, and `network` its number in this group.
  """
  for group in result["groups"]:
    every = [each["weights"] for each in group["networks"]]
    if weights in every:
      of_text = [each for each in result["groups"] if each["text"] == group["text"]]
      places = {"own": of_text.index(group), "network": every.index(weights)}
      return {"characters": result["characters"], "groups": of_text, **places}
  return None


def stored(folder: pathlib.Path, weights: Mapping[str, Any]) -> dict[str, Any] | None:
  """Return `around` for the JSON file in an output folder; None without a usable file."""
  with contextlib.suppress(errors.UserError, KeyError, TypeError):
    return around(files.read_json(folder / FILE), weights)
  return None


def threshold(finding: dict[str, Any]) -> float:
  """Return the score that a significant finding exceeds on the confirmation half."""
  bars = finding["confirmation"]["family_to_beat"], finding["untrained"]
  return max(bar for bar in bars if bar is not None)


def _appearance(results: dict[str, Any], finding: dict[str, Any]) -> dict[str, Any] | None:
  """Return the first checkpoint at which the finding's column exceeds the threshold, if any.

  `at_first`: no earlier checkpoint was scored, except for the network before training.
  """
  entries = {each["hypothesis"]: each for each in results["emergence"]}
  if not (entry := entries.get(finding["hypothesis"])):
    return None
  first = min((step for step in entry["steps"] if step), default=0)
  for step, score, nats in zip(entry["steps"], entry["score"], entry["nats"]):
    if score is not None and score > threshold(finding):
      return {"step": step, "nats": nats, "at_first": step <= first}
  return None


def summary(values: Sequence[float], percentiles=None) -> dict[str, float] | None:
  """Return percentiles of values by name, by default median and range; None without values."""
  percentiles = percentiles or {"min": 0, "median": 50, "max": 100}
  if not values:
    return None
  return dict(zip(percentiles, np.percentile(values, [*percentiles.values()]).tolist()))
