"""The training step on several devices, compared with one device and with plain JAX."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from charrnn import errors, models, runtime
from charrnn.models import layers
from charrnn.training import optimizer, steps


def assert_close(actual, expected, tolerance):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=tolerance), actual, expected
  )


def plain_steps(net, c, initial, optimizer, count):
  """Compute the expected result with plain JAX and Optax, for the whole batch on one device."""

  def loss_fn(params, carry, x, y, step):
    step_key = jax.random.fold_in(jax.random.key(c.seed), step)
    keys = jnp.stack([jax.random.fold_in(step_key, row) for row in range(c.batch_size)])
    rngs = models.Rngs(jax.random.fold_in(step_key, 2**31 + 1), keys)
    logits, carry, _ = net.apply(params, x, carry, rngs=rngs)
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, y[..., None], -1).mean(), carry

  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  params, carry, losses = initial.params, initial.carry, []
  opt_state = optimizer.init(params)
  for step in range(count):
    (loss, carry), grads = grad_fn(params, carry, *tiny.windows(c).window_at(step), step)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  return params, carry, losses


@pytest.fixture(scope="module")
def four_steps():
  """Return a function that takes four steps with dropout, on a number of devices and in parts."""
  regularized = {"embed": 4, "input_dropout": 0.2, "weight_drop": 0.3, "residual": True}
  nets = {
    "lstm": tiny.model(dropout=0.4),
    "regularized": tiny.model(dropout=0.4, **regularized),
    "transformer": tiny.model(dropout=0.4, **tiny.TRANSFORMER),
  }

  @functools.cache
  def run(devices, accumulate, cell="lstm"):
    # With the default eps, Adam would amplify the rounding errors of tiny gradients.
    c = tiny.config(optimizer__eps=1e-3, accumulate=accumulate)
    c.optimizer.average = 0.9 if cell == "regularized" else 0.0
    ours = tiny.Steps(nets[cell], c, devices=devices)
    return ours.run(ours.initial, 4)

  return run


@pytest.mark.parametrize(
  ("devices", "accumulate", "cell"),
  [
    *(pytest.param(*case, "lstm", marks=pytest.mark.long) for case in ((8, 1), (1, 4))),
    (2, 2, "regularized"),
    (2, 2, "transformer"),
  ],
)
def test_the_result_does_not_depend_on_devices_and_parts(four_steps, devices, accumulate, cell):
  one, losses_of_one = four_steps(1, 1, cell)
  many, losses_of_many = four_steps(devices, accumulate, cell)
  np.testing.assert_allclose(losses_of_many, losses_of_one, rtol=1e-6)
  assert_close(many, one, 1e-6)


@pytest.mark.parametrize(
  ("cell", "rule"),
  [
    pytest.param("rnn", "adam", marks=pytest.mark.long),
    ("lstm", "adam"),
    pytest.param("gru", "sgd", marks=pytest.mark.long),
    ("transformer", "adam"),
  ],
)
def test_a_step_matches_plain_jax_on_the_whole_batch(cell, rule):
  net = tiny.model(**tiny.TRANSFORMER | {"cell": cell}, dropout=0.2)
  c = tiny.config(optimizer__name=rule, optimizer__clip_norm=0.0)
  if rule == "adam":
    # With the default eps, Adam's updates would depend only on the signs of tiny gradients.
    c.optimizer.eps = 1e-3
  c.schedule.name = "constant"
  ours = tiny.Steps(net, c, devices=2)
  plain = {"sgd": optax.sgd(1e-2), "adam": optax.adam(1e-2, 0.9, 0.99, 1e-3)}[rule]
  params, carry, losses = plain_steps(net, c, ours.initial, plain, 4)
  after, our_losses = ours.run(ours.initial, 4)
  np.testing.assert_allclose(our_losses, losses, rtol=1e-5)
  assert_close(after.params, params, 1e-6)
  assert_close(after.carry, carry, 1e-5)


@pytest.mark.parametrize(
  ("cell", "remat"),
  [
    ("lstm", 0),
    ("transformer", 5),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (("lstm", 5), ("transformer", 0))),
  ],
)
def test_with_a_reset_in_every_step_windows_are_independent(cell, remat):
  net = tiny.model(**tiny.TRANSFORMER | {"cell": cell})
  ours = tiny.Steps(net, tiny.config(carry_reset=1.0, remat=remat))
  later = ours.run(ours.initial, 3)[0]
  without_carry = later._replace(carry=ours.initial.carry)
  expected, losses_of_expected = ours.run(without_carry, 1)
  after, losses = ours.run(later, 1)
  np.testing.assert_allclose(losses, losses_of_expected, rtol=1e-6)
  assert_close(after, expected, 1e-6)
  x, y = ours.windows.window_at(3)
  logits, _, _ = net.apply(later.params, x, None)
  np.testing.assert_allclose(losses, layers.cross_entropy(logits, y).mean(), rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("transformer", marks=pytest.mark.long)])
def test_a_share_of_the_streams_is_reset_on_any_number_of_devices(cell):
  net = tiny.model(**tiny.TRANSFORMER | {"cell": cell})
  c = tiny.config(carry_reset=0.4, optimizer__name="sgd", optimizer__learning_rate=1e-12)
  one, two = tiny.Steps(net, c), tiny.Steps(net, c, devices=2)
  state, resets = jax.device_get(one.initial), []  # Steps reuse the buffers of a device.
  for step in range(10):
    after = one.run(state, 1)[0]
    x, _ = one.windows.window_at(step)
    fresh, kept = (net.apply(state.params, x, carry)[1] for carry in (None, state.carry))
    is_reset_B, is_kept_B = (_is_close(after.carry, expected) for expected in (fresh, kept))
    assert np.all(is_reset_B if step == 0 else is_reset_B ^ is_kept_B)
    resets.append(is_reset_B)
    assert_close(two.run(state, 1)[0], after, 1e-6)
    state = after
  assert 0.2 < np.mean(resets[1:]) < 0.6
  assert len(np.unique(resets[1:], axis=0)) > 3


def _is_close(carry, expected):
  """Return, for each row, whether all arrays of two carries agree."""
  pairs = zip(jax.tree.leaves(carry), jax.tree.leaves(expected))
  rows = [np.isclose(a, e, atol=1e-5).reshape(len(a), -1).all(1) for a, e in pairs]
  return np.all(rows, axis=0)


def test_gradients_are_truncated_at_the_window_but_the_carry_is_not():
  """The second update uses only the gradient of the second window, with the first one's carry."""
  net = tiny.model()
  c = tiny.config(optimizer__name="sgd", optimizer__clip_norm=0.0, window=3)
  c.optimizer.learning_rate = 1.0
  c.schedule.name = "constant"
  ours = tiny.Steps(net, c)
  first, _ = ours.run(ours.initial, 1)
  second, _ = ours.run(first, 1)
  (x0, y0), (x1, y1) = (tiny.windows(c).window_at(n) for n in (0, 1))

  def mean_loss(params, carry, x, y):
    logits, carry, _ = net.apply(params, x, carry)
    return layers.cross_entropy(logits, y).mean(), carry

  def through_both(params):
    _, carry = mean_loss(params, ours.initial.carry, x0, y0)
    return mean_loss(params, carry, x1, y1)[0]

  truncated, _ = jax.grad(mean_loss, has_aux=True)(first.params, first.carry, x1, y1)
  from_zero, _ = jax.grad(mean_loss, has_aux=True)(first.params, ours.initial.carry, x1, y1)
  actual = jax.tree.map(lambda b, a: b - a, first.params, second.params)
  assert_close(actual, truncated, 1e-6)
  for other in (from_zero, jax.grad(through_both)(first.params)):
    with pytest.raises(AssertionError):
      assert_close(actual, other, 1e-6)


