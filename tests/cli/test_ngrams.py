"""`charrnn ngrams`: losses of n-grams and runs on the same characters."""

import json
import shutil

import edits
import ngram_scores
import numpy as np
import pytest

from charrnn import runtime
from charrnn.cli import ngrams
from charrnn.data import batches
from charrnn.models import ngram
from charrnn.runs import run as run_lib


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


def changed_copy(run, tmp_path, name, **fields):
  """Return a copy of a run with changed fields of `config.text`."""
  copy = shutil.copytree(run, tmp_path / name)
  edits.change(copy, "config.json", lambda config: config["text"].update(fields))
  return copy


@pytest.mark.parametrize("split", ["valid", "test"])
def test_losses_match_independent_scores(charrnn, trained, counted, tmp_path, split):
  args = (trained["a"], trained["b"], counted, "--order", 4, "--split", split)
  result = charrnn("ngrams", *args, "--out", tmp_path, "--json")
  assert result.code == 0
  report = result.json
  assert report == json.loads((tmp_path / "ngrams.json").read_text())
  assert (tmp_path / "ngrams.png").read_bytes().startswith(b"\x89PNG")

  run = run_lib.Run.open(trained["a"])
  corpus, parts = run.corpus(), run.splits()
  scored = getattr(parts, split)
  for gram in report["ngrams"]:  # fit each order separately
    alone = ngram.fit(corpus.ids, gram["n"], corpus.tokenizer.vocab_size, parts.train)
    log_p = np.concatenate(
      [ngram_scores.log_prob(alone, corpus.ids[:stop], start) for start, stop in scored]
    )
    assert gram["nats"] == pytest.approx(-log_p.mean())
    assert gram["bits"] == pytest.approx(-log_p.mean() / np.log(2))
    assert len(log_p) == report["characters"]
  windows = batches.scoring_windows(corpus.ids, scored, 64, 16, 512)
  weights = [window.weight.sum() for window in windows]
  assert sum(weights) == report["characters"]

  assert [run["cell"] for run in report["runs"]] == ["lstm", "lstm", "ngram"]
  for run, path in zip(report["runs"], args):
    (by_eval,) = charrnn("eval", path, "--split", split, "--json").json["results"]
    assert run["nats"] == by_eval["nats"] and by_eval["characters"] == report["characters"]
  a = report["runs"][0]
  leaves = [
    leaf.size for part in run_lib.Run.open(a["run"]).params.values() for leaf in part.values()
  ]
  assert (a["layers"], a["hidden"], a["parameters"]) == (2, 8, sum(leaves))


def test_table_and_default_folder(charrnn, a):
  result = charrnn("ngrams", a, "--order", 3)
  assert result.code == 0
  assert (a / "ngrams" / "ngrams.json").exists() and (a / "ngrams" / "ngrams.png").exists()
  assert "lstm 2 x 8" in result.out and result.out.count("best") == 1
  assert "counting n-grams up to order 3" in result.err


def test_runs_with_different_corpora_or_splits_raise_errors(charrnn, trained, tmp_path):
  a, b = trained["a"], shutil.copytree(trained["b"], tmp_path / "b")
  edits.change(b, "run.json", lambda run: run["corpus"].update(sha256="0" * 64))
  split = changed_copy(trained["b"], tmp_path, "split", valid_fraction=0.1)
  for other, what in ((b, "text"), (split, "split")):
    result = charrnn("ngrams", a, other, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.err == (
      f"charrnn: error: {a} and {other} have different {what}s: compare them separately\n"
    )
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--order", "0"), "--order=0: must be at least 1"),
    (("--order", "-2"), "--order=-2: must be at least 1"),
    (("--order", "999999"), "--order=999999: must be at most "),
    (("--order", "two"), "invalid int value"),
    (("--split", "train"), "invalid choice"),
    (("nowhere",), "nowhere does not exist"),
    ((__file__,), "is a file: use a run directory"),
    (("--out", f"{__file__}/x"), "cannot write to"),
  ],
)
def test_invalid_arguments_raise_errors(charrnn, a, options, message):
  result = charrnn("ngrams", a, *options)
  assert (result.code, result.out) == (2, "")
  assert message in result.err and result.err.count("\n") == 1
  assert not (a / "ngrams").exists()


def test_runs_without_the_split_or_a_checkpoint_raise_errors(charrnn, a, tmp_path):
  none = changed_copy(a, tmp_path, "none", test_fraction=0.0)
  result = charrnn("ngrams", none, "--split", "test")
  assert result.code == 2 and "has no such split" in result.err
  shutil.rmtree(a / "checkpoints")
  result = charrnn("ngrams", a)
  assert result.code == 2 and "has no checkpoint yet" in result.err


def test_the_loss_of_a_diverged_run_is_none():
  assert set(ngrams._loss(float("nan"), None).values()) == {None}
