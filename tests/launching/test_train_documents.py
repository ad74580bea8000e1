"""Runs on documents: training, resumed runs, evaluation of documents, samples, and errors."""

import csv
import pathlib
import random
import re

import commands
import jax
import numpy as np
import pytest
import tiny
from test_train_tokens import losses, train

import charrnn
from charrnn import cli, errors, models, runtime
from charrnn import config as config_lib
from charrnn.data import batches, tokenizers
from charrnn.data import splits as splits_lib
from charrnn.runs import run as run_lib

FIELDS = ("text.source=names.txt", "text.documents=lines", "text.test_fraction=0.2", "max_steps=4")


@pytest.fixture(name="names")
def _names(folder):
  rng = random.Random(0)
  names = ["".join(rng.choices("abc", k=rng.randint(1, 9))) for _ in range(300)]
  (folder / "names.txt").write_text("\n".join(names))
  return names


@pytest.fixture(name="run")
def _run(main, names, tmp_path):
  return train(main, tmp_path / "run", *FIELDS)


def test_a_resumed_run_and_the_scores_and_samples_of_documents(main, command, names, run, tmp_path):
  parts = train(main, tmp_path / "parts", *FIELDS[:-1], "max_steps=2")
  train(main, parts, *FIELDS)
  assert losses(parts) == losses(run) and all(losses(run)[:2])

  table = tmp_path / "table.tsv"
  options = ("--split=test", "--per-document", "--json", f"--tsv={table}")
  result = command("eval", run, *options).json
  scored = result["documents"]
  assert sum(each["tokens"] for each in scored) == result["results"][0]["tokens"]
  total = sum(each["nats"] for each in scored)
  assert total / result["results"][0]["tokens"] == pytest.approx(result["results"][0]["nats"])
  for each in scored:
    assert each["text"] == names[int(each["document"].rpartition(":")[2]) - 1]
    assert each["tokens"] == len(each["text"]) + 1  # with END
  rows = list(csv.DictReader(table.read_text().splitlines(), delimiter="\t"))
  assert [row["text"] for row in rows] == [each["text"] for each in scored]

  # The loss of a document does not depend on the documents around it.
  backwards = tmp_path / "backwards.txt"
  backwards.write_text("\n\n".join(each["text"] for each in reversed(scored)))
  again = command("eval", run, backwards, "--per-document", "--json").json
  nats = [[each["nats"] for each in some] for some in (scored, again["documents"][::-1])]
  np.testing.assert_allclose(*nats, rtol=1e-3)
  twice = command("eval", run, backwards, backwards, "--per-document", "--json").json
  assert [each["text"] for each in twice["documents"]] == 2 * [
    each["text"] for each in again["documents"]
  ]
  for arguments, expected in ((("--split=test",), scored), ((backwards,), again["documents"])):
    options = ("--per-document", "--characters=12")
    *whole, last = command("eval", run, *arguments, *options, "--json").json["documents"]
    assert [each["text"] for each in whole] == [each["text"] for each in expected[: len(whole)]]
    assert expected[len(whole)]["text"].startswith(last["text"])
    assert last["complete"] == (last["tokens"] == expected[len(whole)]["tokens"])
    assert all(each["complete"] for each in whole)
  assert command("eval", run, backwards, *options).out.count(" (cut)") == (not last["complete"])
  assert command("export", run, tmp_path / "page.html").code == 0
  loaded = charrnn.load(run)
  assert loaded.score(scored[0]["text"]).nats.shape == (scored[0]["tokens"] - 1,)
  assert loaded.states("ab")["layer_0"]["h"].shape == (2, 8)

  samples = loaded.sample(num=50, length=30, seed=1)
  assert {each.stopped for each in samples} == {True, False} or all(s.stopped for s in samples)
  assert all({*each.text} <= {*"abc"} for each in samples)
  assert all(each.tokens == len(each.text) + each.stopped for each in samples)
  required = loaded.sample(num=10, length=30, require="^b.*c$", forbid="aa")
  assert all(s.text[0] + s.text[-1] == "bc" and "aa" not in s.text for s in required)
  assert loaded.sample("ab", num=2, seed=3) == loaded.sample("ab", num=2, seed=3)


