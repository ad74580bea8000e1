"""charrnn rerun: real runs come out the same to the bit, and what cannot is said or refused."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from charrnn import errors, files
from charrnn.launching import train
from charrnn.runs import checkpoints, metrics, provenance
from charrnn.runs import run as run_lib

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}
CLOCKS = ("chars_per_second", "idle", "seconds")


@pytest.fixture(scope="module")
def pinned(trained):
  """A run on one core, as a trial of a sweep is: of a variant, with dropout and overrides.

  Float32 and as wide as this, so that its sums hang on the number of cores.
  """
  workdir = trained["a"].with_name("pinned")
  fields = ("text.source=text.txt", "text.limit=9000", "model.compute_dtype=float32")
  fields += ("model.hidden=256", "batch_size=8", "window=16", "max_steps=12", "eval_every=6")
  keep_to = "import os, sys; os.sched_setaffinity(0, {%d}); os.execv(sys.argv[1], sys.argv[1:])"
  done = subprocess.run(
    [
      *(sys.executable, "-c", keep_to % min(os.sched_getaffinity(0))),
      *(sys.executable, ROOT / "launch.py"),
      f"--config={ROOT}/experiments/shakespeare.py:smoke",
      *(f"--config.{field}" for field in (*fields, "log_every=1", "sample.length=5")),
      f"--workdir={workdir}",
    ],
    cwd=workdir.parent,  # where alone text.txt is found
    env=ENVIRONMENT,
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return workdir


def program(*arguments):
  command = [sys.executable, "-m", "charrnn.cli", "rerun", *map(str, arguments)]
  return subprocess.run(
    command, cwd=ROOT, env=ENVIRONMENT, check=False, capture_output=True, text=True
  )


def numbers(workdir):
  """All that a run has computed, and no times."""
  folder = workdir / "checkpoints"
  lines = [{k: v for k, v in x.items() if k not in CLOCKS} for x in metrics.read(workdir)]
  arrays = {
    step: checkpoints.read_meta(folder, step)["arrays"] for step in checkpoints.steps(folder)
  }
  samples = {path.name: path.read_text() for path in workdir.glob("samples/*")}
  return lines, arrays, samples


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_run_of_one_core_of_a_variant_and_with_overrides(pinned):
  done = program(pinned)
  assert done.returncode == 0, done.stderr
  again = pinned.with_name("pinned-rerun")
  lines, arrays, samples = numbers(pinned)
  assert (lines, arrays, samples) == numbers(again)
  assert len(lines) == 14 and list(arrays) == [6, 12] and len(samples) == 2
  assert done.stdout.startswith(f"identical: 14 lines of metrics.jsonl, {len(arrays[12])} arrays")
  old, new = (files.read_json(path / "run.json") for path in (pinned, again))
  assert new["rerun_of"] == str(pinned)
  for name in ("experiment", "variant", "corpus"):
    assert old[name] == new[name]
  (old,), (new,) = old["launches"], new["launches"]
  assert (new["devices"], new["cores"]) == (old["devices"], old["cores"]) == ("1 x cpu", 1)
  assert old["overrides"] == new["overrides"] and "text.limit" in old["overrides"]


def test_a_run_whose_devices_were_chosen(trained, tmp_path):
  (old,) = files.read_json(trained["a"] / "run.json")["launches"]
  count = old["devices"].partition(" ")[0]
  assert run_lib.Run.open(trained["a"]).config.cpu_devices == 0
  done = program(trained["a"], "--workdir", tmp_path / "again")
  assert done.returncode == 0, done.stderr
  assert numbers(tmp_path / "again") == numbers(trained["a"])
  assert run_lib.Run.open(tmp_path / "again").config.cpu_devices == int(count)


def test_an_ngram(counted, tmp_path):
  done = program(counted, "--workdir", tmp_path / "again")
  assert done.returncode == 0, done.stderr
  assert numbers(tmp_path / "again") == numbers(counted)
  assert done.stdout.startswith("identical: 5 lines of metrics.jsonl, ")


@pytest.fixture
def made(a, charrnn, monkeypatch):
  """rerun of a copy of run `a`, in this process, whose training is `change(new directory)`."""
  monkeypatch.setattr(provenance, "use_cores", lambda count: None)

  def run(change=lambda workdir: None, *arguments):
    def fake(line, workdir):
      shutil.copytree(a, workdir, dirs_exist_ok=True)
      record = files.read_json(workdir / "run.json") | {"rerun_of": str(line.original.path)}
      files.write_json(workdir / "run.json", record)
      return change(workdir) or 0

    monkeypatch.setattr(train, "run", fake)
    return charrnn("rerun", a, *arguments)

  return run


def rewrite(workdir, number, **values):
  """Changes a line of metrics.jsonl."""
  lines = metrics.read(workdir)
  lines[number] |= values
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)


def test_divergence_ends_a_rerun_as_it_ended_the_run(made):
  def diverge(workdir):
    raise errors.DivergedError("training diverged")

  done = made(diverge)
  assert done.code == 0 and done.out.startswith("identical: ") and "training diverged" in done.err


def test_the_same_numbers_at_another_speed_are_identical(made):
  done = made(lambda workdir: rewrite(workdir, 0, chars_per_second=1.0, idle=0.5))
  assert done.code == 0 and done.out.startswith("identical: ")


def test_the_first_number_that_differs_is_named(made):
  def change(workdir):
    lines = metrics.read(workdir)
    rewrite(workdir, 1, **{"train/loss": lines[1]["train/loss"] + 1e-7})
    rewrite(workdir, 3, **{"train/loss": 9.0})

  done = made(change)
  assert done.code == 1
  assert done.out.startswith("different: step 10, train/loss: ") and done.out.count("\n") == 1


def test_fewer_lines_and_other_arrays_are_different(made, a, trained):
  lines = len(metrics.read(a))
  done = made(lambda workdir: (workdir / "metrics.jsonl").write_text("") and 0)
  assert (done.code, done.out) == (1, "different: it ends before step 5\n")

  def other_weights(workdir):
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(trained["b"] / "checkpoints", workdir / "checkpoints")

  done = made(other_weights)
  assert done.code == 1 and done.out.startswith("different: step 20, ")
  done = made(lambda workdir: shutil.rmtree(workdir / "checkpoints"))
  assert done.out == f"identical: {lines} lines of metrics.jsonl\n"


def test_a_run_that_was_stopped_before_its_first_numbers_is_not_called_identical(made, a):
  (a / "metrics.jsonl").write_text("")

  def other_steps(workdir):
    for folder in list((workdir / "checkpoints").iterdir()):
      folder.rename(folder.with_name(f"{folder.name}1"))

  done = made(other_steps)
  assert done.code == 2 and "nothing to compare with" in done.err


def test_as_far_as_the_run_came(made, a):
  """A run that was stopped has less than its rerun."""
  lines = metrics.read(a)

  def longer(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
      file.write(json.dumps({"step": 25, "train/loss": 1.0}) + "\n")

  done = made(longer)
  assert done.code == 0 and f"{len(lines)} lines" in done.out


def test_a_rerun_that_is_stopped_goes_on_with_the_same_command(made):
  assert made(lambda workdir: 75).code == 75
  assert made().code == 0


def test_a_directory_with_something_else_is_left_alone(made, a, tmp_path):
  for workdir in (a, a.parent, ROOT):
    before = sorted(workdir.iterdir())
    done = made(lambda workdir: pytest.fail("it trains"), "--workdir", workdir)
    assert done.code == 2 and "contains something else" in done.err
    assert sorted(workdir.iterdir()) == before
  (tmp_path / "file").write_text("")
  done = made(lambda workdir: pytest.fail("it trains"), "--workdir", tmp_path / "file")
  assert done.code == 2 and "Not a directory" in done.err


def change_record(a, change):
  record = files.read_json(a / "run.json")
  change(record, record["launches"][0])
  files.write_json(a / "run.json", record)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda record, launch: record["corpus"].update(sha256="0"), "has changed since"),
    (lambda record, launch: record.update(launches=[]), "run.json is damaged"),
    (lambda record, launch: launch.update(devices=3), "run.json is damaged"),
    (lambda record, launch: launch.pop("devices"), "run.json is damaged"),
    (lambda record, launch: launch.update(devices="2 x cpu in 2 processes"), "several processes"),
    (lambda record, launch: launch.update(devices="3 x NVIDIA X"), "this machine has 2"),
  ],
)
def test_what_cannot_come_out_the_same_is_refused(made, a, change, message, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
  change_record(a, change)
  done = made(lambda workdir: pytest.fail("it trains"))
  assert done.code == 2 and message in done.err and done.err.count("\n") == 1
  assert not a.with_name("a-rerun").exists()


def test_as_many_gpus_are_taken_as_there_were(made, a, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
  change_record(a, lambda record, launch: launch.update(devices="2 x NVIDIA X"))
  assert made().code == 0
  assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_other_weights_to_start_from_are_refused(made, a, trained, monkeypatch):
  source = trained["b"]
  config = files.read_json(a / "config.json") | {"init_from": str(source)}
  files.write_json(a / "config.json", config)
  change_record(a, lambda about, launch: about.update(weights=provenance.initial_weights(source)))
  assert made().code == 0
  shutil.rmtree(a.with_name("a-rerun"))
  change_record(a, lambda about, launch: about["weights"].update(sha256="0"))
  done = made(lambda workdir: pytest.fail("it trains"))
  assert done.code == 2 and "have changed since" in done.err


def test_runs_with_nothing_to_compare_or_that_are_damaged(charrnn, a, tmp_path):
  assert "does not exist" in charrnn("rerun", tmp_path / "none").err
  config = (a / "config.json").read_text()
  (a / "config.json").write_text(config.replace('"seed": 1', '"sed": 1'))
  done = charrnn("rerun", a)
  assert done.code == 2 and "has sed=1" in done.err
  (a / "config.json").write_text(config)
  shutil.rmtree(a / "checkpoints")
  (a / "metrics.jsonl").unlink()
  done = charrnn("rerun", a)
  assert done.code == 2 and "nothing to compare with" in done.err


def test_launches_that_went_on_elsewhere_are_told(made, a):
  def add(record, launch):
    elsewhere = launch | {"devices": "9 x cpu", "cores": 77}
    looked = {name: value for name, value in elsewhere.items() if name != "startup_seconds"}
    # The first launch came to no step, so the second made the run.
    record["launches"] = [looked, launch, looked, elsewhere]

  change_record(a, add)
  done = made()
  assert "launch 2 of the run differed from the first in: devices, cores\n" in done.err
  assert done.err.count("differed") == 1
