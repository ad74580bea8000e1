"""Run directories of n-grams, and initial weights from another run."""

import itertools
import json
import re
import shutil

import jax
import numpy as np
import programs
import pytest
import tiny

from charrnn import config as config_lib
from charrnn import errors, runtime
from charrnn import files as files_lib
from charrnn.data import tokenizers
from charrnn.launching import programs as programs_lib
from charrnn.models import ngram
from charrnn.runs import checkpoints, metrics
from charrnn.runs import run as run_lib

NGRAM = programs.ROOT / "experiments" / "ngram.py"
ORDER = 5
OLD, NEW = "abcdefg", "!abcdxyzefg"  # vocabularies of two runs


@pytest.fixture
def count(main, folder, tmp_path):
  """Return a function that counts text.txt in a temporary run directory."""

  def run(*fields, workdir=tmp_path / "run"):
    order = f"--config.model.order={ORDER}"
    fields = [f"--config.{field}" for field in fields]
    assert main(f"--config={NGRAM}:text.txt", order, *fields, f"--workdir={workdir}") == 0
    return workdir

  return run


def counted(workdir):
  """Count the text of a run again; return the n-grams, the ids and the splits."""
  run = run_lib.Run.open(workdir)
  corpus, parts = run.corpus(), run.splits()
  return ngram.fit(corpus.ids, ORDER, corpus.tokenizer.vocab_size, parts.train), corpus.ids, parts


def result(workdir):
  """Return all results of a run. The files of Orbax are excluded, because they contain times."""
  folder = workdir / "checkpoints"
  arrays = {
    step: checkpoints.read_meta(folder, step)["arrays"] for step in checkpoints.steps(folder)
  }
  names = ("metrics.jsonl", "config.json", "alphabet.json")
  files = [workdir / name for name in names] + sorted((workdir / "samples").iterdir())
  return arrays, [path.read_bytes() for path in files]


def test_counting_writes_a_complete_run_directory(count, capsys):
  workdir = count("sample.length=40")
  out, err = capsys.readouterr()
  model, ids, parts = counted(workdir)
  losses = model.losses(ids, parts.valid)
  lines = metrics.read(workdir)
  assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
  assert [line["valid/loss"] for line in lines] == list(losses)
  best = 1 + int(np.argmin(losses))
  assert checkpoints.steps(workdir / "checkpoints") == [best]
  meta = checkpoints.read_meta(workdir / "checkpoints", best)
  assert meta["valid_loss"] == losses[best - 1]
  assert len((workdir / "samples" / f"{best}.txt").read_text()) == 40
  assert (workdir / "loss.png").read_bytes().startswith(b"\x89PNG")
  assert json.loads((workdir / "config.json").read_text())["model"]["order"] == ORDER
  (launch,) = json.loads((workdir / "run.json").read_text())["launches"]
  assert launch["overrides"]["model.order"] == ORDER
  assert not out
  assert len(re.findall(r"^order +\d  +[\d,]+ distinct n-grams$", err, re.MULTILINE)) == ORDER
  assert len(re.findall(r"^order +\d  validation loss \d\.\d{4} nats", err, re.MULTILINE)) == ORDER
  assert f"at order {best}\n" in err and f"charrnn sample {workdir}" in err


def test_a_run_is_loaded_as_the_model_of_its_best_order(count):
  workdir = count("sample.length=0")
  model, *_ = counted(workdir)
  loaded = run_lib.Run.open(workdir)
  assert loaded.model.order == loaded.step
  for name, level in model.params(loaded.step).items():
    for field, array in level.items():
      np.testing.assert_array_equal(loaded.params[name][field], array)


def test_repeating_the_command_counts_nothing(count, monkeypatch, capsys):
  workdir = count("sample.length=0")
  before = (workdir / "metrics.jsonl").read_bytes()
  monkeypatch.setattr(
    ngram, "fit", lambda *arguments: pytest.fail("the n-grams were counted again")
  )
  count("sample.length=0")
  assert "already finished" in capsys.readouterr().err
  assert (workdir / "metrics.jsonl").read_bytes() == before
  assert len(json.loads((workdir / "run.json").read_text())["launches"]) == 2


@pytest.mark.parametrize("where", [(ngram, "fit"), (checkpoints.Writer, "save")])
def test_a_killed_run_starts_again(count, monkeypatch, tmp_path, where):
  whole = count("sample.length=20", workdir=tmp_path / "whole")

  def kill(*arguments):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(*where, kill)
    with pytest.raises(KeyboardInterrupt):
      count("sample.length=20")
  assert result(count("sample.length=20")) == result(whole)


def test_without_a_validation_split_the_highest_order_is_stored(count, capsys):
  workdir = count("sample.length=0", "text.valid_fraction=0")
  assert checkpoints.steps(workdir / "checkpoints") == [ORDER]
  assert not (workdir / "loss.png").exists() and "loss" not in capsys.readouterr().err
  assert run_lib.Run.open(workdir).meta["valid_loss"] is None


