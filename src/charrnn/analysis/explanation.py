"""Why a unit works: what its gates do at each character, where they come from, and who reads it.

The state of a unit of an LSTM changes by c' = f * c + i * g, and that of a GRU by
h' = z * h + (1 - z) * n. Both have the form keep * state + write * tanh(pre). `accounts` fits a
small automaton to these steps. If it explains a counter, this module predicts how an edit of the
weights changes the lengths of lines, and then samples from the edited network. An LSTM is edited by
multiplying the weights into g, and a GRU by a larger bias of z.

D: units that a gate reads.
"""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import optimize, special

from charrnn import errors
from charrnn.analysis import ablation, accounts, effects, inference, recording
from charrnn.evaluation import score
from charrnn.models import layers
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps

CHARACTERS = 40_000  # default number of characters of the text
RATIO = 0.8  # the edit multiplies what the unit adds per character by this ratio, on average
CLAMPED = 32  # number of states to which a unit is clamped to measure the response
READ = 4096  # number of characters that are read with clamps
SAMPLES = 64  # number of samples of each network, of ablation.LENGTH characters
RESAMPLES = 1000  # number of bootstrap resamples
LINES = 256  # maximum number of lines that an account is simulated on
MIN_LINES = 20
TOP = 5  # number of sources, of readers, and of logits in each direction
HOLD = 0.02  # a smaller change per character, in standard deviations, is called holding
SATURATED = 0.95  # a larger |tanh(c)| hardly changes with c
EXCERPT = 140  # number of characters in the picture
LEVELS = 80  # number of characters of a line in the picture
LINE_END = "\n"


class Equations(NamedTuple):
  """The names of the parts of a cell in keep * state + write * tanh(pre)."""

  state: str
  keep: str
  write: str | None  # None if it is 1 - keep
  candidate: str  # the gate that is tanh(pre)

  @property
  def is_average(self) -> bool:
    return self.write is None


EQUATIONS = {"lstm": Equations("c", "f", "i", "g"), "gru": Equations("h", "z", None, "n")}


def parse(argument: str, run: run_lib.Run) -> tuple[int, int]:
  """Return the layer and the number of the unit that --explain names; raise UserError."""
  match = clamps.NAME.fullmatch(argument.strip())
  if not match:
    raise errors.UserError(f"--explain {argument}: must be LAYER:UNIT, for example 1:37")
  if (cell := run.config.model.cell) not in EQUATIONS:
    raise errors.UserError(f"--explain: needs an lstm or a gru, but {run.path} has the cell {cell}")
  layer, unit, units, problem = int(match[1]), int(match[3]), run.model.units, None
  if f"layer_{layer}" not in units:
    problem = f"no layer {layer}: the last layer is {len(units) - 1}"
  elif match[2] and match[2] not in units[f"layer_{layer}"]:
    problem = f"no quantity {match[2]}: use {layer}:{unit}"
  elif unit >= (count := units[f"layer_{layer}"]["h"]):
    problem = f"no unit {unit}: the last unit is {count - 1}"
  if problem:
    raise errors.UserError(f"--explain {argument}: {problem}")
  return layer, unit


class Weights:
  """The weights of a unit, and the units that its gates read."""

  def __init__(self, run, layer: int, unit: int):
    self.layer, self.unit, self.hidden = layer, unit, run.config.model.hidden
    self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run.params)
    self.gates = run.model.cell.gates
    self.own = self.params[f"layer_{layer}"]
    # With residual layers, a layer reads the sum of all layers below it.
    residual, last = run.config.model.residual, len(run.model.units) - 1
    self.below = [*range(layer)] if residual else [*range(max(0, layer - 1), layer)]
    self.reads_head = residual or layer == last
    self.above = [*range(layer + 1, last + 1)] if residual else [*range(layer + 1, layer + 2)]
    self.above = [each for each in self.above if each <= last]

  def column(self, gate: str) -> int:
    return self.gates.index(gate) * self.hidden + self.unit

  def by_character(self, gate: str) -> np.ndarray:
    """Return what each character adds to the pre-activation of a gate in layer 0, [V]."""
    column_D = self.own["W_xh"][:, self.column(gate)]
    embed = self.params.get("embed")
    return column_D if embed is None else embed["W_e"] @ column_D


class Sources(NamedTuple):
  """The terms of a pre-activation: pre = sum of values_NxD * weights_D + constants."""

  names: list[str]
  values_NxD: np.ndarray
  weights_D: np.ndarray
  constant: np.ndarray | float

  @property
  def pre(self) -> np.ndarray:
    return self.values_NxD @ self.weights_D + self.constant

  def shares(self) -> tuple[np.ndarray, float]:
    """Return the share of each term in the variance of pre, cov(term, pre) / var(pre); its sd."""
    pre = self.pre - self.pre.mean()
    variance = float(pre @ pre) / len(pre)
    if variance < 1e-12:
      return np.zeros(len(self.weights_D)), 0.0
    shares = self.weights_D * (pre @ self.values_NxD) / len(pre) / variance
    return shares, math.sqrt(variance)


