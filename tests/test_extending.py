"""The code of docs/extending.md: each block registers an extension that a run or a command uses."""

import importlib
import json
import pathlib
import re

import numpy as np
import pytest

from charrnn import cli, runtime
from charrnn.analysis import hypotheses, labels
from charrnn.data import splits
from charrnn.evaluation import score
from charrnn.models import cells
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib
from charrnn.scorecards import plays
from charrnn.training import optimizer

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"
# The module to which the code of each section belongs.
MODULES = {
  "A cell": cells,
  "An optimizer": optimizer,
  "A schedule": optimizer,
  "A split": splits,
  "A hypothesis": labels,
  "A metric of a scorecard": plays,
}
REGISTRIES = (
  cells.CELLS,
  optimizer.OPTIMIZERS,
  optimizer.SCHEDULES,
  splits.SPLITS,
  hypotheses.HYPOTHESES,
  plays.METRICS,
)
STEPS = 6
RATE = 0.01


@pytest.fixture(scope="module")
def registered():
  """Register the extensions of the page for the duration of this module."""
  before = [dict(registry) for registry in REGISTRIES]
  for section in re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]:
    title = section.partition("\n")[0]
    for code in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
      exec(compile(code, f"{PAGE.name}, {title}", "exec"), dict(vars(MODULES[title])))
  yield
  for registry, entries in zip(REGISTRIES, before):
    assert len(registry) == len(entries) + 1
    registry.clear()
    registry.update(entries)


@pytest.fixture(scope="module")
def run(registered, folder):
  """Return a run with the cell, optimizer, schedule and split of the page."""
  launch = importlib.import_module("launch")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
    code = launch.main(
      [
        *("launch.py", "--config=tiny.py", "--workdir=extended"),
        *("--config.model.cell=mgu", "--config.optimizer.name=lion"),
        *("--config.schedule.name=linear", "--config.schedule.warmup_steps=0"),
        *("--config.text.split=head", f"--config.optimizer.learning_rate={RATE}"),
        *(f"--config.max_steps={STEPS}", "--config.log_every=1", "--config.sample.length=0"),
      ]
    )
  assert not code
  return run_lib.Run.open(folder / "extended")


def test_cell_of_the_page(run):
  layer = run.params["layer_0"]
  assert layer["W_hh"].shape == (8, 2 * 8)
  # One step in NumPy, by the equations of the docstring.
  h, token = np.linspace(-1, 1, 8), 3
  x_f, x_n = np.split(layer["W_xh"][token] + layer["b_h"], 2)
  W_hf, W_hn = np.split(layer["W_hh"], 2, axis=1)
  f = 1 / (1 + np.exp(-(x_f + h @ W_hf)))
  expected = (1 - f) * h + f * np.tanh(x_n + (f * h) @ W_hn)
  carry = (cells.RNNState(np.float32(h)[None]),)
  _, after, _ = run.model.apply(run.params, np.array([[token]]), carry)
  np.testing.assert_allclose(
    after[0].h[0], expected, atol=0.02
  )  # matrix products may be in bfloat16


def test_optimizer_of_the_page(run):
  names = checkpoints.flatten(run.checkpoint(run.step)[0]).keys()
  # Lion stores one moving average, of the gradients. Adam, the default, also stores one of squares.
  assert any("/mu/" in name for name in names) and not any("/nu/" in name for name in names)


def test_schedule_of_the_page(run):
  rates = [line["learning_rate"] for line in run.metrics if "learning_rate" in line]
  np.testing.assert_allclose(rates, RATE * (1 - np.arange(STEPS) / STEPS), rtol=1e-5)


def test_split_of_the_page(run):
  (train,), (valid,), (test,) = run.splits()
  assert 0 == test.start < test.stop == valid.start < valid.stop == train.start
  assert train.stop == run.provenance["characters"]


def test_evaluator_of_the_page(run, folder, monkeypatch):
  monkeypatch.chdir(folder)  # The corpus has a relative path.
  (code,) = re.findall(r"^```py\n(def evaluator.*?)^```", PAGE.read_text(), re.M | re.S)
  namespace = {"splits_lib": splits, "score": score, "model": run.model, "ids": run.corpus().ids}
  exec(compile(code, PAGE.name, "exec"), namespace)
  ((name, loss),) = namespace["evaluator"](run.params, run.step)
  assert name == "valid/last_thousand" and 0 < loss < 10


def test_hypothesis_of_the_page(registered, tmp_path, capsys):
  # `charrnn cells` gets its hypotheses from these two functions.
  prose = {each.name: each for each in hypotheses.choose("prose")}
  assert "emphasis" in prose and "emphasis" not in {each.name for each in hypotheses.choose("c")}
  label = hypotheses.label_documents([prose["emphasis"]], ["to _be or_ not", "_"])["emphasis"]
  assert "".join(map(str, label.values.astype(int))) == "00001111100000" + "0"
  assert cli.main(["cells", str(tmp_path), "--regex", "emphasis=x"]) == 2
  assert "the name emphasis is in use" in capsys.readouterr().err


def test_metric_of_the_page(registered, tmp_path, capsys):
  speeches = "ROMEO:\nIs it so?\nIt is.\n\nJULIET:\nWhat?\nNo more.\n\n"
  (tmp_path / "corpus.txt").write_text(speeches * 100)
  (tmp_path / "questions.txt").write_text("ROMEO:\nWhy?\nWhere?\nWhen?\n\nJULIET:\nSo.\n\n")
  arguments = ["scorecard", tmp_path / "questions.txt", "--corpus", tmp_path / "corpus.txt"]
  options = ("--domain=plays", "--order=0", "--length=60", "--json", f"--out={tmp_path / 'out'}")
  assert cli.main([*map(str, arguments), *options]) == 0
  report = json.loads(capsys.readouterr().out)
  (row,) = (row for row in report["metrics"] if row["name"] == "questions")
  assert row["systems"]["questions.txt"]["value"] == 0.75
  assert row["systems"]["held-out"]["value"] == 0.5
