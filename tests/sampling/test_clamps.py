"""Clamped units keep their values, and all other values follow the equations."""

import jax
import numpy as np
import pytest
import tiny

from charrnn import errors
from charrnn.sampling import clamps, sampler


@pytest.mark.parametrize(
  ("argument", "expected"),
  [
    ("1:37=2.5", (1, 37, 2.5, "")),
    ("0:h3=-1e-2", (0, 3, -0.01, "h")),
    (" 2:c0 = 0", (2, 0, 0.0, "c")),
  ],
)
def test_parse(argument, expected):
  assert clamps.parse(argument) == expected


def test_hold_parses_to_nan():
  assert np.isnan(clamps.parse("1:2=hold").value)


@pytest.mark.parametrize(
  "argument", ["", "1:37", "1:37=", "1:37=nan", "1:37=inf", "a:1=2", "1:hc3=1", "-1:3=2", "1=3"]
)
def test_invalid_clamp_is_an_error(argument):
  with pytest.raises(errors.UserError, match="LAYER:UNIT=VALUE"):
    clamps.parse(argument)


@pytest.mark.parametrize(
  ("argument", "message"),
  [("2:0=1", "no layer 2: the last layer is 1"), ("1:8=1", "no unit 8: the last unit is 7"),
   ("1:f3=1", "f cannot be clamped"), ("0:x1=1", "x cannot be clamped")],
)  # fmt: skip
def test_missing_unit_is_an_error(argument, message):
  with pytest.raises(errors.UserError, match=message):
    clamps.arrays([[clamps.parse(argument)]], tiny.model())


def mask_and_values(unit, value, hidden=8):
  mask = np.arange(hidden) == unit
  return mask, np.full(hidden, value, np.float32)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_clamped_unit_has_its_value_and_others_follow_the_equations(cell, compute_dtype):
  model = tiny.model(cell=cell, compute_dtype=compute_dtype)
  params = model.init(jax.random.key(0))
  ids = tiny.ids(40)[:, None].astype(np.int32)
  field = model.states[-1]
  clamp = {"layer_0": {field: mask_and_values(3, 0.7)}}
  logits, carry, out = model.apply(params, ids, model.initial_carry(1), record=True, clamp=clamp)
  free, _, free_out = model.apply(params, ids, model.initial_carry(1), record=True)
  # Processing the ids in two parts gives the same logits, since the clamp applies at every step.
  half, carried, _ = model.apply(params, ids[:15], model.initial_carry(1), clamp=clamp)
  rest, _, _ = model.apply(params, ids[15:], carried, clamp=clamp)
  np.testing.assert_allclose(np.concatenate([half, rest]), logits, atol=1e-5)
  clamped = np.asarray(out["layer_0"][field])[:, 0]
  np.testing.assert_array_equal(clamped[:, 3], np.float32(0.7))
  np.testing.assert_array_equal(np.asarray(carry[0]._asdict()[field])[0, 3], np.float32(0.7))
  if cell == "lstm":
    h = np.asarray(out["layer_0"]["o"])[:, 0, 3] * np.tanh(0.7)
    np.testing.assert_allclose(np.asarray(out["layer_0"]["h"])[:, 0, 3], h, rtol=1e-5)
  # In the first step, the clamp does not affect the other units of its layer yet.
  others = np.delete(np.arange(8), 3)
  np.testing.assert_array_equal(
    clamped[0, others], np.asarray(free_out["layer_0"][field])[0, 0, others]
  )
  assert np.abs(np.asarray(logits) - np.asarray(free))[0].max() > 0


def test_hold_freezes_the_unit():
  model = tiny.model()
  params = model.init(jax.random.key(0))
  ids = tiny.ids(60)[:, None].astype(np.int32)
  _, carry, _ = model.apply(params, ids[:30], model.initial_carry(1))
  clamp = {"layer_1": {"c": mask_and_values(5, clamps.HOLD)}}
  _, after, out = model.apply(params, ids[30:], carry, record=True, clamp=clamp)
  np.testing.assert_array_equal(
    np.asarray(out["layer_1"]["c"])[:, 0, 5], np.asarray(carry[1].c)[0, 5]
  )
  assert float(after[1].c[0, 4]) != float(carry[1].c[0, 4])


def write(model, params, **options):
  blocks = sampler.draw(
    model, params, [1, 2, 3], length=70, seed=3, settings=sampler.Settings(), **options
  )
  return np.concatenate([block.ids_BxN for block in blocks], axis=1)


def test_rows_with_the_same_number_differ_only_by_their_clamps():
  model = tiny.model()
  params = model.init(jax.random.key(0))
  free = write(model, params, num=2)
  rows = [[], [], [clamps.Clamp(0, 3, 5.0)]]
  result = write(model, params, num=3, rows=[0, 1, 1], clamp=clamps.arrays(rows, model))
  np.testing.assert_array_equal(result[:2], free)
  assert (result[2] != result[1]).any()
  # The first token depends only on the prompt, where nothing is clamped.
  assert result[2, 0] == result[1, 0]
