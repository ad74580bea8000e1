import dataclasses
import json
import statistics

import pytest

from charrnn import errors
from charrnn.benchmarks import implementations, report, rounds, studies
from charrnn.cli import bench as bench_command

TINY = ("--hidden=8", "--layers=1", "--batch=4", "--dtype=float32", "--rounds=2", "--seconds=0.02")


def check_row(row):
  assert len(row["rates"]) == 2 and min(row["rates"]) > 0
  assert row["median"] == statistics.median(row["rates"])
  assert 0 < row["base_bytes"] < row["peak_bytes"]
  assert row["compile_seconds"] >= 0


@pytest.mark.parametrize("kind", ["train", pytest.param("sample", marks=pytest.mark.long)])
def test_comparison_with_all_installed_baselines(bench, kind):
  sizes = [*TINY, "--window=6"] if kind == "train" else TINY
  result = bench(kind, *sizes, "--json", "--out=pictures/two words")
  assert result.code == 0, result.err
  machine = result.json["machine"]
  assert set(machine) > {"processor", "cores", "python", "packages", "device", "native"}
  assert len(machine["load_average"]) == 3 and set(machine["instructions"]) <= {
    *rounds.INSTRUCTIONS
  }
  (comparison,) = result.json["results"]
  assert comparison["kind"] == kind and comparison["workload"]["hidden"] == 8
  rows, same = comparison["implementations"], comparison["same_as_charrnn"]
  assert ("scan" in same) == (rows["charrnn"]["path"] == "scan")
  baselines = [
    name
    for name in implementations.BASELINES
    if implementations.is_installed(name) and (name, kind) in implementations.ALL
    if name not in same
  ]
  assert list(rows) == ["charrnn", *baselines] and not comparison["failed"]
  for row in (*rows.values(), *comparison["rooflines"].values()):
    check_row(row)
  own = rows["charrnn"]["median"]
  assert comparison["ratios"] == {name: own / rows[name]["median"] for name in baselines}
  limits = comparison["limits"]
  assert comparison["utilization"] == own / limits[comparison["limit"]]
  assert ("registers" in limits) == ("compiler" in machine["native"])
  for row in rows.values():
    assert row["utilization_of"] == {name: row["median"] / limits[name] for name in limits}
  for new, old in bench_command.KEYS.items():  # scripts for the previous release read the old keys
    values = comparison["workload"] if new == "vocab_size" else comparison
    assert values[old] == values[new]
  text = "\n".join(report.lines(comparison))
  for word in (f"{kind}: lstm 1 x 8, batch 4, ", "charrnn 0", "GFLOP/s", "charrnn reaches"):
    assert word in text
  with open(f"pictures/two words/{kind}.json") as file:
    assert json.load(file) == result.json
  with open(f"pictures/two words/{kind}.png", "rb") as file:
    assert file.read(4) == b"\x89PNG"


def stop():
  raise errors.UserError("stopped before measuring")


@pytest.mark.parametrize(
  "native, text",
  [
    ({"unavailable": "no compiler"}, "no native layers: no compiler"),
    (
      {"instructions": "AVX2", "compiler": "g++ 12", "unmeasured": None},
      "native layers: AVX2, g++ 12",
    ),
    (
      {"instructions": "AVX2", "compiler": "g++ 12", "unmeasured": "it is new"},
      "native layers: AVX2, g++ 12, not the default: it is new",
    ),
  ],
)
def test_the_native_layers_of_a_machine_are_described_in_one_line(native, text):
  facts = {"processor": "P", "cores": 2, "instructions": ["AVX2", "FMA"], "python": "3"}
  facts |= {"packages": {"jax": "1"}, "platform": "cpu", "load_average": [0.5, 0, 0]}
  assert report.machine(facts | {"native": native}) == [
    "P, 2 cores, AVX2, FMA; Python 3, jax 1",
    f"load average 0.50 before measuring; {text}",
  ]


def test_missing_baseline_is_skipped_and_reported(bench, monkeypatch):
  monkeypatch.setattr(implementations, "is_installed", lambda name: name != "torch")
  monkeypatch.setattr(rounds, "machine", stop)
  assert bench("train").err == (
    "skipping torch, which is not installed: run pip install 'charrnn[bench]'\n"
    "charrnn: error: stopped before measuring\n"
  )


def test_old_names(bench, monkeypatch):
  monkeypatch.setattr(rounds, "machine", stop)
  assert "unknown name 'jax2'" in bench("train", "--peers=jax2").err
  assert bench("split").err == bench("profile").err == "charrnn: error: stopped before measuring\n"


