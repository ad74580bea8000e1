"""The train and evaluation steps on all devices: the one file that knows how many there are.

The global batch of B streams is cut into equal shares, a device each, process by process. The
bodies are plain functions of one share and an axis name; `pmap` over the leading axis is the
only thing here that would change for another way of sharding.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from charrnn import errors
from charrnn.models import layers
from charrnn.training import state as state_lib

AXIS = "devices"


class Devices(NamedTuple):
  """How B streams are laid out over the devices of all processes."""

  local: int  # devices of this process
  total: int  # of all processes
  first: int  # the first of ours among all

  @property
  def text(self):
    kind = device().device_kind
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{self.total} x {kind}{processes}"

  def rows(self, batch):
    """The streams of this process."""
    share = batch // self.total
    return slice(self.first * share, (self.first + self.local) * share)


def device():
  """One of our devices: all are alike."""
  return jax.local_devices()[0]


def devices():
  local = jax.local_device_count()
  return Devices(local, jax.device_count(), jax.process_index() * local)


def check_batch(batch, accumulate, layout):
  if batch % (layout.total * accumulate):
    parts = f" x {accumulate} parts (accumulate)" if accumulate > 1 else ""
    raise errors.UserError(
      f"--config.batch_size={batch} does not divide by {layout.total} devices{parts}: "
      f"use a multiple of {layout.total * accumulate}"
    )


def shard(tree, layout, axis):
  """Cuts `axis` of every leaf into a leading one of local devices: [T, B] -> [D, T, B/D]."""

  def cut(leaf):
    leaf = np.asarray(leaf)
    parts = leaf.reshape(*leaf.shape[:axis], layout.local, -1, *leaf.shape[axis + 1 :])
    return np.moveaxis(parts, axis, 0)

  return jax.tree.map(cut, tree)


def place(state, layout, batch):
  """A state as it is kept (carry [B, H]) -> as the train step takes it (carry [D, B/D, H])."""
  rows = layout.rows(batch)
  carry = shard(jax.tree.map(lambda leaf: leaf[rows], state.carry), layout, 0)
  return put(state._replace(carry=None), layout)._replace(carry=put(carry, layout, AXIS))


def put(tree, layout, *axes):
  """Puts a tree on all devices of this process, whole or cut along its leading axis AXIS.

  It is where a step leaves its results: given anything else first, a step is compiled twice.
  """
  mesh = jax.sharding.Mesh(jax.local_devices()[: layout.local], (AXIS,))
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))


def fetch(state):
  """The train step's state -> NumPy arrays with the carry of all streams, [B, H] a leaf."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    carry = multihost_utils.process_allgather(
      jax.tree.map(lambda leaf: np.concatenate(np.asarray(leaf)), state.carry), tiled=True
    )
  else:
    carry = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, leaf.shape[-1]), state.carry)
  return jax.device_get(state._replace(carry=None))._replace(carry=carry)


def make_train_step(model, optimizer, *, batch, accumulate, seed, layout, remat=0):
  """(state, (x, y) each [D, T, B/D]) -> (state, metrics): one update by the mean gradient.

  An update that is not finite is not made: parameters, optimiser state and carry stay as they
  were, since a carry of NaN would spoil every step after it. With `remat`, only
  as many characters' activations are held at once; dropout draws other masks than without it.
  """
  share = batch // layout.total
  part = share // accumulate

  def loss_fn(params, carry, x_TxP, y_TxP, rows_P, step_key):
    rngs = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(rows_P)
    logits, carry, _ = model.apply(params, x_TxP, carry, rngs=rngs)
    return layers.cross_entropy(logits, y_TxP).mean(), carry

  def loss_by_chunks(params, carry, x_TxP, y_TxP, rows_P, step_key):
    @functools.partial(jax.checkpoint, prevent_cse=False)  # a scan keeps the two passes apart
    def chunk(carry, inputs):
      x, y, n = inputs
      loss, carry = loss_fn(params, carry, x, y, rows_P, jax.random.fold_in(step_key, n))
      return carry, loss

    x, y = (ids.reshape(-1, remat, ids.shape[1]) for ids in (x_TxP, y_TxP))
    carry, losses = jax.lax.scan(chunk, carry, (x, y, jnp.arange(len(x))))
    return losses.mean(), carry

  grad_fn = jax.value_and_grad(loss_by_chunks if remat else loss_fn, has_aux=True)

  def body(state, x_TxS, y_TxS):
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
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
    else:  # one gradient in memory, however many parts
      zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
      (loss, grads), carries = jax.lax.scan(add_part, zeros, jnp.arange(accumulate))
      carry = jax.tree.map(lambda leaf: leaf.reshape(share, -1), carries)

    loss, grads = jax.lax.pmean((loss, grads), AXIS)
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    after = state_lib.TrainState(state.step, params, opt_state, carry)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    return after._replace(step=state.step + 1), {"loss": loss, "grad_norm": norm}

  layout_of_state = state_lib.TrainState(step=None, params=None, opt_state=None, carry=0)
  return jax.pmap(
    body,
    AXIS,
    in_axes=(layout_of_state, 0, 0),
    out_axes=(layout_of_state, None),
    donate_argnums=0,
  )


def make_eval_step(model):
  """(params, carry, x, y, weight) -> (nats summed by weight, carry), on this process's devices."""

  def body(params, carry, x_TxS, y_TxS, weight_TxS):
    logits, carry, _ = model.apply(params, x_TxS, carry)
    nats = (layers.cross_entropy(logits, y_TxS) * weight_TxS).sum()
    return jax.lax.psum(nats, AXIS), carry

  return jax.pmap(
    body,
    AXIS,
    in_axes=(None, 0, 0, 0, 0),
    out_axes=(None, 0),
    devices=jax.local_devices(),
    donate_argnums=1,
  )
