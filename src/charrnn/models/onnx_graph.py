"""A recurrent network as an ONNX graph of the standard operators LSTM, GRU and RNN.

Input: `ids` [batch, time] (int64) and the state: `h` (and `c` for the LSTM), [layers, batch, H].
Output: `logits` [batch, time, V] of the next tokens, and the state after them, `next_h` (`next_c`).
The sizes `batch` and `time` are free. Everything is computed in float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from charrnn import errors, models
from charrnn.models import cells

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12; ONNX Runtime reads them since version 1.12
MAX_BYTES = 2**31 - 2**20  # maximum size of a file in the format of protocol buffers
# The operator of each cell, and its blocks of gates in the order of the operator. ONNX calls the
# candidates of the LSTM "c", and those of the GRU "h".
OPERATORS = {
  "rnn": ("RNN", ("h",)),
  "gru": ("GRU", ("z", "r", "n")),
  "lstm": ("LSTM", ("i", "o", "f", "g")),
}


def make(fields: Mapping[str, Any], params: models.Params, meta: Mapping[str, str]):
  """Return the onnx.ModelProto of a network with these fields of `config.model` and parameters.

  `meta` is stored in the file. Raises UserError if the model has no operator in ONNX, or if the
  package onnx is missing.
  """
  if fields["cell"] not in OPERATORS:
    raise errors.UserError(
      f"ONNX export: a model of the type {fields['cell']} cannot be exported, only "
      f"{', '.join(OPERATORS)}: use .safetensors or .npz"
    )
  try:
    from onnx import TensorProto, helper, numpy_helper
  except ImportError as error:
    raise errors.UserError("ONNX export needs onnx: pip install 'charrnn[onnx]'") from error

  cell, H, L = cells.CELLS[fields["cell"]], fields["hidden"], fields["layers"]
  V = len(params["head"]["b_y"])
  weights: dict[str, np.ndarray] = {}
  nodes: list[Any] = []

  def constant(name: str, array) -> str:
    weights[name] = np.ascontiguousarray(array)
    return name

  def node(operator: str, inputs, outputs, **attributes) -> str:
    outputs = [outputs] if isinstance(outputs, str) else outputs
    nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
    return outputs[0]

  # The operators read [time, batch, ...].
  ids_TxB = node("Transpose", ["ids"], "ids_TxB", perm=[1, 0])
  if "embed" in params:
    x = node("Gather", [constant("embed/W_e", params["embed"]["W_e"]), ids_TxB], "x_0")
  else:
    depth = constant("depth", np.array(V, np.int64))
    x = node("OneHot", [ids_TxB, depth, constant("off_on", np.float32([0, 1]))], "x_0")
  names = cell.state._fields  # of the state: h, and c for the LSTM
  parts = {name: [f"{name}_{n}" for n in range(L)] for name in names}
  after = {name: [f"next_{name}_{n}" for n in range(L)] for name in names}
  for name in names:
    node("Split", [name, constant("ones", np.ones(L, np.int64))], parts[name], axis=0)
  no_direction = constant("axis_1", np.int64([1]))
  for n in range(L):
    arrays = _operands(fields["cell"], cell, H, params[f"layer_{n}"])
    operands = [constant(f"layer_{n}/{name}", array) for name, array in arrays.items()]
    before = [parts[name][n] for name in names]
    outputs = [f"y_{n}", *(after[name][n] for name in names)]
    attributes = {"hidden_size": H} | ({"linear_before_reset": 1} if cell.biases else {})
    # The empty input is the lengths of the sequences, which are all the same.
    node(OPERATORS[fields["cell"]][0], [x, *operands, "", *before], outputs, **attributes)
    h = node("Squeeze", [f"y_{n}", no_direction], f"h_TxBxH_{n}")
    x = node("Add", [h, x], f"sum_{n}") if fields.get("residual") and n else h
  logits = node("MatMul", [x, constant("head/W_hy", params["head"]["W_hy"])], "product")
  logits = node("Add", [logits, constant("head/b_y", params["head"]["b_y"])], "logits_TxBxV")
  node("Transpose", [logits], "logits", perm=[1, 0, 2])
  for name in names:
    node("Concat", after[name], f"next_{name}", axis=0)

  def tensor(name: str, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)

  state = [L, "batch", H]
  graph = helper.make_graph(
    nodes,
    "charrnn",
    [tensor("ids", ["batch", "time"], TensorProto.INT64), *(tensor(name, state) for name in names)],
    [tensor("logits", ["batch", "time", V]), *(tensor(f"next_{name}", state) for name in names)],
    [numpy_helper.from_array(array, name) for name, array in weights.items()],
  )
  opset = [helper.make_opsetid("", OPSET)]
  model = helper.make_model(
    graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="charrnn"
  )
  helper.set_model_props(model, dict(meta))
  if model.ByteSize() > MAX_BYTES:
    raise errors.UserError("ONNX export: the model is larger than 2 GB: use .safetensors or .npz")
  return model


def _operands(name: str, cell: cells.Cell, H: int, layer) -> dict[str, np.ndarray]:
  """Return the inputs W, R and B of an ONNX operator, whose first axis is the direction."""
  order = [cell.gates.index(gate) for gate in OPERATORS[name][1]]

  def blocks(array):  # [..., G*H] -> [G*H, ...], in the order of ONNX
    array = np.asarray(array, np.float32)
    split = array.T.reshape(len(cell.gates), H, *array.shape[:-1])
    return split[order].reshape(array.T.shape)

  recurrent = np.zeros((len(cell.gates), H), np.float32)
  if cell.biases:  # the bias b_hn of the GRU, which its reset gate multiplies
    recurrent[cell.gates.index("n")] = layer["b_hn"]
  B = np.concatenate([blocks(layer["b_h"]), blocks(recurrent.reshape(-1))])
  return {"W": blocks(layer["W_xh"])[None], "R": blocks(layer["W_hh"])[None], "B": B[None]}
