"""Peers, as their users write them: PyTorch and Flax's own recurrent layers."""

from charrnn.benchmarks import windows


def flax_train(work):
  """Flax's own recurrent layer, `nn.RNN`, as its users write it."""
  import functools

  import jax
  import jax.numpy as jnp
  import optax
  from flax import linen as nn

  cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}[work.cell]
  dtype = jnp.dtype(work.dtype)

  class Network(nn.Module):
    @nn.compact
    def __call__(self, ids_BxT, carries):
      x, after = jax.nn.one_hot(ids_BxT, work.alphabet), []
      for before in carries:
        layer = nn.RNN(cell(work.hidden, dtype=dtype), return_carry=True)
        carry, x = layer(x, initial_carry=before)
        after.append(carry)
      return nn.Dense(work.alphabet, dtype=dtype)(x).astype(jnp.float32), after

  network = Network()
  zeros = jnp.zeros((work.batch, work.hidden))
  carries = [(zeros, zeros) if work.cell == "lstm" else zeros for _ in range(work.layers)]
  pairs = [(jnp.asarray(x.T), jnp.asarray(y.T)) for x, y in windows.random(work)]
  params = network.init(jax.random.key(0), pairs[0][0], carries)
  optimizer = optax.chain(
    optax.clip_by_global_norm(windows.CLIP), optax.adam(windows.LEARNING_RATE)
  )

  def loss_fn(params, carries, x, y):
    logits, after = network.apply(params, x, carries)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), after

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, x, y):
    params, opt_state, carries = state
    (loss, after), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, carries, x, y)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, carries)
    return (optax.apply_updates(params, updates), opt_state, after), loss

  carries = jax.tree.map(jnp.copy, carries)  # buffers that alias cannot be donated
  state = (params, optimizer.init(params), carries)

  def run(count):
    nonlocal state
    before = None
    for n in range(count):
      state, loss = step(state, *pairs[n % len(pairs)])
      jax.block_until_ready(before)  # as charrnn
      before = loss
    jax.block_until_ready(state)

  return run


def torch_train(work):
  """PyTorch's `nn.LSTM`, eager, with fused Adam; bfloat16 by autocast."""
  import torch

  device, layers, head, one_hot = _torch_model(work)
  params = [*layers.parameters(), *head.parameters()]
  optimizer = torch.optim.Adam(params, windows.LEARNING_RATE, fused=True)
  pairs = [
    tuple(torch.from_numpy(part).long().to(device) for part in pair)
    for pair in windows.random(work)
  ]
  carry = None

  def step(x, y):
    nonlocal carry
    with torch.autocast(device, torch.bfloat16, enabled=work.dtype == "bfloat16"):
      h, carry = layers(one_hot[x], carry)
      logits = head(h)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, windows.CLIP)
    optimizer.step()
    carry = tuple(leaf.detach() for leaf in carry) if work.cell == "lstm" else carry.detach()

  def run(count):
    for n in range(count):
      step(*pairs[n % len(pairs)])
    if device == "cuda":
      torch.cuda.synchronize()

  return run


def torch_sample(work):
  """A loop over single steps of `nn.LSTM` in inference mode, the usual way to sample."""
  import torch

  device, layers, head, one_hot = _torch_model(work)

  @torch.inference_mode()
  def run(count):
    ids = torch.zeros((1, work.batch), dtype=torch.long, device=device)
    carry, said = None, []
    with torch.autocast(device, torch.bfloat16, enabled=work.dtype == "bfloat16"):
      for _ in range(work.block * count):
        h, carry = layers(one_hot[ids], carry)
        p = torch.softmax(head(h[0]).float(), -1)
        ids = torch.multinomial(p, 1).T
        said.append(ids)
    torch.cat(said).cpu()

  return run


def _torch_model(work):
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[work.cell]
  layers = kind(work.alphabet, work.hidden, work.layers).to(device)
  head = torch.nn.Linear(work.hidden, work.alphabet).to(device)
  return device, layers, head, torch.eye(work.alphabet, device=device)
