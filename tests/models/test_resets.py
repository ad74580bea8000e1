"""Models start anew at `reset_id`: a document among others is read as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charrnn import models
from charrnn.models import mixture

V, RESET, T, B = 7, 6, 24, 3
KINDS = {
  "rnn": {"cell": "rnn"},
  "gru": {"cell": "gru"},
  "lstm": {"cell": "lstm"},
  "bfloat16": {"cell": "lstm", "compute_dtype": "bfloat16"},
  "embedding": {"cell": "gru", "embed": 4, "residual": True},
  "rotary": {"cell": "transformer", "heads": 2, "context": 6},
  "learned": {"cell": "transformer", "heads": 2, "context": 6, "positions": "learned"},
}
LONG = ("rnn", "bfloat16", "learned")
CASES = [pytest.param(kind, marks=pytest.mark.long if kind in LONG else ()) for kind in KINDS]
RECURRENT = [case for case in CASES if KINDS[case.values[0]]["cell"] != "transformer"]


def _make(kind, reset_id=RESET):
  return models.make(V, {"layers": 2, "hidden": 8} | KINDS[kind], reset_id=reset_id)


def _ids():
  """Return ids of three rows with resets at the start, in the middle, at the end and adjacent."""
  ids_TxB = np.random.default_rng(0).integers(0, RESET, (T, B)).astype(np.int32)
  for step, row in ((0, 1), (5, 0), (9, 0), (10, 0), (T - 1, 2), (12, 2)):
    ids_TxB[step, row] = RESET
  return ids_TxB


def _run(model, params, ids_TxB, cuts):
  """Return the logits of windows that begin at the cuts."""
  carry, outputs = model.initial_carry(ids_TxB.shape[1]), []
  apply = jax.jit(model.apply)
  for window in np.split(ids_TxB, cuts):
    logits, carry, _ = apply(params, window, carry)
    outputs.append(logits)
  return np.concatenate(outputs)


def _alone(model, params, ids_T):
  """Return the logits of a row whose documents are read separately, each as one window."""
  parts = np.split(ids_T, [step for step in np.flatnonzero(ids_T == RESET) if step])
  return np.concatenate([_run(model, params, part[:, None], [])[:, 0] for part in parts])


@pytest.mark.parametrize("kind", CASES)
def test_a_document_among_others_is_read_as_if_it_were_alone(kind):
  model, plain, ids_TxB = _make(kind), _make(kind, None), _ids()
  params = model.init(jax.random.key(0))
  expected = np.stack([_alone(plain, params, row) for row in ids_TxB.T], axis=1)
  tolerance = 0.05 if kind == "bfloat16" else 1e-5
  for cuts in ([], [5, 13], [1, 2, 23]):
    np.testing.assert_allclose(_run(model, params, ids_TxB, cuts), expected, atol=tolerance)


@pytest.mark.parametrize("kind", CASES)
def test_nothing_passes_from_a_document_to_the_next(kind):
  """Neither an output nor a gradient depends on the documents before."""
  model = _make(kind)
  params, ids_TxB = model.init(jax.random.key(0)), _ids()

  def loss(params, carry, ids_TxB, first):
    return jnp.sin(model.apply(params, ids_TxB, carry)[0][first:, 0]).sum()

  changed = ids_TxB.copy()
  changed[:5, 0] = (changed[:5, 0] + 1) % RESET
  carry = model.initial_carry(B)
  full = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), carry)
  grad = jax.jit(jax.value_and_grad(loss), static_argnums=3)
  expected = grad(params, carry, ids_TxB, 5)
  for other in (grad(params, carry, changed, 5), grad(params, full, ids_TxB, 5)):
    jax.tree.map(np.testing.assert_array_equal, other, expected)
  before = grad(params, carry, ids_TxB, 4), grad(params, carry, changed, 4)
  assert before[0][0] != before[1][0]


@pytest.mark.parametrize("kind", RECURRENT)
def test_gradients_equal_those_of_automatic_differentiation(kind):
  model = _make(kind)
  params, ids_TxB = model.init(jax.random.key(0)), _ids()

  def loss(params, record):
    return jnp.sin(model.apply(params, ids_TxB, model.initial_carry(B), record=record)[0]).sum()

  # Recording selects the scan, which JAX differentiates.
  ours, expected = (jax.grad(loss)(params, record) for record in (False, True))
  tolerance = 0.3 if kind == "bfloat16" else 1e-4
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), ours, expected)


def test_a_mixture_starts_anew_too():
  parts = [_make("lstm"), _make("rotary")]
  model, ids_TxB = mixture.Mixture(parts), _ids()
  params = model.init(jax.random.key(0))
  assert model.reset_id == RESET
  whole, last = (_run(model, params, ids, []) for ids in (ids_TxB[:, :1], ids_TxB[10:, :1]))
  np.testing.assert_allclose(whole[10:], last, atol=1e-5)
