"""Tests of explanations: planted units are explained exactly, and units of random networks not."""

import types

import jax
import made_up
import numpy as np
import planted
import pytest
import small_models
from scipy import special

from charrnn import config as config_lib
from charrnn import errors
from charrnn.analysis import (
  ablation,
  accounts,
  edits,
  explanation,
  explanation_report,
  gates,
  inference,
  pictures,
  recording,
)
from charrnn.evaluation import score
from charrnn.models import cells

WIDTH = 40
STEP = 0.5 * np.tanh(0.02)  # what a character adds to the counter


def run_of(model, params, symbols, **fields):
  """Return what an explanation needs of a run."""
  config = config_lib.default()
  network = model.network
  config.model.update({"cell": network.cell, "layers": network.layers, "hidden": network.hidden})
  config.model.update(fields)
  tokenizer = types.SimpleNamespace(
    tokens=symbols, decode=lambda ids: "".join(symbols[each] for each in ids)
  )
  return types.SimpleNamespace(
    path="planted",
    step=1,
    config=config,
    model=model,
    params=params,
    tokenizer=tokenizer,
    weights={"step": 1, "sha256": ""},
  )


@pytest.fixture(scope="module")
def text():
  """Return a text with lines of WIDTH characters."""
  flat = made_up.prose(6000).replace("\n", " ")
  lines = [flat[n : n + WIDTH] for n in range(0, len(flat) - WIDTH, WIDTH)]
  return "".join(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def explained(text):
  """Return the explanations of the counter and of the quote unit.

  The only unit that the output reads is the counter. It makes a line end certain after WIDTH
  characters, and impossible before.
  """
  symbols, ids = planted.ids(text)
  model = planted.model(len(symbols))
  params = planted.params(model, symbols)
  head, line_end = params["head"], symbols.index("\n")
  head["W_hy"][:], head["b_y"][:] = 0, 0
  head["W_hy"][planted.COLUMN, line_end] = 4000
  head["b_y"][line_end] = -4000 * np.tanh((WIDTH + 0.5) * STEP)
  run = run_of(model, params, symbols)
  return [explain(run, ids, text, unit) for unit in (planted.COLUMN, planted.QUOTES)]


@pytest.fixture(scope="module")
def gru_counter(text):
  """Return the explanation of a unit of a GRU that makes lines end after WIDTH characters.

  Its h moves towards 1 by 1% of the distance at each character, and is 0 after a line end.
  """
  symbols, ids = planted.ids(text)
  model, unit = planted.model(len(symbols), cell="gru"), planted.COLUMN
  params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0)))
  layer, H, line_end = params["layer_0"], planted.HIDDEN, symbols.index("\n")
  for gate, (bias, weight) in enumerate([(0, 0), (special.logit(0.99), -40), (20, -20)]):
    column = gate * H + unit
    layer["W_xh"][:, column], layer["W_hh"][:, column], layer["b_h"][column] = 0, 0, bias
    layer["W_xh"][line_end, column] = weight
  layer["b_hn"][unit] = 0
  head = params["head"]
  head["W_hy"][:], head["b_y"][:] = 0, 0
  head["W_hy"][unit, line_end] = 4000
  head["b_y"][line_end] = -4000 * (1 - 0.99 ** (WIDTH - 0.5))
  return explain(run_of(model, params, symbols), ids, text, unit)


def explain(run, ids, text, unit):
  """Return the explanation of a unit of layer 0 on a text that is a single document."""
  document = recording.Text("planted", ids, ((0, len(ids)),), "prose", (text,))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(edits, "READ", 1024)
    patch.setattr(edits, "SAMPLES", 4)
    return explanation.explain(run, document, 0, unit, 0, lambda phase: lambda done, total: None)


