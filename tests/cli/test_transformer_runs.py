"""Tests of all commands on the run of a transformer: they work, or raise an error in one line."""

import json

import numpy as np
import pytest

from charrnn import api, errors, runtime
from charrnn.evaluation import score
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib


@pytest.fixture(scope="module")
def gpt(folder, tmp_path_factory):
  """Train a transformer for 12 steps; return its run directory."""
  import launch

  workdir = tmp_path_factory.mktemp("gpt") / "run"
  fields = {
    "model.cell": "transformer",
    "model.heads": 2,
    "model.context": 10,
    "model.positions": "learned",
    "model.tie": True,
    "max_steps": 12,
    "eval_every": 6,
  }
  options = [f"--config.{name}={value}" for name, value in fields.items()]
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
    assert launch.main(["launch.py", "--config=tiny.py", *options, f"--workdir={workdir}"]) == 0
  return workdir


@pytest.fixture(autouse=True)
def _devices(monkeypatch, folder):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  monkeypatch.chdir(folder)  # The corpus has a relative path.


def test_the_run_directory(gpt, charrnn):
  run = run_lib.Run.open(gpt)
  arrays = checkpoints.flatten(run.checkpoint(run.step)[0])
  assert arrays["params/embed/W_p"].shape == (10, 8) and "params/head/W_hy" not in arrays
  assert arrays["carry/layers/0/k"].shape == (8, 10, 2, 4)
  assert arrays["carry/read"].dtype == np.int32
  assert charrnn("verify", gpt).code == 0
  result = charrnn("inspect", gpt)
  assert result.code == 0 and "layer_0/W_qkv" in result.out and "positions=learned" in result.out


def test_losses_do_not_depend_on_the_window(gpt, charrnn):
  run = api.load(gpt)
  model, ids = (run.model, run.params), run.corpus().ids[:500]
  scores = [score.score(*model, ids, [(0, 500)], window=window).nats for window in (3, 64)]
  np.testing.assert_allclose(*scores, atol=1e-5)
  (plain,) = charrnn("eval", gpt, "--json").json["results"]
  (dynamic,) = charrnn("eval", gpt, "--dynamic=0.1", "--json").json["results"]
  assert dynamic["characters"] == plain["characters"] and dynamic["nats"] < plain["nats"]


def test_samples(gpt, charrnn):
  options = ("--length", 30, "--prime", "to be", "--num", 2, "--seed", 1, "--quiet", "--json")
  first, again = (charrnn("sample", gpt, *options, "--clamp", "0:h3=2") for _ in range(2))
  assert first.code == 0 and first.out == again.out
  assert all(len(json.loads(line)["text"]) == 30 for line in first.out.splitlines())
  assert charrnn("sample", gpt, "--beam", 3, "--length", 9, "--quiet").code == 0
  held = charrnn("sample", gpt, "--clamp", "0:h3=hold")
  problem = "--clamp 0:h3: the model has no state that could be held; use a number"
  assert (held.code, held.err) == (2, f"charrnn: error: {problem}\n")


def test_states_are_recorded_in_windows(gpt, monkeypatch):
  run, text = api.load(gpt), "to be or not to be that is the question"
  whole = run.states(text)
  assert {name: array.shape for name, array in whole["layer_0"].items()} == {
    "h": (len(text), 8),
    "m": (len(text), 32),
  }
  monkeypatch.setattr(score, "RECORDING_WINDOW", 16)
  parts = run.states(text)
  np.testing.assert_allclose(parts["layer_0"]["m"], whole["layer_0"]["m"], atol=1e-5)


@pytest.mark.long
def test_cells(gpt, charrnn, folder, tmp_path):
  options = ("--untrained=1", "--shifts=19", "--characters=6000", "--out", tmp_path / "cells")
  result = charrnn("cells", gpt, "--text", folder / "text.txt", *options, "--json")
  assert result.code == 0, result.err
  study = result.json
  units = [f"0:h{n}" for n in range(8)] + [f"0:m{n}" for n in range(32)]
  assert study["units"] == units and study["saturation"] == []
  assert {len(scores) for scores in study["scores"].values()} == {40}
  assert {each["setting"] for each in study["ablations"]} == {"mean"}
  settings = [[each["setting"] for each in entry["settings"]] for entry in study["steering"]]
  assert settings and all(each == ["mean", "low", "high"] for each in settings)
  for finding in filter(lambda each: each["scored"], study["findings"]):
    assert finding["unit"] == finding["name"] in units
    score, sign = finding["confirmation"]["score"], finding["direction"]
    effect = 2 * score - 1 if finding["kind"] == "binary" else score
    own = study["scores"][finding["hypothesis"]][units.index(finding["unit"])]
    assert sign * own == pytest.approx(effect, abs=2e-3)


def test_units_of_a_transformer_cannot_be_held(gpt, charrnn, tmp_path):
  result = charrnn("cells", gpt, "--ablation=hold", "--out", tmp_path / "cells")
  problem = f"the units of {gpt} have no state that could be held: use mean or zero"
  assert (result.code, result.err) == (2, f"charrnn: error: --ablation=hold: {problem}\n")
  result = charrnn("cells", gpt, "--explain=0:1", "--out", tmp_path / "cells")
  problem = (
    f"needs an lstm or a gru, but {gpt} has the cell transformer: leave it out to study all units"
  )
  assert (result.code, result.err) == (2, f"charrnn: error: --explain: {problem}\n")
  assert not (tmp_path / "cells").exists()


def test_other_commands(gpt, charrnn, tmp_path):
  assert charrnn("export", gpt, tmp_path / "out.npz").code == 0
  assert charrnn("ngrams", gpt, "--order=2", "--out", tmp_path / "ngrams").code == 0
  (row,) = charrnn("compare", gpt, "--json", "--out", tmp_path / "compare").json["runs"]
  run = run_lib.Run.open(gpt)
  size = sum(array.size for array in checkpoints.flatten(run.params).values())
  assert row["parameters"] == size


def test_a_run_starts_from_the_weights_of_another(gpt, main, tmp_path):
  options = ("--config.model.cell=transformer", "--config.max_steps=2", f"--config.init_from={gpt}")
  options += ("--config.sample.length=0", f"--workdir={tmp_path / 'tuned'}")
  with pytest.raises(
    errors.UserError, match=r"has model\.positions=learned, but this run has rotary"
  ):
    main("--config=tiny.py", *options)
  options += ("--config.model.positions=learned", "--config.model.tie=true")
  assert main("--config=tiny.py", *options) == 0
  config = run_lib.Run.open(tmp_path / "tuned").config.model
  assert (config.heads, config.context) == (2, 10)
