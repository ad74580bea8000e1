"""The training state and the steps that run on all devices.

This is the only module that knows how many devices there are and how arrays are laid out on them.
The global batch of B streams is cut into equal shares of S streams, one for each device, process by
process. Callers pass and receive arrays of all streams of a process. The bodies of the steps are
plain functions of one share; `pmap` over the leading axis is the only thing here that would change
for another way of sharding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from charrnn import errors
from charrnn.models import layers

AXIS = "devices"


class TrainState(NamedTuple):
  """All that training carries from step to step. It holds arrays only; it is the checkpoint."""

  step: Any  # int32 scalar: the number of updates done
  params: Any
  opt_state: Any
  carry: Any  # the carry of all B streams, [B, H] in each leaf


def create_state(model, optimizer: optax.GradientTransformation, batch: int, seed) -> TrainState:
  """Return the state before the first step. All keys are derived from the seed."""
  params = model.init(jax.random.key(seed))
  return TrainState(
    jnp.zeros((), jnp.int32), params, optimizer.init(params), model.initial_carry(batch)
  )


class Devices(NamedTuple):
  """The devices that share a batch."""

  local: int  # devices of this process
  total: int  # devices of all processes
  first: int  # number of the first local device among all

  @property
  def text(self) -> str:
    """Return a description, such as "2 x cpu"."""
    kind = device().device_kind
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{self.total} x {kind}{processes}"

  def rows(self, batch: int) -> slice:
    """Return the streams of this process."""
    share = batch // self.total
    return slice(self.first * share, (self.first + self.local) * share)


def device() -> jax.Device:
  """Return one of the local devices; all are of one kind."""
  return jax.local_devices()[0]


def all_devices() -> Devices:
  """Return all devices of all processes."""
  local = jax.local_device_count()
  return Devices(local, jax.device_count(), jax.process_index() * local)


class TrainStep:
  """One update of a TrainState by the mean gradient of a batch of windows.

  `step(state, x_TxB, y_TxB) -> state, {"loss", "grad_norm"}`, with the streams `step.rows` of the
  batch in x and y. The state is one that `put` or the step before returned; its buffers are reused.

  An update that is not finite is not made: parameters, optimizer state and carry stay as they were,
  since a carry of NaN would spoil every step after it. `accumulate`: the number of parts in which a
  share is processed, to save memory. `remat`: the number of time steps between stored states;
  activations in between are computed again. Dropout then uses other masks. 0 switches it off.
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
    devices: Devices | None = None,
  ):
    self.devices = devices or all_devices()
    check_batch(batch, accumulate, self.devices)
    self.rows = self.devices.rows(batch)
    body = _train_body(model, optimizer, batch // self.devices.total, accumulate, remat, seed)
    layout = TrainState(step=None, params=None, opt_state=None, carry=0)
    self._step = jax.pmap(
      body, AXIS, in_axes=(layout, 0, 0), out_axes=(layout, None), donate_argnums=0
    )

  def __call__(self, state: TrainState, x_TxB, y_TxB) -> tuple[TrainState, dict[str, jax.Array]]:
    """Return the state after the update, and the metrics of the update."""
    return self._step(state, *self._shares(x_TxB, y_TxB))

  def compile(self, state: TrainState, x_TxB, y_TxB) -> jax.stages.Compiled:
    """Compile the step for arguments of these shapes, use the result from now on and return it."""
    self._step = self._step.lower(state, *self._shares(x_TxB, y_TxB)).compile()
    return self._step

  def put(self, state: TrainState) -> TrainState:
    """Put a state of all streams on the devices.

    It gets the sharding of the step's outputs; with another one, the step is compiled twice.
    """
    carry = jax.tree.map(lambda leaf: _cut(leaf[self.rows], 0, self.devices.local), state.carry)
    carry = _put(carry, self.devices.local, AXIS)
    return _put(state._replace(carry=None), self.devices.local)._replace(carry=carry)

  def get(self, state: TrainState) -> TrainState:
    """Return a state on the devices as NumPy arrays with the carry of all streams, [B, H]."""
    if jax.process_count() > 1:
      carry = multihost_utils.process_allgather(
        jax.tree.map(lambda leaf: np.concatenate(np.asarray(leaf)), state.carry), tiled=True
      )
    else:
      carry = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, leaf.shape[-1]), state.carry)
    return jax.device_get(state._replace(carry=None))._replace(carry=carry)

  def _shares(self, *arrays_TxB):
    return [_cut(array_TxB, 1, self.devices.local) for array_TxB in arrays_TxB]