class Recorded(NamedTuple):
  """The quantities of a unit on a text, the outputs h of all units, and p of a line end."""

  own: dict[str, np.ndarray]  # [N] each
  h: list[np.ndarray]  # [N, H] of each layer
  p: np.ndarray  # [N], probability that the next character is a line end; NaN without line ends
  nats: np.ndarray  # [N], -log p of the next character; the last is undefined


def record(run, ids_N: np.ndarray, layer: int, unit: int, progress: effects.Progress) -> Recorded:
  """Run the network on a text and return what the explanation of a unit needs."""
  tokens = run.tokenizer.tokens
  line_end = tokens.index(LINE_END) if LINE_END in tokens else None
  measure = jax.tree_util.Partial(_measure_unit, unit, line_end)
  parts, done = [], 0
  for part in score.record(run.model, run.params, ids_N, measure=measure):
    parts.append(part)
    done += len(part[-1])
    progress(done, len(ids_N))
  own, h, p, nats = jax.tree.map(lambda *arrays: np.concatenate(arrays).astype(float), *parts)
  return Recorded(own[f"layer_{layer}"], h, p, nats)


def _measure_unit(unit, line_end, logits_TxBxV, y_TxB, recorded):
  own = jax.tree.map(lambda values_TxBxH: values_TxBxH[..., unit], recorded)
  h = [values["h"] for values in recorded.values()]
  p_TxB = y_TxB * np.nan if line_end is None else _p_line_end(line_end, logits_TxBxV)
  return own, h, p_TxB, layers.cross_entropy(logits_TxBxV, y_TxB)


def _p_line_end(line_end, logits_TxBxV, *_):
  return jax.nn.softmax(logits_TxBxV)[..., line_end]


def sources(weights: Weights, recorded: Recorded, ids_N: np.ndarray, gate: str) -> Sources:
  """Return the terms of the pre-activation of a gate, at each character of a text."""
  column, layer = weights.column(gate), weights.layer
  previous = np.concatenate([np.zeros((1, weights.hidden)), recorded.h[layer][:-1]])
  recurrent, constant = weights.own["W_hh"][:, column], weights.own["b_h"][column]
  if "b_hn" in weights.own and gate == "n":  # The reset gate of a GRU multiplies this term.
    previous = previous * recorded.own["r"][:, None]
    constant = constant + recorded.own["r"] * weights.own["b_hn"][weights.unit]
  if layer:
    names = [f"{n}:h{unit}" for n in weights.below for unit in range(weights.hidden)]
    values = np.concatenate([recorded.h[n] for n in weights.below], axis=1)
    inputs = np.tile(weights.own["W_xh"][:, column], len(weights.below))
  else:
    names, inputs = ["character"], np.ones(1)
    values = weights.by_character(gate)[ids_N][:, None]
  return Sources(
    [*names, *(f"{layer}:h{unit}" for unit in range(weights.hidden))],
    np.concatenate([values, previous], axis=1),
    np.concatenate([inputs, recurrent]),
    constant,
  )


def edit_weights(params, weights: Weights, equations: Equations, scale: float):
  """Return parameters in which the steps of the unit are edited as in `accounts.Trace.edited`."""
  params = jax.tree.map(np.array, params)
  own = params[f"layer_{weights.layer}"]
  if equations.is_average:
    own["b_h"][weights.column(equations.keep)] -= math.log(scale)
    return params
  column = weights.column(equations.candidate)
  for name in ("W_xh", "W_hh"):
    own[name][:, column] *= scale
  own["b_h"][column] *= scale
  return params


