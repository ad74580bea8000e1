"""Mixtures: the mean of the distributions, the carry, and gradients."""

import jax
import numpy as np
import pytest
import small_models

from charrnn.models import layers, mixture

PARTS = ("lstm", "transformer", "ngram")


def mix(*names, temperature=1.0):
  made = [small_models.make(name) for name in names]
  parts = mixture.Mixture([model for model, _ in made], temperature)
  return parts, tuple(params for _, params in made)


def test_the_distribution_is_the_mean_of_those_of_the_parts():
  model, params = mix(*PARTS)
  x = small_models.ids(6, 4)
  each = [jax.nn.softmax(small_models.run(*small_models.make(name), x)[0]) for name in PARTS]
  logits, _, recorded = small_models.run(model, params, x)
  np.testing.assert_allclose(np.exp(logits), np.mean(each, axis=0), atol=1e-5)
  assert recorded is None and not model.has_gradient
  with pytest.raises(ValueError, match="no units to clamp"):
    model.apply(params, x, None, clamp={"layer_0": {}})


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_divides_the_logits_of_each_part(temperature):
  model, params = mix("lstm", "gru", temperature=temperature)
  x = small_models.ids(6, 4)
  each = [
    jax.nn.softmax(small_models.run(*small_models.make(name), x)[0] / temperature)
    for name in ("lstm", "gru")
  ]
  logits = small_models.run(model, params, x)[0]
  np.testing.assert_allclose(np.exp(logits), np.mean(each, axis=0), atol=1e-5)


def test_the_result_does_not_depend_on_how_a_text_is_cut_into_windows():
  model, params = mix(*PARTS)
  x = small_models.ids(7, 4)
  whole = small_models.run(model, params, x)[0]
  first, carry, _ = small_models.run(model, params, x[:3], model.initial_carry(4))
  second = small_models.run(model, model.prepare(params), x[3:], carry)[0]
  np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-5)


def test_all_parts_have_gradients():
  model, params = mix("lstm", "transformer")
  x, y = small_models.ids(2, 6, 4)

  def loss(params):
    return layers.cross_entropy(model.apply(params, x, None)[0], y).mean()

  grads = jax.jit(jax.grad(loss))(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
