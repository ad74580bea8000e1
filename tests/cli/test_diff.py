"""`charrnn diff`: the differences that it reports between two runs, and its exit codes."""

import edits
import numpy as np
import pytest

from charrnn import config as config_lib
from charrnn.cli import diff
from charrnn.runs import checkpoints
from charrnn.runs import run as run_lib


def test_copy_has_no_differences(charrnn, trained, a):
  result = charrnn("diff", trained["a"], a)
  assert result.code == 0
  assert "8 of 8 arrays are bit-identical" in result.out
  assert result.out.splitlines()[-1] == "no difference that affects results"


def test_runs_with_other_configs_differ_in_fields_and_shapes(charrnn, trained):
  result = charrnn("diff", trained["a"], trained["b"], "--json")
  assert result.code == 1
  differences = result.json
  fields = {field["field"]: (field["a"], field["b"]) for field in differences["config"]}
  assert fields == {"model.hidden": (8, 6), "optimizer.learning_rate": (0.01, 0.002)}
  assert differences["same_by_part"] == {
    "config": False,
    "corpus": True,
    "vocabulary": True,
    "alphabet": True,  # the old name
    "weights": False,
  }
  by_name = {array["name"]: array for array in differences["weights"]}
  assert (by_name["layer_0/W_hh"]["shape_a"], by_name["layer_0/W_hh"]["shape_b"]) == (
    [8, 32],
    [6, 24],
  )
  assert "relative" not in by_name["layer_0/W_hh"]
  assert by_name["head/b_y"]["relative"] > 0


def test_distances_match_numpy(charrnn, trained):
  result = charrnn("diff", trained["a"], trained["a"], "--step-a=10", "--step-b=20", "--json")
  assert result.code == 1
  (old, _), (new, _) = (checkpoints.read(trained["a"] / "checkpoints", step) for step in (10, 20))
  for row in result.json["weights"]:
    layer, name = row["name"].split("/")
    x, y = (tree["params"][layer][name].astype(np.float64) for tree in (old, new))
    assert row["relative"] == pytest.approx(np.sqrt(((x - y) ** 2).sum() / (x**2).sum()))
    assert row["max_abs"] == np.abs(x - y).max()
    assert row["same"] == (not row["max_abs"])


def test_fields_without_effect_do_not_count(charrnn, trained, a):
  edits.change(a, "config.json", lambda config: config.update(log_every=7))
  edits.change(a, "config.json", lambda config: config["text"].update(source="elsewhere.txt"))
  result = charrnn("diff", trained["a"], a)
  assert result.code == 0
  assert "log_every: 5 | 7  (no effect)" in result.out
  assert result.out.splitlines()[-1] == "no difference that affects results"


@pytest.mark.parametrize(
  ("part", "values"),
  [
    ("packages", {"jax": "0.0.1"}),
    ("settings", {"JAX_SOMETHING": "2"}),
    ("settings", {"XLA_FLAGS": "--xla_two"}),
  ],
)
def test_versions_and_settings_are_listed(charrnn, trained, a, part, values):
  edits.change(a, "run.json", lambda run: run["launches"][0][part].update(values))
  result = charrnn("diff", trained["a"], a)
  assert result.code == 0
  for name, value in values.items():
    assert f"{name} " in result.out and value in result.out
  assert result.out.splitlines()[-1].endswith("except for versions and settings")


def test_other_corpus_counts(charrnn, trained, a):
  edits.change(a, "run.json", lambda run: run["corpus"].update(sha256="0" * 64))
  result = charrnn("diff", trained["a"], a)
  assert result.code == 1
  assert result.out.splitlines()[-1] == "different: corpus"


def test_errors_have_exit_code_2(charrnn, trained, tmp_path):
  assert charrnn("diff", trained["a"], tmp_path).code == 2
  assert charrnn("diff", trained["a"], trained["b"], "--step-b=3").code == 2


@pytest.mark.parametrize(("patience", "matters"), [(0, False), (3, True)])
def test_the_steps_between_evaluations_matter_only_if_evaluations_end_training(
  trained, patience, matters
):
  a, b = (run_lib.Run.open(trained["a"]) for _ in "ab")
  for run, eval_every in ((a, 10), (b, 5)):
    values = {"eval_every": eval_every, "patience": patience}
    run.load()
    run.__dict__["config"] = config_lib.replace(run.config, values)
  (field,) = diff.compare(a, b)["config"]
  assert (field["field"], field["matters"]) == ("eval_every", matters)