def rate_count(state):
  """Return the step that the schedule of the learning rate has reached."""
  nodes = jax.tree.leaves(
    state.opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
  )
  return next(int(node.count) for node in nodes if isinstance(node, optax.ScaleByScheduleState))


@pytest.mark.parametrize("where", ["params", "h", "c"])
def test_a_non_finite_update_is_skipped(where):
  net = tiny.model()
  ours = tiny.Steps(net, tiny.config(), devices=2)
  before, _ = ours.run(ours.initial, 2)
  broken = jax.tree.map(np.array, before)
  if where == "params":
    broken.params["head"]["W_hy"][0, 0] = np.inf
  else:
    getattr(broken.carry[0], where)[5, 0] = {"h": np.nan, "c": np.inf}[
      where
    ]  # on the second device
  copy = jax.tree.map(np.array, broken)
  after, losses = ours.run(broken, 1)
  assert where == "c" or not np.isfinite(losses).any()  # c may be infinite, and h finite
  assert after.step == rate_count(after) == copy.step + 1 == rate_count(copy) + 1
  for name in ("params", "carry"):
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(copy, name))
  moments = [optax.tree_utils.tree_get_all_with_path(s.opt_state, "nu") for s in (after, copy)]
  jax.tree.map(np.testing.assert_array_equal, *moments)


