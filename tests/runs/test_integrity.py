"""Tests that the files of a run are bound to each other."""

import json
import shutil

import bits
import pytest

from charrnn import cli, errors, files
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib

EDITS = {
  "config.json": ('"test_fraction": 0.05', '"test_fraction": 0.04'),
  "alphabet.json": ('"kind": "char"', '"kind": "byte"'),
  "run.json": ('"launches"', '"lunches"'),
}


def edit(path, old, new):
  text = path.read_text()
  assert text.count(old) == 1
  path.write_text(text.replace(old, new))


def use(run):
  """Read everything that commands use."""
  opened = run_lib.Run.open(run).load()
  return opened.model, opened.tokenizer, opened.origin


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_file_is_named_with_both_remedies(a, name):
  edit(a / name, *EDITS[name])
  with pytest.raises(
    errors.UserError, match=rf"{name} does not match its digest: restore .*--accept"
  ):
    use(a)


READERS = {
  "config.json": lambda run: run.config,
  "alphabet.json": lambda run: run.tokenizer,
  "run.json": lambda run: run.origin,
}


@pytest.mark.parametrize("name", EDITS)
def test_a_file_without_its_digest_is_not_trusted(a, name, capsys):
  value = files.read_json(a / name)
  del value["sha256"]
  files.write_json(a / name, value)
  # Commands such as diff and compare read no checkpoint.
  for read in (READERS[name], lambda run: run.load()):
    with pytest.raises(errors.UserError, match=rf"{name} has no digest.*--accept"):
      read(run_lib.Run.open(a))
  assert cli.main(["verify", str(a)]) == 1
  assert cli.main(["verify", str(a), "--accept"]) == 0
  use(a)


@pytest.mark.parametrize("digest", [None, "", [], 0, "0" * 64])
@pytest.mark.parametrize("name", EDITS)
def test_any_wrong_digest_is_noticed(a, name, digest):
  files.write_json(a / name, files.read_json(a / name) | {"sha256": digest})
  with pytest.raises(errors.UserError, match=f"{name} does not match its digest"):
    READERS[name](run_lib.Run.open(a))


@pytest.mark.parametrize("name", EDITS)
def test_flipped_bits_are_no_silent_error(a, name):
  before = run_lib.Run.open(a).load()
  content = (a / name).read_bytes()
  for offset in range(0, len(content), len(content) // 40):
    bits.flip(a / name, offset)
    run = run_lib.Run.open(a)
    try:
      # A changed key of the digest does no harm.
      origin = {key: value for key, value in run.origin.items() if key in before.origin}
      assert (run.config, origin, run.tokenizer) == (
        before.config,
        before.origin,
        before.tokenizer,
      )
    except errors.UserError as error:
      assert name in str(error)
    (a / name).write_bytes(content)


def test_a_step_of_another_run_is_refused(a, trained):
  shutil.rmtree(a / "checkpoints/20")
  shutil.copytree(trained["b"] / "checkpoints/20", a / "checkpoints/20")
  with pytest.raises(errors.UserError, match=r"another run: model\.hidden is 8 but was 6"):
    run_lib.Run.open(a, 20).load()
  assert run_lib.Run.open(a, 10).load().step == 10
  messages = []
  identity = run_lib.Run.open(a).identity
  _, meta = checkpoints.read_newest(a / "checkpoints", messages.append, identity)
  assert meta["step"] == 10 and "belongs to another run" in messages[0]


@pytest.mark.parametrize("name", ["vocabulary", "corpus"])
def test_a_step_of_another_text_is_refused(a, name):
  folder = a / "checkpoints"
  meta = checkpoints.read_meta(folder, 20)
  checkpoints.write_meta(folder, meta | {"run": meta["run"] | {name: "0" * 64}})
  with pytest.raises(checkpoints.ForeignError, match=f"the {name} has changed"):
    run_lib.Run.open(a, 20).load()


def test_the_config_of_a_run_can_be_edited_and_launched(main, whole, tmp_path, capsys):
  value = json.loads((whole / "config.json").read_text())
  value["max_steps"] = 2
  (tmp_path / "edited.json").write_text(json.dumps(value))
  assert main(f"--config={tmp_path / 'edited.json'}", f"--workdir={tmp_path / 'new'}") == 0
  assert "was edited" in capsys.readouterr().err
  assert run_lib.Run.open(tmp_path / "new").load().step == 2


@pytest.fixture
def copy(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / "copy")


def delete(path):
  path.unlink()


def truncate(path):
  path.write_bytes(path.read_bytes()[:100])


def change(path):
  edit(path, '"seed": 1', '"seed": 2')


@pytest.mark.parametrize("damage", [delete, truncate, change])
def test_without_a_good_config_resume_checks_the_copy_in_the_checkpoint(main, copy, damage, capsys):
  before = files.read_sealed(copy / "config.json")
  damage(copy / "config.json")
  with pytest.raises(errors.UserError, match=r"seed=2.*cannot change"):
    main("--config=tiny.py", f"--workdir={copy}", "--config.seed=2")
  assert "config.json" in (err := capsys.readouterr().err) and "copy in checkpoint 240" in err
  assert main("--config=tiny.py", f"--workdir={copy}") == 0
  assert files.read_sealed(copy / "config.json") == before


def test_a_directory_with_links_is_not_resumed(main, copy, tmp_path):
  (tmp_path / "outside").mkdir()
  for name, target in (("loss.png", "other.png"), ("samples", "outside"), ("damaged", "outside")):
    path, kept = copy / name, tmp_path / "kept"
    if path.exists():
      path.rename(kept)
    path.symlink_to(tmp_path / target)
    with pytest.raises(errors.UserError, match=f"{name} is a link"):
      main("--config=tiny.py", f"--workdir={copy}")
    path.unlink()
    if kept.exists():
      kept.rename(path)
  assert not list((tmp_path / "outside").iterdir()) and not (tmp_path / "other.png").exists()
