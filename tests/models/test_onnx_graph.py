"""ONNX graphs of networks, compared with the networks by ONNX Runtime."""

import sys

import jax
import numpy as np
import pytest

from charrnn import errors, models
from charrnn.models import onnx_graph

V, H = 7, 8
CASES = [
  {"cell": "lstm", "layers": 2},
  {"cell": "lstm", "layers": 3, "embed": 5, "residual": True},
  {"cell": "gru", "layers": 1, "embed": 5},
  {"cell": "gru", "layers": 2},
  {"cell": "rnn", "layers": 2, "residual": True},
]


def network(fields):
  """Return the fields, the model, and random parameters, in which no two numbers are the same."""
  fields = {"hidden": H, "embed": 0, "residual": False, "unroll": "scan"} | fields
  model = models.make(V, fields)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  return fields, model, random_like(np.random.default_rng(0), shapes)


def random_like(rng, tree):
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_onnx_runtime_gives_the_same_logits_and_states(fields):
  onnx = pytest.importorskip("onnx")
  runtime = pytest.importorskip("onnxruntime")
  fields, model, params = network(fields)
  graph = onnx_graph.make(fields, params, {"step": "3"})
  onnx.checker.check_model(graph, full_check=True)
  session = runtime.InferenceSession(graph.SerializeToString())
  assert session.get_modelmeta().custom_metadata_map == {"step": "3"}
  outputs, names = [each.name for each in session.get_outputs()], model.states
  for batch, steps in ((1, 1), (3, 9)):
    rng = np.random.default_rng(steps)
    ids_BxT = rng.integers(0, V, (batch, steps))
    carry = random_like(rng, model.initial_carry(batch))
    logits_TxBxV, after, _ = model.apply(params, ids_BxT.T, carry)
    state = {name: np.stack([getattr(each, name) for each in carry]) for name in names}
    result = dict(zip(outputs, session.run(None, {"ids": ids_BxT, **state})))
    np.testing.assert_allclose(result["logits"], np.swapaxes(logits_TxBxV, 0, 1), atol=2e-5)
    for name in names:
      expected = np.stack([getattr(each, name) for each in after])
      np.testing.assert_allclose(result[f"next_{name}"], expected, atol=1e-5)


def test_the_state_continues_a_sequence():
  pytest.importorskip("onnx")
  runtime = pytest.importorskip("onnxruntime")
  fields, _, params = network(CASES[0])
  session = runtime.InferenceSession(onnx_graph.make(fields, params, {}).SerializeToString())
  ids = np.random.default_rng(0).integers(0, V, (2, 6))
  state = {name: np.zeros((2, 2, H), np.float32) for name in ("h", "c")}
  whole = session.run(["logits"], {"ids": ids, **state})[0]
  logits, *after = session.run(None, {"ids": ids[:, :4], **state})
  rest = session.run(["logits"], {"ids": ids[:, 4:], **dict(zip(("h", "c"), after))})[0]
  np.testing.assert_allclose(np.concatenate([logits, rest], axis=1), whole, atol=1e-6)


def test_what_cannot_be_exported_is_named(monkeypatch):
  with pytest.raises(errors.UserError, match="a model of the type transformer cannot be exported"):
    onnx_graph.make({"cell": "transformer"}, {}, {})
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(errors.UserError, match=r"needs onnx: pip install 'charrnn\[onnx\]'"):
    onnx_graph.make({"cell": "lstm"}, {}, {})
