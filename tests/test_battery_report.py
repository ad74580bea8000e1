"""The report of the battery: the page is up to date, and the recorder counts correctly."""

import json
import pathlib
import subprocess
import sys

import battery_report
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CASES = """
import pytest

pytestmark = pytest.mark.trial(5)

def test_passes(record_property):
  record_property("note", "a line for the page")

def test_fails():
  assert False

@pytest.fixture
def broken():
  raise ValueError

def test_has_no_fixture(broken):
  pass

def test_is_skipped():
  pytest.skip("needs root")

@pytest.mark.long
def test_is_long():
  pass
"""


def test_the_page_is_up_to_date():
  records = json.loads((ROOT / "docs" / "battery.json").read_text())
  page = (ROOT / "docs" / "battery.md").read_text()
  assert page == battery_report.page(records), "run: python tests/support/battery_report.py"


@pytest.fixture
def run(tmp_path):
  """Return a function that runs a battery in a temporary folder; it returns (exit code, record)."""
  conftest = ROOT / "tests" / "battery" / "conftest.py"
  (tmp_path / "conftest.py").write_text(conftest.read_text())
  (tmp_path / "report.json").write_text('{"4": {"cases": 1}}')

  def start(cases, *arguments):
    (tmp_path / "test_cases.py").write_text(cases)
    command = [
      sys.executable,
      "-m",
      "pytest",
      "-c",
      ROOT / "pyproject.toml",
      "-p",
      "no:cacheprovider",
    ]
    command += [tmp_path, f"--battery-report={tmp_path / 'report.json'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, json.loads((tmp_path / "report.json").read_text())

  return start


@pytest.mark.parametrize(
  ("selection", "version", "cases"), [((), "short", 4), (("-m", ""), "long", 5)]
)
def test_every_case_is_counted(run, selection, version, cases):
  done, records = run(CASES, "-n0", *selection)
  assert done.returncode == 1, done.stdout + done.stderr
  record = records["5"]
  assert records["4"] == {"cases": 1}  # kept
  assert record["version"] == version and record["cases"] == cases
  assert record["passed"] == cases - 3 and record["skipped"] == 1
  assert record["notes"] == ["a line for the page"] and record["seconds"] >= 0
  assert record["machine"]["cores"] >= 1 and "--battery-report" in record["command"]
  page = battery_report.page({"5": record})
  assert f"| {cases} | {cases - 3} (1 skipped) | 0 s | {version} | A |" in page
  assert "Trials with failed cases: 5." in page and "- Trial 5: a line for the page" in page
  assert page.count("| not run |") == len(battery_report.TRIALS) - 1


def test_a_case_without_a_trial_and_a_parallel_report_are_rejected(run):
  done, _ = run("def test_any(): pass", "-n0")
  assert done.returncode == 4 and "add pytestmark = pytest.mark.trial(NUMBER)" in done.stderr
  done, _ = run(CASES, "-n2")
  assert done.returncode == 4 and "add -n 0" in done.stderr
