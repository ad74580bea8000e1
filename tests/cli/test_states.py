"""Tests of `charrnn states` and of `charrnn eval --distributions`: the arrays and the messages."""

import pathlib
import shutil
import types

import numpy as np
import pytest
import small_models

from charrnn import api, runtime
from charrnn.data import tokenizers
from charrnn.evaluation import arrays, score
from charrnn.runs import run as run_lib

SONG = "".join(f"{n} green bottles\n" for n in range(300, 340))


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


def load(path):
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


@pytest.fixture
def use(monkeypatch):
  """Return a function that makes every run one of `small_models`, and returns it."""

  def use(name):
    tokenizer = tokenizers.Tokenizer.from_text("abcdef\n")
    model, params = small_models.make(name)
    source = types.SimpleNamespace(
      path=pathlib.Path("x"), tokenizer=tokenizer, model=model, params=params, step=3
    )
    source.config = types.SimpleNamespace(model={"cell": "lstm"})
    source.load = lambda: source
    source._clamp, source._before = lambda _: None, []

    def encode_file(path, minimum):
      return tokenizer.read(pathlib.Path(path).read_text())

    source.encode_file = encode_file
    monkeypatch.setattr(run_lib.Run, "open", lambda *_: source)
    monkeypatch.setattr(run_lib, "use_devices", lambda *_: None)
    return source

  return use


@pytest.mark.parametrize("name", small_models.NETWORKS)
@pytest.mark.parametrize("text", ["a", "fade\nbead\ncab\n" * 3])
def test_states_equal_those_of_the_python_interface(
  charrnn, use, monkeypatch, tmp_path, name, text
):
  run = use(name)
  (tmp_path / "text").write_text(text)
  expected = api.Run.states(run, text)
  monkeypatch.setattr(score, "RECORDING_WINDOW", 16)
  result = charrnn("states", "x", "--file", tmp_path / "text", "--out", tmp_path / "x.npz")
  assert (result.code, result.out) == (0, ""), result.err
  states = load(tmp_path / "x.npz")
  assert "".join(states.pop("tokens")) == text
  np.testing.assert_array_equal(states.pop("ids"), run.tokenizer.encode(text))
  names = [f"{layer}/{name}" for layer, sizes in run.model.units.items() for name in sizes]
  assert sorted(states) == sorted(names)
  for key, values in states.items():
    layer, quantity = key.split("/")
    assert values.shape == (len(text), run.model.units[layer][quantity])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected[layer][quantity], atol=1e-5)
  assert [path.name for path in sorted(tmp_path.iterdir())] == ["text", "x.npz"]


def test_states_of_a_run(charrnn, trained, tmp_path):
  (tmp_path / "text").write_text(SONG)
  options = ("--file", tmp_path / "text", "--characters", 50, "--step", 10)
  result = charrnn("states", trained["a"], *options, "--out", tmp_path / "x.npz")
  assert result.code == 0, result.err
  expected = api.load(trained["a"], step=10).states(SONG[:50])
  count = sum(values.shape[1] for sizes in expected.values() for values in sizes.values())
  assert result.err.endswith(f"x.npz: 50 characters, {count} values for each, step 10\n")
  np.testing.assert_allclose(
    load(tmp_path / "x.npz")["layer_1/c"], expected["layer_1"]["c"], atol=1e-5
  )


def distributions(charrnn, path, *arguments):
  """Return the loss of `charrnn eval`, and the arrays of its --distributions."""
  result = charrnn("eval", *arguments, "--json")
  assert result.code == 0, result.err
  again = charrnn("eval", *arguments, "--json", "--distributions", path)
  assert again.code == 0, again.err
  (first,), (second,) = result.json["results"], again.json["results"]
  assert first["nats"] == pytest.approx(second["nats"], abs=1e-5)
  file = load(path)
  assert len(file["ids"]) == first["tokens"]
  return first["nats"], file


