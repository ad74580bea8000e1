"""A reference implementation of the network in float64 NumPy, with a hand-written backward pass.

Shapes: T steps, B streams, V tokens, E embedding width, H units. Vectors are rows, so a product is
written x @ W. A name `d_a` is the gradient of the loss with respect to `a`. Inputs are explicit
one-hot vectors, so that the embedding (or the first W_xh) is an ordinary matrix product.

Sources: rnn https://karpathy.github.io/2015/05/21/rnn-effectiveness/;
lstm and gru as in cuDNN and PyTorch (torch.nn.LSTM, torch.nn.GRU).
"""

import numpy as np

N_GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def rnn_forward(p, x, carry):
  """Take one step; return the carry and the values that the backward pass needs.

  h = tanh(x W_xh + h_prev W_hh + b_h)
  """
  h_prev = carry["h"]
  h = np.tanh(x @ p["W_xh"] + h_prev @ p["W_hh"] + p["b_h"])
  return {"h": h}, (x, h_prev, h)


def rnn_backward(p, saved, d_carry):
  x, h_prev, h = saved
  d_a = d_carry["h"] * (1 - h**2)
  d_x, d_h_prev, d_p = affine_backward(p, x, h_prev, d_a, d_a)
  return d_x, {"h": d_h_prev}, d_p


def lstm_forward(p, x, carry):
  """Take one step; return the carry and the values that the backward pass needs.

  i, f, o = sigmoid(..), g = tanh(..);  c = f * c_prev + i * g;  h = o * tanh(c)
  """
  h_prev, c_prev = carry["h"], carry["c"]
  a = x @ p["W_xh"] + h_prev @ p["W_hh"] + p["b_h"]
  a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
  i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
  c = f * c_prev + i * g
  h = o * np.tanh(c)
  return {"h": h, "c": c}, (x, h_prev, c_prev, i, f, g, o, c)


def lstm_backward(p, saved, d_carry):
  x, h_prev, c_prev, i, f, g, o, c = saved
  d_h = d_carry["h"]
  d_c = d_carry["c"] + d_h * o * (1 - np.tanh(c) ** 2)
  d_a_i = d_c * g * i * (1 - i)
  d_a_f = d_c * c_prev * f * (1 - f)
  d_a_g = d_c * i * (1 - g**2)
  d_a_o = d_h * np.tanh(c) * o * (1 - o)
  d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)
  d_x, d_h_prev, d_p = affine_backward(p, x, h_prev, d_a, d_a)
  return d_x, {"h": d_h_prev, "c": d_c * f}, d_p


def gru_forward(p, x, carry):
  """Take one step; return the carry and the values that the backward pass needs.

  r, z = sigmoid(..);  n = tanh(x W_xn + b_n + r * m), m = h_prev W_hn + b_hn;
  h = (1 - z) * n + z * h_prev
  """
  h_prev = carry["h"]
  u_r, u_z, u_n = np.split(x @ p["W_xh"] + p["b_h"], 3, axis=-1)
  v_r, v_z, v_n = np.split(h_prev @ p["W_hh"], 3, axis=-1)
  r, z, m = sigmoid(u_r + v_r), sigmoid(u_z + v_z), v_n + p["b_hn"]
  n = np.tanh(u_n + r * m)
  h = (1 - z) * n + z * h_prev
  return {"h": h}, (x, h_prev, r, z, n, m)


def gru_backward(p, saved, d_carry):
  x, h_prev, r, z, n, m = saved
  d_h = d_carry["h"]
  d_u_z = d_h * (h_prev - n) * z * (1 - z)
  d_u_n = d_h * (1 - z) * (1 - n**2)
  d_m = d_u_n * r
  d_u_r = d_u_n * m * r * (1 - r)
  d_u = np.concatenate([d_u_r, d_u_z, d_u_n], axis=-1)
  d_v = np.concatenate([d_u_r, d_u_z, d_m], axis=-1)
  d_x, d_h_prev, d_p = affine_backward(p, x, h_prev, d_u, d_v)
  return d_x, {"h": d_h_prev + d_h * z}, d_p | {"b_hn": d_m.sum(0)}


def affine_backward(p, x, h_prev, d_u, d_v):
  """Return the gradients of u = x W_xh + b_h and v = h_prev W_hh: (d_x, d_h_prev, d_p)."""
  d_p = {"W_xh": x.T @ d_u, "W_hh": h_prev.T @ d_v, "b_h": d_u.sum(0)}
  return d_u @ p["W_xh"].T, d_v @ p["W_hh"].T, d_p


def sigmoid(a):
  return (1 + np.tanh(a / 2)) / 2  # equals 1 / (1 + exp(-a)), but does not overflow


