"""The report of an explanation of a unit, as lines of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from charrnn import console
from charrnn.analysis import explanation

CHARACTER_ROWS = 20  # number of characters in the table


def lines(results: Mapping[str, Any]) -> Iterator[str]:
  """Yield the lines of a report of the results of `explanation.explain`."""
  state, keep, candidate = (results[name] for name in ("state", "keep", "candidate"))
  yield results["summary"]
  score = results["r2"]
  yield (
    f"R2 of the account: {score['confirmation']:.3f} on the confirmation half, "
    f"{score['discovery']:.3f} on the discovery half"
  )
  yield ""
  header = "step of the account", "characters", f"{state} after it", f"mean {state} after it"
  rows = [
    (repr(each["character"]), f"{each['count']:,}", _step(state, each), f"{each['level']:.3f}")
    for each in results["events"]
  ]
  rows.append(("any other character", "", _step(state, results["others"]), ""))
  yield from console.table(header, rows)
  yield ""
  header = "character", "count", "effect", keep, "added", "change", "(sd)", f"mean {state} after it"
  names = "keep", "added", "change", "change_spread", "level"
  yield from console.table(
    header,
    [
      (
        *(repr(each["character"]), f"{each['count']:,}", each["role"]),
        *(f"{each[name]:.3f}" for name in names),
      )
      for each in results["characters"][:CHARACTER_ROWS]
    ],
  )
  yield (
    f"each step is {state}' = {keep} {state} + added; change is {state}' - {state}; "
    f"sd of {state}: {results['spread']:.3f}"
  )
  yield ""
  for each in results["gates"]:
    names = ", ".join(f"{source['source']} {source['share']:.0%}" for source in each["sources"])
    yield f"gate {each['gate']} (mean {each['mean']:+.3f}) varies with: {names}"
  layer = results["layer"]
  yield f"{candidate} is the candidate; sources of layer {layer} are h before the character"
  yield ""
  yield from _readers(results["readers"])
  if results["edit"]:
    yield ""
    yield from _edit(results)
  elif results["edit_reason"]:
    yield ""
    yield f"no edit: {results['edit_reason']}"


def _step(state: str, step) -> str:
  return (
    f"{step['factor']:.3f} {state} {'-' if step['offset'] < 0 else '+'} {abs(step['offset']):.3f}"
  )


def _readers(readers):
  if logits := readers["logits"]:
    for direction in ("raised", "lowered"):
      names = [f"{each['character']!r} {each['effect']:+.2f}" for each in logits[direction]]
      yield f"logits {direction} by one sd of h: {', '.join(names) or 'none'}"
  names = [f"{each['reader']} {each['effect']:+.2f}" for each in readers["units"]]
  yield f"gates that read it, per sd of h: {', '.join(names)}"
  if (saturated := readers["saturated"]) is not None:
    yield (
      f"|tanh(c)| is above {explanation.SATURATED} at {saturated:.0%} of the characters, where h "
      "hardly changes with c"
    )


def _edit(results):
  state, edit = results["state"], results["edit"]
  response = edit["response"]
  (first, low), (last, high) = response["after_line_end"], response["at_line_end"]
  yield (
    f"mean P(line end): {low:.4f} with the unit clamped to {state} = {first:.3g}, as after a line "
    f"end, and {high:.4f} with {state} = {last:.3g}, as at line ends"
  )
  quantity = edit["quantity"]
  header = "line length", "network", "edited", "ratio", "95% interval"
  rows = []
  for name in ("predicted", "measured", "alone"):
    each = edit[name]
    interval = f"{each['low']:.3f} to {each['high']:.3f}" if each.get("low") is not None else ""
    lengths = (console.number(each[key], ".1f") for key in ("plain", "edited"))
    rows.append((name, *lengths, console.number(each["ratio"]), interval))
  yield from console.table(header, rows)
  before, after = edit["means"]
  yield f"alone: if the unit alone ended lines, at {state} = {last:.3g}"
  yield (
    f"edit: {edit['edited']}: {edit['where']}, the mean {quantity} is {after:.4f} instead of "
    f"{before:.4f}"
  )
