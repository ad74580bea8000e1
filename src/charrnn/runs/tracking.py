"""The log of a run: metrics.jsonl, and trackers that receive a copy of the metrics.

TensorBoard's event file is always written. `config.tracker` adds Weights & Biases or MLflow, whose
packages are optional. A tracker that fails is dropped with one line, and training continues.
"""

import contextlib
import importlib.util
import math
import os
import pathlib
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from charrnn import config as config_lib
from charrnn import console, errors, files
from charrnn.runs import metrics
from charrnn.runs.status import RunStatus

PROJECT = "charrnn"  # the default project of Weights & Biases, and experiment of MLflow
ID_TAG = "charrnn.id"  # the tag of MLflow by which a resumed run is found
MAX_WAIT = 60.0  # maximum seconds to wait at the end of training until a service has the metrics
MAX_PARAMETERS = 100  # maximum number of parameters in a request to MLflow
MAX_VALUE = 500  # maximum number of characters of a parameter


class TrackedRun(NamedTuple):
  """The facts about a run that trackers use."""

  workdir: pathlib.Path
  config: dict[str, Any]  # the resolved config as JSON
  id: str  # It stays the same when the run is resumed, also in a copy on another machine.

  @classmethod
  def of(cls, workdir: pathlib.Path, config, record: Mapping[str, Any]) -> "TrackedRun":
    """Return the run of a directory with a config and the content of its run.json.

    A copy of the directory with another name is another run.
    """
    run = cls(workdir, config_lib.to_json(config), "")
    first = record["launches"][0]
    identity = {name: first.get(name) for name in ("time", "command", "directory")}
    return run._replace(id=files.digest(identity | {"name": run.name})[:16])

  @property
  def name(self) -> str:
    return self.workdir.absolute().name

  @property
  def group(self) -> str | None:
    """The name of the sweep that the run is a trial of, or None."""
    parent = self.workdir.absolute().parent
    return parent.name if (parent / "sweep.json").exists() else None


class Tracker(Protocol):
  """A receiver of the metrics of one run."""

  def start(self, first_step: int):
    """Prepare for metrics from `first_step` on.

    It is called again after a rollback, which repeats steps that were logged before.
    """

  def log(self, step: int, values: Mapping[str, float]):
    """Receive the values of a step by name."""

  def finish(self, status: RunStatus):
    """Receive the run status, and write everything."""


class Log:
  """metrics.jsonl and the trackers of a run; a context manager, at whose end they finish."""

  def __init__(self, workdir: pathlib.Path, trackers: Sequence[Tracker] = ()):
    self.status = RunStatus.FINISHED  # the status of the run if no exception ends it
    self._file = metrics.MetricsLog(workdir)
    self._trackers = [_Optional(each) for each in trackers]

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is not None:
      is_diverged = issubclass(kind, errors.DivergedError)
      self.status = RunStatus.DIVERGED if is_diverged else RunStatus.FAILED
    self._file.finish(self.status)
    for each in self._trackers:
      # A second signal, which raises KeyboardInterrupt, must end the program soon.
      each.finish(self.status, waits=kind is None or issubclass(kind, Exception))

  def start(self, first_step: int):
    """Prepare for metrics from `first_step` on; lines of later steps are removed."""
    self._file.start(first_step)
    for each in self._trackers:
      each("start", first_step)

  def log(self, step: int, values: Mapping[str, float]):
    """Write the values of a step by name. Trackers get those that are finite."""
    self._file.log(step, values)
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    for each in self._trackers:
      each("log", step, finite)

  def sync(self) -> dict[str, Any]:
    """Write metrics.jsonl to disk; return its size and digest."""
    return self._file.sync()


