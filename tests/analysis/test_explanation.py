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
from charrnn.analysis import ablation, accounts, explanation, inference, recording
from charrnn.evaluation import score

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
    path="planted", step=1, config=config, model=model, params=params, tokenizer=tokenizer
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
  document = recording.Text("planted", ids, ((0, len(ids)),), "prose", (text,))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(explanation, "READ", 1024)
    patch.setattr(explanation, "SAMPLES", 4)
    yield [
      explanation.explain(run, document, 0, unit, 0, lambda phase: lambda done, total: None)
      for unit in (planted.COLUMN, planted.QUOTES)
    ]


def test_a_counter_is_explained_exactly(explained):
  counter, _ = explained
  assert counter["kind"] == "counter" and counter["r2"]["confirmation"] > 0.99
  (event,) = counter["events"]
  assert (event["character"], event["kind"]) == ("\n", "reset")
  assert event["factor"] == pytest.approx(0, abs=1e-3)
  assert event["offset"] == pytest.approx(STEP, abs=1e-3)
  others = counter["others"]
  assert (others["factor"], others["offset"]) == pytest.approx((1, STEP), abs=1e-3)
  assert others["change"] == pytest.approx(STEP, abs=1e-3)
  assert counter["memory"] is None or counter["memory"] > 1000
  roles = {each["character"]: each["role"] for each in counter["characters"]}
  assert roles.pop("\n") == "resets" and set(roles.values()) == {"advances"}
  assert explanation.summary(counter).startswith("counter: '\\n' sets c to 0.01; each other")


def test_the_predicted_line_length_is_that_of_the_edited_network(explained):
  edit = explained[0]["edit"]
  assert edit["factor"] == pytest.approx(0.8, abs=1e-3)  # tanh is nearly linear here
  assert np.divide(*edit["added"]) == pytest.approx(1.25, abs=1e-6)
  predicted, measured = edit["predicted"], edit["measured"]
  assert measured["plain"] == WIDTH and measured["edited"] == 1.25 * WIDTH
  assert predicted["plain"] == pytest.approx(WIDTH, abs=0.5)
  assert predicted["ratio"] == pytest.approx(measured["ratio"], rel=0.03)
  assert measured["low"] == measured["high"] == 1.25
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
  assert (event["character"], event["kind"]) == ('"', "toggle")
  assert event["levels"] == pytest.approx([1, 0], abs=1e-3)
  assert event["high_before"] == pytest.approx(1 - event["high_after"], abs=1e-9)
  assert quotes["others"]["factor"] == pytest.approx(1, abs=1e-3)
  assert {each["role"] for each in quotes["characters"] if each["character"] != '"'} == {"holds"}
  assert quotes["edit"] is None
  gates = {each["gate"]: each["sources"][0] for each in quotes["gates"]}
  assert gates["i"] == {"source": "character", "share": pytest.approx(1)}
  assert (gates["g"]["source"], gates["g"]["share"]) == (f"0:h{planted.QUOTES}", pytest.approx(1))


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
  ids, unit, scale = small_models.ids(20), 5, 0.6
  equations = explanation.EQUATIONS[model.network.cell]

  def trace():
    recorded = explanation.record(run, ids, layer, unit, lambda done, total: None)
    weights = explanation.Weights(run, layer, unit)
    terms = explanation.sources(weights, recorded, ids, equations.candidate)
    return weights, terms, explanation._trace(equations, recorded, ids, terms.pre)

  weights, terms, before = trace()
  np.testing.assert_allclose(before.edited(1), before.after, atol=1e-5)
  if name != "gru":  # The constant of a GRU's candidate depends on the reset gate.
    assert terms.shares()[0].sum() == pytest.approx(1)
  run.params = explanation.edit_weights(params, weights, equations, scale)
  after = trace()[2]
  # Later states differ, because other units read the edited one.
  assert after.after[0] == pytest.approx(before.edited(scale)[0], abs=1e-6)
  assert abs(after.after[0] - before.after[0]) > 1e-3


def trace_of(ids, after):
  """Return the trace of a unit whose gates are not known."""
  empty = np.zeros(len(ids))
  return accounts.Trace(ids, np.append(0, after[:-1]), after, empty, empty, empty, False)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_units_of_random_networks_are_not_explained(cell, text):
  symbols, ids = planted.ids(text[:4000])
  model = planted.model(len(symbols), cell=cell)
  parts = list(score.record(model, jax.jit(model.init)(jax.random.key(1)), ids))
  states = np.concatenate([each["layer_0"][model.states[-1]] for each in parts]).astype(float)
  spans = inference.halve([(0, len(ids))])
  halves = [explanation._mask(half, len(ids)) for half in spans[:2]]
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


def test_line_lengths_follow_from_log_odds():
  odds = np.full((1000, 3), special.logit(0.05))
  assert accounts.line_length(odds) == pytest.approx(20)
  assert np.isnan(accounts.line_length(odds[:50]))  # too many lines have not ended
  ids, states = np.arange(4000) % 2, np.repeat(np.arange(4.0), 1000)
  p = special.expit(-3 + states + 2 * ids)
  ends = accounts.LineEnds.fit(states, ids, p, 2)
  np.testing.assert_allclose(special.expit(ends(states, ids)), p, atol=0.01)


def test_the_interval_of_the_ratio_contains_the_ratio(monkeypatch):
  """Samples with known lines: 10 characters, and 20 with the edited network."""
  texts = iter([["x" * 10 + "\n"] * 4, ["x" * 20 + "\n"] * 4])
  monkeypatch.setattr(ablation, "sample", lambda *arguments: {"": next(texts)})
  monkeypatch.setattr(ablation, "prompt", lambda text: None)
  monkeypatch.setattr(explanation, "SAMPLES", 4)
  run = types.SimpleNamespace(model=None, params=None, tokenizer=None)
  measured = explanation._measure(run, None, None, 0, lambda done, total: None)
  assert measured == {"plain": 10, "edited": 20, "ratio": 2, "low": 2, "high": 2}


def test_an_edited_network_may_end_no_lines(monkeypatch):
  texts = iter([["x\n"] * 4, ["x" * 20] * 4])
  monkeypatch.setattr(ablation, "sample", lambda *arguments: {"": next(texts)})
  monkeypatch.setattr(ablation, "prompt", lambda text: None)
  monkeypatch.setattr(explanation, "SAMPLES", 4)
  run = types.SimpleNamespace(model=None, params=None, tokenizer=None)
  measured = explanation._measure(run, None, None, 0, lambda done, total: None)
  assert measured == {"plain": 1, "edited": None, "ratio": None, "low": None, "high": None}


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("foo", "must be LAYER:UNIT"),
    ("1:", "must be LAYER:UNIT"),
    ("9:1", "no layer 9: the last layer is 1"),
    ("1:12", "no unit 12: the last unit is 11"),
    ("1:x3", "no quantity x: use 1:3"),
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
  with pytest.raises(errors.UserError, match=f"an lstm or a gru, but runs/a has the cell {cell}"):
    explanation.parse("0:1", run)