@pytest.mark.parametrize("rule", optimizer.OPTIMIZERS)
def test_the_learning_rate_follows_the_step_after_a_skipped_update(rule):
  c = tiny.config(optimizer__name=rule, optimizer__weight_decay=0.1 * (rule == "adamw"))
  ours = tiny.Steps(tiny.model(), c)
  state, _ = ours.run(ours.initial, 1)
  broken = jax.tree.map(np.array, state)
  broken.carry[0].h[0, 0] = np.nan
  skipped, _ = ours.run(broken, 2)
  state, _ = ours.run(skipped._replace(carry=state.carry), 1)
  assert state.step == rate_count(state) == 4


def test_the_whole_state_is_checked_regularly():
  ours = tiny.Steps(tiny.model(), tiny.config(), devices=2)
  broken = jax.tree.map(np.array, ours.initial)
  optax.tree_utils.tree_get(broken.opt_state, "nu")["head"]["b_y"][0] = np.inf
  state, flags = ours.step.put(broken), []
  for step in range(steps.CHECK_EVERY):
    state, out = ours.step(state, *ours.windows.window_at(step))
    flags.append(bool(out["is_finite"]))
    assert out["is_updated"]
  assert flags == [True] * (steps.CHECK_EVERY - 1) + [False]


@pytest.mark.parametrize(
  "cell",
  ["lstm", *(pytest.param(c, marks=pytest.mark.long) for c in ("rnn", "gru", "transformer"))],
)
@pytest.mark.parametrize(
  ("devices", "accumulate"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 2)]
)
def test_remat_does_not_change_the_result_without_dropout(cell, devices, accumulate):
  net = tiny.model(**tiny.TRANSFORMER | {"cell": cell})

  def run(remat):
    # With the default eps, Adam would amplify the rounding errors of tiny gradients.
    c = tiny.config(window=6, remat=remat, accumulate=accumulate, optimizer__eps=1e-3)
    ours = tiny.Steps(net, c, devices=devices)
    return ours.run(ours.initial, 3)

  expected, losses = run(0)
  for remat in (2, 6):
    after, remat_losses = run(remat)
    np.testing.assert_allclose(remat_losses, losses, rtol=1e-6)
    assert_close(after, expected, 1e-6)


def test_remat_works_with_dropout():
  net = tiny.model(dropout=0.5)
  ours = tiny.Steps(net, tiny.config(window=6, remat=2))
  assert np.isfinite(ours.run(ours.initial, 3)[1]).all()


