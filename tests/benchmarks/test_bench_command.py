import json
import statistics

import pytest

from charrnn import errors
from charrnn.benchmarks import comparison, contestants, launches, machine, matching, scale, tables

TINY = ("--hidden=8", "--layers=1", "--batch=4", "--dtype=float32", "--rounds=2", "--seconds=0.02")


def check_row(row):
  assert len(row["rates"]) == 2 and min(row["rates"]) > 0
  assert row["median"] == statistics.median(row["rates"])
  assert 0 < row["base_bytes"] < row["peak_bytes"]
  assert row["compile_seconds"] >= 0


@pytest.mark.parametrize("what", ["train", "sample"])
def test_a_race_with_every_peer_that_is_here(bench, what):
  sizes = [*TINY, "--window=6"] if what == "train" else TINY
  result = bench(what, *sizes, "--json", "--out=pictures/of it")
  assert result.code == 0, result.err
  assert set(result.json["machine"]) > {"processor", "cores", "python", "packages", "device"}
  (race,) = result.json["results"]
  assert race["kind"] == what and race["work"]["hidden"] == 8
  peers = [p for p in contestants.PEERS if machine.installed(p) and (p, what) in contestants.ALL]
  rows = race["contestants"]
  assert list(rows) == ["charrnn", *peers] and not race["failed"]
  for row in (*rows.values(), *race["ceilings"].values()):
    check_row(row)
  own = rows["charrnn"]["median"]
  assert race["ratios"] == {peer: own / rows[peer]["median"] for peer in peers}
  assert race["share"] == own / min(race["limits"].values())
  table = "\n".join(tables.comparison(race))
  for word in (f"{what}: lstm 1 x 8, batch 4, ", "charrnn 0", "GFLOP/s", "charrnn reaches"):
    assert word in table
  with open(f"pictures/of it/{what}.json") as file:
    assert json.load(file) == result.json
  with open(f"pictures/of it/{what}.png", "rb") as file:
    assert file.read(4) == b"\x89PNG"


def test_a_peer_that_is_not_installed_is_left_out_by_name(bench, monkeypatch):
  monkeypatch.setattr(machine, "installed", lambda name: name == "flax")

  def stop():
    raise errors.UserError("asked for devices")

  monkeypatch.setattr(machine, "facts", stop)
  assert bench("train").err == (
    "torch is not installed, so it is left out: pip install 'charrnn[bench]'\n"
    "charrnn: error: asked for devices\n"
  )


@pytest.mark.long
def test_scale(bench, monkeypatch):
  """With the devices alone, and no ceilings."""
  plan = scale.plan
  monkeypatch.setattr(scale, "plan", lambda *args: {"devices": plan(*args)["devices"]})
  monkeypatch.setattr(scale, "LONG", (1,))
  monkeypatch.setattr(scale, "device_counts", lambda base, machine: [1, 2])
  monkeypatch.setattr(comparison, "ceilings", lambda *_: {})
  result = bench("scale", *TINY, "--window=6")
  assert result.code == 0, result.out + result.err
  assert "bench/scale.png" in result.err
  with open("bench/scale.json") as file:
    (report,) = json.load(file)["results"]
  points = report["sweeps"]["devices"]
  assert [point["devices"] for point in points] == [1, 2]
  assert points[1]["against_first"] == points[1]["median"] / points[0]["median"]
  assert [point["work"]["remat"] for point in report["memory"]] == [0, 2]
  for line in ("  devices ", "  window  remat", "lstm 1 x 8, batch 4, window 6, float32"):
    assert line in result.out


def test_scale_varies_one_size_at_a_time():
  plan = scale.plan(scale.BASE, [1, 2])
  assert [task.hidden for task in plan["hidden"]] == [64, 128, 256, 512, 1024]
  for name, tasks in plan.items():
    for task in tasks:
      assert task._replace(**{name: getattr(scale.BASE, name)}) == scale.BASE
  for task in scale.memory_plan(scale.BASE):
    assert not task.remat or task.window % task.remat == 0


def test_devices_divide_the_batch():
  machine_ = {"platform": "cpu", "cores": 12, "devices": 1}
  assert scale.device_counts(scale.BASE, machine_) == [1, 2, 4, 8]
  assert scale.device_counts(scale.BASE._replace(batch=36), machine_) == [1, 2, 4, 12]
  assert scale.device_counts(scale.BASE, {**machine_, "platform": "gpu", "devices": 2}) == [1, 2]


def test_startup_is_medians_of_the_launches_after_the_first(bench, monkeypatch):
  launched = iter(
    [{"imports": 9.0, "total": 9.0}] + [{"imports": n, "total": n} for n in (3, 1, 2)]
  )
  monkeypatch.setattr(launches, "check", lambda: None)
  monkeypatch.setattr(launches, "_launch", lambda workdir: next(launched))
  result = bench("startup", "--json")
  assert result.json["results"][0]["medians"] == {"imports": 2, "total": 2}


def test_matching_takes_its_time(bench, monkeypatch):
  for name, value in {"CHARACTERS": 9000, "COLUMNS": 6, "HYPOTHESES": 2, "SHIFTS": 19}.items():
    monkeypatch.setattr(matching, name, value)
  result = bench("cells", "--rounds=2", "--json").json["results"][0]
  assert len(result["seconds"]) == 2
  assert min(result["seconds"]) <= result["median"] <= max(result["seconds"])
  assert "9,000 characters x 6 columns x 2 hypotheses" in bench("cells").out


@pytest.mark.parametrize(
  "words, message",
  [
    (["train", "--rounds=0"], "--rounds=0: must be at least 1"),
    (["--hidden=-1"], "--hidden=-1: must be at least 1"),
    (["--seconds=nan"], "--seconds=nan: must be above 0"),
    (["--seconds=0"], "--seconds=0: must be above 0"),
    (["train", "--peers=torch,jax2"], "--peers: no peer 'jax2'; there are torch, flax"),
    (["sample", "--window=9"], "--window: not for sample"),
    (["scale", "--peers=torch"], "--peers: not for scale"),
    (["startup", "--hidden=9"], "--hidden: not for startup"),
    (["startup"], "no launch.py here"),
    (["train", "--cell=lstn"], "argument --cell: invalid choice: 'lstn'"),
    (["trian"], "invalid choice: 'trian'"),
    (["train", "--out=file/below"], "--out=file/below: "),
  ],
)
def test_bad_lines_are_one_line_before_anything_starts(bench, monkeypatch, words, message):
  with open("file", "w"):
    monkeypatch.setattr(machine, "facts", lambda: pytest.fail("started"))
  result = bench(*words)
  assert result.code == 2 and not result.out
  assert message in result.err and len(result.err.splitlines()) == 1