def test_the_streams_split_needs_a_batch_size(count):
  streams = ("sample.length=0", "text.split=streams", "text.test_fraction=0")
  with pytest.raises(errors.UserError, match=r"batch_size is missing"):
    count(*streams)
  workdir = count(*streams, "batch_size=4", "window=20")
  model, ids, parts = counted(workdir)
  assert len(parts.valid) == 4
  assert metrics.read(workdir)[2]["valid/loss"] == model.losses(ids, parts.valid)[2]


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("model.order=0", "model.order=0: must be at least 1"),
    ("model.order=-1", "model.order=-1: must be at least 1"),
    ("model.order=1000000", r"order=1000000: must be at most 1\d,\d{3}, the length of the longest"),
    ("model.layers=2", "model.layers=2: the model ngram does not use this field"),
    ("model.embed=0", "model.embed=0: the model ngram"),  # set to its default
    ("accumulate=2", "accumulate=2: the model ngram"),
    ("init_from=whole", "init_from=whole: the model ngram"),
    ("window=9", "window=9: the model ngram"),
    ("keep=1", "keep=1: the model ngram"),
    ("optimizer.name=sgd", "optimizer.name=sgd: the model ngram"),
    ("text.valid_fraction=0.97", "their sum must be below 1"),
    ("text.source=none.txt", "none.txt"),
    ("seed=-1", "seed=-1"),
    ("sample.prime=\u2603", "not in the vocabulary"),
  ],
)
def test_a_rejected_command_leaves_no_directory(count, tmp_path, field, message):
  with pytest.raises(errors.UserError, match=message):
    count(field)
  assert not (tmp_path / "run").exists()


def test_further_rejected_commands(main, count, tmp_path, monkeypatch):
  workdir = f"--workdir={tmp_path / 'run'}"
  with pytest.raises(errors.UserError, match="--distributed: n-grams are counted by one process"):
    main(f"--config={NGRAM}:text.txt", "--distributed", workdir)
  # Fields that an experiment file sets are also rejected.
  with pytest.raises(errors.UserError, match=r"model\.layers=1: the model ngram"):
    main("--config=tiny.py", "--config.model.cell=ngram", "--config.model.order=3", workdir)
  (tmp_path / "open.py").write_text(
    "from charrnn import config\ndef get_config():\n  c = config.default()\n"
    "  c.text.source, c.model.cell = 'text.txt', 'ngram'\n  return c\n"
  )
  with pytest.raises(errors.UserError, match=r"model\.order is missing"):
    main(f"--config={tmp_path}/open.py", workdir)
  free = itertools.chain([1e9, 1e9], itertools.repeat(1e3))
  monkeypatch.setattr(runtime, "free_memory", lambda: next(free))
  with pytest.raises(errors.UserError, match="order 5 needs too much memory: strings of 3 tokens"):
    count()
  assert not (tmp_path / "run").exists()


def test_a_run_directory_cannot_be_used_for_another_run(main, count, whole, tmp_path):
  workdir = count("sample.length=0")
  before = programs.contents(workdir)
  with pytest.raises(
    errors.UserError, match=r"model.order=6: .* model.order=5, which cannot change"
  ):
    count("sample.length=0", "model.order=6")
  with pytest.raises(errors.UserError, match=r"model.cell=lstm: .* model.cell=ngram, which cannot"):
    main("--config=tiny.py", f"--workdir={workdir}")
  assert programs.contents(workdir) == before
  trained = shutil.copytree(whole, tmp_path / "trained")
  with pytest.raises(errors.UserError, match=r"model.cell=ngram: .* model.cell=lstm"):
    count("sample.length=0", workdir=trained)


def test_a_network_cannot_start_from_an_n_gram(main, count, tmp_path):
  workdir = count("sample.length=0")
  with pytest.raises(errors.UserError, match="is an n-gram run, which has no weights"):
    main("--config=tiny.py", f"--config.init_from={workdir}", f"--workdir={tmp_path / 'new'}")
  with pytest.raises(
    errors.UserError, match=r"model\.order=3: the model lstm does not use this field"
  ):
    main("--config=tiny.py", "--config.model.order=3", f"--workdir={tmp_path / 'new'}")