def test_a_counter_is_explained_exactly(explained):
  counter, _ = explained
  assert counter["kind"] == "counter" and counter["r2"]["confirmation"] > 0.99
  (event,) = counter["events"]
  assert (event["character"], event["role"]) == ("\n", "resets")
  assert event["factor"] == pytest.approx(0, abs=1e-3)
  assert event["offset"] == pytest.approx(STEP, abs=1e-3)
  others = counter["others"]
  assert (others["factor"], others["offset"]) == pytest.approx((1, STEP), abs=1e-3)
  assert others["change"] == pytest.approx(STEP, abs=1e-3)
  assert counter["memory"] is None or counter["memory"] > 1000
  roles = {each["character"]: each["role"] for each in counter["characters"]}
  assert roles.pop("\n") == "resets" and set(roles.values()) == {"advances"}
  assert counter["summary"].startswith("counter: '\\n' sets c to 0.01; each other")


def test_the_predicted_line_length_is_that_of_the_edited_network(explained):
  edit = explained[0]["edit"]
  assert edit["factor"] == pytest.approx(0.8, abs=1e-3)  # tanh is nearly linear here
  assert edit["quantity"] == "added"
  assert np.divide(*edit["means"]) == pytest.approx(1.25, abs=1e-6)
  predicted, measured = edit["predicted"], edit["measured"]
  assert measured["plain"] == WIDTH and measured["edited"] == 1.25 * WIDTH
  assert predicted["plain"] == pytest.approx(WIDTH, abs=0.5)
  assert predicted["ratio"] == pytest.approx(measured["ratio"], rel=0.03)
  assert measured["low"] == measured["high"] == 1.25
  assert edit["alone"]["ratio"] == pytest.approx(1.25, rel=0.03)
  response = edit["response"]
  assert response["after_line_end"][1] < 0.01 and response["at_line_end"][1] > 0.9


def test_the_readers_of_the_counter_are_named(explained):
  readers = explained[0]["readers"]
  assert readers["logits"]["raised"][0]["character"] == "\n"
  assert all(each["effect"] == 0 for each in readers["units"])
  assert readers["saturated"] == 0


def test_a_quote_unit_is_explained_as_a_switch(explained):
  _, quotes = explained
  assert quotes["kind"] == "switch" and quotes["r2"]["confirmation"] > 0.99
  (event,) = quotes["events"]
  assert (event["character"], event["role"]) == ('"', "toggles")
  assert event["levels"] == pytest.approx([1, 0], abs=1e-3)
  assert event["high_before"] == pytest.approx(1 - event["high_after"], abs=1e-9)
  assert quotes["others"]["factor"] == pytest.approx(1, abs=1e-3)
  assert {each["role"] for each in quotes["characters"] if each["character"] != '"'} == {"holds"}
  assert quotes["edit"] is None and "a line end is not an event" in quotes["edit_reason"]
  assert quotes["summary"].startswith("switch: '\"' moves c between ")
  sources = {each["gate"]: each["sources"][0] for each in quotes["gates"]}
  assert sources["i"] == {"source": "character", "share": pytest.approx(1)}
  assert (sources["g"]["source"], sources["g"]["share"]) == (
    f"0:h{planted.QUOTES}",
    pytest.approx(1),
  )


@pytest.mark.parametrize(
  ("name", "layer", "fields"),
  [
    ("lstm", 1, {}),
    ("gru", 0, {}),
    ("embedding", 0, {}),
    ("gru", 2, {"residual": True, "layers": 3}),
  ],
)
def test_the_steps_and_the_edit_are_those_of_the_network(name, layer, fields):
  model, params = small_models.make(name, **fields)
  run = run_of(model, params, ["\n", *"abcdef"], **fields)
  ids, unit, scale, t = small_models.ids(20), 5, 0.6, 10
  weights = gates.Weights(run, layer, unit)
  recorded = gates.record(run, ids, layer, unit, lambda done, total: None)
  trace = gates.trace(weights, recorded, ids)
  np.testing.assert_allclose(trace.edited(1).after, trace.after, atol=1e-5)
  terms = gates.terms(weights, recorded, ids, weights.equations.candidate)
  if name != "gru":  # The constant of a GRU's candidate depends on the reset gate.
    assert terms.shares()[0].sum() == pytest.approx(1)
  # Take a step of the edited layer from the recorded state. A later one would start from a state
  # that differs, because other units read the edited one.
  edited = edits.edit_weights(params, weights, scale)[f"layer_{layer}"]
  (states,) = score.record(model, params, ids)
  if layer:
    x = sum(states[f"layer_{n}"]["h"][t] for n in weights.below)
  else:
    x = params["embed"]["W_e"][ids[t]] if name == "embedding" else np.eye(small_models.V)[ids[t]]
  h, own = states[f"layer_{layer}"]["h"], states[f"layer_{layer}"]
  if weights.equations.is_average:
    after = cells.gru_step(edited, cells.GRUState(h[t - 1 : t]), x[None])[0].h
  else:
    state = cells.LSTMState(h[t - 1 : t], own["c"][t - 1 : t])
    after = cells.lstm_step(edited, state, x[None])[0].c
  step = accounts.Trace(*(each[t : t + 1] for each in trace[:-1]), trace.is_average)
  assert after[0, unit] == pytest.approx(step.edited(scale).after[0], abs=1e-6)
  assert abs(after[0, unit] - trace.after[t]) > 1e-3


