"""The transformer agrees with an independent PyTorch implementation, and has the right units."""

import jax
import numpy as np
import pytest
import small_layers
import small_models

from charrnn import errors, models
from charrnn.models import layers
from charrnn.sampling import clamps, sampler

V, L, D, A, C = 7, 2, 12, 3, 5


def torch_loss(torch, params, ids_NxB, first):
  """Return the loss and logits of the tokens from `first` on, and the gradients of the loss.

  The whole text is read in one pass with banded attention, in float64. Keys and values of the
  tokens before `first` are constants.
  """
  F = torch.nn.functional
  leaves = jax.tree.map(
    lambda x: torch.tensor(np.asarray(x, np.float64), requires_grad=True), params
  )
  x_BxN, y_BxN = torch.tensor(ids_NxB[:-1].T), torch.tensor(ids_NxB[1:].T)
  B, N = x_BxN.shape
  positions = torch.arange(N)
  distance = positions[:, None] - positions[None, :]
  hidden = (distance < 0) | (distance >= C)

  def norm(x, p):
    return F.layer_norm(x, (D,), p["scale"], p["bias"], 1e-5)

  def turn(x_BxAxNxF):
    """Rotate complex numbers whose real parts are the first half of the features."""
    real, imaginary = x_BxAxNxF.chunk(2, -1)
    frequency = 10_000.0 ** (-torch.arange(real.shape[-1], dtype=torch.float64) / real.shape[-1])
    angle = positions[:, None] * frequency
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)

  def heads(x_BxNxD):
    return x_BxNxD.reshape(B, N, A, D // A).transpose(1, 2)

  def constant_before(x_BxAxNxF):
    return torch.cat([x_BxAxNxF[:, :, :first].detach(), x_BxAxNxF[:, :, first:]], 2)

  embed = leaves["embed"]
  x = F.embedding(x_BxN, embed["W_e"])
  if "W_p" in embed:
    x = x + F.embedding(positions % C, embed["W_p"])
  for n in range(L):
    p = leaves[f"layer_{n}"]
    q, k, v = map(heads, (norm(x, p["norm_1"]) @ p["W_qkv"] + p["b_qkv"]).chunk(3, -1))
    k, v = constant_before(k), constant_before(v)
    if "W_p" not in embed:
      q, k = turn(q), turn(k)
    scores = (q @ k.transpose(-1, -2) / (D // A) ** 0.5).masked_fill(hidden, -torch.inf)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, D)
    x = x + y @ p["W_o"] + p["b_o"]
    m = F.gelu(norm(x, p["norm_2"]) @ p["W_up"] + p["b_up"], approximate="tanh")
    x = x + m @ p["W_down"] + p["b_down"]
  W_hy = leaves["head"]["W_hy"] if "head" in leaves else embed["W_e"].T
  logits = (norm(x, leaves["norm"]) @ W_hy)[:, first:]
  loss = F.cross_entropy(logits.reshape(-1, V), y_BxN[:, first:].reshape(-1))
  loss.backward()
  gradients = jax.tree.map(lambda leaf: leaf.grad.numpy(), leaves)
  return loss.item(), logits.detach().numpy().swapaxes(0, 1), gradients


@pytest.mark.parametrize("name", ["transformer", "learned"])
@pytest.mark.parametrize(
  ("first", "length", "dtype", "tolerance"),
  [
    (0, C, "float32", 1e-5),  # a sequence of nanoGPT
    (0, 9, "float32", 1e-5),  # a sequence that is longer than the context
    (3, 1, "float32", 1e-5),  # a step after a part of the context
    (11, 8, "float32", 1e-5),  # a window after more than the context
    (11, 8, "bfloat16", 0.1),
  ],
)
def test_agrees_with_pytorch_in_values_and_gradients(name, first, length, dtype, tolerance):
  torch = pytest.importorskip("torch")
  model, params = small_models.make(name, compute_dtype=dtype)
  ids = small_models.ids(first + length + 1, 3)
  expected = torch_loss(torch, params, ids, first)

  def loss(params, carry):
    logits, _, _ = model.apply(params, ids[first:-1], carry)
    return layers.cross_entropy(logits, ids[first + 1 :]).mean(), logits

  carry = small_models.run(model, params, ids[:first])[1] if first else None
  (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, carry)
  small_layers.assert_close((value, logits, grads), expected, tolerance)


def test_initialization():
  model = models.make(50, small_models.GPT | {"hidden": 96, "positions": "learned"})
  params = jax.jit(model.init)(jax.random.key(0))
  for path, leaf in jax.tree.leaves_with_path(params):
    name = path[-1].key
    if leaf.ndim == 1:
      np.testing.assert_array_equal(leaf, float(name == "scale"))
    else:
      # The products that are added to the residual stream, twice in each of 2 layers.
      deviation = 0.01 if name in ("W_o", "W_down") else 0.02
      assert abs(leaf.std() / deviation - 1) < 0.1 and abs(leaf.mean()) < deviation / 5


def test_the_number_of_tokens_read_stays_small():
  model, params = small_models.make("learned")
  carry, read = model.initial_carry(1), []
  for _ in range(3 * C):
    _, carry, _ = small_models.run(model, params, small_models.ids(1, 1), carry)
    read.append(int(carry.read[0]))
  assert read == [*range(1, 2 * C), *range(C, 2 * C), C]
  _, carry, _ = small_models.run(model, params, small_models.ids(30 * C + 3, 1), carry)
  assert carry.read.tolist() == [C + 3]


def test_sampled_tokens_agree_with_a_pass_over_the_whole_text():
  model, params = small_models.make("transformer")
  prompt = small_models.ids(4)
  options = {"length": 40, "num": 3, "seed": 0, "settings": sampler.Settings(0.9), "block": 16}
  blocks = list(sampler.draw(model, params, prompt, **options))
  ids_BxN, log_p_BxN = (np.concatenate(arrays, 1) for arrays in list(zip(*blocks))[:2])
  text_BxN = np.concatenate([np.tile(prompt, (3, 1)), ids_BxN], 1)
  logits_NxBxV, _, _ = small_models.run(model, params, text_BxN[:, :-1].T)
  nats_NxB = layers.cross_entropy(logits_NxBxV, text_BxN[:, 1:].T)
  np.testing.assert_allclose(log_p_BxN, -nats_NxB.T[:, 3:], atol=1e-4)


@pytest.mark.parametrize("quantity", ["h", "m"])
def test_a_clamped_unit_has_its_value_and_affects_only_its_row_and_the_outputs(quantity):
  model, params = small_models.make("transformer")
  x = small_models.ids(9, 2)
  clamp = clamps.arrays([[], [clamps.parse(f"0:{quantity}5=2.5")]], model)  # in the second row
  free, clamped = (
    small_models.run(model, params, x, record=True, clamp=each) for each in (None, clamp)
  )
  units = np.asarray(clamped[2]["layer_0"][quantity])
  np.testing.assert_array_equal(units[:, 1, 5], np.float32(2.5))
  expected = np.asarray(free[2]["layer_0"][quantity])
  others = (np.delete(array, 5, -1) for array in (units, expected))
  np.testing.assert_allclose(*others, atol=1e-6)
  differs = np.abs(free[0] - clamped[0]).max(-1) > 1e-5
  assert not differs[:, 0].any() and differs[:, 1].all()


def test_clamps_of_a_transformer():
  model, _ = small_models.make("transformer")
  ((name, ((mask, _),)),) = (
    (name, tuple(units.values()))
    for name, units in clamps.arrays([[clamps.parse("1:47=1")]], model).items()
  )
  assert name == "layer_1" and mask.shape == (1, 4 * D) and mask[0, 47]  # m, unless h is named
  for argument, problem in [
    ("1:3=hold", "the model has no state that could be held; use a number"),
    ("1:h12=1", "no unit 12: the last unit is 11"),
    ("1:c3=1", "c cannot be clamped: use one of h, m"),
  ]:
    with pytest.raises(errors.UserError, match=f"^--clamp 1:.*: {problem}$"):
      clamps.arrays([[clamps.parse(argument)]], model)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"heads": 5}, "heads=5: --config.model.hidden=12 must be divisible by 10"),
    ({"heads": 4}, "heads=4: .*=12 must be divisible by 8, so that each head has an even number"),
    ({"positions": "none"}, "positions=none: use one of rotary, learned$"),
  ],
)
def test_invalid_fields_are_rejected(fields, message):
  with pytest.raises(errors.UserError, match=rf"^--config\.model\.{message}"):
    models.make(V, small_models.GPT | fields)
