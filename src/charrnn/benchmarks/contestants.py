"""Who takes part: each makes from a piece of work a function that does it `count` times.

Called in the process of the contestant alone, which imports what it needs and nothing else.
"""

from charrnn.benchmarks import ceilings, peers, windows


def charrnn_train(work):
  """The step that launch.py takes."""
  return train_loop(*train_step(work))


def train_step(work):
  """Return the step, the state before it, and the windows to repeat."""
  import optax

  from charrnn.training import steps

  model, devices = _model(work), steps.all_devices()
  if work.devices:
    devices = devices._replace(local=work.devices, total=work.devices)
  elif steps.device().platform != "cpu":
    devices = devices._replace(local=1, total=1)
  optimizer = optax.chain(
    optax.clip_by_global_norm(windows.CLIP), optax.adam(windows.LEARNING_RATE)
  )
  step = steps.TrainStep(
    model, optimizer, batch=work.batch, seed=0, remat=work.remat, devices=devices
  )
  state = step.put(steps.create_state(model, optimizer, work.batch, 0))
  return step, state, windows.random(work)


def train_loop(step, state, batches):
  """Return a function that takes the step `count` times."""
  import jax

  def run(count):
    nonlocal state
    before = None
    for n in range(count):
      state, out = step(state, *batches[n % len(batches)])
      jax.block_until_ready(before)  # as the training loop does: a step is under way, not ten
      before = out
    jax.block_until_ready(state)

  return run


def charrnn_sample(work):
  """The generator that `charrnn sample` prints from."""
  import jax

  from charrnn.sampling import sampler

  model = _model(work)
  params = model.init(jax.random.key(0))

  def run(count):
    blocks = sampler.draw(
      model,
      params,
      [0],
      length=work.block * count,
      num=work.batch,
      seed=0,
      settings=sampler.Settings(),
    )
    for _ in blocks:
      pass

  return run


def _model(work):
  from charrnn.models import rnn

  return rnn.make(
    work.alphabet,
    cell=work.cell,
    layers=work.layers,
    hidden=work.hidden,
    embed=0,
    dropout=0.0,
    init="modern",
    forget_bias=1.0,
    compute_dtype=work.dtype,
  )


# By name and kind of work. Flax has no sampler.
ALL = {
  ("charrnn", "train"): charrnn_train,
  ("charrnn", "sample"): charrnn_sample,
  ("flax", "train"): peers.flax_train,
  ("torch", "train"): peers.torch_train,
  ("torch", "sample"): peers.torch_sample,
  ("ceiling", "product"): ceilings.product,
  ("ceiling", "read"): ceilings.read,
}
PEERS = ("torch", "flax")
