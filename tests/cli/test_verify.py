"""Tests of `charrnn verify`."""

import json
import shutil

import bits
import edits
import orbax.checkpoint as ocp
import pytest

from charrnn import errors, files
from charrnn.runs import checkpoints, lock
from charrnn.runs import run as run_lib


def test_intact_run(charrnn, trained):
  result = charrnn("verify", trained["a"])
  assert result.code == 0
  lines = [line.split()[:3] for line in result.out.splitlines()]
  assert [line for line in lines if line[0] == "step"] == [
    ["step", "10", "ok"],
    ["step", "20", "ok"],
  ]
  assert len(lines) == 6


def read_by_orbax(path, like):
  """Return the digests of the arrays that Orbax reads, or None if Orbax raises an error."""
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return checkpoints.digests(checkpointer.restore(path, like))
  except ValueError:
    return None


@pytest.mark.long
def test_arrays_that_orbax_reads_incorrectly_are_named(charrnn, a):
  """Flip single bytes throughout the files with arrays."""
  folder = a / "checkpoints"
  tree, meta = checkpoints.read(folder, 20)
  all_names = set()
  for file in sorted((folder / "20/state/ocdbt.process_0/d").iterdir()):
    content = file.read_bytes()
    for offset in range(100, len(content), 900):
      bits.flip(file, offset)
      digests = read_by_orbax(folder / "20/state", tree)
      result = charrnn("verify", a, "--json")
      damaged = {part["part"]: part["damaged"] for part in result.json["parts"]}
      names = set(damaged.pop("step 20"))
      if digests is None:
        assert 0 < len(names) < len(meta["arrays"])  # the other arrays are still read
      else:
        assert names == {name for name in digests if digests[name] != meta["arrays"][name]}
      assert not any(damaged.values())
      assert result.code == bool(names)
      all_names |= names
      file.write_bytes(content)
  assert len(all_names) > 3


def remove_state(run):
  shutil.rmtree(run / "checkpoints/20/state")


def add_an_empty_step(run):
  (run / "checkpoints/50").mkdir()


def damage_metadata(run):
  bits.flip(run / "checkpoints/10/meta/metadata", 40)


def change_the_vocabulary(run):
  path = run / "alphabet.json"
  value = json.loads(path.read_text())
  value["counts"][0] += 1
  path.write_text(json.dumps(value))


def truncate_config(run):
  path = run / "config.json"
  path.write_text(path.read_text()[:100])


def remove_digest(run):
  files.write_json(run / "config.json", files.read_sealed(run / "config.json"))


def damage_metrics(run):
  path = run / "metrics.jsonl"
  path.write_bytes(b"\xff\n" + path.read_bytes())


@pytest.mark.parametrize(
  "damage, part",
  [
    (remove_state, "step 20"),
    (add_an_empty_step, "step 50"),
    (damage_metadata, "step 10"),
    (change_the_vocabulary, "alphabet.json"),
    (truncate_config, "config.json"),
    (damage_metrics, "metrics.jsonl"),
    (remove_digest, "config.json"),
    (lambda run: (run / "run.json").write_text("[]"), "run.json"),
  ],
)
def test_damaged_part_is_named(charrnn, a, damage, part):
  damage(a)
  result = charrnn("verify", a, "--json")
  assert result.code == 1
  assert not result.json["whole"]
  damaged = {each["part"] for each in result.json["parts"] if each["damaged"]}
  assert part in damaged
  assert damaged <= {part, "alphabet.json"}  # the vocabulary is compared with run.json
  lines = [line for line in charrnn("verify", a).out.splitlines() if "DAMAGED" in line]
  assert any(line.startswith(part) for line in lines)
  # charrnn inspect still shows the intact parts.
  assert charrnn("inspect", a).code == 0


def test_incomplete_last_line_of_metrics_is_no_damage(charrnn, a):
  with (a / "metrics.jsonl").open("a") as file:
    file.write('{"step": 2')
  result = charrnn("verify", a)
  assert result.code == 0
  assert "incomplete" in result.out


def test_step_that_training_deletes_is_no_damage(charrnn, a, monkeypatch):
  metadata = checkpoints.metadata

  def vanish(folder, step, prefix=""):
    shutil.rmtree(folder / str(step), ignore_errors=True)
    return metadata(folder, step, prefix)

  monkeypatch.setattr(checkpoints, "metadata", vanish)
  result = charrnn("verify", a)
  assert result.code == 0
  assert result.out.count("deleted") == 2


def edit_config(run):
  path = run / "config.json"
  path.write_text(path.read_text().replace('"test_fraction": 0.05', '"test_fraction": 0.04'))


def test_a_deliberate_edit_can_be_accepted(charrnn, a):
  edit_config(a)
  assert charrnn("verify", a).code == 1
  result = charrnn("verify", a, "--accept")
  assert result.code == 0
  assert "accepted config.json" in result.out
  assert "accepted step 20: text.test_fraction is 0.04 but was 0.05" in result.out
  assert run_lib.Run.open(a).load().config.text.test_fraction == 0.04
  assert "nothing to accept" in charrnn("verify", a, "--accept").out


def test_the_remedy_for_a_locked_run_names_no_option_of_launch_py(charrnn, a, monkeypatch):
  monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
  edit_config(a)
  with lock.hold(a):
    result = charrnn("verify", a, "--accept")
  assert result.code == 2 and result.err.count("\n") == 1 and "--workdir" not in result.err
  assert "another process is training in" in result.err
  assert result.err.endswith("wait for it, or use a copy of the run\n")


@pytest.mark.parametrize("layers", [1, 3])
def test_an_accepted_config_of_another_network_does_not_fit_its_checkpoints(charrnn, a, layers):
  edits.change(a, "config.json", lambda c: c["model"].update(layers=layers))
  result = charrnn("verify", a)
  assert result.code == 1 and "DAMAGED: params/layer_" in result.out
  needs = "the config needs no params/" if layers == 1 else "the config needs params/"
  with pytest.raises(errors.UserError, match=needs):
    run_lib.Run.open(a).load()


def test_changed_metrics_are_damage_and_can_be_accepted(charrnn, a):
  text = (a / "metrics.jsonl").read_text()
  (a / "metrics.jsonl").write_text(text.replace('"epoch": 0.', '"epoch": 1.', 1))
  result = charrnn("verify", a)
  assert result.code == 1 and "does not match its digest in checkpoint 20" in result.out
  result = charrnn("verify", a, "--accept", "--json")
  assert result.code == 0 and len(result.json["accepted"]) == 2


def test_deleted_metrics_are_damage_and_can_be_accepted(charrnn, a):
  (a / "metrics.jsonl").unlink()
  result = charrnn("verify", a)
  assert result.code == 1 and "metrics.jsonl" in result.out
  result = charrnn("verify", a, "--accept")
  assert "accepted metrics.jsonl up to step 20" in result.out
  assert result.code == 0, result.out


def test_a_step_of_another_run_is_damage(charrnn, a, trained):
  shutil.rmtree(a / "checkpoints/20")
  shutil.copytree(trained["b"] / "checkpoints/20", a / "checkpoints/20")
  result = charrnn("verify", a)
  assert result.code == 1 and "DAMAGED: model.hidden is 8 but was 6" in result.out