class LossStep:
  """The weighted sum of the losses in a batch of windows, on all devices of this process."""

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
    """Return the sum of nats times weight, and the carry for the next window.

    A `carry` of None is the initial one.
    """
    count = jax.local_device_count()
    arrays = [
      np.pad(array, ((0, 0), (0, -array.shape[1] % count))) for array in (x_TxB, y_TxB, weight_TxB)
    ]
    if carry is None:
      carry = self._model.initial_carry(arrays[0].shape[1])
      carry = _put(jax.tree.map(lambda leaf: _cut(leaf, 0, count), carry), count, AXIS)
    return self._step(params, carry, *(_cut(array, 1, count) for array in arrays))


def check_batch(batch: int, accumulate: int, devices: Devices):
  """Raise UserError if a batch cannot be shared equally by the devices."""
  if batch % (devices.total * accumulate):
    parts = f" x {accumulate} parts (accumulate)" if accumulate > 1 else ""
    raise errors.UserError(
      f"--config.batch_size={batch} is not divisible by {devices.total} devices{parts}: "
      f"use a multiple of {devices.total * accumulate}"
    )


def _cut(array, axis, devices):
  """Cut an axis into a leading one of devices: [T, B] -> [D, T, S] for axis 1."""
  array = np.asarray(array)
  shares = array.reshape(*array.shape[:axis], devices, -1, *array.shape[axis + 1 :])
  return np.moveaxis(shares, axis, 0)


def _put(tree, devices, *axes):
  """Put a tree on the first local devices: whole on each, or cut along its leading axis AXIS."""
  mesh = jax.sharding.Mesh(jax.local_devices()[:devices], (AXIS,))
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))


def _train_body(model, optimizer, share, accumulate, remat, seed):
  """Return the update of one device: (state, x_TxS, y_TxS) -> state, metrics."""
  part = share // accumulate
  grad_fn = jax.value_and_grad(_chunked_loss(model, remat) if remat else _loss(model), has_aux=True)

  def gradient(state, x_TxS, y_TxS, step_key):
    """Return the loss, the carry and the gradients of this device's share."""
    first = jax.lax.axis_index(AXIS) * share

    def one_part(n):
      def cut(leaf, axis):
        return jax.lax.dynamic_slice_in_dim(leaf, n * part, part, axis)

      carry = jax.tree.map(lambda leaf: cut(leaf, 0), state.carry)
      rows = first + n * part + jnp.arange(part)
      return grad_fn(state.params, carry, cut(x_TxS, 1), cut(y_TxS, 1), rows, step_key)

    def add_part(total, n):
      (loss, carry), grads = one_part(n)
      return jax.tree.map(lambda t, new: t + new / accumulate, total, (loss, grads)), carry

    if accumulate == 1:
      (loss, carry), grads = one_part(0)
    else:  # only one part's gradient is in memory at a time
      zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
      (loss, grads), carries = jax.lax.scan(add_part, zeros, jnp.arange(accumulate))
      carry = jax.tree.map(lambda leaf: leaf.reshape(share, -1), carries)
    return loss, carry, grads

  def body(state, x_TxS, y_TxS):
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss, carry, grads = gradient(state, x_TxS, y_TxS, step_key)
    loss, grads = jax.lax.pmean((loss, grads), AXIS)
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    after = TrainState(state.step, params, opt_state, carry)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    return after._replace(step=state.step + 1), {"loss": loss, "grad_norm": norm}

  return body


def _loss(model):
  """Return a function for the mean loss of a window and the carry after it, with dropout."""

  def loss(params, carry, x_TxP, y_TxP, rows_P, step_key):
    rngs = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(rows_P)
    logits, carry, _ = model.apply(params, x_TxP, carry, rngs=rngs)
    return layers.cross_entropy(logits, y_TxP).mean(), carry

  return loss


def _chunked_loss(model, remat):
  """Return `_loss` with the window in chunks whose activations are not stored."""
  loss_fn = _loss(model)

  def chunked_loss(params, carry, x_TxP, y_TxP, rows_P, step_key):
    @functools.partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two passes apart
    def chunk(carry, inputs):
      x, y, n = inputs
      loss, carry = loss_fn(params, carry, x, y, rows_P, jax.random.fold_in(step_key, n))
      return carry, loss

    x, y = (ids.reshape(-1, remat, ids.shape[1]) for ids in (x_TxP, y_TxP))
    carry, losses = jax.lax.scan(chunk, carry, (x, y, jnp.arange(len(x))))
    return losses.mean(), carry

  return chunked_loss


def _loss_body(model, params, carry, x_TxS, y_TxS, weight_TxS):
  """Return the sum over all devices of nats times weight, and this device's carry."""
  logits, carry, _ = model.apply(params, x_TxS, carry)
  nats = (layers.cross_entropy(logits, y_TxS) * weight_TxS).sum()
  return jax.lax.psum(nats, AXIS), carry