@pytest.mark.long
def test_with_remat_memory_grows_slowly_with_the_window():
  net = tiny.model(hidden=64)

  def temporary(window, remat):
    c = tiny.config(remat=remat)
    ours = tiny.Steps(net, c)
    ids = np.zeros((window, c.batch_size), np.int32)
    compiled = ours.step.compile(ours.step.put(ours.initial), ids, ids)
    return compiled.memory_analysis().temp_size_in_bytes

  boundaries = (512 // 16 - 64 // 16) * 8 * 64 * 4 * 4  # bytes of h and c in two layers
  assert temporary(512, 0) > 6 * temporary(64, 0)
  assert temporary(512, 16) - temporary(64, 16) < 2.5 * boundaries
  assert temporary(512, 16) < temporary(512, 0) / 6


@pytest.mark.parametrize(
  ("model", "fields"),
  [
    pytest.param({"compute_dtype": "bfloat16"}, {}, marks=pytest.mark.long),
    (tiny.TRANSFORMER, {}),
    ({"cell": "rnn", "unroll": "scan"}, {"optimizer__name": "sgd", "remat": 16, "window": 64}),
    *(
      pytest.param(
        {"cell": cell, "compute_dtype": dtype, "unroll": unroll},
        {"window": window},
        marks=pytest.mark.long,
      )
      for cell in ("rnn", "gru", "lstm")
      for dtype in ("float32", "bfloat16")
      for unroll in ("auto", "scan")
      for window in (4, 64)
    ),
    pytest.param({}, {"accumulate": 4, "window": 64}, marks=pytest.mark.long),
    pytest.param({}, {"optimizer__name": "rmsprop"}, marks=pytest.mark.long),
  ],
)
def test_a_step_needs_at_least_the_estimated_memory(model, fields):
  """The estimate is a lower bound, so that nothing is refused that fits, and not a tiny one."""
  model = {"cell": "lstm", "compute_dtype": "float32", "unroll": "auto", "hidden": 64} | model
  c = tiny.config(**fields, **{f"model__{n}": value for n, value in model.items()}, model__layers=2)
  ours = tiny.Steps(tiny.model(**model), c, devices=2)
  x, y = ours.windows.window_at(0)
  used = ours.step.compile(ours.step.put(ours.initial), x, y).memory_analysis()
  needed = steps.memory(c, tiny.V, ours.step.devices)
  stored = sum(needed.pop(name) for name in ("parameters", "optimizer state", "carry"))
  assert 0 <= 2 * used.argument_size_in_bytes - stored < 0.1 * stored + 40_000
  (temporary,) = needed.values()
  assert 0.1 < temporary / (2 * used.temp_size_in_bytes) <= 1


@pytest.mark.parametrize(
  ("fields", "remedy"),
  [
    ({}, "lower --config.model.hidden or --config.model.layers"),
    ({"cpu_devices": 8}, "lower --config.cpu_devices, --config.model.hidden"),
    ({"window": 10**6}, "--config.window, or raise --config.accumulate"),
  ],
)
def test_too_little_memory_is_an_error_before_compilation(monkeypatch, fields, remedy):
  c = tiny.config(**fields, model__layers=2, model__hidden=8, model__compute_dtype="float32")
  devices = steps.Devices(8, 8, 0)
  needed = sum(steps.memory(c, tiny.V, devices).values())
  monkeypatch.setattr(steps.psutil, "swap_memory", lambda: mock.Mock(free=10))
  monkeypatch.setattr(runtime, "free_memory", lambda: needed - 10)
  steps.check_memory(c, tiny.V, devices)
  monkeypatch.setattr(runtime, "free_memory", lambda: needed - 11)
  with pytest.raises(errors.UserError, match=re.escape(remedy)):
    steps.check_memory(c, tiny.V, devices)


def test_a_process_gets_its_share_of_the_streams():
  second_of_two = steps.Devices(local=2, total=4, first=2)
  assert second_of_two.rows(8) == slice(4, 8)


def test_a_batch_that_is_not_divisible_is_rejected():
  layout = steps.Devices(4, 4, 0)
  steps.check_batch(16, 2, layout)
  with pytest.raises(errors.UserError, match=r"batch_size=12.*4 devices x 2 parts.*multiple of 8"):
    steps.check_batch(12, 2, layout)


def test_a_step_is_compiled_once(caplog):
  """A state whose sharding differs from the step's outputs would cause another compilation."""
  ours = tiny.Steps(tiny.model(), tiny.config(), devices=2)
  with jax.log_compiles(), caplog.at_level("WARNING", "jax._src.dispatch"):
    ours.run(ours.initial, 3)
  compiled = [r for r in caplog.records if "Finished XLA compilation of" in r.getMessage()]
  # The versions of JAX give different names to the program of a step.
  assert len([r for r in compiled if re.search("_fun|body", r.getMessage())]) == 1