def find_scale(trace: accounts.Trace, inside_N: np.ndarray, ratio: float) -> float:
  """Return the factor of an edit that multiplies the mean of what a step adds by `ratio`, < 1."""
  goal = ratio * trace.moved(1)[inside_N].mean()
  # The mean is 0 for the factor 0, and goal / ratio for 1.
  return optimize.brentq(lambda scale: trace.moved(scale)[inside_N].mean() - goal, 0, 1)


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
  equations, ids_N = EQUATIONS[run.config.model.cell], np.asarray(text.ids_N, np.intp)
  weights, tokens = Weights(run, layer, unit), run.tokenizer.tokens
  recorded = record(run, ids_N, layer, unit, progress("recording"))
  gates = {gate: sources(weights, recorded, ids_N, gate) for gate in weights.gates}
  trace = _trace(equations, recorded, ids_N, gates[equations.candidate].pre)
  before, after = trace.before, trace.after
  halves = inference.halve(text.documents, seed)
  discovery, confirmation = (_mask(spans, len(ids_N)) for spans in halves[:2])
  account = accounts.select(trace, discovery, len(tokens))
  simulated = account.simulate(ids_N)
  scores = [accounts.r2(simulated, after, half) for half in (discovery, confirmation)]
  verdict = accounts.judge(account, scores[1], trace, discovery)
  edit = None
  if verdict.kind == "counter" and _line_end(account, tokens) is not None:
    at = equations, trace, discovery, account, recorded.p, progress("response")
    if result := _edit(run, weights, *at):
      edit, params = result
      edit["measured"] = _measure(run, params, text, seed, progress("sampling"))
  others = discovery & ~np.isin(ids_N, account.events)
  start = halves.confirmation[0][0]
  excerpt = slice(start, start + EXCERPT)
  model = run.config.model
  return {
    "run": str(run.path),
    "step": run.step,
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
    "gates": [_gate(gate, recorded, each) for gate, each in gates.items()],
    "readers": _readers(weights, recorded, ids_N, tokens),
    "edit": edit,
    "excerpt": {
      "start": start,
      "text": "".join(tokens[each] for each in ids_N[excerpt]),
      "unit": after[excerpt].tolist(),
      "account": simulated[excerpt].tolist(),
    },
  }


def summary(results: Mapping[str, Any]) -> str:
  """Return one line that says what an explained unit does, or why there is no explanation."""
  state, others = results["state"], results["others"]
  if results["kind"] is None:
    return f"no explanation: {results['reason']}"
  parts = []
  for event in results["events"]:
    character, levels = repr(event["character"]), event["levels"]
    if event["kind"] == "reset":
      parts.append(f"{character} sets {state} to {event['level']:.3g}")
    elif event["kind"] == "toggle":
      low, high = sorted("-" if each is None else f"{each:.3g}" for each in levels)
      parts.append(f"{character} moves {state} between {low} and {high}")
  if results["kind"] == "counter":
    parts.append(f"each other character changes it by {others['change']:+.3g} on average")
  else:
    parts.append(f"other characters keep {others['factor']:.1%} of it")
  if edit := results["edit"]:
    parts.append(f"lines end at {state} = {edit['response']['at_line_end'][0]:.3g} on average")
  return f"{results['kind']}: {'; '.join(parts)}"


def _trace(equations: Equations, recorded: Recorded, ids_N, pre) -> accounts.Trace:
  after, keep = recorded.own[equations.state], recorded.own[equations.keep]
  write = 1 - keep if equations.is_average else recorded.own[equations.write]
  before = np.append(0.0, after[:-1])
  return accounts.Trace(ids_N, before, after, keep, write, pre, equations.is_average)


def _mask(spans, length: int) -> np.ndarray:
  inside_N = np.zeros(length, bool)
  for start, stop in spans:
    inside_N[start:stop] = True
  return inside_N


def _line_end(account: accounts.Account, tokens) -> int | None:
  """Return the id of the line end, if it resets the unit."""
  for event in account.events:
    if tokens[event] == LINE_END and account.kind(event) == "reset":
      return event
  return None