@pytest.mark.long
def test_scale(bench, monkeypatch):
  """Run the study with devices as the only size, and without rooflines."""
  plan = studies.plan
  monkeypatch.setattr(studies, "plan", lambda *args: {"devices": plan(*args)["devices"]})
  monkeypatch.setattr(studies, "LONG", (1,))
  monkeypatch.setattr(studies, "device_counts", lambda base, machine: [1, 2])
  monkeypatch.setattr(rounds, "rooflines", lambda *_: {})
  result = bench("scale", *TINY, "--window=6")
  assert result.code == 0, result.out + result.err
  assert "bench/scale.png" in result.err
  with open("bench/scale.json") as file:
    (study,) = json.load(file)["results"]
  points = study["sweeps"]["devices"]
  assert [point["devices"] for point in points] == [1, 2]
  assert points[1]["against_first"] == points[1]["median"] / points[0]["median"]
  assert [point["workload"]["remat"] for point in study["memory"]] == [0, 2]
  for line in ("  devices ", "  window  remat", "lstm 1 x 8, batch 4, window 6, float32"):
    assert line in result.out


def test_scale_varies_one_size_at_a_time():
  plan = studies.plan(studies.BASE, [1, 2])
  assert [task.hidden for task in plan["hidden"]] == [64, 128, 256, 512, 1024]
  for name, tasks in plan.items():
    for task in tasks:
      assert dataclasses.replace(task, **{name: getattr(studies.BASE, name)}) == studies.BASE
  for task in studies.memory_plan(studies.BASE):
    assert not task.remat or task.window % task.remat == 0


def test_devices_divide_the_batch():
  cpu, gpus = {"platform": "cpu", "cores": 12, "devices": 1}, {"platform": "gpu", "devices": 2}
  assert studies.device_counts(studies.BASE, cpu) == [1, 2, 4, 8]
  assert studies.device_counts(studies.BASE, gpus) == [1, 2]
  other = dataclasses.replace(studies.BASE, batch=36)
  assert studies.device_counts(other, cpu) == [1, 2, 4, 12]


def test_startup_is_the_median_of_all_launches_but_the_first(bench, monkeypatch):
  launches = iter(
    [{"imports": 9.0, "total": 9.0}] + [{"imports": n, "total": n} for n in (3, 1, 2)]
  )
  monkeypatch.setattr(studies, "check_startup", lambda: None)
  monkeypatch.setattr(studies, "_launch", lambda workdir: next(launches))
  result = bench("startup", "--json")
  assert result.json["results"][0]["medians"] == {"imports": 2, "total": 2}


def test_cells_times_the_matching(bench, monkeypatch):
  for name, value in {"CHARACTERS": 9000, "COLUMNS": 6, "HYPOTHESES": 2, "SHIFTS": 19}.items():
    monkeypatch.setattr(studies, name, value)
  result = bench("cells", "--rounds=2", "--json").json["results"][0]
  assert len(result["seconds"]) == 2
  assert min(result["seconds"]) <= result["median"] <= max(result["seconds"])
  assert "9,000 characters x 6 feature columns x 2 hypotheses" in bench("cells").out


@pytest.mark.parametrize(
  "words, message",
  [
    (["train", "--rounds=0"], "--rounds=0: must be at least 1"),
    (["--hidden=-1"], "--hidden=-1: must be at least 1"),
    (["--seconds=nan"], "--seconds=nan: must be finite and above 0"),
    (["--seconds=0"], "--seconds=0: must be finite and above 0"),
    (
      ["train", "--baselines=torch,jax2"],
      "--baselines: unknown name 'jax2': use scan, torch, flax",
    ),
    (["sample", "--window=9"], "--window: does not apply to sample"),
    (["scale", "--baselines=torch"], "--baselines: does not apply to scale"),
    (["startup", "--hidden=9"], "--hidden: does not apply to startup"),
    (["startup"], "launch.py not found"),
    (["train", "--cell=lstn"], "argument --cell: invalid choice: 'lstn'"),
    (["trian"], "invalid choice: 'trian'"),
    (["train", "--out=file/below"], "cannot write to file/below: "),
  ],
)
def test_invalid_options_are_one_line_before_anything_starts(bench, monkeypatch, words, message):
  with open("file", "w"):
    monkeypatch.setattr(rounds, "machine", lambda: pytest.fail("started"))
  result = bench(*words)
  assert result.code == 2 and not result.out
  assert message in result.err and len(result.err.splitlines()) == 1
