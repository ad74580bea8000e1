"""The implementations that are timed, and the measurements of a machine's roofline.

Each implementation is a function that maps a workload to a function that runs it `count` times. It
is called in a process of its own. Libraries are imported inside functions, so that each process
imports only those that it needs.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.util

import numpy as np

from charrnn import models, runtime
from charrnn.benchmarks import workloads

LEARNING_RATE, CLIP = 2e-3, 1.0  # learning rate and maximum norm of the gradients
IN_FLIGHT = 8  # maximum number of matrix products in the queue
# The implementations that are charrnn with a value of `config.model.unroll`.
UNROLL = {"charrnn": "auto", "scan": "scan", "native": "native", "cudnn": "cudnn"}


def charrnn_train(training, unroll="auto"):
  """Return a function that runs `launch.py`'s train step `count` times."""
  return train_loop(*train_step(training, unroll))


def train_step(training, unroll="auto"):
  """Return charrnn's train step, its initial state, and the windows to cycle through."""
  from charrnn.training import steps

  model, optimizer, devices = make_model(training, unroll), _optimizer(), steps.all_devices()
  if count := training.devices or int(steps.device().platform != "cpu"):
    devices = devices._replace(local=count, total=count)
  options = {"batch": training.batch, "remat": training.remat, "devices": devices}
  step = steps.TrainStep(model, optimizer, seed=0, **options)
  state = step.put(steps.create_state(model, optimizer, training.batch, 0))
  return step, state, workloads.random_windows(training)


def set_devices(training, unroll="auto"):
  """Set the number of JAX devices on a CPU as `launch.py` does, before the devices are used."""
  shares_cores = models.shares_cores(dataclasses.asdict(training) | {"unroll": unroll})
  runtime.set_cpu_devices(training.devices, training.batch, 1, shares_cores)


def train_loop(step, state, batches):
  """Return a function that runs `step`: (state, x, y) -> (state, loss), `count` times."""
  import jax

  def run(count):
    nonlocal state
    before = None
    for n in range(count):
      state, out = step(state, *batches[n % len(batches)])
      jax.block_until_ready(before)  # like the training loop, queue at most one step
      before = out
    jax.block_until_ready(state)

  return run


def charrnn_sample(sampling, unroll="auto"):
  """Return a function that runs the sampler of `charrnn sample` for `count` blocks."""
  import jax

  from charrnn.sampling import sampler

  model = make_model(sampling, unroll)
  params = model.init(jax.random.key(0))

  def run(count):
    options = {"length": sampling.block * count, "num": sampling.batch, "seed": 0}
    for _ in sampler.draw(model, params, [0], settings=sampler.Settings(), **options):
      pass

  return run


def make_model(network, unroll):
  """Return charrnn's model for a workload; raise UserError if `unroll` is not available."""
  from charrnn.models import rnn

  sizes = {name: getattr(network, name) for name in ("cell", "layers", "hidden")}
  return rnn.make(network.vocab_size, compute_dtype=network.dtype, unroll=unroll, **sizes)


def path(name, kind, workload):
  """Return what computes the layers: "scan", "cudnn", or for example "native, AVX512-BF16"."""
  from charrnn.models import native_library, rnn

  model = make_model(workload, UNROLL[name])
  how = rnn.choose_implementation(model.cell, model.network.unroll)
  if how == "native":
    return f"native, {native_library.load().instructions}"
  return "scan" if how == "cudnn" and kind == "sample" else how


def _optimizer():
  import optax

  return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LEARNING_RATE))


def flax_train(training):
  """Return a function that trains Flax's `nn.RNN` layers for `count` steps."""
  import jax
  import jax.numpy as jnp
  import optax
  from flax import linen as nn

  cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}
  cell, dtype = cells[training.cell], jnp.dtype(training.dtype)

  class Network(nn.Module):
    @nn.compact
    def __call__(self, ids_BxT, carries):
      x, after = jax.nn.one_hot(ids_BxT, training.vocab_size), []
      for before in carries:
        layer = nn.RNN(cell(training.hidden, dtype=dtype), return_carry=True)
        carry, x = layer(x, initial_carry=before)
        after.append(carry)
      return nn.Dense(training.vocab_size, dtype=dtype)(x).astype(jnp.float32), after

  network, optimizer = Network(), _optimizer()
  zeros = jnp.zeros((training.batch, training.hidden))
  carries = [(zeros, zeros) if training.cell == "lstm" else zeros for _ in range(training.layers)]
  pairs = [(jnp.asarray(x.T), jnp.asarray(y.T)) for x, y in workloads.random_windows(training)]
  params = network.init(jax.random.key(0), pairs[0][0], carries)

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

  carries = jax.tree.map(jnp.copy, carries)  # buffers that share memory cannot be donated
  return train_loop(step, (params, optimizer.init(params), carries), pairs)


def torch_train(training):
  """Return a function that trains PyTorch's `nn.LSTM`, `nn.GRU` or `nn.RNN` for `count` steps.

  It runs in eager mode, with fused Adam, and autocast if the dtype is bfloat16.
  """
  import torch

  device, layers, head, one_hot = _torch_model(training)
  params = [*layers.parameters(), *head.parameters()]
  optimizer = torch.optim.Adam(params, LEARNING_RATE, fused=True)
  windows = torch.from_numpy(np.array(workloads.random_windows(training)))
  pairs = list(map(tuple, windows.long().to(device)))
  carry = None

  def step(x, y):
    nonlocal carry
    with torch.autocast(device, torch.bfloat16, enabled=training.dtype == "bfloat16"):
      h, carry = layers(one_hot[x], carry)
      logits = head(h)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, CLIP)
    optimizer.step()
    carry = tuple(leaf.detach() for leaf in carry) if training.cell == "lstm" else carry.detach()

  def run(count):
    for n in range(count):
      step(*pairs[n % len(pairs)])
    if device == "cuda":
      torch.cuda.synchronize()

  return run


