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
  %sqrt.9 = f32[8] sqrt(%a), metadata={op_name="jit(f)/sqrt"}
"""
  parts = [name for name, _ in studies.PARTS]
  assert studies.parts_by_operation(program) == {
    "dot.1": parts[4],
    "add.2": parts[6],
    "dot.3": parts[5],
    "mul.4": parts[7],
    "dot.5": parts[8],
    "head.7": parts[9],
    "all-reduce.8": parts[10],
    "sqrt.9": studies.REST,
  }


@pytest.mark.parametrize(
  "target, part",
  [
    ("charrnn_forward", "native forward pass"),
    ("charrnn_backward", "native backward pass"),
    ("charrnn_weight_gradient", "native weight gradients"),
    ("charrnn_pack", "native layout of weights"),
    ("TopK", "weight gradients and the rest of the layers"),
  ],
)
def test_functions_of_the_native_library_are_parts(target, part):
  call = f'%ffi_call.1 = (f32[2], f32[4]) custom-call(%a), custom_call_target="{target}"'
  program = f'  {call}, metadata={{op_name="jit(f)/jvp(N)/layer_0/ffi_call"}}\n'
  assert studies.parts_by_operation(program) == {"ffi_call.1": part}
