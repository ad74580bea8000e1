"""Reading and writing of files and folders."""

import errno
import itertools
import os
import pathlib
import re
import stat

import pytest

from charrnn import errors, files


def link(path):
  path.with_name("target").touch()
  path.symlink_to("target")


def dangling_link(path):
  path.symlink_to("missing")


def fifo(path):
  os.mkfifo(path)


def folder(path):
  path.mkdir()


KINDS = {link: "a link", dangling_link: "a link", fifo: "a FIFO", folder: "a folder"}


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


def test_a_special_file_is_written_wherever_it_is(tmp_path, monkeypatch, capfd):
  """A folder that is not writable, such as /dev, may contain a device, a pipe or an open file."""
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(errors.UserError, match="cannot write to"):
    files.check_output(tmp_path / "a.txt")
  fifo = tmp_path / "fifo"
  os.mkfifo(fifo)
  reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
  with (tmp_path / "open.txt").open("wb", buffering=0) as file:
    file.write(b"before ")
    for path in (fifo, "/dev/null", "/dev/stdout", "/dev/stderr", f"/dev/fd/{file.fileno()}"):
      files.check_output(pathlib.Path(path))
      with files.replace_file(pathlib.Path(path)) as output:
        output.write(b"content")
    file.write(b" after")
  assert os.read(reader, 100) == b"content" and fifo.is_fifo()
  os.close(reader)
  assert capfd.readouterr() == ("content", "content")
  assert (tmp_path / "open.txt").read_bytes() == b"before content after"


def test_a_failed_replacement_keeps_earlier_results(tmp_path):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(ZeroDivisionError), files.replace_in_folder(tmp_path) as new:
    (new / "a.txt").write_text("new")
    raise ZeroDivisionError
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("failure", range(5))
def test_a_rename_that_fails_loses_no_earlier_result(tmp_path, monkeypatch, failure):
  """Each rename fails in turn."""
  names, rename, calls = ("a/text", "b/text", "c"), os.replace, itertools.count()

  def replace(*paths):
    if next(calls) == failure:
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    rename(*paths)

  def write(folder, text):
    for name in names:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).write_text(text)

  write(tmp_path, "old")
  monkeypatch.setattr(os, "replace", replace)
  with (
    pytest.raises(errors.UserError, match="Input/output error"),
    files.replace_in_folder(tmp_path) as new,
  ):
    write(new, "new")
  assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
  assert {(tmp_path / name).read_text() for name in names} <= {"old", "new"}


def test_an_input_is_a_file_or_a_pipe_that_ends(tmp_path, monkeypatch):
  path = tmp_path / "text"
  path.write_bytes(b"text")
  monkeypatch.setattr(files, "MAX_STREAM", 3)
  assert files.read_input(path) == b"text"
  with pytest.raises(errors.UserError, match="/dev/zero does not end: use a regular file"):
    files.read_input("/dev/zero")
  for name in ("missing", "NUL\0", "x" * 5000, str(tmp_path)):
    with pytest.raises(errors.UserError, match="cannot read"):
      files.read_input(name)
  reader, writer = os.pipe()
  os.write(writer, b"abc")
  os.close(writer)
  assert files.read_input(f"/dev/fd/{reader}") == b"abc"
  os.close(reader)


def test_an_error_about_a_damaged_json_file_names_it(tmp_path):
  (tmp_path / "a.json").write_text("[1]")
  with pytest.raises(errors.UserError, match="damaged"):
    files.read_json(tmp_path / "a.json")


def test_reading_rejects_everything_but_regular_files_of_limited_size(tmp_path):
  regular = tmp_path / "a.json"
  regular.write_text("{}")
  assert files.read_bytes(regular, limit=2) == b"{}"
  with pytest.raises(errors.UserError, match="larger than 1 bytes"):
    files.read_bytes(regular, limit=1)
  for create, kind in KINDS.items():
    path = tmp_path / create.__name__
    create(path)
    with pytest.raises(errors.UserError, match=rf"{path.name} is {kind}, not a regular file"):
      files.read_bytes(path)
  with pytest.raises(errors.UserError, match="missing is missing: restore"):
    files.read_bytes(tmp_path / "missing")


@pytest.mark.parametrize("create", [each for each in KINDS if each is not folder])
@pytest.mark.parametrize(
  "write",
  [lambda path: files.write_text(path, "new"), lambda path: files.append(path).write(b"new")],
)
def test_writing_follows_no_link_and_does_not_wait(tmp_path, create, write):
  create(tmp_path / "a.txt")
  before = sorted(tmp_path.iterdir())
  with pytest.raises(errors.UserError, match=rf"a\.txt is {KINDS[create]}"):
    write(tmp_path / "a.txt")
  assert sorted(tmp_path.iterdir()) == before
  assert not (tmp_path / "target").exists() or not (tmp_path / "target").read_bytes()