def torch_sample(sampling):
  """Return a function that samples `count` blocks with PyTorch's layers, one step per call."""
  import torch

  device, layers, head, one_hot = _torch_model(sampling)

  @torch.inference_mode()
  def run(count):
    ids = torch.zeros((1, sampling.batch), dtype=torch.long, device=device)
    carry, sampled = None, []
    with torch.autocast(device, torch.bfloat16, enabled=sampling.dtype == "bfloat16"):
      for _ in range(sampling.block * count):
        h, carry = layers(one_hot[ids], carry)
        p = torch.softmax(head(h[0]).float(), -1)
        ids = torch.multinomial(p, 1).T
        sampled.append(ids)
    torch.cat(sampled).cpu()

  return run


def _torch_model(network):
  import torch

  device = _torch_device()
  kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[network.cell]
  layers = kind(network.vocab_size, network.hidden, network.layers).to(device)
  head = torch.nn.Linear(network.hidden, network.vocab_size).to(device)
  return device, layers, head, torch.eye(network.vocab_size, device=device)


def _torch_device():
  """Return the name of PyTorch's device. On a GPU, allow TF32 in float32 products, like JAX."""
  import torch

  if not torch.cuda.is_available():
    return "cpu"
  torch.set_float32_matmul_precision("high")
  return "cuda"


def registers(work):
  """Return a function that multiplies and adds only in registers, with one thread per core."""
  import jax
  import jax.numpy as jnp

  from charrnn.models import native_library

  native_library.load()
  result = jax.ShapeDtypeStruct((work.threads,), jnp.float32)
  call = jax.ffi.ffi_call("charrnn_registers", result)
  attributes = {"iterations": np.int64(work.iterations), "bfloat16": work.dtype == "bfloat16"}
  multiply = jax.jit(lambda: call(**attributes))

  def run(count):
    for _ in range(count):
      multiply().block_until_ready()

  return run


def matrix_product(product):
  """Return a function that runs JAX's matrix product on one device (all cores of a CPU)."""
  import jax
  import jax.numpy as jnp

  dtype, rows, inner = jnp.dtype(product.dtype), product.rows, product.inner
  x = jnp.ones((rows, inner), dtype)
  W = jnp.full((inner, product.columns), 1 / product.columns, dtype)  # keeps the x of a scan at 1

  def multiply(x, W):
    return jnp.matmul(x, W, preferred_element_type=jnp.float32)

  def step(x, W):
    # The next step must use every column, or XLA might not compute them all.
    return multiply(x, W).reshape(rows, -1, inner).sum(1).astype(dtype)

  @jax.jit
  def once(x, W):
    if product.steps == 1:
      return multiply(x, W)
    return jax.lax.scan(lambda x, _: (step(x, W), None), x, length=product.steps)[0]

  def run(count):
    for n in range(count):
      y = once(x, W)
      if n % IN_FLIGHT == 0:
        y.block_until_ready()
    y.block_until_ready()

  return run


def torch_product(product):
  """Return a function that runs PyTorch's matrix product."""
  import torch

  device, dtype = _torch_device(), getattr(torch, product.dtype)
  x = torch.ones(product.rows, product.inner, dtype=dtype, device=device)
  W = torch.ones(product.inner, product.columns, dtype=dtype, device=device)
  y = torch.empty(product.rows, product.columns, dtype=dtype, device=device)

  def run(count):
    for _ in range(count * product.steps):
      torch.mm(x, W, out=y)
    if device == "cuda":
      torch.cuda.synchronize()

  return run


def read_memory(reading):
  """Return a function that reads memory `count` times.

  A CPU uses NumPy with one thread per core, because XLA's reductions are slower there.
  """
  import jax
  import jax.numpy as jnp

  from charrnn.training import steps

  size = max(1, reading.bytes // 4)
  if steps.device().platform != "cpu":
    x = jnp.ones(size, jnp.int32)

    @jax.jit
    def read(x, count):
      # Each pass depends on the previous one; otherwise XLA would run only one.
      return jax.lax.fori_loop(0, count, lambda _, y: (x ^ y).max(), jnp.int32(0))

    return lambda count: read(x, count).block_until_ready()

  cores = len(runtime.cores())
  shares = np.array_split(np.ones(size, np.int32), cores)
  threads = concurrent.futures.ThreadPoolExecutor(cores)

  def run(count):
    def read(share):
      for _ in range(count):
        share.max(initial=0)

    list(threads.map(read, shares))

  return run


# Keys: (name, kind of workload). Flax has no sampler.
ALL = {
  ("flax", "train"): flax_train,
  ("torch", "train"): torch_train,
  ("torch", "sample"): torch_sample,
  ("torch", "product"): torch_product,
  ("roofline", "registers"): registers,
  ("roofline", "product"): matrix_product,
  ("roofline", "read"): read_memory,
} | {
  (name, kind): functools.partial(function, unroll=unroll)
  for name, unroll in UNROLL.items()
  for kind, function in (("train", charrnn_train), ("sample", charrnn_sample))
}
BASELINES = ("scan", "torch", "flax")  # measured by default
ALL_BASELINES = (*BASELINES, "native", "cudnn")


def is_installed(name: str) -> bool:
  """Return True if the library of a baseline is installed."""
  return name in UNROLL or importlib.util.find_spec(name) is not None
