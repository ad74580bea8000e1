"""The NumPy reference agrees with finite differences, and with PyTorch if it is installed."""

import numpy as np
import numpy_reference as reference
import pytest

T, B, V, H, LAYERS = 4, 3, 5, 3, 2
CELLS = ["rnn", "lstm", "gru"]
EMBEDDINGS = [0, 2]  # 0: one-hot input


def random_problem(cell, E):
  rng = np.random.default_rng(7)
  params = reference.random_params(cell, V, E, H, LAYERS, rng)
  carry = reference.random_carry(cell, B, H, LAYERS, rng)
  x_TxB, y_TxB = rng.integers(V, size=(2, T, B))
  return params, x_TxB, y_TxB, carry


def finite_differences(f, array, step=1e-3):
  """Return the gradient of f() with respect to the array, which is modified and restored.

  Central differences of fourth order: f' = (8 (f(+1) - f(-1)) - (f(+2) - f(-2))) / (12 step).
  """
  d_array = np.zeros_like(array)
  for index in np.ndindex(array.shape):
    value, at = array[index], {}
    for n in (-2, -1, 1, 2):
      array[index] = value + n * step
      at[n] = f()
    array[index] = value
    d_array[index] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
  return d_array


def assert_close(actual, expected, tolerance, name):
  """Compare arrays; the tolerance is relative to the norm of the expected array."""
  assert actual.shape == expected.shape, name
  error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
  assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("E", EMBEDDINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_match_finite_differences(cell, E):
  params, x_TxB, y_TxB, carry = random_problem(cell, E)

  def loss():
    return reference.loss_and_gradients(cell, params, x_TxB, y_TxB, carry)[0]

  _, _, _, grads, d_carry = reference.loss_and_gradients(cell, params, x_TxB, y_TxB, carry)
  assert grads.keys() == params.keys()
  groups = [(name, params[name], grads[name]) for name in params]
  groups += [(f"carry_{k}", carry[k], d_carry[k]) for k in range(LAYERS)]
  for name, leaves, d_leaves in groups:
    assert d_leaves.keys() == leaves.keys(), name
    for leaf, array in leaves.items():
      assert_close(d_leaves[leaf], finite_differences(loss, array), 1e-7, f"{name}/{leaf}")


@pytest.mark.parametrize("cell", CELLS)
def test_final_carry_continues_the_sequence(cell):
  params, x_TxB, y_TxB, carry = random_problem(cell, 2)
  whole, logits, final, _, _ = reference.loss_and_gradients(cell, params, x_TxB, y_TxB, carry)
  first, logits_1, middle, _, _ = reference.loss_and_gradients(
    cell, params, x_TxB[:1], y_TxB[:1], carry
  )
  second, logits_2, end, _, _ = reference.loss_and_gradients(
    cell, params, x_TxB[1:], y_TxB[1:], middle
  )
  assert np.isclose(whole, (first + (T - 1) * second) / T, rtol=1e-12)
  assert_close(np.concatenate([logits_1, logits_2]), logits, 1e-12, "logits")
  for k in range(LAYERS):
    for key in final[k]:
      assert_close(end[k][key], final[k][key], 1e-12, f"carry_{k}/{key}")


def test_zero_output_weights_give_the_loss_of_a_uniform_distribution():
  params, x_TxB, y_TxB, carry = random_problem("rnn", 0)
  params["head"] = {"W_hy": np.zeros((H, V)), "b_y": np.zeros(V)}
  loss = reference.loss_and_gradients("rnn", params, x_TxB, y_TxB, carry)[0]
  assert np.isclose(loss, np.log(V), rtol=1e-12)


@pytest.mark.parametrize("E", EMBEDDINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_match_pytorch(cell, E):
  torch = pytest.importorskip("torch")
  params, x_TxB, y_TxB, carry = random_problem(cell, E)
  ours = reference.loss_and_gradients(cell, params, x_TxB, y_TxB, carry)
  loss, logits, final, grads, d_carry = ours

  def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)

  # PyTorch transposes the weights and has two biases: bias_ih is b_h, and bias_hh is 0 (GRU: b_hn).
  module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
  network = module(E or V, H, num_layers=LAYERS).double()
  with torch.no_grad():
    for k in range(LAYERS):
      p = params[f"layer_{k}"]
      bias_hh = np.zeros_like(p["b_h"])
      if cell == "gru":
        bias_hh[2 * H :] = p["b_hn"]
      getattr(network, f"weight_ih_l{k}").copy_(torch.tensor(p["W_xh"].T.copy()))
      getattr(network, f"weight_hh_l{k}").copy_(torch.tensor(p["W_hh"].T.copy()))
      getattr(network, f"bias_ih_l{k}").copy_(torch.tensor(p["b_h"]))
      getattr(network, f"bias_hh_l{k}").copy_(torch.tensor(bias_hh))
  W_e = leaf(params["embed"]["W_e"] if E else np.eye(V))
  W_hy, b_y = leaf(params["head"]["W_hy"]), leaf(params["head"]["b_y"])
  states = {key: leaf(np.stack([c[key] for c in carry])) for key in carry[0]}  # [LAYERS, B, H]

  state = (states["h"], states["c"]) if cell == "lstm" else states["h"]
  hs, end = network(W_e[torch.tensor(x_TxB)], state)
  torch_logits = hs @ W_hy + b_y
  torch_loss = torch.nn.functional.cross_entropy(
    torch_logits.reshape(-1, V), torch.tensor(y_TxB).reshape(-1)
  )
  torch_loss.backward()

  pairs = {
    "loss": (loss, torch_loss),
    "logits": (logits, torch_logits),
    "d_W_hy": (grads["head"]["W_hy"], W_hy.grad),
    "d_b_y": (grads["head"]["b_y"], b_y.grad),
  }
  if E:
    pairs["d_W_e"] = (grads["embed"]["W_e"], W_e.grad)
  for k in range(LAYERS):
    g = grads[f"layer_{k}"]
    pairs[f"d_W_xh_{k}"] = (g["W_xh"], getattr(network, f"weight_ih_l{k}").grad.T)
    pairs[f"d_W_hh_{k}"] = (g["W_hh"], getattr(network, f"weight_hh_l{k}").grad.T)
    pairs[f"d_b_h_{k}"] = (g["b_h"], getattr(network, f"bias_ih_l{k}").grad)
    if cell == "gru":
      pairs[f"d_b_hn_{k}"] = (g["b_hn"], getattr(network, f"bias_hh_l{k}").grad[2 * H :])
  for key, end_key in zip(states, end if cell == "lstm" else (end,)):
    pairs[f"final_{key}"] = (np.stack([c[key] for c in final]), end_key)
    pairs[f"d_{key}"] = (np.stack([c[key] for c in d_carry]), states[key].grad)
  for name, (actual, expected) in pairs.items():
    assert_close(np.asarray(actual), expected.detach().numpy(), 1e-12, name)