@pytest.mark.long
def test_a_counter_of_a_gru_is_edited(gru_counter, tmp_path):
  edit = gru_counter["edit"]
  assert gru_counter["kind"] == "counter" and edit["quantity"] == "change"
  assert np.divide(*edit["means"]) == pytest.approx(1.25, abs=1e-6)
  assert edit["measured"]["plain"] == WIDTH
  assert edit["predicted"]["ratio"] == pytest.approx(edit["measured"]["ratio"], rel=0.03)
  assert edit["alone"]["ratio"] == pytest.approx(edit["measured"]["ratio"], rel=0.03)
  report = check_outputs(gru_counter, tmp_path / "a.png")
  assert "is added to the bias of z: at other characters, the mean change is 0.00" in report


def test_explanations_are_reported_and_plotted(explained, tmp_path):
  for n, results in enumerate(explained):
    check_outputs(results, tmp_path / f"{n}.png")
  results = explained[1] | {"edit_reason": "a reason"}
  assert "no edit: a reason" in explanation_report.lines(results)


def check_outputs(results, path):
  """Check that an explanation can be plotted and reported; return the report."""
  pictures.explanation(results, path)
  assert path.stat().st_size > 10_000
  report = "\n".join(explanation_report.lines(results))
  assert report.startswith(results["summary"])
  assert ("P(line end)" in report) == (results["edit"] is not None)
  return report


@pytest.fixture(scope="module")
def decaying(text):
  """Return the explanation of a unit that adds 1 at a line end and keeps 96% at other characters.

  The only unit that the output reads makes lines end after WIDTH characters, when little is left.
  """
  symbols, ids = planted.ids(text)
  model, unit, line_end = planted.model(len(symbols)), planted.COLUMN, symbols.index("\n")
  params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0)))
  layer, H = params["layer_0"], planted.HIDDEN
  for gate, (bias, weight) in enumerate([(20, 0), (special.logit(0.96), 0), (0, 1), (20, 0)]):
    column = gate * H + unit
    layer["W_xh"][:, column], layer["W_hh"][:, column], layer["b_h"][column] = 0, 0, bias
    layer["W_xh"][line_end, column] = weight
  level = np.tanh(1) / (1 - 0.96 ** (WIDTH + 1))  # the state after a line end
  head = params["head"]
  head["W_hy"][:], head["b_y"][:] = 0, 0
  head["W_hy"][unit, line_end] = -4000
  head["b_y"][line_end] = 4000 * np.tanh(level * 0.96 ** (WIDTH - 0.5))
  return explain(run_of(model, params, symbols), ids, text, unit)


