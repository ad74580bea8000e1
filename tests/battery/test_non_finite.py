"""Trial 7: NaN and infinity in the loss, the gradients, the carry, the parameters and the moments.

The value enters at one step, on one of eight devices where that is possible. Afterwards every
checkpoint is finite, and the run has finished or has diverged. With --rollback it finishes.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from charrnn import errors
from charrnn.runs import checkpoints
from charrnn.training import loop

pytestmark = pytest.mark.trial(7)
TRIGGER = tiny.V - 1  # The value enters at the window that contains this id.
STEPS = 24
IN_STEP = ("loss", "gradient", "carry")
IN_STATE = ("params", "mu", "nu", "stored carry")
CASES = [
  pytest.param(
    *case,
    marks=()
    if case[1:] == (math.nan, 6, False) and case[0] in ("loss", "carry", "params", "nu")
    else pytest.mark.long,
  )
  for case in itertools.product(
    (*IN_STEP, *IN_STATE), (math.nan, math.inf, -math.inf), (0, 6, 15), (False, True)
  )
]


@jax.custom_vjp
def spoil_gradient(x, value):
  return x


spoil_gradient.defvjp(lambda x, value: (x, value), lambda value, dx: (dx + value, None))


class Spoiled:
  """A model in which a window with the id TRIGGER adds a value to the loss, gradient or carry."""

  def __init__(self, model, where, value):
    self._model, self._where, self._value = model, where, value

  def __getattr__(self, name):
    return getattr(self._model, name)

  def apply(self, params, ids_TxB, carry, **options):
    logits, carry, recorded = self._model.apply(params, ids_TxB, carry, **options)
    value = jnp.where((ids_TxB == TRIGGER).any(), self._value, 0.0)
    if self._where == "loss":
      logits = logits + value
    elif self._where == "gradient":
      logits = spoil_gradient(logits, value)
    elif self._where == "carry":
      carry = jax.tree.map(lambda leaf: leaf + value, carry)
    return logits, carry, recorded


def spoil_state(state, where, value):
  """Return a copy of a state on the devices with a value in one of its arrays."""
  state = jax.tree.map(np.array, state)
  if where == "params":
    array = state.params["layer_0"]["W_hh"]
  elif where == "stored carry":
    array = state.carry[0].c
  else:
    array = optax.tree_utils.tree_get(state.opt_state, where)["head"]["W_hy"]
  array.flat[3] = value
  return state


@pytest.mark.parametrize(("where", "value", "when", "rollback"), CASES)
def test_a_value_that_is_not_finite_is_never_saved(
  tmp_path, monkeypatch, where, value, when, rollback
):
  original = tiny.model
  monkeypatch.setattr(tiny, "model", lambda **fields: Spoiled(original(**fields), where, value))
  c = tiny.config(max_steps=STEPS, epochs=100.0, eval_every=8, checkpoint_every=1, keep=STEPS)
  trainer = tiny.trainer(tmp_path, c, rolls_back=rollback)
  window_at, update, is_spoiled = trainer.windows.window_at, trainer._update, False

  def spoiled_window_at(step, rows):
    x, y = (np.minimum(ids, TRIGGER - 1) for ids in window_at(step, rows))
    if step == when and where in IN_STEP:
      x[2, 5] = TRIGGER
    return x, y

  def spoiled_update(step, state, batch):
    nonlocal is_spoiled
    if step == when and where in IN_STATE and not is_spoiled:
      is_spoiled = True
      arrays = spoil_state(trainer.train_step.get(state), where, value)
      state = trainer.train_step.put(arrays)
    return update(step, state, batch)

  trainer.windows.window_at, trainer._update = spoiled_window_at, spoiled_update
  try:
    state, _ = trainer.train(trainer.restore())
  except errors.DivergedError as error:
    assert where in IN_STATE and not rollback
    assert "finite" in str(error)
  else:
    assert state.step == STEPS
    assert where in IN_STEP or rollback
    assert trainer.loop_state.skipped == (1 if where in IN_STEP else 0)
    assert trainer.loop_state.rollbacks == (0 if where in IN_STEP else 1)
  folder = tmp_path / "checkpoints"
  for step in checkpoints.steps(folder):
    arrays, _ = checkpoints.read(folder, step)
    assert not loop._non_finite(arrays)