@pytest.mark.parametrize("create", [each for each in KINDS if each is not folder])
def test_a_tree_has_only_regular_files_and_folders(tmp_path, create):
  (tmp_path / "a" / "b").mkdir(parents=True)
  (tmp_path / "a" / "b" / "c").touch()
  files.check_tree(tmp_path)
  create(tmp_path / "a" / "b" / "d")
  with pytest.raises(errors.UserError, match=rf"a/b/d is {KINDS[create]}"):
    files.check_tree(tmp_path)


def test_a_subfolder_is_no_link(tmp_path):
  files.make_subfolder(tmp_path / "a")
  files.make_subfolder(tmp_path / "a")
  (tmp_path / "b").symlink_to("a")
  with pytest.raises(errors.UserError, match="b is a link, not a folder"):
    files.make_subfolder(tmp_path / "b")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_failed_write_names_path_and_remedy_and_changes_nothing(tmp_path, monkeypatch, code):
  (tmp_path / "a.txt").write_text("old")

  def fail(descriptor):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(errors.UserError, match=rf"a\.txt: {os.strerror(code)}: \w+"):
    files.write_text(tmp_path / "a.txt", "new")
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_file_and_its_folder_are_on_disk_before_the_next_one_is_written(tmp_path, monkeypatch):
  events, fsync, replace = [], os.fsync, os.replace
  monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
  monkeypatch.setattr(
    os, "fsync", lambda fd: (events.append(stat.S_IFMT(os.fstat(fd).st_mode)), fsync(fd))
  )
  files.write_json(tmp_path / "a.json", {})
  assert events == [stat.S_IFREG, "replace", stat.S_IFDIR]


@pytest.mark.parametrize(
  "text",
  [
    *("[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "[1]", "", "{"),
    *(f'{{"a": {"9" * 400}}}', f'{{"a": -{"9" * 5000}}}', '{"a": 1} 2', '{"a": 1}\0'),
  ],
)
def test_deep_or_damaged_json_is_an_error(tmp_path, text):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(errors.UserError, match=r"a\.json is damaged"):
    files.read_json(tmp_path / "a.json")


def test_every_change_of_a_sealed_file_is_detected(tmp_path):
  path, value = tmp_path / "a.json", {"b": [1, 0.5, None, "é\ud800"], "a": {"c": True}}
  files.write_json(path, files.seal(value))
  content = path.read_bytes()
  assert files.read_sealed(path) == value
  for offset, bit in itertools.product(range(len(content)), range(8)):
    changed = bytearray(content)
    changed[offset] ^= 1 << bit
    path.write_bytes(changed)
    try:
      read = files.read_sealed(path)
    except errors.UserError:
      continue
    # Only the key of the digest or white space can change without an error.
    read = {k: v for k, v in read.items() if not re.fullmatch("[0-9a-f]{64}", str(v))}
    assert read == value


def test_a_file_without_digest_is_not_checked(tmp_path):
  files.write_json(tmp_path / "a.json", {"a": 1})
  assert files.read_sealed(tmp_path / "a.json") == {"a": 1}
  with pytest.raises(errors.UserError, match=r"a\.json has no digest"):
    files.read_sealed(tmp_path / "a.json", needs_digest=True)


@pytest.mark.parametrize("value", [True, "1", None, [1]])
def test_a_number_in_json_is_no_boolean(value):
  assert files.has_types({"a": 1, "b": 1.5}, {"a": int, "b": float | int})
  assert not files.has_types({"a": value}, {"a": float | int})


def test_only_incomplete_files_are_removed(tmp_path):
  names = [f"{files.TEMPORARY}0123456789abcdef", ".tmp-mine", ".tmp-0123456789abcdef.txt", "a.tmp"]
  for name in names:
    (tmp_path / name).touch()
  files.remove_temporary(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_a_file_that_cannot_be_removed_is_named(tmp_path):
  (tmp_path / "a" / "b").mkdir(parents=True)
  with pytest.raises(errors.UserError, match=r"cannot write to .*a: .*: remove it by hand"):
    files.remove(tmp_path / "a")
  files.remove(tmp_path / "missing")


def test_the_end_of_a_file(tmp_path):
  (tmp_path / "a").write_bytes(b"0123456789")
  assert files.tail(tmp_path / "a", 3) == b"789" and files.tail(tmp_path / "a", 30)[:2] == b"01"


def test_the_default_output_folder_is_no_link(tmp_path):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "cells").symlink_to("elsewhere")
  with pytest.raises(errors.UserError, match="cells is a link, not a folder: remove it"):
    files.make_folder(None, tmp_path / "cells")
  assert files.make_folder(str(tmp_path / "cells"), tmp_path) == tmp_path / "cells"