class _Optional:
  """A tracker that is dropped with one line when it fails.

  A thread calls a tracker that `uses_network`, so that training never waits for a server.
  """

  def __init__(self, tracker):
    self._tracker, self._is_dropped = tracker, False
    self._calls: queue.SimpleQueue | None = None
    self._thread: threading.Thread | None = None
    # A package may raise any error. In the main thread, KeyboardInterrupt is a signal.
    self._errors = BaseException if tracker.uses_network else Exception
    if tracker.uses_network:
      self._calls = queue.SimpleQueue()
      self._thread = threading.Thread(target=self._work, daemon=True)

  def __call__(self, method: str, *arguments):
    if self._is_dropped:
      return
    if self._calls is None:
      self._call(method, *arguments)
      return
    self._calls.put((method, *arguments))
    if self._thread.ident is None:
      try:
        self._thread.start()
      except RuntimeError as error:
        self._drop(error)

  def finish(self, status: RunStatus, waits: bool):
    """Finish the tracker; with `waits`, wait at most MAX_WAIT seconds for it."""
    if self._thread and self._thread.ident is None:
      return  # It has never started.
    self("finish", status)
    if self._thread and waits:
      self._thread.join(MAX_WAIT)
      if self._thread.is_alive():
        self._drop(TimeoutError(f"it did not receive all metrics within {MAX_WAIT:g} s"))

  def _work(self):
    method = ""
    while method != "finish" and not self._is_dropped:
      method, *arguments = self._calls.get()
      self._call(method, *arguments)

  def _call(self, method, *arguments):
    try:
      getattr(self._tracker, method)(*arguments)
    except self._errors as error:
      self._drop(error)

  def _drop(self, error):
    if self._is_dropped:  # It took too long, and now it fails too.
      return
    self._is_dropped = True
    reason = getattr(error, "strerror", None) or errors.first_line(error) or type(error).__name__
    console.say(
      f"warning: cannot write to {self._tracker.name} ({reason}): training continues without it"
    )


class TensorBoard:
  """New event files of scalars for TensorBoard in the run directory.

  tensorboardX's SummaryWriter would write in a thread, and block the program forever if the thread
  fails, for example on a full disk. Its RecordWriter raises the error here.
  """

  uses_network = False

  def __init__(self, run: TrackedRun):
    self.name = f"TensorBoard's event file in {run.workdir}"
    # An absolute path: tensorboardX would upload a file below "s3:" or "gs:" to a bucket.
    self._folder, self._first_step = run.workdir.absolute(), 0
    self._records = None

  def start(self, first_step: int):
    """Begin another file, which tells TensorBoard to ignore later steps in older files."""
    self.finish()
    self._records, self._first_step = None, first_step

  def log(self, step: int, values: Mapping[str, float]):
    """Write the values of a step; the first one creates the file."""
    with _without_torch():
      from tensorboardX import RecordWriter
      from tensorboardX.proto import event_pb2

    def write(**fields):
      event = event_pb2.Event(wall_time=time.time(), **fields)
      self._records.write(event.SerializeToString())
      self._records.flush()

    try:
      if self._records is None:
        self._records = RecordWriter(str(self._folder / f"events.out.tfevents.{time.time_ns()}"))
        write(file_version="brain.Event:2")
        write(step=self._first_step, session_log={"status": event_pb2.SessionLog.START})
      scalars = [{"tag": name, "simple_value": value} for name, value in values.items()]
      write(step=step, summary={"value": scalars})
    except OSError:
      self.finish()
      raise

  def finish(self, status: RunStatus = RunStatus.FINISHED):
    """Close the file; events that cannot be written are lost."""
    if self._records:
      with contextlib.suppress(OSError):
        self._records.close()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
  """Hide PyTorch: tensorboardX imports it if it is installed, which takes seconds and may fail."""
  if "torch" in sys.modules or "tensorboardX" in sys.modules:
    yield
    return
  sys.modules["torch"] = None  # An import raises ImportError, which tensorboardX handles.
  try:
    yield
  finally:
    del sys.modules["torch"]


