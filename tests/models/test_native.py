"""The layers of native.cc: values, gradients, instruction sets, threads, shapes, transformations.

The reference is a scan over the step function of the cell in float64. CHARRNN_CXXFLAGS selects the
instruction set of a subprocess.
"""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import native_layers
import numpy as np
import pytest
import small_layers
import small_models
from native_layers import CASES, CELLS, DTYPES, TOLERANCES, Case

from charrnn.models import cells, layers, native, native_library, rnn

# Skip these tests only on unmeasured machines and without a compiler. A native.cc that does not
# compile is an error.
REASON = native_library.unmeasured()
if not REASON and not any(map(shutil.which, native_library.COMPILERS)):
  REASON = "there is no compiler"
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"no native layers: {REASON}")
if not REASON:
  native_library.load()

# Flags for the compiler, and the instruction set that results. Each needs a compilation.
INSTRUCTIONS = [
  pytest.param("-mavx2 -mfma", "AVX2"),
  pytest.param("-march=native -mno-amx-tile -mno-amx-bf16", "AVX512-BF16", marks=pytest.mark.long),
  pytest.param(
    "-march=native -mno-amx-tile -mno-amx-bf16 -mno-avx512bf16", "AVX512", marks=pytest.mark.long
  ),
  pytest.param("-march=x86-64", "baseline", marks=pytest.mark.long),
]
LONG = [CASES[n] for n in (1, 3, 4)]
cases = pytest.mark.parametrize(("cell", "dtype"), [(c, d) for c in CELLS for d in DTYPES])