@pytest.mark.long
def test_a_scorecard_measures_whole_documents(command, names, run, tmp_path):
  written = tmp_path / "written.txt"
  written.write_text("abc\n\nabc\r\ncab\n")
  options = ("--domain=names", "--num=30", "--order=3", "--json", f"--out={tmp_path / 'out'}")
  result = command("scorecard", run, written, *options)
  assert result.code == 0, result.err
  samples = {}
  for path in (tmp_path / "out" / "scorecard-samples").iterdir():
    samples[path.stem] = re.split(r"\n?--- sample \d+\n", path.read_text())[1:]
  assert samples["written.txt"] == ["abc", "abc", "cab"]
  held_out, shuffled = samples["held-out"], samples["shuffled"]
  assert {*held_out} <= {*names} and not {*map(len, held_out)} - {*range(1, 10)}
  assert [sorted(each) for each in held_out] == [sorted(each) for each in shuffled]
  assert len(samples["run"]) == len(samples["3-gram"]) == 30
  assert all({*each} <= {*"abc"} for each in samples["3-gram"])
  values = {row["name"]: row["systems"] for row in result.json["metrics"]}
  assert values["distinct"]["written.txt"]["value"] == pytest.approx(2 / 3)
  assert values["length"]["held-out"]["value"] == np.mean([*map(len, held_out)])
  assert values["novel"]["held-out"]["items"] == len(held_out) < 200
  result = command("memorization", run, written, "--order=2", f"--out={tmp_path / 'copies'}")
  assert result.code == 0, result.err


@pytest.fixture(name="command")
def _command(capsys, monkeypatch):
  """Return a function that runs a command and returns its `Result`."""
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)

  def run(*arguments):
    capsys.readouterr()
    code = cli.main([str(each) for each in arguments])
    return commands.Result(code, *capsys.readouterr())

  return run


def test_the_result_does_not_depend_on_the_number_of_devices():
  ids = np.random.default_rng(0).integers(0, tiny.V, 600)
  ids[::9] = ids[-1] = tiny.V - 1
  c = tiny.config(optimizer__eps=1e-3)
  windows = batches.DocumentWindows(
    ids, [splits_lib.Span(1, 600)], c.batch_size, c.window, end_id=tiny.V - 1, seed=1
  )
  net = models.make(tiny.V, {"cell": "lstm", "layers": 1, "hidden": 8}, reset_id=tiny.V - 1)
  results = []
  for devices in (1, 2):
    ours = tiny.Steps(net, c, devices=devices)
    ours.windows = windows
    results.append(ours.run(ours.initial, 3))
  (one, losses_of_one), (two, losses_of_two) = results
  np.testing.assert_allclose(losses_of_two, losses_of_one, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), two, one)


@pytest.mark.long
def test_runs_with_rare_characters_are_resumed_and_reused(main, names, tmp_path, folder):
  (folder / "names.txt").write_text("\n".join([*names, *"xyz"] * 2))
  fields = ("text.source=names.txt", "text.documents=lines")
  first = train(main, tmp_path / "first", *fields, "text.min_count=10", "max_steps=2")
  train(main, first, *fields, "text.min_count=10", "max_steps=4")
  run = run_lib.Run.open(first)
  tokens = {*"abc", tokenizers.UNKNOWN, tokenizers.END}
  assert run.status == "finished" and {*run.tokenizer.tokens} == tokens
  # Training can start from these weights, also without <UNK>.
  fields = (*fields, f"init_from={first}", "text.vocabulary=init_from", "max_steps=2")
  run = run_lib.Run.open(train(main, tmp_path / "second", *fields))
  assert {*run.tokenizer.tokens} == tokens - {tokenizers.UNKNOWN} | {*"xyz"}
  assert run.corpus().tokenizer == run.tokenizer