FORWARD = {"rnn": rnn_forward, "lstm": lstm_forward, "gru": gru_forward}
BACKWARD = {"rnn": rnn_backward, "lstm": lstm_backward, "gru": gru_backward}


def layer_forward(cell, p, xs, carry):
  """Run a layer over all steps; return (h_TxBxH, the final carry, values for the backward pass)."""
  hs, saved = [], []
  for x in xs:
    carry, saved_t = FORWARD[cell](p, x, carry)
    hs.append(carry["h"])
    saved.append(saved_t)
  return np.stack(hs), carry, saved


def layer_backward(cell, p, saved, d_hs):
  """Run a layer backward through time; return (d_xs, the gradient of the first carry, d_p).

  The loss does not depend on the final carry, so d_carry starts at 0.
  """
  d_carry = {k: np.zeros_like(d_hs[0]) for k in (("h", "c") if cell == "lstm" else ("h",))}
  d_p = {k: np.zeros_like(v) for k, v in p.items()}
  d_xs = []
  for saved_t, d_h in zip(reversed(saved), reversed(d_hs)):
    d_x, d_carry, d_p_t = BACKWARD[cell](p, saved_t, d_carry | {"h": d_carry["h"] + d_h})
    d_p = {k: d_p[k] + d_p_t[k] for k in d_p}
    d_xs.append(d_x)
  return np.stack(d_xs[::-1]), d_carry, d_p


def cross_entropy(logits_TxBxV, y_TxB):
  """Return the mean loss in nats and its gradient, [T, B, V].

  loss = -mean log softmax(logits)[y];  d_logits = (softmax(logits) - onehot(y)) / TB
  """
  shifted = logits_TxBxV - logits_TxBxV.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  onehot_y = np.eye(log_p.shape[-1])[y_TxB]
  return -(onehot_y * log_p).sum() / y_TxB.size, (np.exp(log_p) - onehot_y) / y_TxB.size


def loss_and_gradients(cell, params, x_TxB, y_TxB, carry):
  """Return (loss, logits_TxBxV, final carry, gradients like params, gradient of the carry)."""
  params = {k: as_float64(v) for k, v in params.items()}
  layers = [params[f"layer_{k}"] for k in range(len(carry))]
  head = params["head"]

  onehot_x = np.eye(len(head["b_y"]))[np.asarray(x_TxB)]
  hs = onehot_x @ params["embed"]["W_e"] if "embed" in params else onehot_x
  final_carry, saved = [], []
  for p, carry_k in zip(layers, carry, strict=True):
    hs, final_k, saved_k = layer_forward(cell, p, hs, as_float64(carry_k))
    final_carry.append(final_k)
    saved.append(saved_k)
  logits_TxBxV = hs @ head["W_hy"] + head["b_y"]
  loss, d_y = cross_entropy(logits_TxBxV, np.asarray(y_TxB))

  d_head = {"W_hy": np.einsum("tbh,tbv->hv", hs, d_y), "b_y": d_y.sum((0, 1))}
  grads, d_carry = {"head": d_head}, []
  d_hs = d_y @ head["W_hy"].T
  for k in reversed(range(len(layers))):
    d_hs, d_carry_k, grads[f"layer_{k}"] = layer_backward(cell, layers[k], saved[k], d_hs)
    d_carry.insert(0, d_carry_k)
  if "embed" in params:
    grads["embed"] = {"W_e": np.einsum("tbv,tbe->ve", onehot_x, d_hs)}
  return loss, logits_TxBxV, tuple(final_carry), grads, tuple(d_carry)


def as_float64(leaves):
  return {k: np.asarray(v, np.float64) for k, v in leaves.items()}


def random_params(cell, V, E, H, layers, rng):
  """Return random parameters; E = 0 means no embedding.

  Biases are random too, since an error in a term that is multiplied by zero would not be detected.
  """

  def normal(*shape):
    return rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 4)

  G = N_GATES[cell]
  params = {"embed": {"W_e": normal(V, E)}} if E else {}
  for k in range(layers):
    D = H if k else E or V
    p = {"W_xh": normal(D, G * H), "W_hh": normal(H, G * H), "b_h": normal(G * H)}
    params[f"layer_{k}"] = p | ({"b_hn": normal(H)} if cell == "gru" else {})
  return params | {"head": {"W_hy": normal(H, V), "b_y": normal(V)}}


def random_carry(cell, B, H, layers, rng):
  """Return a random carry with |h| < 1, the range of the cells."""
  keys = ("h", "c") if cell == "lstm" else ("h",)
  return tuple({k: np.tanh(rng.normal(size=(B, H))) for k in keys} for _ in range(layers))