def measure(mode, cores, **environment):
  """Return the output of `python -m native_layers` with these arguments and environment."""
  folder = os.path.dirname(native_layers.__file__)
  done = subprocess.run(
    [sys.executable, "-m", "native_layers", mode, str(cores)],
    env={**os.environ, "PYTHONPATH": folder, "JAX_PLATFORMS": "cpu", **environment},
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def assert_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def target_names(f, *arguments):
  """Return the names of the functions of native.cc in a program."""
  program = str(jax.make_jaxpr(f)(*arguments))
  return {name for name in native_library.TARGETS if re.search(rf"\b{name}\b", program)}


@functools.cache
def expected_results(cell, case):
  operands = native_layers.make(cell, case)
  return operands, native_layers.exact(cell, *operands)


@pytest.mark.parametrize(
  "case", [pytest.param(c, id=str(c), marks=pytest.mark.long if c in LONG else []) for c in CASES]
)
@cases
def test_values_and_gradients_agree_with_float64(cell, dtype, case):
  operands, expected = expected_results(cell, case)
  actual = native_layers.run(cell, dtype, *operands)
  assert native_layers.error(actual, expected) <= TOLERANCES[dtype]
  assert_equal(native_layers.run(cell, dtype, *operands), actual)


@pytest.mark.parametrize(("flags", "name"), INSTRUCTIONS)
def test_other_instruction_sets_agree_with_float64(flags, name):
  here = native_library.load().instructions
  order = ["baseline", "AVX2", "AVX512", "AVX512-BF16", "AMX-BF16"]
  if order.index(name) > order.index(here):
    pytest.skip("this CPU does not have these instructions")
  if name == here:
    pytest.skip("the other tests use these instructions")
  result = measure("compare", 2, CHARRNN_CXXFLAGS=flags)
  assert result["path"].startswith(f"native ({name},")
  assert all(result["errors"][dtype] <= TOLERANCES[dtype] for dtype in DTYPES), result["errors"]


def test_results_do_not_depend_on_the_number_of_threads_or_the_process():
  one = measure("digest", 1)
  two = measure("digest", 2)
  assert one["digests"] == two["digests"] and two["cache_hits"] >= len(two["digests"])
  for cell in CELLS:
    operands, _ = expected_results(cell, CASES[-1])
    for dtype in DTYPES:
      here = native_layers.digest(native_layers.run(cell, dtype, *operands))
      assert here == two["digests"][f"{cell} {dtype} {tuple(CASES[-1])}"]


@pytest.mark.long
@pytest.mark.parametrize("instructions", ["-march=native", "-mavx2 -mfma"])
def test_sanitizers_find_nothing(instructions, tmp_path):
  """Run layers of random sizes with checks for wrong addresses and undefined behavior."""
  libraries = [
    subprocess.check_output(["g++", f"-print-file-name=lib{name}.so"], text=True).strip()
    for name in ("asan", "ubsan")
  ]
  sanitize = "-g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
  result = measure(
    "fuzz",
    2,
    CXX="g++",
    CHARRNN_CXXFLAGS=f"{instructions} {sanitize}",
    CHARRNN_CACHE=str(tmp_path),
    LD_PRELOAD=" ".join(libraries),
    ASAN_OPTIONS="detect_leaks=0",  # Python and JAX do not free everything
  )
  assert result["num"] == 50
  (library,) = tmp_path.glob("native/*.so")
  assert b"__asan_report" in library.read_bytes() and b"__ubsan" in library.read_bytes()


@cases
def test_a_row_does_not_depend_on_its_batch(cell, dtype):
  case = Case(4, 40, 20, 33)
  params, *rest = native_layers.make(cell, case)
  (last, y), (_, dstate, dx) = native_layers.run(cell, dtype, params, *rest)
  for rows in (slice(0, 1), slice(5, 13), slice(39, 40)):
    state, x, (dlast, dy) = rest
    part = jax.tree.map(lambda a: a[rows], state), x[:, rows]  # noqa: B023
    cotangents = jax.tree.map(lambda a: a[rows], dlast), dy[:, rows]  # noqa: B023
    (last_2, y_2), (_, dstate_2, dx_2) = native_layers.run(cell, dtype, params, *part, cotangents)
    assert_equal((y_2, dx_2), (y[:, rows], dx[:, rows]))
    assert_equal((last_2, dstate_2), jax.tree.map(lambda a: a[rows], (last, dstate)))  # noqa: B023


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["x", "h", "c", "W_xh", "W_hh", "b_h", "dy"])
@cases
def test_nan_and_infinity_propagate_within_their_row(cell, dtype, place, value):
  params, state, x, cotangents = native_layers.make(cell, Case(4, 9, 21, 18))
  clean = native_layers.run(cell, dtype, params, state, x, cotangents)
  row = 4
  if place in params:
    params[place].reshape(-1)[7] = value
  elif place == "x":
    x[1, row, 3] = value
  elif place == "dy":
    cotangents[1][2, row, 5] = value
  elif place in state._fields:
    getattr(state, place)[row, 2] = value
  else:
    pytest.skip("the cell has no such state")
  expected = native_layers.exact(cell, params, state, x, cotangents)
  actual = native_layers.run(cell, dtype, params, state, x, cotangents)
  for leaf, exact in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    # An infinite operand can give 0 * inf, which is NaN, or tiny * inf, because a saturated gate is
    # exactly 0 only in float64.
    if np.isnan(value):
      assert np.isnan(np.asarray(leaf, np.float32)[np.isnan(exact)]).all()
  assert _is_finite(actual) == _is_finite(expected)
  if place not in params:  # other rows are unchanged to the bit
    (last, y), (_, dstate, dx) = actual
    (clean_last, clean_y), (_, clean_dstate, clean_dx) = clean
    others = np.arange(9) != row
    assert_equal((y[:, others], dx[:, others]), (clean_y[:, others], clean_dx[:, others]))
    for part, clean_part in zip((*last, *dstate), (*clean_last, *clean_dstate), strict=True):
      assert_equal(part[others], clean_part[others])


def _is_finite(tree):
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 5, 15, 17), (9, 14, 100, 65), (2, 6, 16, 130)])
def test_the_output_layer_agrees_with_float64(dtype, sizes):
  T, B, D, V = sizes
  rng = np.random.default_rng(0)
  x, W, b, dy = (rng.normal(size=s) for s in ((T, B, D), (D, V), (V,), (T, B, V)))
  expected = x @ W + b, (dy @ W.T, np.einsum("tbd,tbv->dv", x, dy), dy.sum((0, 1)))

  @jax.jit
  def run(x, W, b, dy):
    y, vjp = jax.vjp(lambda *a: native.linear(*a, jnp.dtype(dtype)), x, W, b)
    return y, vjp(dy)

  operands = [a.astype(np.float32) for a in (x, W, b, dy)]
  actual = run(*operands)
  assert native_layers.error(actual, expected) <= TOLERANCES[dtype]
  packed = native.pack_linear(jnp.dtype(dtype), operands[1])
  assert_equal(native.linear(*operands[:3], jnp.dtype(dtype), packed), actual[0])


# Networks.


def loss(model, params, ids, carry, **kwargs):
  logits, after, _ = model.apply(params, ids, carry, **kwargs)
  return layers.cross_entropy(logits, ids).mean() + sum((s.h**2).mean() for s in after)