def test_commands_on_a_run_with_rare_characters(main, names, command, tmp_path, folder):
  (folder / "names.txt").write_text("\n".join([*names, *"xyz"] * 2))
  run, new = tmp_path / "run", tmp_path / "new.txt"
  ngram = pathlib.Path(charrnn.__path__[0]).parents[1] / "experiments" / "ngram.py"
  fields = "text.min_count=10", "model.order=3", "sample.length=5"
  arguments = [f"--config={ngram}:names.txt", *(f"--config.{field}" for field in fields)]
  assert main(*arguments, f"--workdir={run}") == 0
  assert command("verify", run).code == command("inspect", run).code == 0
  loaded = charrnn.load(run)
  assert {*loaded.tokenizer.tokens} == {*"abc\n", tokenizers.UNKNOWN}
  # An unknown character costs <UNK> and its spelling, in a split and in a file.
  new.write_text("abcxcba\n" * 20)
  for options in ((), ("--unknown=skip",)):
    (result,) = command("eval", run, new, *options, "--json").json["results"]
    assert result["unknown"]["tokens"] == 20 / result["tokens"]
    nats = result["nats"] * result["tokens"] + 20 * loaded.tokenizer.spelling(b"x")
    assert result["bits_per_byte"] == pytest.approx(nats / np.log(2) / result["bytes"])
  assert {*loaded.sample(length=300)[0].text} <= {*"abc\n"}
  refused = command("sample", run, "--prime=ax")
  assert refused.code == 2 and "lower --config.text.min_count" in refused.err
  skipped = command("sample", run, "--prime=ax", "--unknown=skip", "--length=3", "--temperature=0")
  assert "skipped 1 character not in the vocabulary: 'x' (1)" in skipped.err
  for arguments in (("cells", run), ("eval", run, "--errors")):
    assert "<UNK>" in (refused := command(*arguments)).err
    assert refused.code == 2 and refused.err.count("\n") == 1


def test_separate_sources_of_splits(main, names, command, tmp_path, folder, monkeypatch):
  (folder / "held.txt").write_text("abc\nccc\n")
  run = train(main, tmp_path / "run", *FIELDS, "text.test_source=held.txt")
  monkeypatch.chdir(tmp_path)  # The names are relative to the folder of the launch.
  result = command("eval", run, "--split=test", "--per-document", "--json")
  assert sorted(each["text"] for each in result.json["documents"]) == ["abc", "ccc"]

  (tmp_path / "moved").mkdir()
  moved = (folder / "held.txt").rename(tmp_path / "moved" / "held.txt")
  gone = command("eval", run, "--split=test")
  assert gone.code == 2 and "held.txt" in gone.err and "test_source=PATH" in gone.err
  names = f"--corpus=test_source={moved}", f"--corpus={folder / 'names.txt'}"
  again = command("eval", run, "--split=test", "--per-document", "--json", *names)
  assert again.json == result.json
  for options, message in (
    ((names[0], names[0]), "text.test_source is named twice"),
    ((f"--corpus=valid_source={moved}",), "the run has no text.valid_source"),
    ((f"--corpus=test_source={folder / 'names.txt'}",), "is not the text that"),
  ):
    refused = command("eval", run, *options)
    assert refused.code == 2 and message in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"text.documents": "line"}, "did you mean lines?"),
    ({"text.documents": "lines", "text.tokenizer": "bpe"}, "only for the tokenizers char and byte"),
    ({"text.documents": "lines", "text.split": "streams"}, "does not apply to documents"),
    ({"text.documents": "lines", "text.split": "middle"}, "does not apply to documents"),
    ({"text.documents": "lines", "model.unroll": "native"}, "cannot reset the state"),
    ({"text.documents": "lines", "model.cell": "ngram", "model.order": 3}, "cannot be reset"),
  ],
)
def test_errors(fields, message):
  config = config_lib.replace(config_lib.default(), fields)
  with pytest.raises(errors.UserError, match=message.replace("?", r"\?")) as error:
    config_lib.check(config)
  assert "\n" not in str(error.value)


def test_commands_that_do_not_support_documents_say_so(run, command):
  export = ("export", run, run.parent / "network.onnx")
  for arguments in (
    *(("eval", run, "--errors"), ("eval", run, "--state=carried"), ("ngrams", run), export),
  ):
    result = command(*arguments)
    assert result.code == 2 and "documents" in result.err and result.err.count("\n") == 1
  assert run_lib.Run.open(run).status == "finished"
