"""Tests of Run: its status, and reading during training."""

import json
import os
import re
import shutil

import edits
import pytest

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.runs import checkpoints, lock
from charrnn.runs import run as run_lib
from charrnn.runs import status as status_lib


def truncate(workdir, step):
  """Remove the metrics and checkpoints of a run after a step."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
  for each in checkpoints.steps(workdir / "checkpoints"):
    if each > step:
      shutil.rmtree(workdir / "checkpoints" / str(each))


def status(workdir):
  return str(run_lib.Run(workdir).status)


def test_status_from_metrics_and_checkpoints(a, counted):
  assert status(a) == status(counted) == "finished"
  (a / "metrics.jsonl").unlink()
  assert status(a) == "finished"
  shutil.rmtree(a / "checkpoints" / "20")
  assert status(a) == "stopped"
  shutil.rmtree(a / "checkpoints")
  assert status(a) == "stopped"
  (a / "config.json").unlink()
  assert status(a) == "waiting"


def test_status_from_patience_and_divergence(a):
  truncate(a, 10)
  path = a / "metrics.jsonl"
  before = path.read_text()
  path.write_text(before + "".join(f'{{"step": 10, "valid/loss": {x}}}\n' for x in (0.1, 0.1, 5)))
  for patience, expected in ((3, "stopped"), (2, "finished")):
    edits.change(a, "config.json", lambda c, n=patience: c.update(patience=n))
    assert status(a) == expected
  edits.change(a, "config.json", lambda c: c.update(patience=0))
  path.write_text(before + '{"step": 15, "train/loss": 99}\n')
  assert status(a) == "diverged"
  path.write_text(before)
  assert status(a) == "stopped"
  status_lib.diverged_file(a).touch()
  assert status(a) == "diverged"


@pytest.mark.parametrize("key", ["status", "state"])
def test_status_from_the_outcome_file(a, key):
  path = a / "outcome.json"
  path.write_text(json.dumps({key: "timeout", "code": 75, "seconds": 1}))
  assert status(a) == "finished"  # metrics show that a later launch finished the run
  truncate(a, 10)
  assert status(a) == "timeout"
  for value, expected in (("done", "finished"), ("pruned", "pruned"), ("failed", "failed")):
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert status(a) == expected
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: "unknown"}))
  assert status(a) == "stopped"
  with lock.hold(a):
    assert status(a) == "running"


def test_status_with_a_damaged_run_json(a):
  (a / "run.json").write_text("{")
  truncate(a, 10)
  assert status(a) == "stopped"


def test_error_for_a_sweep_folder(tmp_path):
  (tmp_path / "sweep.json").write_text("{}")
  with pytest.raises(errors.UserError, match="is a sweep: use one of its trials"):
    run_lib.Run.open(tmp_path)


def test_reading_changes_nothing(trained):
  def contents():
    paths = [path for path in trained["a"].rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

  before = contents()
  run = run_lib.Run.open(trained["a"])
  assert run.model.vocab_size == run.tokenizer.vocab_size == len(run.params["head"]["b_y"])
  assert run.total_steps == 20
  assert run.steps_per_epoch == pytest.approx(run.metrics[-1]["step"] / run.metrics[-1]["epoch"])
  assert run.corpus().provenance == run.provenance == run.origin["corpus"]
  assert run.status == "finished" and run.steps == [10, 20] and run.step in run.steps
  assert contents() == before


def delete(workdir, step):
  """Delete a step like training: its folder is renamed first."""
  folder = workdir / "checkpoints"
  shutil.rmtree((folder / str(step)).rename(folder / f"{checkpoints.DELETED}{step}"))


def test_reading_falls_back_to_another_step_if_the_best_is_deleted(a, monkeypatch):
  best = run_lib.Run.open(a).step
  (other,) = {10, 20} - {best}
  read = checkpoints.read

  def read_too_late(folder, step, *arguments):
    if step == best:
      delete(a, best)
    return read(folder, step, *arguments)

  monkeypatch.setattr(checkpoints, "read", read_too_late)
  with lock.hold(a):
    run = run_lib.Run.open(a)
    assert run.step == other and "layer_0" in run.params


def damage_array(folder):
  """Change the digest of an array."""
  meta = files.read_json(folder / "meta" / "metadata")
  del meta["sha256"]
  meta["arrays"]["params/head/b_y"] = "0" * 64
  checkpoints.write_meta(folder.parent, meta)


def damage_state(folder):
  (folder / "state" / "_METADATA").write_bytes(b"")


def damage_metadata(folder):
  (folder / "meta" / "metadata").write_bytes(b"{}")


def make_foreign(folder):
  meta = checkpoints.read_meta(folder.parent, int(folder.name))
  checkpoints.write_meta(folder.parent, meta | {"run": meta["run"] | {"corpus": "0" * 64}})


# A kind of damage, and how the message names the part of the checkpoint.
DAMAGE = {
  damage_array: "is incomplete or damaged (params/head/b_y)",
  damage_state: "is incomplete or damaged (state)",
  damage_metadata: "is incomplete or damaged (meta/metadata)",
  make_foreign: "belongs to another run: the corpus has changed",
}


# Orbax does not await its coroutines when it fails, which causes a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_intact_step_replaces_a_damaged_best_step_unless_it_was_named(a, damage, capsys):
  best, folder = run_lib.Run.open(a).step, a / "checkpoints"
  (other,) = {10, 20} - {best}
  damage(folder / str(best))
  finding = f"checkpoint {best} in {folder} {DAMAGE[damage]}"
  assert run_lib.Run.open(a).load().step == other
  assert capsys.readouterr().err == f"warning: {finding}: using step {other} instead\n"
  with pytest.raises(checkpoints.DamagedError, match=re.escape(f"{finding}: use another --step")):
    run_lib.Run.open(a, best).load()
  damage(folder / str(other))
  with pytest.raises(errors.UserError, match=r"no checkpoint of .* can be used: checkpoint .*: "):
    run_lib.Run.open(a).load()
  assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_to_a_step_that_is_not_used_is_not_reported(a, capsys):
  best = run_lib.Run.open(a).step
  (other,) = {10, 20} - {best}
  damage_state(a / "checkpoints" / str(other))
  assert run_lib.Run.open(a).load().step == best
  assert capsys.readouterr().err == ""


def test_deleted_step_is_not_reported_as_damaged(a):
  with lock.hold(a):
    run = run_lib.Run.open(a, 10)
    delete(a, 10)
    with pytest.raises(run_lib.DeletedError, match=r"step 10 .* was deleted while it was read"):
      _ = run.params
    (a / "checkpoints" / "20" / "meta" / "metadata").unlink()
    with pytest.raises(checkpoints.DamagedError):
      run_lib.Run.open(a, 20).arrays(20)


def test_errors_name_what_is_missing(a):
  with pytest.raises(errors.UserError, match="no step 3: use one of 10, 20"):
    run_lib.Run.open(a, 3)
  shutil.rmtree(a / "checkpoints")
  with pytest.raises(errors.UserError, match=r"no checkpoint yet \(the first is written"):
    run_lib.Run.open(a).load()
  edits.change(a, "config.json", lambda c: c.update(model={}))
  with pytest.raises(errors.UserError, match=r"config\.json has no model\."):
    _ = run_lib.Run.open(a).config


@pytest.mark.parametrize(
  ("values", "first"),
  [
    ({"eval_every": 9}, 9),
    ({"eval_every": 100, "checkpoint_every": 7}, 7),
    ({"eval_every": 100}, 20),
  ],
)
def test_the_step_of_the_first_checkpoint_is_named(a, values, first):
  shutil.rmtree(a / "checkpoints")
  edits.change(a, "config.json", lambda c: c.update(values))
  with pytest.raises(errors.UserError, match=rf"\(the first is written after step {first}\)"):
    run_lib.Run.open(a).load()


def opened(path, source, *directories, **options):
  """Return a run whose text is `source`, launched in these directories."""
  run = run_lib.Run.open(path, **options)
  launches = [{"directory": str(directory)} for directory in directories]
  run.__dict__["origin"] = run.origin | {"launches": [*launches, {}]}
  run.__dict__["config"] = config_lib.replace(run.config, {"text.source": source})
  return run


@pytest.mark.parametrize("source", ["text.txt", "./text.txt", "text*.txt"])
def test_a_relative_text_is_relative_to_the_directory_of_a_launch(a, tmp_path, monkeypatch, source):
  text = run_lib.Run.open(a).corpus()
  here, there = tmp_path / "here", tmp_path / "work"
  for folder, content in ((here, "another text"), (there, text.text(0, len(text.ids)))):
    folder.mkdir()
    (folder / "text.txt").write_text(content)
  monkeypatch.chdir(here)
  for directories in ([there], [there, "/none"], ["/none\0", there, here / "text.txt"]):
    run = opened(a, source, *directories)
    assert run.corpus().provenance["sha256"] == run.provenance["sha256"]
  with pytest.raises(errors.UserError, match=r"has changed since|--corpus"):
    opened(a, source, here).corpus()
  monkeypatch.chdir(there)
  assert opened(a, source, "/none").corpus().name.startswith("text")


def test_a_text_that_has_moved_can_be_named(a, tmp_path, monkeypatch):
  text = run_lib.Run.open(a).corpus()
  (tmp_path / "moved.txt").write_text(text.text(0, len(text.ids)))
  with pytest.raises(errors.UserError, match=r"cannot load the corpus of .* set --corpus"):
    opened(a, "gone.txt").corpus()
  assert opened(a, "gone.txt", corpus=str(tmp_path / "moved.txt")).corpus().name == "moved.txt"
  (tmp_path / "moved.txt").write_text("another text")
  with pytest.raises(errors.UserError, match=r"--corpus=.* is not the text"):
    opened(a, "gone.txt", corpus=str(tmp_path / "moved.txt")).corpus()


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/x", "https://127.0.0.1:9/x"])
def test_a_run_downloads_nothing_unless_asked(a, source):
  with pytest.raises(errors.UserError, match=r"nothing is downloaded for a run directory.*--fetch"):
    opened(a, source).corpus()
  for options in ({"fetch": True}, {"corpus": source}):
    with pytest.raises(errors.UserError, match="Connection refused"):
      opened(a, source, **options).corpus()
  # --corpus names only the text, so it does not allow to download the others.
  run = opened(a, "gone.txt", corpus=str(run_lib.Run.open(a).config.text.source))
  run.__dict__["config"] = config_lib.replace(run.config, {"text.valid_source": source})
  with pytest.raises(errors.UserError, match=r"nothing is downloaded for a run directory.*--fetch"):
    run.corpus()


@pytest.mark.parametrize(
  "part, message",
  [
    ("checkpoints/10", "charrnn sample {} --step 10"),
    ("checkpoints", "charrnn sample {}"),
    ("checkpoints/10/", "charrnn sample {} --step 10"),
  ],
)
def test_a_part_of_a_run_is_an_error_that_names_the_run(a, part, message):
  with pytest.raises(errors.UserError, match=re.escape(message.format(os.path.relpath(a))) + "$"):
    run_lib.Run.open(f"{a}/{part}")


def test_a_sweep_is_an_error_that_names_a_trial(a):
  sweep = a.parent
  (sweep / "sweep.json").write_text("{}")
  with pytest.raises(errors.UserError, match=rf"for example {a}, or run charrnn compare {sweep}"):
    run_lib.Run.open(sweep)


def test_a_missing_config_is_named_with_the_remedy(a):
  (a / "config.json").unlink()
  with pytest.raises(errors.UserError, match=r"no config\.json: restore it from a copy, or repeat"):
    run_lib.Run.open(a)
