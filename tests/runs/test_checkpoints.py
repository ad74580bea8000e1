"""Round trips, every kind of damage, and which steps stay."""

import json
import resource
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import serialization

from charrnn import errors
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
  """Bit for bit, types and all."""
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


def test_comes_back_bit_for_bit(saved):
  arrays, meta = checkpoints.read(saved, 2)
  assert_is_state(arrays, 2)
  assert meta["step"] == 2 and meta["valid_loss"] == 2.0 and meta["memory"] == {"stale": 2}
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), checkpoints.metadata(saved, 2))
  assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arrays)


def test_some_of_the_arrays_can_be_read_alone(saved):
  whole, _ = checkpoints.read(saved, 2)
  params, meta = checkpoints.read(saved, 2, "params")
  assert params.keys() == {"params"} and meta["step"] == 2
  assert checkpoints.digests(params["params"]) == checkpoints.digests(whole["params"])
  one, _ = checkpoints.read(saved, 2, "params/layer_0/W_xh")
  assert checkpoints.digests(one).keys() == {"params/layer_0/W_xh"}
  assert not checkpoints.is_below("params/layer_0/W_xh", "param")


def files_of(folder, step):
  return sorted(p.relative_to(folder) for p in (folder / str(step)).rglob("*") if p.is_file())


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x10
  path.write_bytes(content)


# Orbax drops coroutines when it fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()], ids=["flip", "delete"])
def test_a_damaged_file_is_found_wherever_it_matters(folder, damage):
  """What is read is either exactly what was saved, or the step before, and that is said."""
  passed_over = []
  for name in files_of(folder, 2):
    whole = (folder / name).read_bytes()
    damage(folder / name)
    said = []
    arrays, meta = checkpoints.read_newest(folder, said.append)
    assert_is_state(arrays, meta["step"])
    if meta["step"] == 1:
      passed_over.append(name)
      assert len(said) == 1 and "checkpoint 2" in said[0] and "damaged" in said[0]
    (folder / name).write_bytes(whole)
  assert {name.parts[1] for name in passed_over} == {"meta", "state"}
  assert checkpoints.read_newest(folder)[1]["step"] == 2


def test_changed_meta_data_are_found(folder):
  path = folder / "2" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  path.write_text(json.dumps(meta | {"valid_loss": 0.5}))
  with pytest.raises(checkpoints.DamagedError, match="meta data"):
    checkpoints.read_meta(folder, 2)
  assert checkpoints.best_step(folder) == 1


def test_damage_elsewhere_does_not_matter_to_what_is_read(folder):
  path = folder / "2" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  del meta["sha256"]
  meta["arrays"]["step"] = "0" * 64
  path.write_text(json.dumps(checkpoints._seal(meta)))
  with pytest.raises(checkpoints.DamagedError, match=r"\(step\): choose another --step"):
    checkpoints.read(folder, 2)
  assert "layer_0" in checkpoints.read(folder, 2, "params")[0]["params"]


def test_arrays_of_another_step_are_found(folder):
  shutil.rmtree(folder / "2" / "state")
  shutil.copytree(folder / "1" / "state", folder / "2" / "state")
  with pytest.raises(checkpoints.DamagedError, match=r"checkpoint 2 .* damaged \(.*more\)"):
    checkpoints.read(folder, 2)