def _event(account, event: int, trace, inside_N, tokens) -> dict:
  """Return what an event does, with the states before and after it on the discovery half."""
  here = inside_N & (trace.ids == event)
  before, after = trace.before[here], trace.after[here]
  middle = (trace.after[inside_N].min() + trace.after[inside_N].max()) / 2
  return {
    "character": tokens[event],
    "kind": account.kind(event),
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
      role = {"reset": "resets", "toggle": "toggles", "step": "steps"}[account.kind(number)]
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


def _gate(gate: str, recorded: Recorded, terms: Sources) -> dict:
  shares, spread = terms.shares()
  top = np.argsort(-np.abs(shares), kind="stable")[:TOP]
  return {
    "gate": gate,
    "mean": float(recorded.own[gate].mean()),
    "spread": spread,
    "sources": [
      {"source": terms.names[each], "share": float(shares[each])}
      | ({} if terms.names[each] == "character" else {"weight": float(terms.weights_D[each])})
      for each in top.tolist()
    ],
  }


def _readers(weights: Weights, recorded: Recorded, ids_N, tokens) -> dict:
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


class Response(NamedTuple):
  """The log odds of a line end, averaged over a text, with the unit clamped to a state."""

  states: np.ndarray  # ascending
  odds: np.ndarray

  def __call__(self, states: np.ndarray) -> np.ndarray:
    return np.interp(states, self.states, self.odds)


def respond(run, ids_N, layer: int, unit: int, states, line_end: int, progress) -> Response:
  """Return how the network responds to the state of a unit; `states` are its values on a text.

  The weights are unchanged, and the network reads the text. This shows how much the network relies
  on the unit: other units may carry the same information.
  """
  measure = jax.tree_util.Partial(_p_line_end, line_end)
  clamped = np.unique(np.quantile(states, np.linspace(0, 1, CLAMPED)))
  rows = [[clamps.Clamp(layer, unit, float(state))] for state in clamped]
  p_RxN = ablation.losses(run.model, run.params, ids_N[:READ], rows, progress, measure)
  return Response(clamped, special.logit(np.clip(np.nanmean(p_RxN, axis=1), 1e-6, 1 - 1e-6)))


def _edit(
  run, weights, equations, trace, inside_N, account, p, progress
) -> tuple[dict, Any] | None:
  """Return an edit of the weights with the line lengths that the account predicts, and parameters.

  Nothing is sampled. The account is fitted again to the edited steps of the recorded unit, with the
  same events. The log odds of a line end
  after n characters change by the difference of the response to the edited state and to the
  original state after n characters. Return None if the text has too few lines.
  """
  line_end, ids_N = _line_end(account, run.tokenizer.tokens), trace.ids
  is_end, size = ids_N == line_end, len(account.factor_V)
  starts = np.unique(np.cumsum(~is_end)[is_end])
  if len(starts) < MIN_LINES:
    return None
  others = inside_N & ~np.isin(ids_N, account.events)
  factor = find_scale(trace, others, RATIO)
  after = trace.edited(factor)
  new = accounts.fit(trace, inside_N, account.events, after, size)
  stream = ids_N[~is_end]
  starts = starts[np.linspace(0, len(starts) - 1, min(LINES, len(starts))).astype(int)]
  lines_KxS = stream[(np.arange(accounts.MAX_LINE)[:, None] + starts) % len(stream)]
  first = [float(values[inside_N & is_end].mean()) for values in (trace.after, after)]
  states, new_states = (
    accounts.follow(each, level, lines_KxS) for each, level in zip((account, new), first)
  )
  at = account.simulate(ids_N)[inside_N], ids_N[inside_N], p[inside_N], size
  odds_KxS = accounts.LineEnds.fit(*at)(states, lines_KxS)
  at = weights.layer, weights.unit, trace.after[inside_N], line_end, progress
  response = respond(run, ids_N, *at)
  changed_KxS = odds_KxS + response(new_states) - response(states)
  last = (p * trace.after)[inside_N].sum() / p[inside_N].sum()
  entry = {
    "ratio": RATIO,
    "factor": factor,
    "edited": (
      f"{-math.log(factor):.3f} is added to the bias of {equations.keep}"
      if equations.is_average
      else f"the weights into {equations.candidate} are multiplied by {factor:.3f}"
    ),
    "added": [float(trace.moved(scale)[others].mean()) for scale in (1, factor)],
    "response": {
      "states": response.states.tolist(),
      "p": special.expit(response.odds).tolist(),
      "after_line_end": [first[0], float(special.expit(response(first[0])))],
      "at_line_end": [float(last), float(special.expit(response(last)))],
    },
    "levels": {
      "plain": [first[0], *states[:LEVELS].mean(axis=1).tolist()],
      "edited": [first[1], *new_states[:LEVELS].mean(axis=1).tolist()],
    },
    "predicted": _ratio([accounts.line_length(each) for each in (odds_KxS, changed_KxS)]),
  }
  return entry, edit_weights(run.params, weights, equations, factor)


def _ratio(lengths) -> dict:
  plain, new = (None if math.isnan(each) else float(each) for each in lengths)
  known = plain is not None and new is not None
  return {"plain": plain, "edited": new, "ratio": new / plain if known else None}


def _measure(run, params, text, seed: int, progress) -> dict:
  """Return the mean line lengths in samples of a network and of its edited version.

  The interval of their ratio is the central 95% of a bootstrap over samples.
  """
  lengths = []
  for n, each in enumerate((run.params, params)):
    network = types.SimpleNamespace(model=run.model, params=each, tokenizer=run.tokenizer)
    prompt = ablation.prompt(text)
    texts = ablation.sample(network, prompt, {"": []}, seed, lambda *_: None, SAMPLES)[""]
    lines = [ablation.line_lengths(sample) for sample in texts]
    lengths.append(np.array([[sum(each), len(each)] for each in lines], float))
    progress(n + 1, 2)
  totals = [each.sum(axis=0) for each in lengths]
  result = _ratio([total / count if count else math.nan for total, count in totals])
  if result["ratio"] is None:
    return result | {"low": None, "high": None}
  picks = np.random.default_rng(seed).integers(0, SAMPLES, (2, RESAMPLES, SAMPLES))
  sums = [each[pick].sum(axis=1) for each, pick in zip(lengths, picks)]
  # A resample may have no complete line.
  plain, new = (total[:, 0] / np.maximum(total[:, 1], 1) for total in sums)
  low, high = np.quantile(new / np.maximum(plain, 1), (0.025, 0.975))
  return result | {"low": float(low), "high": float(high)}
