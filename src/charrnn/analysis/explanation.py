"""Why a unit works: what its gates do at each character, where they come from, and who reads it.

`accounts` fits a small automaton whose simulation follows the state of the unit. If it explains a
unit that line ends reset or change, `edits` predicts how an edit of the weights changes the lengths
of lines, and then samples from the edited network.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from charrnn import errors, files
from charrnn.analysis import accounts, edits, gates, inference, recording
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps

CHARACTERS = 40_000  # default number of characters of the text
TOP = 5  # number of sources, of readers, and of logits in each direction
HOLD = 0.02  # a smaller change per character, in standard deviations, is called holding
SATURATED = 0.95  # a larger |tanh(c)| hardly changes with c
EXCERPT = 140  # number of characters in the picture
EXCERPTS = 20  # number of excerpts from which the one in the picture is selected
# Types of the keys of a stored explanation.
_SCHEMA = (
  dict.fromkeys(("run", "summary", "state", "keep", "candidate", "edit_reason"), str)
  | dict.fromkeys(("layer", "unit", "step", "minimum_memory"), int)
  | dict.fromkeys(("weights", "text", "r2", "others", "readers", "excerpt"), dict)
  | dict.fromkeys(("events", "characters", "gates"), list)
)


def parse(argument: str, run: run_lib.Run) -> tuple[int, int]:
  """Return the layer and the number of the unit that --explain names; raise UserError."""
  match = clamps.NAME.fullmatch(argument.strip())
  if not match:
    raise errors.UserError(f"--explain {argument}: must be LAYER:UNIT, for example 1:37")
  if (cell := run.config.model.cell) not in gates.EQUATIONS:
    raise errors.UserError(
      f"--explain: needs an lstm or a gru, but {run.path} has the cell {cell}: leave it out to "
      "study all units"
    )
  layer, unit, units, problem = int(match[1]), int(match[3]), run.model.units, None
  state = gates.EQUATIONS[cell].state
  if f"layer_{layer}" not in units:
    problem = f"no layer {layer}: the last layer is {len(units) - 1}"
  elif match[2] and match[2] not in units[f"layer_{layer}"]:
    problem = f"no quantity {match[2]}: use {layer}:{unit}"
  elif unit >= (count := units[f"layer_{layer}"]["h"]):
    problem = f"no unit {unit}: the last unit is {count - 1}"
  elif match[2] in run.model.cell.gates:
    problem = f"{match[0]} is a gate: use {layer}:{unit}, which explains the state {state}"
  if problem:
    raise errors.UserError(f"--explain {argument}: {problem}")
  return layer, unit


def name(layer: int, unit: int) -> str:
  """Return the name of the files of an explanation, without the suffix."""
  return f"explain-{layer}-{unit}"


def stored(folder: pathlib.Path, weights: Mapping[str, Any]) -> dict[tuple[int, int], dict]:
  """Return the explanations of a network in a folder, by layer and unit.

  `weights` are those of `Run.weights`. Files that are damaged or of other weights are ignored.
  """
  entries = {}
  for path in folder.glob("explain-*.json"):
    with contextlib.suppress(errors.UserError):
      entry = files.read_json(path)
      if files.has_types(entry, _SCHEMA) and entry["weights"] == weights:
        entries[entry["layer"], entry["unit"]] = entry
  return entries


def explain(
  run: run_lib.Run,
  text: recording.Text,
  layer: int,
  unit: int,
  seed: int,
  progress: Callable[[str], Callable],
) -> dict[str, Any]:
  """Explain a unit on a text; return the results as JSON data.

  `run` needs a model, params, a config and a tokenizer. `progress(name)` starts a phase and returns
  its callback, which takes (done, total).
  """
  weights, ids_N = gates.Weights(run, layer, unit), np.asarray(text.ids_N, np.intp)
  equations, tokens = weights.equations, run.tokenizer.tokens
  recorded = gates.record(run, ids_N, layer, unit, progress("recording"))
  trace = gates.trace(weights, recorded, ids_N)
  before, after = trace.before, trace.after
  halves = inference.halve(text.documents, seed)
  discovery, confirmation = (inference.mask(spans, len(ids_N)) for spans in halves[:2])
  account = accounts.select(trace, discovery, len(tokens))
  simulated = account.simulate(ids_N)
  scores = [accounts.r2(simulated, after, half) for half in (discovery, confirmation)]
  verdict = accounts.judge(account, scores[1], trace, discovery)
  explained = edits.Explained(weights, trace, discovery, account, recorded.p)
  edit, edit_reason = None, ""
  if verdict.kind:
    try:
      edit = edits.edit(run, text, explained, seed, progress)
    except edits.NotEditedError as error:
      edit_reason = str(error)
  others = explained.others_N
  start = _liveliest(after, *halves.confirmation[0])
  excerpt = slice(start, start + EXCERPT)
  model = run.config.model
  results = {
    "run": str(run.path),
    "step": run.step,
    "weights": run.weights,
    "model": {name: model[name] for name in ("cell", "layers", "hidden")},
    "text": {
      "name": text.name,
      "characters": len(ids_N),
      "documents": len(text.documents),
      "nats": float(recorded.nats[:-1].mean()),
      "halves": halves.by,
    },
    "seed": seed,
    "layer": layer,
    "unit": unit,
    "state": equations.state,
    "keep": equations.keep,
    "candidate": equations.candidate,
    "kind": verdict.kind,
    "reason": verdict.reason,
    "r2": {
      "discovery": scores[0],
      "confirmation": scores[1],
      "minimum": accounts.MIN_R2,
    },
    "memory": account.memory if math.isfinite(account.memory) else None,
    "minimum_memory": accounts.MIN_MEMORY,
    "spread": float(after[discovery].std()),
    "others": {
      "factor": account.other[0],
      "offset": account.other[1],
      "change": float((after - before)[others].mean()) if others.any() else None,
      "keep": float(trace.keep[others].mean()) if others.any() else None,
    },
    "events": [_event(account, each, trace, discovery, tokens) for each in account.events],
    "characters": _characters(account, trace, discovery, tokens),
    "gates": [_gate(weights, recorded, ids_N, gate) for gate in weights.gates],
    "readers": _readers(weights, recorded, ids_N, tokens),
    "edit": edit,
    "edit_reason": edit_reason,
    "excerpt": {
      "start": start,
      "text": "".join(tokens[each] for each in ids_N[excerpt]),
      "unit": after[excerpt].tolist(),
      "account": simulated[excerpt].tolist(),
    },
  }
  return results | {"summary": _summary(results)}


def _liveliest(after_N: np.ndarray, start: int, end: int) -> int:
  """Return where the excerpt begins: where the state changes most, among the first excerpts."""
  starts = range(start, max(start + 1, end - EXCERPT), EXCERPT)[:EXCERPTS]
  return max(starts, key=lambda each: after_N[each : each + EXCERPT].std())


def _summary(results: Mapping[str, Any]) -> str:
  """Return one line that says what an explained unit does, or why there is no explanation."""
  state, others = results["state"], results["others"]
  if results["kind"] is None:
    return f"no explanation: {results['reason']}"
  parts = []
  for event in results["events"]:
    character, levels = repr(event["character"]), event["levels"]
    if event["role"] == "resets":
      parts.append(f"{character} sets {state} to {event['level']:.3g}")
    elif event["role"] == "toggles":
      levels = sorted(each for each in levels if each is not None)
      names = " and ".join(f"{each:.3g}" for each in levels)
      parts.append(f"{character} moves {state} {'between' if len(levels) > 1 else 'to'} {names}")
    elif event["character"] == gates.LINE_END:
      parts.append(f"{character} adds {event['offset']:.3g} to {state}")
  if results["kind"] != "counter":
    parts.append(f"other characters keep {others['factor']:.1%} of it")
  elif others["change"] is not None:
    parts.append(f"each other character changes it by {others['change']:+.3g} on average")
  if edit := results["edit"]:
    parts.append(f"lines end at {state} = {edit['response']['at_line_end'][0]:.3g} on average")
  return f"{results['kind']}: {'; '.join(parts)}"


def _event(account, event: int, trace, inside_N, tokens) -> dict:
  """Return what an event does, with the states before and after it on the discovery half."""
  here = inside_N & (trace.ids == event)
  before, after = trace.before[here], trace.after[here]
  middle = (trace.after[inside_N].min() + trace.after[inside_N].max()) / 2
  return {
    "character": tokens[event],
    "role": account.role(event),
    "count": int(here.sum()),
    "factor": float(account.factor_V[event]),
    "offset": float(account.offset_V[event]),
    "level": float(after.mean()),
    "spread": float(after.std()),
    # A switch has two levels; `high` is the share of characters above the middle of its range.
    "high_before": float((before > middle).mean()),
    "high_after": float((after > middle).mean()),
    "levels": [
      float(after[side].mean()) if side.any() else None
      for side in (before <= middle, before > middle)
    ],
  }


def _characters(account, trace, inside_N, tokens) -> list[dict]:
  """Return the mean step of the unit at each character, the most frequent characters first."""
  spread, rows = trace.after[inside_N].std(), []
  ids, counts = np.unique(trace.ids[inside_N], return_counts=True)
  for number in ids[np.argsort(-counts, kind="stable")].tolist():
    here = inside_N & (trace.ids == number)
    change = (trace.after - trace.before)[here]
    role = "advances" if abs(change.mean()) > HOLD * spread else "holds"
    if number in account.events:
      role = account.role(number)
    rows.append(
      {
        "character": tokens[number],
        "count": int(here.sum()),
        "role": role,
        "keep": float(trace.keep[here].mean()),
        "added": float((trace.after - trace.keep * trace.before)[here].mean()),
        "change": float(change.mean()),
        "change_spread": float(change.std()),
        "level": float(trace.after[here].mean()),
      }
    )
  return rows


def _gate(weights: gates.Weights, recorded: gates.Recorded, ids_N, gate: str) -> dict:
  terms = gates.terms(weights, recorded, ids_N, gate)
  shares, spread = terms.shares()
  top = np.argsort(-np.abs(shares), kind="stable")[:TOP]
  return {
    "gate": gate,
    "mean": float(recorded.own[gate].mean()),
    "spread": spread,
    "sources": [
      {"source": terms.names[each], "share": float(shares[each])}
      | ({} if terms.names[each] == "character" else {"weight": float(terms.weights[each])})
      for each in top.tolist()
    ],
  }


def _readers(weights: gates.Weights, recorded: gates.Recorded, ids_N, tokens) -> dict:
  """Return what the output h of the unit changes, per standard deviation of h."""
  layer, unit, H = weights.layer, weights.unit, weights.hidden
  spread, entries, logits, saturated = float(recorded.own["h"].std()), [], None, None
  if "c" in recorded.own:  # The output of an LSTM is o * tanh(c).
    saturated = float((np.abs(np.tanh(recorded.own["c"])) > SATURATED).mean())
  rows = [(layer, "W_hh"), *((above, "W_xh") for above in weights.above)]
  for target, name in rows:
    values = weights.params[f"layer_{target}"][name][unit] * spread
    for column in np.argsort(-np.abs(values), kind="stable")[:TOP].tolist():
      reader = f"{target}:{weights.gates[column // H]}{column % H}"
      entries.append({"reader": reader, "effect": float(values[column])})
  entries.sort(key=lambda each: -abs(each["effect"]))
  if weights.reads_head:
    counts = np.bincount(ids_N, minlength=len(tokens))
    values = weights.params["head"]["W_hy"][unit] * spread
    values = values - (counts @ values) / counts.sum()  # Only differences between logits matter.
    order = [each for each in np.argsort(-values).tolist() if counts[each] >= accounts.MIN_COUNT]
    entry = [{"character": tokens[each], "effect": float(values[each])} for each in order]
    raised = [each for each in entry[:TOP] if each["effect"] > 0]
    lowered = [each for each in entry[: -TOP - 1 : -1] if each["effect"] < 0]
    logits = {"raised": raised, "lowered": lowered}
  return {"spread": spread, "saturated": saturated, "logits": logits, "units": entries}