def test_what_a_killed_save_or_deletion_leaves_does_no_harm(folder):
  (folder / "50").mkdir()
  (folder / "40" / "state").mkdir(parents=True)
  (folder / "60.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
  (folder / "70").write_text("a file")
  said = []
  assert checkpoints.read_newest(folder, said.append)[1]["step"] == 2
  assert [text.split()[1] for text in said] == ["50", "40"]
  checkpoints.quarantine(folder, 2)
  assert checkpoints.steps(folder) == [1, 2]
  assert sorted(p.name for p in (folder.parent / "damaged").iterdir()) == ["40", "50"]
  save(folder, 1, 0.5, first=60)
  assert checkpoints.steps(folder) == [60]
  assert_is_state(checkpoints.read(folder, 60)[0], 60)


def assert_is_refused(folder, why):
  """And not taken for damage: else a resume would put whole checkpoints aside."""
  with pytest.raises(errors.UserError, match=why) as caught:
    checkpoints.read_newest(folder)
  assert not isinstance(caught.value, checkpoints.DamagedError)


def test_a_lack_of_files_is_no_damage(folder, monkeypatch):
  monkeypatch.setattr(checkpoints, "steps", lambda folder: [1, 2])  # it opens one itself
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
  try:
    assert_is_refused(folder, r"cannot read checkpoint 2 in .*: Too many open files")
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_system_refuses_to_tensorstore_is_no_damage(folder):
  (name,) = (n for n in files_of(folder, 2) if n.parts[1:3] == ("state", "d"))
  (folder / name).unlink()
  (folder / name).symlink_to(name.name)  # to itself: not missing, yet it cannot be opened
  assert_is_refused(folder, r"cannot read checkpoint 2 in .*: Too many levels of symbolic links")


def test_a_lack_of_memory_is_no_damage(folder, monkeypatch):
  def fail(tree):
    raise MemoryError

  monkeypatch.setattr(checkpoints, "digests", fail)
  assert_is_refused(folder, r"cannot read checkpoint 2 in .*: out of memory")


def test_where_no_step_is_whole_nothing_begins_anew(folder, tmp_path):
  (tmp_path / "other" / "50").mkdir(parents=True)
  for step in (1, 2):
    flip(folder / str(step) / "meta" / "metadata")
  for damaged, count in ((folder, 2), (tmp_path / "other", 1)):
    said = []
    with pytest.raises(errors.UserError, match=r"every checkpoint in .* is damaged: restore one"):
      checkpoints.read_newest(damaged, said.append)
    assert len(said) == len(checkpoints.steps(damaged)) == count
    assert "--step" not in "".join(said)


def test_what_is_put_aside_overwrites_nothing(folder):
  for _ in range(2):
    (folder / "50").mkdir()
    checkpoints.quarantine(folder, 2)
  assert sorted(p.name for p in (folder.parent / "damaged").iterdir()) == ["50", "50.1"]


def test_a_damaged_older_step_does_not_stop_a_writer(folder):
  """Not even the best one, which it should have kept."""
  for name in files_of(folder, 1):
    flip(folder / name)
  save(folder, 1, 1.5, first=3)
  assert checkpoints.steps(folder) == [3]
  assert checkpoints.best_step(folder) == 3


def test_the_best_and_the_newest_stay(tmp_path):
  save(tmp_path / "a", 1, 3.0, 1.0, 2.0, 4.0)
  assert checkpoints.steps(tmp_path / "a") == [2, 4]
  assert checkpoints.best_step(tmp_path / "a") == 2
  save(tmp_path / "a", 1, 5.0, first=5)  # by a writer that did not see the best
  assert checkpoints.steps(tmp_path / "a") == [2, 5]
  save(tmp_path / "b", 2, None, None, 3.0, None, 2.0, None, None)
  assert checkpoints.steps(tmp_path / "b") == [5, 6, 7]


def test_without_any_validation_loss_the_newest_is_the_best(tmp_path):
  save(tmp_path, 2, None, None, None)
  assert checkpoints.steps(tmp_path) == [2, 3]
  assert checkpoints.best_step(tmp_path) == 3


def test_of_equal_losses_the_first_is_the_best(tmp_path):
  save(tmp_path, 3, 2.0, 1.0, 1.0)
  assert checkpoints.best_step(tmp_path) == checkpoints.best({3: 1.0, 2: 1.0, 4: None}) == 2


def test_nothing_there(tmp_path):
  assert checkpoints.steps(tmp_path / "none") == []
  assert checkpoints.read_newest(tmp_path / "none") is None
  assert checkpoints.best_step(tmp_path / "none") is None
  with pytest.raises(errors.UserError, match="checkpoint 3"):
    checkpoints.read(tmp_path, 3)


def test_is_read_while_it_is_written(folder):
  writer = checkpoints.Writer(folder, 3)
  assert checkpoints.read_newest(folder)[1]["step"] == 2
  writer.save(3, some_state(3), {"valid_loss": None})
  assert checkpoints.read_newest(folder)[1]["step"] in (2, 3)
  writer.close()
  assert checkpoints.read_newest(folder)[1]["step"] == 3
