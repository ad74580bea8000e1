"""`charrnn rerun`: runs are reproduced bit by bit, or refused if they cannot be reproduced."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import edits
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
  """Return a run on one core, like a trial of a sweep, with a variant, dropout and overrides.

  It uses float32 and a wide layer, so that the rounding of its sums depends on the number of cores.
  """
  workdir = trained["a"].with_name("pinned")
  fields = ("text.source=text.txt", "text.limit=9000", "model.compute_dtype=float32")
  fields += ("model.hidden=256", "batch_size=8", "window=16", "max_steps=12", "eval_every=6")
  pin = "import os, sys; os.sched_setaffinity(0, {%d}); os.execv(sys.argv[1], sys.argv[1:])"
  done = subprocess.run(
    [
      *(sys.executable, "-c", pin % min(os.sched_getaffinity(0))),
      *(sys.executable, ROOT / "launch.py"),
      f"--config={ROOT}/experiments/shakespeare.py:smoke",
      *(f"--config.{field}" for field in (*fields, "log_every=1", "sample.length=5")),
      f"--workdir={workdir}",
    ],
    cwd=workdir.parent,  # text.txt is only in this folder
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
  """Return everything that a run has computed, without times."""
  folder = workdir / "checkpoints"
  lines = [{k: v for k, v in x.items() if k not in CLOCKS} for x in metrics.read(workdir)]
  arrays = {
    step: checkpoints.read_meta(folder, step)["arrays"] for step in checkpoints.steps(folder)
  }
  samples = {path.name: path.read_text() for path in workdir.glob("samples/*")}
  return lines, arrays, samples


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity"), reason="this system cannot restrict a process to cores"
)
def test_run_with_variant_and_overrides_on_one_core_is_reproduced(pinned):
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


@pytest.mark.long
def test_run_with_automatic_devices_is_reproduced(trained, tmp_path):
  (old,) = files.read_json(trained["a"] / "run.json")["launches"]
  count = old["devices"].partition(" ")[0]
  assert run_lib.Run.open(trained["a"]).config.cpu_devices == 0
  done = program(trained["a"], "--workdir", tmp_path / "again")
  assert done.returncode == 0, done.stderr
  assert numbers(tmp_path / "again") == numbers(trained["a"])
  assert run_lib.Run.open(tmp_path / "again").config.cpu_devices == int(count)


def test_ngram_is_reproduced(counted, tmp_path):
  done = program(counted, "--workdir", tmp_path / "again")
  assert done.returncode == 0, done.stderr
  assert numbers(tmp_path / "again") == numbers(counted)
  assert done.stdout.startswith("identical: 5 lines of metrics.jsonl, ")


@pytest.fixture
def rerun(a, charrnn, monkeypatch):
  """Return a function that reruns a copy of run `a`, with `change(workdir)` instead of training."""
  monkeypatch.setattr(provenance, "use_cores", lambda count: None)

  def run(change=lambda workdir: None, *arguments):
    def fake(line, workdir, **options):
      shutil.copytree(a, workdir, dirs_exist_ok=True)
      edits.change(workdir, "run.json", lambda run: run.update(rerun_of=str(line.original.path)))
      return change(workdir) or 0

    monkeypatch.setattr(train, "run", fake)
    return charrnn("rerun", a, *arguments)

  return run


def rewrite(workdir, number, **values):
  """Change a line of metrics.jsonl."""
  lines = metrics.read(workdir)
  lines[number] |= values
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)


def test_rerun_that_diverges_like_the_run_is_identical(rerun):
  def diverge(workdir):
    raise errors.DivergedError("training diverged")

  done = rerun(diverge)
  assert done.code == 0 and done.out.startswith("identical: ") and "training diverged" in done.err


def test_speed_does_not_matter(rerun):
  done = rerun(lambda workdir: rewrite(workdir, 0, chars_per_second=1.0, idle=0.5))
  assert done.code == 0 and done.out.startswith("identical: ")


def test_first_difference_is_reported(rerun):
  def change(workdir):
    lines = metrics.read(workdir)
    rewrite(workdir, 1, **{"train/loss": lines[1]["train/loss"] + 1e-7})
    rewrite(workdir, 3, **{"train/loss": 9.0})

  done = rerun(change)
  assert done.code == 1
  assert done.out.startswith("different: step 10, train/loss: ") and done.out.count("\n") == 1


def test_fewer_lines_and_other_arrays_are_different(rerun, a, trained):
  lines = len(metrics.read(a))
  done = rerun(lambda workdir: (workdir / "metrics.jsonl").write_text("") and 0)
  assert (done.code, done.out) == (1, "different: the rerun ends before step 5\n")

  def other_weights(workdir):
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(trained["b"] / "checkpoints", workdir / "checkpoints")

  done = rerun(other_weights)
  assert done.code == 1 and done.out.startswith("different: step 20, ")
  done = rerun(lambda workdir: shutil.rmtree(workdir / "checkpoints"))
  assert done.out == f"identical: {lines} lines of metrics.jsonl\n"


def test_run_that_was_stopped_before_its_first_result_is_an_error(rerun, a):
  (a / "metrics.jsonl").write_text("")

  def other_steps(workdir):
    for folder in list((workdir / "checkpoints").iterdir()):
      folder.rename(folder.with_name(f"{folder.name}1"))

  done = rerun(other_steps)
  assert done.code == 2 and "nothing to compare with" in done.err


def test_only_the_lines_of_the_original_are_compared(rerun, a):
  """A run that was stopped has fewer lines than its rerun."""
  lines = metrics.read(a)

  def longer(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
      file.write(json.dumps({"step": 25, "train/loss": 1.0}) + "\n")

  done = rerun(longer)
  assert done.code == 0 and f"{len(lines)} lines" in done.out


def test_stopped_rerun_can_be_resumed(rerun):
  assert rerun(lambda workdir: 75).code == 75
  assert rerun().code == 0


def test_directory_with_other_content_is_not_changed(rerun, a, tmp_path):
  for workdir in (a, a.parent, ROOT):
    before = sorted(workdir.iterdir())
    done = rerun(
      lambda workdir: pytest.fail("the rerun has started training"), "--workdir", workdir
    )
    assert done.code == 2 and "is not a rerun of" in done.err
    assert sorted(workdir.iterdir()) == before
  (tmp_path / "file").write_text("")
  done = rerun(
    lambda workdir: pytest.fail("the rerun has started training"), "--workdir", tmp_path / "file"
  )
  assert done.code == 2 and "Not a directory" in done.err


def change_record(a, change):
  edits.change(a, "run.json", lambda record: change(record, record["launches"][0]))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda record, launch: record["corpus"].update(sha256="0"), "has changed since"),
    (lambda record, launch: record.update(launches=[]), "run.json is damaged"),
    (lambda record, launch: launch.update(devices=3), "run.json is damaged"),
    (lambda record, launch: launch.pop("devices"), "run.json is damaged"),
    (lambda record, launch: launch.update(devices="2 x cpu in 2 processes"), "several processes"),
    (lambda record, launch: launch.update(devices="3 x NVIDIA X"), "this machine has only 2"),
  ],
)
def test_run_that_cannot_be_repeated_is_refused(rerun, a, change, message, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
  change_record(a, change)
  done = rerun(lambda workdir: pytest.fail("the rerun has started training"))
  assert done.code == 2 and message in done.err and done.err.count("\n") == 1
  assert not a.with_name("a-rerun").exists()


def test_rerun_uses_as_many_gpus_as_the_run(rerun, a, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
  change_record(a, lambda record, launch: launch.update(devices="2 x NVIDIA X"))
  assert rerun().code == 0
  assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_changed_initial_weights_are_refused(rerun, a, trained, monkeypatch):
  source = trained["b"]
  edits.change(a, "config.json", lambda config: config.update(init_from=str(source)))
  weights = run_lib.Run.open(source).weights
  change_record(a, lambda about, launch: about.update(weights=weights))
  assert rerun().code == 0
  shutil.rmtree(a.with_name("a-rerun"))
  change_record(a, lambda about, launch: about["weights"].update(sha256="0"))
  done = rerun(lambda workdir: pytest.fail("the rerun has started training"))
  assert done.code == 2 and "have changed since" in done.err


def test_damaged_runs_and_runs_without_results_are_refused(charrnn, a, tmp_path):
  assert "does not exist" in charrnn("rerun", tmp_path / "none").err
  config = (a / "config.json").read_text()
  (a / "config.json").write_text(config.replace('"seed": 1', '"sed": 1'))
  done = charrnn("rerun", a)
  assert done.code == 2 and "config.json does not match its digest" in done.err
  (a / "config.json").write_text(config)
  shutil.rmtree(a / "checkpoints")
  (a / "metrics.jsonl").unlink()
  done = charrnn("rerun", a)
  assert done.code == 2 and "no results to compare with" in done.err


def test_later_launches_on_another_machine_are_reported(rerun, a):
  def add(record, launch):
    elsewhere = launch | {"devices": "9 x cpu", "cores": 77}
    aborted = {name: value for name, value in elsewhere.items() if name != "startup_seconds"}
    # The first launch made no step, so the second one counts as the first.
    record["launches"] = [aborted, launch, aborted, elsewhere]

  change_record(a, add)
  done = rerun()
  assert "launch 2 of the run differs from the first launch in: devices, cores\n" in done.err
  assert done.err.count("differs") == 1
