"""Atomic writing of files and folders."""

import pytest

from charrnn import errors, files


def test_renamed_keys_are_also_stored_under_their_old_names():
  value = {"new": [{"new": 1}], "other": 2}
  both = files.with_aliases(value, {"new": "old"})
  assert both == {"new": [{"new": 1, "old": 1}], "old": [{"new": 1, "old": 1}], "other": 2}


def test_a_failed_replacement_keeps_the_old_file(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(ZeroDivisionError), files.replace_file(path) as file:
    file.write(b"half")
    raise ZeroDivisionError
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_failed_replacement_keeps_earlier_results(tmp_path):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(ZeroDivisionError), files.replace_in_folder(tmp_path) as new:
    (new / "a.txt").write_text("new")
    raise ZeroDivisionError
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_an_error_about_a_damaged_json_file_names_it(tmp_path):
  (tmp_path / "a.json").write_text("[1]")
  with pytest.raises(errors.UserError, match="damaged"):
    files.read_json(tmp_path / "a.json")