@pytest.fixture(params=[0, 5], ids=["one-hot", "embedding"])
def source(tmp_path, request):
  """Write a run directory with the parameters of seed 1."""
  net = tiny.model(embed=request.param)
  c = tiny.config(model__layers=2, model__hidden=8, model__dropout=0.0, model__embed=request.param)
  c.model.compute_dtype = "float32"
  files_lib.write_json(tmp_path / "config.json", config_lib.to_json(c))
  tokenizers.Tokenizer.from_text(OLD).save(tmp_path / "alphabet.json")
  corpus = {"source": "text", "sha256": "0", "alphabet": {"size": 7}}
  corpus |= dict.fromkeys(("characters", "bytes", "files"), 7)
  launch = dict.fromkeys(("time", "command", "devices", "python"), "")
  launch |= {"git": None, "uncommitted": None, "overrides": {}, "packages": {}}
  record = {"experiment": "tiny.py", "variant": "", "corpus": corpus, "launches": [launch]}
  files_lib.write_json(tmp_path / "run.json", record)
  params = jax.device_get(net.init(jax.random.key(1)))
  writer = checkpoints.Writer(tmp_path / "checkpoints", 1)
  writer.save(3, {"params": params}, {"valid_loss": 1.0})
  writer.close()
  return tmp_path, params, request.param


def transferred(source, text, **fields):
  """Return the transferred parameters of a new run on a text, and its fresh parameters."""
  path, _, embed = source
  tokenizer = tokenizers.Tokenizer.from_text(text)
  net = tiny.model(tokenizer.vocab_size, **{"embed": embed} | fields)
  fresh = net.init(jax.random.key(2))
  default = {"cell": "lstm", "layers": 2, "hidden": 8, "embed": embed, "residual": False}
  fields = default | fields
  params = programs_lib.transferred_params(run_lib.Run(path), fields, fresh, tokenizer)
  return params, jax.device_get(fresh)


def test_the_same_vocabulary_copies_all_weights(source):
  params, _ = transferred(source, OLD)
  jax.tree.map(np.testing.assert_array_equal, params, source[1])


def test_weights_are_copied_by_token_to_another_vocabulary(source):
  _, old, embed = source
  params, fresh = transferred(source, NEW)
  tokens = sorted(NEW)
  by_token = [("head", "W_hy", 1), ("head", "b_y", 0)]
  by_token.append(("embed", "W_e", 0) if embed else ("layer_0", "W_xh", 0))
  for layer, name, axis in by_token:
    for n, token in enumerate(tokens):
      if token in OLD:
        expected = old[layer][name].take(OLD.index(token), axis)
      else:
        expected = fresh[layer][name].take(n, axis)
      np.testing.assert_array_equal(params[layer][name].take(n, axis), expected)
  for layer, name in [("layer_0", "W_hh"), ("layer_0", "b_h"), ("layer_1", "W_xh")]:
    np.testing.assert_array_equal(params[layer][name], old[layer][name])


@pytest.mark.parametrize(
  ("fields", "field"),
  [({"cell": "gru"}, "cell=lstm"), ({"hidden": 9}, "hidden=8"), ({"layers": 1}, "layers=2")],
)
def test_a_different_shape_is_rejected_with_the_field(source, fields, field):
  with pytest.raises(errors.UserError, match=rf"has model\.{field}.*use --config.model.{field}"):
    transferred(source, OLD, **fields)


def test_the_report_says_what_is_taken_over_and_what_is_new(source, capsys):
  params, _ = transferred(source, "abcdxyz\n")
  lines = capsys.readouterr().err.splitlines()
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  per_token = 8 + 1 + (source[2] or 4 * 8)  # the output layer, and the embedding or the input
  assert lines == [
    f"weights   from {source[0]}, step 3",
    f"taken     {total - 4 * per_token:,} of {total:,} parameters; 4 of 8 tokens",
    f"new       {4 * per_token} parameters with random values, of the tokens '\\n' 'x' 'y' 'z'",
    "dropped   the tokens 'e' 'f' 'g', which this run cannot read or write "
    "(--config.text.vocabulary=init_from keeps them)",
  ]
  transferred(source, OLD)
  lines = capsys.readouterr().err.splitlines()
  assert lines[2:] == ["new       no parameters", "dropped   no tokens"]


@pytest.mark.parametrize("is_chosen", [False, True])
@pytest.mark.parametrize("rates", [[], [0.01, 0.0012345]])
def test_the_learning_rate_of_fine_tuning_is_reported(source, rates, is_chosen, capsys):
  path = source[0]
  lines = [{"step": n, "learning_rate": rate} for n, rate in enumerate(rates, 1)]
  (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
  programs_lib._announce_rate(run_lib.Run(path), 0.004, is_chosen)
  factor = f", {config_lib.FINE_TUNING_RATE} times that for random weights" if is_chosen else ""
  last = f"; {path} ended with 0.0012" if rates else ""
  assert capsys.readouterr().err == f"rate      0.004 at the peak{factor}{last}\n"


def test_vocabularies_without_a_common_token_are_rejected(source):
  with pytest.raises(errors.UserError, match="no token in common"):
    transferred(source, "0123")


def test_a_missing_source_is_rejected(tmp_path):
  with pytest.raises(errors.UserError, match="none"):
    programs_lib.transferred_params(run_lib.Run(tmp_path / "none"), {}, {}, None)
