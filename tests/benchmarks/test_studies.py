import json
import os
import subprocess
import sys

import pytest

from charrnn.benchmarks import studies


@pytest.mark.parametrize(
  "cell", ["lstm", *(pytest.param(cell, marks=pytest.mark.long) for cell in ("rnn", "gru"))]
)
def test_profile_assigns_time_to_every_part(cell):
  sizes = ["--hidden=8", "--batch=4", "--window=6", "--dtype=bfloat16"]
  done = subprocess.run(
    [sys.executable, "-m", "charrnn.cli", "bench", "profile", "--json", f"--cell={cell}", *sizes],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  (result,) = json.loads(done.stdout)["results"]
  names = [*(name for name, _ in studies.PARTS), studies.REST]
  assert [name for name in names if name in result["parts"]] == list(result["parts"])
  assert min(result["parts"].values()) > 0 and result["seconds"] > 0
  assert result["unrecorded"] == max(0, result["seconds"] - sum(result["parts"].values()))


def test_operations_are_assigned_to_parts_by_name():
  program = """
  %dot.1 = f32[4,8]{1,0} dot(%a, %b), metadata={op_name="jit(f)/jvp(N)/layer_0/while/x/dot_general"}
  ROOT %add.2 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/jvp(N)/layer_0/while/add"}
  %dot.3 = f32[8] dot(%a), metadata={op_name="jit(f)/transpose(jvp(N))/layer_1/while/x/dot_general"}
  %mul.4 = f32[8] multiply(%a), metadata={op_name="jit(f)/transpose(jvp(N))/layer_1/while/x/mul"}
  %dot.5 = f32[8] dot(%a), metadata={op_name="jit(f)/transpose(jvp(N))/layer_1/dot_general"}
  %while.6 = (f32[8]) while(%a), metadata={op_name="jit(f)/jvp(N)/layer_0/while"}
  %head.7 = f32[8] dot(%a), metadata={op_name="jit(f)/jvp(N)/head/dot_general"}
  %all-reduce.8 = f32[8] all-reduce(%a), metadata={op_name="jit(f)/psum"}
  %ffi_call.10 = (f32[2], f32[4]) custom-call(%a), custom_call_target="charrnn_forward", metadata={op_name="jit(f)/jvp(N)/layer_0/ffi_call"}
  %ffi_call.11 = f32[2] custom-call(%a), custom_call_target="charrnn_backward", metadata={op_name="jit(f)/transpose(jvp(N))/layer_0/ffi_call"}
  %ffi_call.12 = f32[2] custom-call(%a), custom_call_target="charrnn_weight_gradient", metadata={op_name="jit(f)/transpose(jvp(N))/layer_0/ffi_call"}
  %custom-call.13 = f32[2] custom-call(%a), custom_call_target="TopK", metadata={op_name="jit(f)/jvp(N)/head/top_k"}
  %sqrt.9 = f32[8] sqrt(%a), metadata={op_name="jit(f)/sqrt"}
"""
  native = ["native forward pass", "native backward pass", "native weight gradients"]
  parts = [name for name, _ in studies.PARTS]
  assert parts[:3] == native
  assert studies.parts_by_operation(program) == {
    "dot.1": parts[3],
    "add.2": parts[5],
    "dot.3": parts[4],
    "mul.4": parts[6],
    "dot.5": parts[7],
    "head.7": parts[8],
    "all-reduce.8": parts[9],
    "ffi_call.10": parts[0],
    "ffi_call.11": parts[1],
    "ffi_call.12": parts[2],
    "custom-call.13": parts[8],
    "sqrt.9": studies.REST,
  }