@pytest.mark.parametrize("kind", ["split", "file", "streams", "mixture", "ngram"])
def test_distributions_have_the_loss_of_eval(charrnn, trained, counted, tmp_path, kind):
  (tmp_path / "text").write_text(SONG)
  run = counted if kind == "ngram" else trained["a"]
  options = {
    "file": [tmp_path / "text"],
    "streams": ["--streams=7", "--characters=333"],
    "mixture": [tmp_path / "text", "--with", trained["b"], "--temperature=0.7"],
  }
  nats, file = distributions(charrnn, tmp_path / "x.npz", run, *options.get(kind, []))
  N, V = file["log_p"].shape
  assert file["log_p"].dtype == np.float32 and len(file["vocabulary"]) == V
  np.testing.assert_allclose(np.exp(file["log_p"].astype(float)).sum(1), 1, atol=1e-4)
  observed = file["log_p"][np.arange(N), file["ids"]]
  assert -observed.mean(dtype=float) == pytest.approx(nats, abs=1e-4)
  np.testing.assert_array_equal(file["tokens"], file["vocabulary"][file["ids"]])
  opened = run_lib.Run.open(run)
  if kind in ("file", "mixture"):
    assert "".join(file["tokens"]) == SONG[1:]
    np.testing.assert_array_equal(file["positions"], np.arange(1, len(SONG)))
  else:
    np.testing.assert_array_equal(file["ids"], opened.corpus().ids[file["positions"]])
  if kind == "file":
    scores = api.load(run).score(SONG)
    np.testing.assert_allclose(-observed, scores.nats[1:], atol=1e-4)


def test_bad_input(charrnn, trained, counted, tmp_path):
  text, out = tmp_path / "text", tmp_path / "x.npz"
  text.write_text(SONG)
  (tmp_path / "empty").touch()
  (tmp_path / "old.npz").write_text("precious")
  run = trained["a"]

  def states(run, file, out, *options):
    return ("states", run, "--file", file, "--out", out, *options)

  cases = [
    (states(counted, text, out), "the model has no states: use a run of a network"),
    (states(run, tmp_path / "empty", out), "empty is empty: use a longer text"),
    (states(run, tmp_path / "none", out), "none"),
    (states(run, text, tmp_path / "x.txt"), "the name must end in .npz"),
    (states(run, text, tmp_path / "old.npz"), "old.npz exists: use --force to replace it"),
    (states(run, text, out, "--characters=0"), "--characters=0: must be at least 1"),
    (states(run, text, tmp_path / "none" / "x.npz"), "there is no folder"),
    (("states", run, "--out", out), "--file"),
    (("eval", run, "--distributions", tmp_path / "x.txt"), "the name must end in .npz"),
    (("eval", run, "--distributions", out, "--dynamic"), "cannot be combined with --dynamic"),
    (("eval", run, "--distributions", out, "--tsv", out), "is the same file as that of"),
    (("eval", run, text, text, "--distributions", out), "only one text can be written"),
    (("eval", run, text, "--distributions", text), "is also the text"),
  ]
  for arguments, message in cases:
    result = charrnn(*arguments)
    assert (result.code, result.out) == (2, ""), arguments
    assert message in result.err and result.err.count("charrnn: error:") == 1, result.err
  assert (tmp_path / "old.npz").read_text() == "precious" and not out.exists()


def test_arrays_that_do_not_fit_on_the_disk(monkeypatch, charrnn, trained, tmp_path):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
  (tmp_path / "text").write_text(SONG)
  out = tmp_path / "x.npz"
  for arguments in (("states", trained["a"], "--file"), ("eval", trained["a"])):
    option = "--out" if arguments[0] == "states" else "--distributions"
    result = charrnn(*arguments, tmp_path / "text", option, out)
    assert result.code == 2
    assert "GB are free in" in result.err and "use a shorter text" in result.err
  assert not out.exists()


def test_rows_are_written_in_any_order(tmp_path):
  rng, path = np.random.default_rng(0), tmp_path / "x.npz"
  rows, order = rng.normal(size=(50, 3)).astype(np.float32), rng.permutation(50)
  with arrays.replace_npz(path, {"a/b": (50, 3)}, ids=np.arange(4)) as put:
    for numbers in np.split(order, [0, 7, 30]):
      put("a/b", numbers, rows[numbers])
  file = load(path)
  np.testing.assert_array_equal(file["a/b"], rows)
  np.testing.assert_array_equal(file["ids"], np.arange(4))


def test_texts_with_nuls_are_complete_and_written_in_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(arrays, "BLOCK", 64)
  tokenizer = tokenizers.Tokenizer.from_text("a\0b\0é\n" * 30)
  ids = tokenizer.encode("a\0b\0é\n" * 30)
  whole = arrays.describe(tokenizer, ids)
  with arrays.replace_npz(tmp_path / "x.npz", {"a": (1, 1)}, **whole) as put:
    put("a", np.arange(1), np.zeros((1, 1)))
  file = np.load(tmp_path / "x.npz", allow_pickle=False)
  assert file["tokens"].tolist() == ["a", "\\x00", "b", "\\x00", "é", "\n"] * 30
  assert file["ids"].tolist() == ids.tolist()
  pieces = tokenizers.Pieces(counts=(1,) * 257, merges=((0, 0),))
  assert arrays.texts(pieces)[[0, 256]].tolist() == ["\\x00", "\\x00\\x00"]