def test_a_unit_that_decays_is_edited(decaying):
  """What a line end adds is multiplied by 0.8, so all states are, and lines end earlier."""
  assert decaying["kind"] == "accumulator"
  (event,) = decaying["events"]
  assert (event["character"], event["role"]) == ("\n", "steps")
  edit = decaying["edit"]
  assert edit["where"] == "at line ends"
  assert edit["factor"] == pytest.approx(np.arctanh(0.8 * np.tanh(1)), abs=1e-6)
  assert edit["means"] == pytest.approx([np.tanh(1), 0.8 * np.tanh(1)], abs=1e-6)
  predicted, measured = edit["predicted"], edit["measured"]
  assert measured["plain"] == WIDTH and measured["edited"] < 0.95 * WIDTH
  assert predicted["ratio"] == pytest.approx(measured["ratio"], rel=0.03)


def test_the_factor_of_an_edit_is_the_closest_to_1():
  """Several factors multiply the mean by 0.8, because the steps have mixed signs."""
  pre, write = np.array([0.5, 30.0]), np.array([1.0, -0.2])
  moved = write * np.tanh(pre)
  zeros = np.zeros(2)
  trace = accounts.Trace(zeros, zeros, moved, zeros, write, pre, False)
  factor = edits.find_scale(trace, zeros == 0, 0.8)
  assert trace.moved(factor).mean() == pytest.approx(0.8 * moved.mean())
  assert factor > 0.8


def test_a_line_end_may_set_the_edited_unit_to_another_level():
  steps = np.arange(60)
  assert edits.crossing(0.025 * steps, 1.01) == pytest.approx(40.4)
  # The level after a line end is scaled too, so that the line is not longer.
  assert edits.crossing(-0.99 + 0.025 * steps, 0) == pytest.approx(39.6)
  assert edits.crossing(0.8 * (-0.99 + 0.025 * steps), 0) == pytest.approx(39.6)
  assert np.isnan(edits.crossing(0.025 * steps, 2))


def trace_of(ids, after):
  """Return the trace of a unit whose gates are not known."""
  empty = np.zeros(len(ids))
  return accounts.Trace(ids, np.append(0, after[:-1]), after, empty, empty, empty, False)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.long)])
def test_units_of_random_networks_are_not_explained(cell, text):
  symbols, ids = planted.ids(text[:4000])
  model = planted.model(len(symbols), cell=cell)
  parts = list(score.record(model, jax.jit(model.init)(jax.random.key(1)), ids))
  states = np.concatenate([each["layer_0"][model.states[-1]] for each in parts]).astype(float)
  spans = inference.halve([(0, len(ids))])
  halves = [inference.mask(half, len(ids)) for half in spans[:2]]
  for after in states.T[:2]:
    trace = trace_of(ids, after)
    account = accounts.select(trace, halves[0], len(symbols))
    r2 = accounts.r2(account.simulate(ids), after, halves[1])
    verdict = accounts.judge(account, r2, trace, halves[0])
    assert verdict.kind is None and ("R2" in verdict.reason or "forgets" in verdict.reason)


def test_a_constant_unit_is_not_explained():
  ids = np.arange(2000) % 7
  inside, constant = np.arange(2000) < 1000, np.full(2000, 0.5)
  trace = trace_of(ids, constant)
  account = accounts.select(trace, inside, 7)
  assert account.events == () and accounts.r2(account.simulate(ids), constant, ~inside) == 0


def test_lines_are_written_at_the_log_odds_of_their_ends():
  """A line end sets the state to 0, and another character adds 1; lines have 1 to 10 characters."""
  account = accounts.Account((0,), np.array([0.0, 1, 1]), np.array([0.0, 1, 1]), (1, 1), 0, 99)
  hazard = 1 / np.arange(10, 0, -1)  # of a uniform length
  lines = accounts.write(
    [account],
    lambda states, ids: np.where(ids, special.logit(hazard[states.astype(int) - 1]), -99),
    np.arange(3000) % 3,
    0,
    seed=0,
  )
  assert lines.length == pytest.approx(5.5, rel=0.01)
  np.testing.assert_array_equal(lines.means, [np.arange(accounts.LEVELS + 1)])
  endless = accounts.write(
    [account], lambda *_: np.full(accounts.STREAMS, -99.0), np.arange(9) % 3, 0, 0
  )
  assert np.isnan(endless.length)