class WandB:
  """A run of Weights & Biases, configured by its environment variables, for example WANDB_MODE."""

  name, uses_network = "Weights & Biases", True

  def __init__(self, run: TrackedRun):
    self._tracked, self._run = run, None

  def start(self, first_step: int):
    """Create the run, or continue it."""
    if self._run is None:
      os.environ.setdefault("WANDB_SILENT", "true")  # Otherwise it may ask for a key and wait.
      import wandb

      run = self._tracked
      self._run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        **{"id": run.id, "name": run.name, "group": run.group, "config": run.config},
        resume="allow",
        settings=wandb.Settings(console="off"),
      )
      # Its own steps could not be repeated after a rollback or a crash.
      self._run.define_metric("*", step_metric="step")
      where = f"offline, in {self._run.dir}" if self._run.offline else self._run.url
      console.say(f"tracker   {self.name}: {where}")

  def log(self, step: int, values: Mapping[str, float]):
    """Log the values with the step as one of them."""
    self._run.log({"step": step, **values})

  def finish(self, status: RunStatus):
    """Upload everything."""
    is_good = status in (RunStatus.FINISHED, RunStatus.STOPPED)
    self._run.finish(exit_code=0 if is_good else 1)


class MLflow:
  """A run of MLflow, configured by its environment variables, for example MLFLOW_TRACKING_URI."""

  name, uses_network = "MLflow", True
  STATUS = {RunStatus.FINISHED: "FINISHED", RunStatus.STOPPED: "KILLED"}  # noqa: RUF012 (constant)

  def __init__(self, run: TrackedRun):
    self._tracked, self._client, self._id = run, None, ""

  def start(self, first_step: int):
    """Create the run, or continue the one with the tag of this run."""
    if self._client is None:
      import mlflow

      run, self._client = self._tracked, mlflow.MlflowClient()
      experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
      former = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'")
      if former:
        self._id = former[0].info.run_id
        self._client.update_run(self._id, status="RUNNING")
      else:
        tags = {ID_TAG: run.id, **({"group": run.group} if run.group else {})}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        self._log_parameters(config_lib.flatten(run.config))
      address = re.sub("//[^/@]*@", "//", mlflow.get_tracking_uri())  # without a password
      console.say(f"tracker   {self.name}: run {self._id} at {address}")

  def _experiment(self, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    if experiment := self._client.get_experiment_by_name(name):
      return experiment.experiment_id
    try:
      return self._client.create_experiment(name)
    except Exception:
      # Another trial of the sweep may have just created it.
      if experiment := self._client.get_experiment_by_name(name):
        return experiment.experiment_id
      raise

  def _log_parameters(self, fields: Mapping[str, Any]):
    from mlflow import entities

    pairs = [entities.Param(name, str(value)[:MAX_VALUE]) for name, value in fields.items()]
    for n in range(0, len(pairs), MAX_PARAMETERS):
      self._client.log_batch(self._id, params=pairs[n : n + MAX_PARAMETERS])

  def log(self, step: int, values: Mapping[str, float]):
    """Send the values in one request."""
    from mlflow import entities

    now = int(time.time() * 1000)
    pairs = [entities.Metric(name, value, now, step) for name, value in values.items()]
    self._client.log_batch(self._id, metrics=pairs)

  def finish(self, status: RunStatus):
    """Set the status."""
    self._client.set_terminated(self._id, self.STATUS.get(status, "FAILED"))


# The values of config.tracker. A name is also that of a package, and of the extra that installs it.
TRACKERS = {"none": None, "wandb": WandB, "mlflow": MLflow}


def make(name: str, run: TrackedRun) -> list[Tracker]:
  """Return TensorBoard and the tracker `name` of a run."""
  return [kind(run) for kind in (TensorBoard, TRACKERS[name]) if kind]


def check(name: str):
  """Raise UserError unless the package of a tracker is installed."""
  if TRACKERS[name] is None:
    return
  spec = importlib.util.find_spec(name)
  # The folder ./wandb, which Weights & Biases writes, would be a package without an origin.
  if spec is None or spec.origin is None:
    raise errors.UserError(
      f"--config.tracker={name}: the package {name} is not installed: run pip install "
      f"'charrnn[{name}]'"
    )
