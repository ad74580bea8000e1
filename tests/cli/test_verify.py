import json
import shutil

import bits
import orbax.checkpoint as ocp
import pytest

from charrnn.runs import checkpoints


def test_a_whole_run(charrnn, trained):
  result = charrnn("verify", trained["a"])
  assert result.code == 0
  lines = [line.split()[:3] for line in result.out.splitlines()]
  assert [line for line in lines if line[0] == "step"] == [
    ["step", "10", "ok"],
    ["step", "20", "ok"],
  ]
  assert len(lines) == 6


def read_by_orbax(path, like):
  """Digests of what Orbax reads, who trusts its files; None where it refuses."""
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return checkpoints.digests(checkpointer.restore(path, like))
  except ValueError:
    return None


def test_what_orbax_reads_otherwise_than_it_was_written_is_named(charrnn, a):
  """Flips bytes all over the files that hold arrays, one at a time."""
  folder = a / "checkpoints"
  tree, meta = checkpoints.read(folder, 20)
  found = set()
  for file in sorted((folder / "20/state/ocdbt.process_0/d").iterdir()):
    whole = file.read_bytes()
    for offset in range(100, len(whole), 900):
      bits.flip(file, offset)
      digests = read_by_orbax(folder / "20/state", tree)
      result = charrnn("verify", a, "--json")
      damaged = {part["part"]: part["damaged"] for part in result.json["parts"]}
      names = set(damaged.pop("step 20"))
      if digests is None:
        assert 0 < len(names) < len(meta["arrays"])  # the others are read all the same
      else:
        assert names == {name for name in digests if digests[name] != meta["arrays"][name]}
      assert not any(damaged.values())
      assert result.code == bool(names)
      found |= names
      file.write_bytes(whole)
  assert len(found) > 3


def remove_state(run):
  shutil.rmtree(run / "checkpoints/20/state")


def leave_an_empty_step(run):
  (run / "checkpoints/50").mkdir()


def spoil_meta(run):
  bits.flip(run / "checkpoints/10/meta/metadata", 40)


def take_another_alphabet(run):
  path = run / "alphabet.json"
  value = json.loads(path.read_text())
  value["counts"][0] += 1
  path.write_text(json.dumps(value))


def cut_config(run):
  path = run / "config.json"
  path.write_text(path.read_text()[:100])


def spoil_metrics(run):
  path = run / "metrics.jsonl"
  path.write_bytes(b"\xff\n" + path.read_bytes())


@pytest.mark.parametrize(
  "damage, part",
  [
    (remove_state, "step 20"),
    (leave_an_empty_step, "step 50"),
    (spoil_meta, "step 10"),
    (take_another_alphabet, "alphabet.json"),
    (cut_config, "config.json"),
    (spoil_metrics, "metrics.jsonl"),
    (lambda run: (run / "run.json").write_text("[]"), "run.json"),
  ],
)
def test_damage_is_named(charrnn, a, damage, part):
  damage(a)
  result = charrnn("verify", a, "--json")
  assert result.code == 1
  assert not result.json["whole"]
  damaged = {found["part"] for found in result.json["parts"] if found["damaged"]}
  assert part in damaged
  assert damaged <= {part, "alphabet.json"}  # which is checked against run.json
  shown = [line for line in charrnn("verify", a).out.splitlines() if "DAMAGED" in line]
  assert any(line.startswith(part) for line in shown)
  # And inspect shows what is left.
  assert charrnn("inspect", a).code == 0


def test_a_line_cut_short_by_a_kill_is_no_damage(charrnn, a):
  with (a / "metrics.jsonl").open("a") as file:
    file.write('{"step": 2')
  result = charrnn("verify", a)
  assert result.code == 0
  assert "incomplete" in result.out


def test_a_step_that_training_deletes_meanwhile_is_no_damage(charrnn, a, monkeypatch):
  metadata = checkpoints.metadata

  def vanish(folder, step, prefix=""):
    shutil.rmtree(folder / str(step), ignore_errors=True)
    return metadata(folder, step, prefix)

  monkeypatch.setattr(checkpoints, "metadata", vanish)
  result = charrnn("verify", a)
  assert result.code == 0
  assert result.out.count("deleted") == 2