def network_case(cell, **fields):
  model = small_layers.network(cell, unroll="native", **fields)
  ids = np.random.default_rng(0).integers(0, small_layers.V, (9, 8)).astype(np.int32)
  return model, model.init(jax.random.key(0)), ids, model.initial_carry(8)


@pytest.mark.parametrize(
  ("cell", "dtype", "fields"),
  [
    ("rnn", "float32", {}),
    ("lstm", "float32", {"embed": 5, "dropout": 0.5}),
    pytest.param("gru", "bfloat16", {"embed": 5, "dropout": 0.5}, marks=pytest.mark.long),
    pytest.param("lstm", "float32", {"dropout": 0.5, "weight_drop": 0.5}, marks=pytest.mark.long),
    ("gru", "bfloat16", {"dropout": 0.5, "weight_drop": 0.5, "residual": True}),
  ],
)
def test_a_network_agrees_with_the_scan(cell, dtype, fields):
  model, params, ids, carry = network_case(cell, compute_dtype=dtype, **fields)
  scan = small_layers.network(cell, unroll="scan", compute_dtype=dtype, **fields)
  rngs = small_models.rngs(8)
  results = [
    jax.jit(jax.value_and_grad(functools.partial(loss, m), (0, 2)))(params, ids, carry, rngs=rngs)
    for m in (model, scan)
  ]
  small_layers.assert_close(*results, {"float32": 1e-6, "bfloat16": 2e-2}[dtype])


def test_transformations_do_not_change_results():
  def assert_equal(actual, expected):  # XLA fuses the loss differently in each program
    small_layers.assert_close(actual, jax.tree.map(np.asarray, expected), 1e-6)

  model, params, ids, carry = network_case("lstm")
  f = jax.value_and_grad(functools.partial(loss, model), (0, 2))
  expected = f(params, ids, carry)  # each call of the library is its own program
  assert_equal(jax.jit(f)(params, ids, carry), expected)
  with jax.disable_jit():
    assert_equal(f(params, ids, carry), expected)
  with jax.debug_nans(True):
    assert_equal(jax.jit(f)(params, ids, carry), expected)
  remat = jax.value_and_grad(jax.checkpoint(functools.partial(loss, model)), (0, 2))
  assert_equal(jax.jit(remat)(params, ids, carry), expected)
  donated = jax.jit(f, donate_argnums=2)
  assert_equal(donated(params, ids, jax.tree.map(jnp.copy, carry)), expected)
  stacked = jax.tree.map(lambda a: jnp.stack([a] * 2), (params, ids, carry))
  in_scan = jax.jit(lambda s: jax.lax.scan(lambda _, a: (None, f(*a)), None, s)[1])(stacked)
  for results in (jax.jit(jax.vmap(f))(*stacked), jax.pmap(f)(*stacked), in_scan):
    for n in range(2):
      assert_equal(jax.tree.map(lambda a: a[n], results), expected)  # noqa: B023
  for dtype in (np.uint8, np.uint32):
    assert_equal(jax.jit(f)(params, ids.astype(dtype), carry), expected)
  with native_layers.enable_x64(True):
    assert_equal(
      model.apply(params, ids.astype(np.int64), carry)[:2], model.apply(params, ids, carry)[:2]
    )


@cases
def test_packed_weights_give_bit_identical_results(cell, dtype):
  for fields in ({}, {"embed": 5}):
    model, params, ids, carry = network_case(cell, compute_dtype=dtype, **fields)
    prepared = jax.jit(model.prepare)(params)
    units = {"h": (np.arange(small_layers.H) == 3, np.full(small_layers.H, 0.25))}
    clamp = {"layer_0": units, "layer_1": units}
    for kwargs in ({}, {"record": True}, {"clamp": clamp}):
      plain = model.apply(params, ids, carry, **kwargs)
      assert_equal(model.apply(prepared, ids, carry, **kwargs), plain)
      apply = functools.partial(model.apply, prepared, ids, **kwargs)
      names = {"charrnn_linear"} if kwargs else {"charrnn_linear", "charrnn_forward"}
      assert target_names(apply, carry) == names


def test_training_runs_every_product_in_the_library():
  model, params, ids, carry = network_case("gru")
  step = jax.grad(functools.partial(loss, model))
  assert target_names(step, params, ids, carry) == {*native_library.TARGETS} - {"charrnn_registers"}
  assert "dot_general" not in str(jax.make_jaxpr(step)(params, ids, carry))


