"""A program that writes the files of a run again and again, with another failure each time.

  LD_PRELOAD=LIBRARY python -m failing_disk LIBRARY FOLDER ERRNO STRIDE

LIBRARY is the compiled failing_disk.c. Every STRIDE-th operation fails in turn. Prints the failed
operation and the result of each attempt. An attempt must end within a minute, succeed or raise a
UserError, and lose no step that was saved; a second attempt must complete the run.
"""

import ctypes
import faulthandler
import os
import pathlib
import shutil
import sys
import traceback

from charrnn import errors, files, runtime
from charrnn.runs import checkpoints, lock, metrics

STEPS = 3
SECONDS = 60


def write(run: pathlib.Path, saved: list[int]):
  """Write the files of a run, and add the steps that were reported as saved to `saved`."""
  import numpy as np

  with lock.hold(run):
    files.remove_temporary(run)
    files.write_json(run / "config.json", {"a": 1})
    log = metrics.MetricsLog(run)
    log.start(1)
    try:
      writer = checkpoints.Writer(run / "checkpoints", keep=1)
      try:
        newest = max(checkpoints.steps(run / "checkpoints"), default=0)
        for step in range(newest + 1, STEPS + 1):
          log.log(step, {"train/loss": 1.0 / step})
          tree = {"params": {"W": np.full((2, 3), step, np.float32)}}
          meta = {"valid_loss": 1.0 / step, "memory": {}, "metrics": log.sync()}
          writer.save(step, tree, meta)
          saved[:] = [step - 1] if step > newest + 1 else []  # The last one may be unfinished.
        writer.wait()
        saved[:] = [STEPS]
      finally:
        writer.close()
    finally:
      log.finish()


def attempt(run: pathlib.Path) -> str:
  """Write a run; return what happened, and check that the steps on disk are whole."""
  saved: list[int] = []
  try:
    write(run, saved)
    result = "ok"
  except errors.UserError as error:
    result = str(error)
    assert "\n" not in result and result.count(": ") >= 2, result
  folder = run / "checkpoints"
  existing = checkpoints.steps(folder)
  # A later step may have replaced the one that was reported as saved.
  assert not saved or max(existing, default=0) >= max(saved), (saved, existing)
  for step in existing:
    tree, _ = checkpoints.read(folder, step)
    assert (tree["params"]["W"] == step).all()
  return result


def main(path: str, folder: str, code: str, stride: str):
  library = ctypes.CDLL(path)
  library.name.restype = ctypes.c_char_p
  runtime.start()
  run, number = pathlib.Path(folder) / "failing-run", 1
  while True:
    shutil.rmtree(run, ignore_errors=True)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    library.fail(run.name.encode(), number, int(code))
    result, operation = attempt(run), os.fsdecode(library.name())
    library.fail(b"", 0, 0)
    faulthandler.cancel_dump_traceback_later()
    if not operation:  # There are not so many operations.
      break
    print(f"{operation}: {result}", flush=True)
    again = attempt(run)
    assert again == "ok", again
    assert checkpoints.steps(run / "checkpoints")[-1] == STEPS
    left = [str(path) for path in run.rglob("*") if path.name.startswith(".") or "tmp" in path.name]
    assert not left, left
    number += int(stride)


if __name__ == "__main__":
  try:
    main(*sys.argv[1:])
  except BaseException:
    traceback.print_exc()
    os._exit(1)
  sys.stdout.flush()
  os._exit(0)  # After a failed save, threads of Orbax wait for a long time.
