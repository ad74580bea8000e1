"""The battery: trials that attack charrnn, and the options that record their results.

Each module is a trial, or a part of one, and says so with its number in battery_report.TRIALS:

  pytestmark = pytest.mark.trial(1)

Each case of a trial is one test, usually by pytest.mark.parametrize, because the report counts
tests. A few cases of each trial except for 16 have no further mark and run in continuous
integration; they take seconds. The others are marked `long`, so that all cases run with
-m "long or not long". A case may record a line for the page with the fixture `record_property`:
record_property("note", "41 kills in 60 minutes").

Cases use the fixtures of tests/conftest.py. `folder` has a text and the experiment tiny.py, `whole`
is a finished run of it, and `a` is a copy of a small run that may be damaged. The module `programs`
starts launch.py, waits for a step, and compares results; `tiny` trains in this process.
"""

import pathlib
import shlex

import battery_report
import pytest

FOLDER = pathlib.Path(__file__).parent


def pytest_addoption(parser):
  group = parser.getgroup("battery")
  group.addoption(
    "--battery-report", metavar="FILE.json", help="record the results of each trial in this file"
  )
  group.addoption(
    "--battery-minutes", type=float, default=1.0, help="minutes of training in trial 15"
  )


def pytest_configure(config):
  if path := config.getoption("--battery-report", None):
    if getattr(config.option, "numprocesses", None):
      raise pytest.UsageError("--battery-report needs one process: add -n 0")
    command = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])
    recorder = battery_report.Recorder(pathlib.Path(path), command)
    config.pluginmanager.register(recorder)


@pytest.hookimpl(tryfirst=True)  # before deselection
def pytest_collection_modifyitems(items):
  for item in items:
    if item.path.is_relative_to(FOLDER):
      item.user_properties.append(("trial", battery_report.number(item)))


@pytest.fixture
def minutes(request):
  """Return the minutes of training in trial 15."""
  return request.config.getoption("--battery-minutes", 1.0)