def test_a_custom_cell_stays_with_the_scan(monkeypatch):
  monkeypatch.setitem(cells.CELLS, "own", dataclasses.replace(cells.CELLS["lstm"], native=False))
  model = rnn.make(small_layers.V, cell="own", layers=1, hidden=4)
  params, ids = model.init(jax.random.key(0)), np.zeros((2, 3), int)
  assert target_names(model.apply, params, ids, model.initial_carry(3)) == set()


@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_empty_inputs(cell, ids, T, B):
  params, state, x, cotangents = native_layers.make(cell, Case(T, B, 5, 6, ids))
  (last, y), (dparams, dstate, *dx) = native_layers.run(
    cell, "float32", params, state, x, cotangents
  )
  assert_equal((last, dstate), (state, cotangents[0]) if T == 0 else (last, dstate))
  assert y.shape == (T, B, 6) and all(each.shape == x.shape for each in dx)
  assert all((np.asarray(leaf) == 0).all() for leaf in dparams.values())


# Operands and results of every handler, for T 3, B 4, D 16, H 16, V 5; then its attributes.
HANDLERS = {
  "charrnn_pack": (
    [(16, 64)],
    [(1, 16, 64, 1)],
    {"cell": np.int64(2), "matrix": np.int64(0), "transposed": np.bool_(False)},
  ),
  "charrnn_forward": (
    [(3, 4, 16), (1, 16, 64, 1), (1, 16, 64, 1), (1, 1, 64, 1), (4, 16), (4, 16), (4, 16)],
    [(3, 4, 16), (4, 16), (4, 16), (3, 4, 64), (3, 4, 16)],
    {"cell": np.int64(2)},
  ),
  "charrnn_backward": (
    [(3, 4, 64), *[(3, 4, 16)] * 2, (4, 16), (3, 4, 16), *[(4, 16)] * 2, *[(1, 64, 64, 1)] * 2],
    [(3, 4, 64), (4, 16), (4, 16), (3, 4, 16)],
    {"cell": np.int64(2)},
  ),
  "charrnn_weight_gradient": (
    [(3, 4, 16), (4, 16), (3, 4, 16), (3, 4, 64)],
    [(16, 64), (16, 64), (64,)],
    {"cell": np.int64(2)},
  ),
  "charrnn_linear": ([(3, 4, 16), (1, 16, 64, 1), (5,)], [(3, 4, 5)], {}),
  "charrnn_linear_gradient": (
    [(3, 4, 16), (1, 16, 64, 1), (3, 4, 5)],
    [(3, 4, 16), (16, 5), (5,)],
    {},
  ),
}


@pytest.mark.parametrize("target", HANDLERS)
def test_wrong_operands_are_errors(target):
  operands, results, attributes = HANDLERS[target]

  def call(shapes, dtypes):
    arrays = [jax.ShapeDtypeStruct(*each) for each in zip(shapes, dtypes, strict=True)]
    inputs = [jnp.zeros(a.shape, a.dtype) for a in arrays[: len(operands)]]
    function = jax.ffi.ffi_call(target, arrays[len(operands) :])
    jax.block_until_ready(function(*inputs, **attributes))

  shapes = [*operands, *results]
  call(shapes, ["float32"] * len(shapes))
  layer = target in ("charrnn_forward", "charrnn_backward", "charrnn_weight_gradient")
  accepted = []
  for n, shape in enumerate(shapes):
    is_array = len(shape) < 4 and layer  # of other operands, the number of axes is not checked
    wrong = [(shape, "uint8")]
    if n:  # x may have more columns than W_xh has rows
      wrong += [((*shape[:-1], shape[-1] + 1), "float32")]
    if n < len(operands):  # JAX runs nothing if there is a single result and it is empty
      wrong += [((0,), "float32"), ((*shape[:-1], 0), "float32")]
    if is_array:
      wrong += [((1, *shape), "float32")]
    for new_shape, dtype in wrong:
      dtypes = ["float32"] * len(shapes)
      dtypes[n] = dtype
      try:
        call([*shapes[:n], new_shape, *shapes[n + 1 :]], dtypes)
      except jax.errors.JaxRuntimeError as error:
        assert re.search("shapes of the operands|float32 or bfloat16", str(error))
      else:
        accepted.append((n, new_shape, dtype))
  assert not accepted
