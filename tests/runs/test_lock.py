"""Tests of the lock of a run directory."""

import os
import shutil

import pytest

from charrnn import errors
from charrnn.runs import lock


def fail(workdir):
  with lock.hold(workdir):
    raise errors.UserError("something else")


def test_a_new_directory_without_results_is_removed(tmp_path):
  with pytest.raises(errors.UserError, match="something else"):
    fail(tmp_path / "new")
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_directory_of_the_user_is_kept(tmp_path, is_link):
  (tmp_path / "own").mkdir()
  workdir = tmp_path / ("link" if is_link else "own")
  if is_link:
    workdir.symlink_to("own")
  with pytest.raises(errors.UserError, match="something else"):
    fail(workdir)
  assert workdir.is_dir()


def test_a_directory_that_was_moved_does_not_hide_the_error(tmp_path):
  def move_and_fail():
    with lock.hold(tmp_path / "a"):
      shutil.move(tmp_path / "a", tmp_path / "b")
      raise errors.UserError("something else")

  with pytest.raises(errors.UserError, match="something else"):
    move_and_fail()


def test_looking_for_a_lock_opens_no_link_and_does_not_wait(tmp_path):
  with lock.hold(tmp_path / "held"):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lock").symlink_to("../held/lock")
    assert not lock.is_held(tmp_path / "a") and lock.is_held(tmp_path / "held")
  os.mkfifo(tmp_path / "fifo")
  assert not lock.is_held(tmp_path / "fifo")
