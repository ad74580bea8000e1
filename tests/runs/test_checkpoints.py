"""Tests of checkpoints: round trips, damage of all kinds, and which steps are kept."""

import contextlib
import json
import os
import pathlib
import resource
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import serialization

from charrnn import config as config_lib
from charrnn import errors, files
from charrnn.runs import checkpoints
from charrnn.training import optimizer, steps


def some_state(step):
  net = tiny.model()
  rule = optimizer.make(tiny.config().optimizer, lambda step: 0.1)
  state = jax.device_get(steps.create_state(net, rule, batch=4, seed=step))
  return state._replace(step=np.int32(step))


def save(folder, keep, *losses, first=1):
  writer = checkpoints.Writer(folder, keep)
  for step, loss in enumerate(losses, first):
    writer.save(step, some_state(step), {"valid_loss": loss, "memory": {"stale": step}})
  writer.close()


def assert_is_state(arrays, step):
  """Assert that arrays equal the saved state of a step exactly, including their types."""
  expected = checkpoints.digests(arrays)
  assert expected == checkpoints.digests(serialization.to_state_dict(some_state(step)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  save(folder, 3, 1.0, 2.0)
  return folder


@pytest.fixture
def folder(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "run" / "checkpoints")


def test_round_trip_is_bit_exact(saved):
  arrays, meta = checkpoints.read(saved, 2)
  assert_is_state(arrays, 2)
  assert meta["step"] == 2 and meta["valid_loss"] == 2.0 and meta["memory"] == {"stale": 2}
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), checkpoints.metadata(saved, 2))
  assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arrays)


def test_read_with_a_prefix_returns_only_these_arrays(saved):
  tree, _ = checkpoints.read(saved, 2)
  params, meta = checkpoints.read(saved, 2, "params")
  assert params.keys() == {"params"} and meta["step"] == 2
  assert checkpoints.digests(params["params"]) == checkpoints.digests(tree["params"])
  one, _ = checkpoints.read(saved, 2, "params/layer_0/W_xh")
  assert checkpoints.digests(one).keys() == {"params/layer_0/W_xh"}
  assert not checkpoints.is_below("params/layer_0/W_xh", "param")


def files_of(folder, step):
  return sorted(p.relative_to(folder) for p in (folder / str(step)).rglob("*") if p.is_file())


def best_step(folder):
  return checkpoints.best(checkpoints.losses(folder))


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x10
  path.write_bytes(content)


# Orbax does not await its coroutines when it fails, which causes a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()], ids=["flip", "delete"])
def test_any_damaged_file_is_detected_or_harmless(folder, damage):
  """Reading returns the saved arrays, or reports damage and returns the previous step's arrays."""
  damaging = []  # files whose damage was detected
  for name in files_of(folder, 2):
    content = (folder / name).read_bytes()
    damage(folder / name)
    messages = []
    arrays, meta = checkpoints.read_newest(folder, messages.append)
    assert_is_state(arrays, meta["step"])
    if meta["step"] == 1:
      damaging.append(name)
      assert len(messages) == 1 and "checkpoint 2" in messages[0] and "damaged" in messages[0]
    (folder / name).write_bytes(content)
  assert {name.parts[1] for name in damaging} == {"meta", "state"}
  assert checkpoints.read_newest(folder)[1]["step"] == 2


def test_changed_metadata_is_detected(folder):
  path = folder / "2" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  path.write_text(json.dumps(meta | {"valid_loss": 0.5}))
  with pytest.raises(checkpoints.DamagedError, match=r"\(meta/metadata\)"):
    checkpoints.read_meta(folder, 2)
  assert best_step(folder) == 1


def test_read_with_a_prefix_ignores_damage_to_other_arrays(folder):
  path = folder / "2" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  del meta["sha256"]
  meta["arrays"]["step"] = "0" * 64
  path.write_text(json.dumps(files.seal(meta)))
  with pytest.raises(checkpoints.DamagedError, match=r"\(step\): use another --step"):
    checkpoints.read(folder, 2)
  assert "layer_0" in checkpoints.read(folder, 2, "params")[0]["params"]


def test_arrays_of_another_step_are_detected(folder):
  shutil.rmtree(folder / "2" / "state")
  shutil.copytree(folder / "1" / "state", folder / "2" / "state")
  with pytest.raises(checkpoints.DamagedError, match=r"checkpoint 2 .* damaged \(.*more\)"):
    checkpoints.read(folder, 2)


