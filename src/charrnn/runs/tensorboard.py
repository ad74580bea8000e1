"""Event files of scalars for TensorBoard."""

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping


class EventFile:
  """A new event file in a folder.

  tensorboardX's SummaryWriter would write in a thread, and block the program forever if the thread
  fails, for example on a full disk. Its RecordWriter raises the error here.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    """Tell TensorBoard to ignore the steps from `first_step` on in older files of the folder."""
    with _without_torch():
      from tensorboardX import RecordWriter
      from tensorboardX.proto import event_pb2

    self._event = event_pb2.Event
    # An absolute path: tensorboardX would upload a file below "s3:" or "gs:" to a bucket.
    path = folder.absolute() / f"events.out.tfevents.{time.time_ns()}"
    self._records = RecordWriter(str(path))
    self._write(file_version="brain.Event:2")
    self._write(step=first_step, session_log={"status": event_pb2.SessionLog.START})

  def write(self, step: int, values: Mapping[str, float]):
    """Write the finite values of a step by name."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    scalars = [{"tag": name, "simple_value": value} for name, value in finite.items()]
    self._write(step=step, summary={"value": scalars})

  def _write(self, **fields):
    event = self._event(wall_time=time.time(), **fields)
    try:
      self._records.write(event.SerializeToString())
      self._records.flush()
    except OSError:
      self.close()
      raise

  def close(self):
    """Close the file; events that cannot be written are lost."""
    with contextlib.suppress(OSError):
      self._records.close()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
  """Hide PyTorch: tensorboardX imports it if it is installed, which takes seconds and may fail."""
  if "torch" in sys.modules:
    yield
    return
  sys.modules["torch"] = None  # An import raises ImportError, which tensorboardX handles.
  try:
    yield
  finally:
    del sys.modules["torch"]
