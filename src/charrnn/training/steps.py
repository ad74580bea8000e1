"""The training state, and the training and evaluation steps that run on all devices.

Only this module depends on the number of devices and on the layout of arrays on them. The global
batch of B streams is split into equal shares of S streams, one per device, in the order of the
processes. Callers pass and receive arrays of all streams of a process. The body of a step is a
plain function of one share. To shard in another way, only the `pmap` over the leading axis has to
be replaced.

Axis letters in addition to `models`: S is the streams of a device. In this module, P is the streams
of one part.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
from jax.experimental import multihost_utils

from charrnn import errors, models, runtime
from charrnn.models import layers
from charrnn.training import optimizer as optimizer_lib

AXIS = "devices"
# Number of steps between checks of the whole state. A check takes about 1% of the time of a step of
# 2 x 256 units. Gradients, loss and carry, from which the state is updated, are checked every step.
CHECK_EVERY = 16
_RESET = 2**31  # folded into the key of a step; models.Rngs uses other numbers


class TrainState(NamedTuple):
  """The complete state of training. It contains only arrays and is stored in checkpoints."""

  step: Any  # int32 scalar: the number of steps so far, including skipped updates
  params: Any
  opt_state: Any
  carry: Any  # the carry of all B streams; every leaf is [B, ...]


def create_state(model, optimizer: optax.GradientTransformation, batch: int, seed) -> TrainState:
  """Return the state before the first step. All random keys are derived from the seed."""
  params = model.init(jax.random.key(seed))
  return TrainState(
    jnp.zeros((), jnp.int32), params, optimizer.init(params), model.initial_carry(batch)
  )


class Devices(NamedTuple):
  """The devices that share a batch."""

  local: int  # number of devices of this process
  total: int  # number of devices of all processes
  first: int  # index of the first local device among all devices

  @property
  def text(self) -> str:
    """Return a description, for example "2 x cpu"."""
    kind = device().device_kind
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{self.total} x {kind}{processes}"

  def rows(self, batch: int) -> slice:
    """Return the rows of a batch that belong to this process."""
    share = batch // self.total
    return slice(self.first * share, (self.first + self.local) * share)


def device() -> jax.Device:
  """Return one of the local devices, which are all of the same kind."""
  runtime.check_devices()
  return jax.local_devices()[0]


def all_devices() -> Devices:
  """Return the description of all devices of all processes."""
  local = jax.local_device_count()
  return Devices(local, jax.device_count(), jax.process_index() * local)


class TrainStep:
  """The update of a TrainState by the mean gradient of a batch of windows.

  `train_step(state, x_TxB, y_TxB) -> state, metrics` with {"loss", "grad_norm", "is_updated",
  "is_finite"}. x and y contain the streams `train_step.rows` of the batch. The loss is the mean in
  nats per token, with dropout. The state must come from `put` or from the previous step; its
  buffers are reused.

  If the loss, the gradient or the new carry is not finite, `is_updated` is false and the update is
  skipped: parameters, moments and carry keep their values, because a NaN would spread to all later
  steps. The learning rate schedule still advances. `is_finite` is false if the new state is not
  finite; the whole state is checked every CHECK_EVERY steps.

  `accumulate` is the number of parts in which a share is processed, to save memory. `remat` is the
  number of time steps between stored states; the activations in between are recomputed, and dropout
  uses different masks. `remat=0` stores all activations.

  `carry_reset` is the probability that a stream begins a window with the initial carry, as if there
  were no text before. With 1, no carry is passed on, and windows are independent.
  """

  def __init__(
    self,
    model,
    optimizer: optax.GradientTransformation,
    *,
    batch: int,
    seed: int,
    accumulate: int = 1,
    remat: int = 0,
    carry_reset: float = 0.0,
    devices: Devices | None = None,
  ):
    self.devices = devices or all_devices()
    check_batch(batch, accumulate, self.devices)
    self.rows = self.devices.rows(batch)
    share = batch // self.devices.total
    body = _train_body(model, optimizer, share, accumulate, remat, carry_reset, seed)
    layout = TrainState(step=None, params=None, opt_state=None, carry=0)
    self._step = jax.pmap(
      body, AXIS, in_axes=(layout, 0, 0), out_axes=(layout, None), donate_argnums=0
    )

  def __call__(self, state: TrainState, x_TxB, y_TxB) -> tuple[TrainState, dict[str, jax.Array]]:
    """Return the state after the update, and the metrics of the update."""
    return self._step(state, *self._shares(x_TxB, y_TxB))

  def compile(self, state: TrainState, x_TxB, y_TxB) -> jax.stages.Compiled:
    """Compile the step for arguments of these shapes, use the compiled step, and return it."""
    self._step = self._step.lower(state, *self._shares(x_TxB, y_TxB)).compile()
    return self._step

  def put(self, state: TrainState) -> TrainState:
    """Return a state of all streams as arrays on the devices.

    They have the sharding of the step's outputs; otherwise the step would be compiled twice.
    """
    carry = jax.tree.map(lambda leaf: _split(leaf[self.rows], 0, self.devices.local), state.carry)
    carry = _put(carry, self.devices.local, AXIS)
    return _put(state._replace(carry=None), self.devices.local)._replace(carry=carry)

  def get(self, state: TrainState) -> TrainState:
    """Return a state on the devices as NumPy arrays with the carry of all streams, [B, ...]."""
    carry = jax.tree.map(lambda leaf: np.concatenate(np.asarray(leaf)), state.carry)
    if jax.process_count() > 1:
      carry = multihost_utils.process_allgather(carry, tiled=True)
    return jax.device_get(state._replace(carry=None))._replace(carry=carry)

  def _shares(self, *arrays_TxB):
    return [_split(array_TxB, 1, self.devices.local) for array_TxB in arrays_TxB]


class LossStep:
  """The weighted sum of the losses of a batch of windows, on all devices of this process."""

  def __init__(self, model):
    self._model = model
    self._step = jax.pmap(
      functools.partial(_loss_body, model),
      AXIS,
      in_axes=(None, 0, 0, 0, 0),
      out_axes=(None, 0),
      devices=jax.local_devices(),
      donate_argnums=1,
    )

  def __call__(self, params, carry, x_TxB, y_TxB, weight_TxB) -> tuple[jax.Array, Any]:
    """Return the weighted sum of the losses in nats, and the carry for the next window.

    If `carry` is None, the windows start with the initial carry.
    """
    count = jax.local_device_count()
    arrays = [
      np.pad(array, ((0, 0), (0, -array.shape[1] % count))) for array in (x_TxB, y_TxB, weight_TxB)
    ]
    if carry is None:
      carry = self._model.initial_carry(arrays[0].shape[1])
      carry = _put(jax.tree.map(lambda leaf: _split(leaf, 0, count), carry), count, AXIS)
    return self._step(params, carry, *(_split(array, 1, count) for array in arrays))


def memory(config, vocab_size: int, devices: Devices) -> dict[str, int]:
  """Return lower bounds on the bytes that a training step needs, by purpose.

  They are for one accelerator, or for all devices of this process on a CPU, which share its memory.
  Gradients and activations are not in memory at the same time, so only the larger of them counts.
  """
  share = config.batch_size // devices.total
  size = 4 * models.size(vocab_size, config.model).parameters
  carry = jax.tree.leaves(models.shapes(vocab_size, config.model, share)["carry"])
  needed = {"parameters": size, "optimizer state": size * optimizer_lib.slots(config.optimizer)}
  needed["carry"] = sum(leaf.size * leaf.dtype.itemsize for leaf in carry)
  tokens = (config.remat or config.window) * share // config.accumulate
  activations = models.activation_bytes(vocab_size, config.model, tokens)
  larger = ("gradients", size) if size > activations else ("activations", activations)
  needed |= [larger]
  copies = devices.local if device().platform == "cpu" else 1
  return {name: copies * each for name, each in needed.items()}


def check_memory(config, vocab_size: int, devices: Devices):
  """Raise UserError if a training step needs more memory than is free, before it is compiled."""
  needed = memory(config, vocab_size, devices)
  remedy = "--config.model.hidden or --config.model.layers"
  largest = max(needed, key=needed.get)
  if largest == "carry":
    remedy = "--config.batch_size"
  elif largest == "activations":
    remedy = "--config.batch_size or --config.window, or raise --config.accumulate"
  elif config.cpu_devices > 1:
    remedy = f"--config.cpu_devices, {remedy}"
  if device().platform == "cpu":
    runtime.check_memory(needed, runtime.free_memory() + psutil.swap_memory().free, remedy)
  elif "bytes_limit" in (stats := device().memory_stats() or {}):
    runtime.check_memory(needed, stats["bytes_limit"] - stats.get("bytes_in_use", 0), remedy)


def check_batch(batch: int, accumulate: int, devices: Devices):
  """Raise UserError if a batch cannot be split equally among the devices."""
  if batch % (devices.total * accumulate):
    parts = f" x {accumulate} parts (accumulate)" if accumulate > 1 else ""
    raise errors.UserError(
      f"--config.batch_size={batch} is not divisible by "
      f"{errors.plural(devices.total, 'device')}{parts}: "
      f"use a multiple of {devices.total * accumulate}"
    )


def _split(array, axis, devices):
  """Return an array with one axis split over a new leading axis of devices.

  For axis 1, [T, B] becomes [devices, T, S].
  """
  array = np.asarray(array)
  shares = array.reshape(*array.shape[:axis], devices, -1, *array.shape[axis + 1 :])
  return np.moveaxis(shares, axis, 0)


def _put(tree, devices, *axes):
  """Return a tree on the first local devices, replicated or sharded along its leading axis."""
  mesh = jax.sharding.Mesh(jax.local_devices()[:devices], (AXIS,))
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))


def _train_body(model, optimizer, share, accumulate, remat, carry_reset, seed):
  """Return the body of the training step on one device: (state, x_TxS, y_TxS) -> state, metrics."""
  part = share // accumulate
  grad_fn = jax.value_and_grad(_chunked_loss(model, remat) if remat else _loss(model), has_aux=True)

  def gradient(state, x_TxS, y_TxS, step_key):
    """Return the loss, the carry and the gradients for the share of this device."""
    first = jax.lax.axis_index(AXIS) * share

    def one_part(n):
      def take(leaf, axis):
        return jax.lax.dynamic_slice_in_dim(leaf, n * part, part, axis)

      carry = jax.tree.map(lambda leaf: take(leaf, 0), state.carry)
      rows = first + n * part + jnp.arange(part)
      if carry_reset == 1:
        carry = None  # An attention layer then reads only the window.
      elif carry_reset:
        carry = _reset(model, carry, rows, step_key, carry_reset)
      params = optimizer_lib.trained(state.params, state.opt_state)
      return grad_fn(params, carry, take(x_TxS, 1), take(y_TxS, 1), rows, step_key)

    def add_part(total, n):
      (loss, carry), grads = one_part(n)
      return jax.tree.map(lambda t, new: t + new / accumulate, total, (loss, grads)), carry

    if accumulate == 1:
      (loss, carry), grads = one_part(0)
    else:  # A scan keeps the activations of only one part in memory.
      zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
      (loss, grads), carries = jax.lax.scan(add_part, zeros, jnp.arange(accumulate))
      carry = jax.tree.map(lambda leaf: leaf.reshape(share, *leaf.shape[2:]), carries)
    return loss, carry, grads

  def body(state, x_TxS, y_TxS):
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss, carry, grads = gradient(state, x_TxS, y_TxS, step_key)
    if jax.lax.axis_size(AXIS) > 1:  # the mean over one device would copy the gradients
      loss, grads = jax.lax.pmean((loss, grads), AXIS)
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads)))

    def update():
      updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
      return TrainState(state.step, optax.apply_updates(state.params, updates), opt_state, carry)

    is_updated = jnp.isfinite(loss) & jnp.isfinite(norm) & _on_all_devices(_is_finite(carry))
    # In a branch, XLA updates the state in place. Selecting each array would copy all of it.
    after = jax.lax.cond(
      is_updated, update, lambda: state._replace(opt_state=_skip_rate(state.opt_state))
    )
    after = after._replace(step=state.step + 1)
    is_finite = jax.lax.cond(after.step % CHECK_EVERY == 0, _is_finite, lambda _: True, after)
    flags = {"is_updated": is_updated, "is_finite": _on_all_devices(is_finite)}
    return after, {"loss": loss, "grad_norm": norm, **flags}

  return body


def _reset(model, carry, rows_P, step_key, rate):
  """Return the carry in which each row is replaced by the initial one with probability `rate`.

  The choice depends only on the row and the step, so it is the same on any number of devices.
  """
  key = jax.random.fold_in(step_key, _RESET)
  draw = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))
  is_reset_P = draw(rows_P) < rate

  def choose(leaf, first):
    return jnp.where(jnp.expand_dims(is_reset_P, range(1, leaf.ndim)), first, leaf)

  return jax.tree.map(choose, carry, model.initial_carry(len(rows_P)))


def _is_finite(tree):
  """Return whether all floating-point arrays of a tree are finite."""
  floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in floats])


def _on_all_devices(flag):
  """Return whether a flag is true on every device."""
  if jax.lax.axis_size(AXIS) == 1:
    return flag
  return jax.lax.pmin(flag.astype(jnp.int32), AXIS) == 1


def _skip_rate(opt_state):
  """Return an optimizer state whose learning rate schedule has advanced by one step."""

  def skip(node):
    is_schedule = isinstance(node, optax.ScaleByScheduleState)
    return node._replace(count=node.count + 1) if is_schedule else node

  return jax.tree.map(
    skip, opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
  )


def _loss(model):
  """Return a function that computes the mean loss of a window with dropout, and the next carry."""

  def loss(params, carry, x_TxP, y_TxP, rows_P, step_key):
    rngs = models.Rngs.of(step_key, rows_P)
    logits, carry, _ = model.apply(params, x_TxP, carry, rngs=rngs)
    return layers.cross_entropy(logits, y_TxP).mean(), carry

  return loss


def _chunked_loss(model, remat):
  """Return `_loss` computed in chunks of the window, whose activations are not stored."""
  loss_fn = _loss(model)

  def chunked_loss(params, carry, x_TxP, y_TxP, rows_P, step_key):
    # In a scan, XLA cannot merge the recomputation with the forward pass, so prevent_cse is off.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(carry, inputs):
      x, y, n = inputs
      loss, carry = loss_fn(params, carry, x, y, rows_P, jax.random.fold_in(step_key, n))
      return carry, loss

    carry = model.initial_carry(x_TxP.shape[1]) if carry is None else carry
    x, y = (ids.reshape(-1, remat, ids.shape[1]) for ids in (x_TxP, y_TxP))
    carry, losses = jax.lax.scan(chunk, carry, (x, y, jnp.arange(len(x))))
    return losses.mean(), carry

  return chunked_loss


def _loss_body(model, params, carry, x_TxS, y_TxS, weight_TxS):
  """Return the weighted sum of the losses over all devices, and the carry of this device."""
  logits, carry, _ = model.apply(params, x_TxS, carry)
  nats = (layers.cross_entropy(logits, y_TxS) * weight_TxS).sum()
  return jax.lax.psum(nats, AXIS), carry
