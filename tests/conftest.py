"""Before JAX starts: eight devices on the CPU, and a cache folder that is not the user's."""

import os
import tempfile

import jax

from charrnn import runtime

jax.config.update("jax_num_cpu_devices", 8)
_cache = tempfile.TemporaryDirectory(prefix="charrnn-tests-")
os.environ["CHARRNN_CACHE"] = _cache.name
runtime.keep_memory = lambda: None  # for this process: freed memory goes back to the system


def pytest_configure(config):
  # ml_collections reads experiment files so.
  config.addinivalue_line("filterwarnings", r"ignore:the load_module\(\) method:DeprecationWarning")