def test_remains_of_an_interrupted_save_or_deletion_are_ignored(folder):
  (folder / "50").mkdir()
  (folder / "40" / "state").mkdir(parents=True)
  (folder / "60.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
  (folder / "70").write_text("a file")
  messages = []
  assert checkpoints.read_newest(folder, messages.append)[1]["step"] == 2
  assert [text.split()[1] for text in messages] == ["50", "40"]
  checkpoints.quarantine(folder, 2)
  assert checkpoints.steps(folder) == [1, 2]
  assert sorted(p.name for p in (folder.parent / "damaged").iterdir()) == ["40", "50"]
  save(folder, 1, 0.5, first=60)
  assert checkpoints.steps(folder) == [60]
  assert_is_state(checkpoints.read(folder, 60)[0], 60)


def assert_is_no_damage(folder, message):
  """Assert that reading fails with an error that is not a DamagedError.

  On a DamagedError, a resumed run would move intact checkpoints to quarantine.
  """
  with pytest.raises(errors.UserError, match=message) as error:
    checkpoints.read_newest(folder)
  assert not isinstance(error.value, checkpoints.DamagedError)


def test_too_many_open_files_is_not_reported_as_damage(folder, monkeypatch):
  monkeypatch.setattr(checkpoints, "steps", lambda folder: [1, 2])  # the original opens a file
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
  try:
    assert_is_no_damage(folder, r"cannot read checkpoint 2 in .*: Too many open files")
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_system_error_in_tensorstore_is_not_reported_as_damage(folder, monkeypatch):
  monkeypatch.setattr(files, "check_tree", lambda folder: None)
  (name,) = (n for n in files_of(folder, 2) if n.parts[1:3] == ("state", "d"))
  (folder / name).unlink()
  (folder / name).symlink_to(name.name)  # a link to itself exists, but cannot be opened
  assert_is_no_damage(folder, r"cannot read checkpoint 2 in .*: Too many levels of symbolic links")


def test_out_of_memory_is_not_reported_as_damage(folder, monkeypatch):
  def fail(tree):
    raise MemoryError

  monkeypatch.setattr(checkpoints, "digests", fail)
  assert_is_no_damage(folder, r"cannot read checkpoint 2 in .*: out of memory")


def test_error_if_all_steps_are_damaged(folder, tmp_path):
  (tmp_path / "other" / "50").mkdir(parents=True)
  for step in (1, 2):
    flip(folder / str(step) / "meta" / "metadata")
  for damaged, count in ((folder, 2), (tmp_path / "other", 1)):
    messages = []
    with pytest.raises(errors.UserError, match=r"no checkpoint in .* can be used, .*: restore one"):
      checkpoints.read_newest(damaged, messages.append)
    assert len(messages) == len(checkpoints.steps(damaged)) == count
    assert "--step" not in "".join(messages)


def test_quarantine_overwrites_nothing(folder):
  for _ in range(2):
    (folder / "50").mkdir()
    checkpoints.quarantine(folder, 2)
  assert sorted(p.name for p in (folder.parent / "damaged").iterdir()) == ["50", "50.1"]


def test_a_file_in_place_of_the_quarantine_is_kept(folder):
  (folder / "50").mkdir()
  (folder.parent / "damaged").write_text("precious")
  with pytest.raises(errors.UserError, match="damaged is a file, not a folder"):
    checkpoints.quarantine(folder, 2)
  assert (folder.parent / "damaged").read_text() == "precious" and (folder / "50").is_dir()


def test_a_writer_neither_ranks_nor_deletes_steps_that_it_does_not_know(folder):
  for name in files_of(folder, 1):
    flip(folder / name)
  (folder / "0").mkdir()
  (folder / "0" / "notes").write_text("precious")
  save(folder, 1, 1.5, first=3)
  assert checkpoints.steps(folder) == [0, 1, 3]
  assert (folder / "0" / "notes").read_text() == "precious"
  assert best_step(folder) == 3


def test_a_step_of_another_run_does_not_replace_the_best(folder):
  run = {"config": config_lib.to_json(tiny.config()), "vocabulary": "v", "corpus": "c"}
  other = run | {"corpus": "d"}
  for step, owner in ((1, other), (2, run)):
    meta = checkpoints.read_meta(folder, step)
    checkpoints.write_meta(folder, meta | {"run": owner})
  writer = checkpoints.Writer(folder, 1, run)
  for step in (3, 4):
    writer.save(step, some_state(step), {"valid_loss": 9.0, "memory": {}, "run": run})
  writer.close()
  # Step 1 has the lowest loss, but 2 is the best of this run.
  assert checkpoints.steps(folder) == [1, 2, 4]


def test_names_with_unusual_digits_can_be_sorted():
  names = ["layer_10", "layer_9", "layer_²", "layer_٣", f"layer_{'9' * 5000}", "layer_", ""]
  assert sorted(names[:2], key=checkpoints.natural_key) == ["layer_9", "layer_10"]
  assert len(sorted(names, key=checkpoints.natural_key)) == len(names)


def test_best_and_newest_steps_are_kept(tmp_path):
  save(tmp_path / "a", 1, 3.0, 1.0, 2.0, 4.0)
  assert checkpoints.steps(tmp_path / "a") == [2, 4]
  assert best_step(tmp_path / "a") == 2
  save(tmp_path / "a", 1, 5.0, first=5)  # a new writer reads the losses of earlier steps
  assert checkpoints.steps(tmp_path / "a") == [2, 5]
  save(tmp_path / "b", 2, None, None, 3.0, None, 2.0, None, None)
  assert checkpoints.steps(tmp_path / "b") == [5, 6, 7]


def test_newest_step_is_the_best_without_validation_losses(tmp_path):
  save(tmp_path, 2, None, None, None)
  assert checkpoints.steps(tmp_path) == [2, 3]
  assert best_step(tmp_path) == 3


def test_first_of_equal_losses_is_the_best(tmp_path):
  save(tmp_path, 3, 2.0, 1.0, 1.0)
  assert best_step(tmp_path) == checkpoints.best({3: 1.0, 2: 1.0, 4: None}) == 2


def test_missing_folder(tmp_path):
  assert checkpoints.steps(tmp_path / "none") == []
  assert checkpoints.read_newest(tmp_path / "none") is None
  assert best_step(tmp_path / "none") is None
  with pytest.raises(errors.UserError, match="checkpoint 3"):
    checkpoints.read(tmp_path, 3)


def test_reading_while_a_step_is_written(folder):
  writer = checkpoints.Writer(folder, 3)
  assert checkpoints.read_newest(folder)[1]["step"] == 2
  writer.save(3, some_state(3), {"valid_loss": None})
  assert checkpoints.read_newest(folder)[1]["step"] in (2, 3)
  writer.close()
  assert checkpoints.read_newest(folder)[1]["step"] == 3


@contextlib.contextmanager
def file_limit():
  """Limit the size of files to 1 kB; Python ignores the signal of the limit.

  This is no fixture, because the limit also applies to the files that pytest writes.
  """
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fails_in_one_line(folder, message):
  """Assert that a save fails with one line about the folder."""
  with pytest.raises(errors.UserError, match=message) as error:
    save(folder, 3, 1.0, first=3)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_is_reported_and_earlier_steps_are_kept(folder):
  with file_limit():
    fails_in_one_line(folder, "File too large: raise the file size limit")
  assert checkpoints.read_newest(folder)[1]["step"] == 2


@pytest.mark.parametrize("kind", ["file", "long"])
def test_a_folder_that_cannot_be_made_is_reported(tmp_path, kind):
  parent = tmp_path.joinpath(*["x" * 200] * 20) if kind == "long" else tmp_path
  folder = parent / "checkpoints"
  if kind == "file":
    folder.write_text("")
  fails_in_one_line(folder, "Not a directory|File exists|File name too long")


def test_a_step_that_cannot_be_deleted_is_reported_and_kept(folder, monkeypatch, capsys):
  rename = os.rename

  def fail(source, target):
    if pathlib.Path(source).name == "2":
      raise PermissionError(1, "Operation not permitted")
    rename(source, target)

  monkeypatch.setattr(os, "rename", fail)
  save(folder, 1, 0.5, 0.4, first=3)
  assert checkpoints.steps(folder) == [2, 4]
  assert "cannot delete checkpoint 2" in capsys.readouterr().err


STRAYS = (
  "0999",
  "²",
  "٩٩٩٩",
  "-5",
  "+7",
  "1e3",
  "1_000",
  " 8",
  "9" * 200,
  ".deleted-1",
  "tmp",
  "a.b",
)


def test_stray_folders_and_files_are_ignored_or_removed(folder):
  for name in STRAYS:
    (folder / name).mkdir()
    (folder / f"{name}.txt").write_text("a file")
  (folder / "5.orbax-checkpoint-tmp").mkdir()
  assert checkpoints.steps(folder) == [1, 2]
  save(folder, 1, 0.5, 0.4, first=3)
  assert checkpoints.steps(folder) == [4]
  left = {path.name for path in folder.iterdir()}
  assert left == {"4", *STRAYS, *(f"{name}.txt" for name in STRAYS)} - {".deleted-1"}


def test_older_steps_are_deleted_after_the_new_step_is_on_disk(folder, monkeypatch):
  events, fsync, rename = [], os.fsync, os.rename

  def log_sync(descriptor):
    events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    fsync(descriptor)

  def log_rename(source, target):
    if checkpoints.DELETED in str(target):
      events.append(f"delete {pathlib.Path(source).name}")
    rename(source, target)

  monkeypatch.setattr(os, "fsync", log_sync)
  monkeypatch.setattr(os, "rename", log_rename)
  save(folder, 1, 0.5, first=3)
  first = next(n for n, event in enumerate(events) if event.startswith("delete"))
  synced = {event for event in events[:first] if not event.startswith("delete")}
  assert {str(path) for path in (folder / "3").rglob("*")} | {
    str(folder / "3"),
    str(folder),
  } <= synced