def test_the_log_odds_of_line_ends_are_those_of_a_text():
  ids, states = np.arange(4000) % 2, np.repeat(np.arange(4.0), 1000)
  p = special.expit(-3 + states + 2 * ids)
  ends = accounts.LineEnds.fit(states, ids, p, 2)
  np.testing.assert_allclose(special.expit(ends(states, ids)), p, atol=0.01)


@pytest.fixture
def measure(monkeypatch):
  """Return a function that measures lines in samples: lengths of lines of each sample."""

  def ids(lengths):
    return np.concatenate([[], *([1] * length + [0] for length in lengths)])

  def measure(plain, edited):
    samples = iter([[ids(lengths) for lengths in each] for each in (plain, edited)])
    monkeypatch.setattr(ablation, "sample_ids", lambda *arguments: {"": next(samples)})
    monkeypatch.setattr(ablation, "prompt", lambda text: None)
    monkeypatch.setattr(edits, "SAMPLES", len(plain))
    run = types.SimpleNamespace(model=None, params=None, tokenizer=None)
    return edits._measure(run, None, None, 0, 0, lambda done, total: None)

  return measure


def test_the_interval_of_the_ratio_contains_the_ratio(measure):
  measured = measure([[10, 10]] * 4, [[20]] * 4)
  assert measured == {"plain": 10, "edited": 20, "ratio": 2, "low": 2, "high": 2}


def test_samples_with_the_same_random_numbers_are_resampled_together(measure):
  """The lengths differ between samples, but each ratio is 2."""
  measured = measure([[n] for n in (2, 5, 9, 20)], [[2 * n] for n in (2, 5, 9, 20)])
  assert (measured["ratio"], measured["low"], measured["high"]) == (2, 2, 2)


def test_an_edited_network_may_end_few_or_no_lines(measure):
  assert measure([[1]] * 4, [[]] * 4) == {
    **{"plain": 1, "edited": None, "ratio": None},
    **{"low": None, "high": None},
  }
  # A resample without complete lines has no ratio. There are many of them, so no interval.
  assert measure([[1]] * 4, [[2], [], [], []]) == {
    **{"plain": 1, "edited": 2, "ratio": 2},
    **{"low": None, "high": None},
  }


def test_line_lengths_are_those_of_complete_lines_that_are_not_blank():
  ids = np.array([1, 2, 0, 0, 3, 0, 1, 1])
  assert edits.line_lengths(ids, 0).tolist() == [2, 1]
  assert edits.line_lengths(ids[:2], 0).tolist() == []


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("foo", "must be LAYER:UNIT"),
    ("1:", "must be LAYER:UNIT"),
    ("9:1", "no layer 9: the last layer is 1"),
    ("1:12", "no unit 12: the last unit is 11"),
    ("1:x3", "no quantity x: use 1:3"),
    ("1:i3", "1:i3 is a gate: use 1:3, which explains the state c"),
  ],
)
def test_an_invalid_unit_is_an_error(argument, message):
  run = run_of(*small_models.make("lstm"), [])
  with pytest.raises(errors.UserError, match=message):
    explanation.parse(argument, run)
  assert explanation.parse("1:c3", run) == explanation.parse(" 1:3", run) == (1, 3)


@pytest.mark.parametrize("cell", ["rnn", "transformer"])
def test_other_cells_are_an_error(cell):
  run = types.SimpleNamespace(
    path="runs/a", config=types.SimpleNamespace(model=types.SimpleNamespace(cell=cell))
  )
  with pytest.raises(
    errors.UserError, match=f"runs/a has the cell {cell}: leave it out to study all"
  ):
    explanation.parse("0:1", run)


def test_a_network_that_has_diverged_is_an_error():
  model, params = small_models.make("lstm")
  params = jax.tree.map(np.array, params)
  params["layer_1"]["W_xh"][0, 0] = np.nan
  run = run_of(model, params, ["\n", *"abcdef"])
  with pytest.raises(errors.UserError, match="not finite at step 1: use an earlier step"):
    gates.record(run, small_models.ids(20), 1, 5, lambda done, total: None)
