"""Commands on runs whose tokens are words or pieces of words, and comparisons of tokenizers."""

import json
import math
import random
import shutil

import numpy as np
import pytest

import charrnn as api
from charrnn import errors, files, runtime
from charrnn.data import tokenizers
from charrnn.runs import metrics
from charrnn.runs import run as run_lib
from charrnn.sampling import sampler

WORDS = ["to", "be", "or", "not", "café", "is", "question", "that", "ROMEO", "nobler"]
KINDS = ("char", "word", "bpe")
FIELDS = {
  "char": [],
  "word": ["--config.text.vocab_size=12"],
  "bpe": ["--config.text.vocab_size=300"],
}


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *_: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Return n-gram runs on the same text, one for each kind of tokens. Do not modify them."""
  import launch

  folder, rng = tmp_path_factory.mktemp("tokens"), random.Random(0)
  lines = [" ".join(rng.choice(WORDS) for _ in range(7)) + f", {n}.\n" for n in range(150)]
  (folder / "text.txt").write_text("".join(lines))
  for kind in KINDS:
    arguments = [f"--config={api.__path__[0]}/../../experiments/ngram.py:{folder / 'text.txt'}"]
    arguments += ["--config.model.order=3", f"--config.text.tokenizer={kind}", *FIELDS[kind]]
    arguments += ["--config.sample.length=20", f"--workdir={folder / kind}"]
    assert launch.main(["launch.py", *arguments]) == 0
  return {kind: folder / kind for kind in KINDS}


def text_of(runs) -> str:
  return (runs["char"].parent / "text.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_reported_in_exact_bits_per_byte(charrnn, runs, kind):
  (result,) = charrnn("eval", runs[kind], "--json").json["results"]
  run = run_lib.Run.open(runs[kind])
  (span,) = run.splits().valid
  scored = run.corpus().text(*span)
  assert result["bytes"] == len(scored.encode())
  total = result["nats"] * result["tokens"]
  if kind == "word":
    words = [run.corpus().text(n, n + 1) for n in range(*span)]
    unknown = [word.encode() for word in words if word not in run.tokenizer.tokens]
    total += sum(run.tokenizer.spelling(word) for word in unknown)
    shares = {"tokens": len(unknown) / len(words), "bytes": len(b"".join(unknown)) / len(scored)}
    assert result["unknown"]["tokens"] == shares["tokens"] > 0.05
    assert result["unknown"]["bytes"] == len(b"".join(unknown)) / len(scored.encode())
  assert result["bits_per_byte"] == pytest.approx(total / math.log(2) / len(scored.encode()))
  logged = dict(metrics.curve(metrics.read(runs[kind]), "valid/bits_per_byte"))
  assert logged[run.step] == pytest.approx(result["bits_per_byte"], rel=1e-4)
  shown = charrnn("eval", runs[kind]).out
  assert f"{result['bits_per_byte']:.4f} bits per byte" in shown
  assert ("characters" in shown) == (kind == "char") and (tokenizers.UNKNOWN in shown) == (
    kind == "word"
  )


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokenizers_score_the_same_held_out_text(runs, kind):
  run, base = (run_lib.Run.open(runs[each]) for each in (kind, "char"))
  for ours, theirs in zip(run.splits(), base.splits()):
    assert [run.corpus().text(*span) for span in ours] == [
      base.corpus().text(*span) for span in theirs
    ]


def test_the_python_api_scores_text_with_unknown_words(runs):
  for kind in KINDS[1:]:
    run = api.load(runs[kind])
    text = "to be, or ROMEO is" if kind == "bpe" else "to be, or Julia is"
    scores = run.score(text)
    encoded = run.tokenizer.read(text)
    first = len(encoded.text(0, 1).encode())
    spelling = run.tokenizer.spelling(b"Julia") if kind == "word" else 0
    total = np.nansum(scores.nats.astype(float)) + spelling
    expected = total / math.log(2) / (len(text.encode()) - first)
    assert scores.bits_per_byte == pytest.approx(expected)
    assert scores.within([(0, 3)]).bits_per_byte > 0


def test_the_share_of_unknown_words_is_reported(charrnn, runs):
  options = ("--tokenizer", "word", "--vocab-size", "12")
  shown = charrnn("corpus", runs["char"].parent / "text.txt", *options).out
  assert "of the held-out tokens and" in shown and "'<UNK>'" in shown
  shown = charrnn("corpus", runs["char"].parent / "text.txt", "--tokenizer", "bpe").out
  assert "held-out" not in shown and "tokens      " in shown


@pytest.mark.parametrize("kind", [pytest.param("word", marks=pytest.mark.long), "bpe"])
def test_sampling_with_constraints_prompts_and_beams(charrnn, runs, kind):
  options = ("--seed", "3", "--num", "4", "--json", "--prime", "to be")
  result = charrnn("sample", runs[kind], *options, "--length", 30, "--temperature", 3)
  samples = [json.loads(line) for line in result.out.splitlines()]
  assert all(sample["tokens"] == 30 and sample["prime"] == "to be" for sample in samples)
  assert not any(tokenizers.UNKNOWN in sample["text"] for sample in samples)
  constraints = ("--require", "be, ", "--forbid", "[0-9]|no", "--stop", "is")
  result = charrnn("sample", runs[kind], *options, "--length", 40, *constraints)
  for line in result.out.splitlines():
    text = json.loads(line)["text"]
    assert "be, " in text and "no" not in text and "is" not in text
    assert not any(c.isdigit() for c in text)
  beam = charrnn("sample", runs[kind], "--beam", 4, "--length", 12, "--require", "question")
  assert "question" in beam.out and tokenizers.UNKNOWN not in beam.out
  live = charrnn("sample", runs[kind], "--seed", 3, "--length", 30, "--prime", "to be").out
  assert live.startswith("to be")


def test_impossible_prompts_and_stops_give_one_line(charrnn, runs):
  for options, message in [
    (("--prime", "to unbe"), "not in the vocabulary: 'unbe'"),
    (("--stop", "\u2603"), "--stop: not in the run's vocabulary: '\u2603'"),
    (("--require", "\u2603"), "--require=\u2603: not in the run's vocabulary"),
  ]:
    result = charrnn("sample", runs["word"], *options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
  assert charrnn("sample", runs["bpe"], "--length", 9, "--require", "\u2603").code == 0


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_needs_characters_says_so_in_one_line(charrnn, runs, kind):
  for arguments in (("cells", runs[kind]), ("eval", runs[kind], "--errors")):
    result = charrnn(*arguments)
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"tokenizer {kind}" in result.err


@pytest.mark.parametrize("kind", KINDS[1:])
def test_other_commands_work_with_every_tokenizer(charrnn, runs, tmp_path, kind):
  assert "DAMAGED" not in charrnn("verify", runs[kind]).out
  shown = charrnn("inspect", runs[kind]).out
  assert f"tokens ({kind}); " in shown and " tokens" in shown
  assert charrnn("diff", runs[kind], runs[kind]).code == 0
  assert "vocabulary" in charrnn("diff", runs[kind], runs["char"]).out
  assert charrnn("export", runs[kind], tmp_path / "m.npz").code == 0
  page, table = tmp_path / "page.html", tmp_path / "table.tsv"
  assert charrnn("eval", runs[kind], "--html", page, "--tsv", table).code == 0
  assert "question" in page.read_text() and "question" in table.read_text()
  text = tmp_path / "text.txt"
  text.write_text("to be or not to be, unbelievable café\n")
  (result,) = charrnn("eval", runs[kind], text, "--json").json["results"]
  first = run_lib.Run.open(runs[kind]).tokenizer.read(text.read_text()).text(0, 1)
  assert result["bytes"] == len(text.read_bytes()) - len(first) and result["bits_per_byte"] > 0
  ngrams = charrnn("ngrams", runs[kind], "--order", 2, "--out", tmp_path / "n", "--json").json
  (own,) = ngrams["runs"]
  assert own["bits_per_byte"] > 0 and ngrams["unit"] == "token"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS[1:])
def test_reports_of_samples_work_with_every_tokenizer(charrnn, runs, tmp_path, kind):
  options = ("--num", 3, "--length", 60, "--out", tmp_path / "m", "--json")
  copied = charrnn("memorization", runs[kind], *options).json
  # The held-out text and the training text are those of the corpus, also where words are unknown.
  assert copied["systems"]["held-out"]["match"]["longest"] > 5
  samples = (tmp_path / "m" / "memorization-samples" / "held-out.txt").read_text()
  assert tokenizers.UNKNOWN not in samples
  options = ("--temperatures", 0.5, 2, "--num", 2, "--length", 100, "--out", tmp_path / "t")
  assert charrnn("temperature", runs[kind], *options).code == 0


def test_a_session_reads_words_and_never_writes_unknown_ones(runs):
  source = api.load(runs["word"])
  settings = sampler.Settings(temperature=5.0)
  session = sampler.Session(source, [], seed=1, length=40, settings=settings)
  session.read(source.tokenizer.encode("to be"))
  text = "".join(session.write())
  assert text and tokenizers.UNKNOWN not in text


def test_runs_with_different_tokenizers_are_compared_in_bits_per_byte(charrnn, runs, tmp_path):
  result = charrnn("compare", *runs.values(), "--out", tmp_path / "compare")
  assert result.code == 0 and "different tokenizers: they are sorted and plotted" in result.out
  assert "not comparable" not in result.out
  compared = json.loads((tmp_path / "compare" / "compare.json").read_text())
  bits = [run["bits_per_byte"] for run in compared["runs"]]
  assert bits == sorted(bits) and compared["compares"]
  for run in compared["runs"]:
    lines = metrics.read(runs[run["run"]])
    assert run["bits_per_byte"] == min(line["valid/bits_per_byte"] for line in lines)
  alone = charrnn("compare", runs["word"], "--json").json
  assert alone["runs"][0]["nats"] > 0


def test_a_run_whose_boundaries_are_damaged_gives_one_line(charrnn, runs, tmp_path):
  run = shutil.copytree(runs["bpe"], tmp_path / "run")
  value = json.loads((run / "run.json").read_text())
  value["corpus"]["boundaries"][1] = [1, "x"]
  del value["sha256"]
  files.write_json(run / "run.json", files.seal(value))
  with pytest.raises(errors.UserError, match=r"run\.json is damaged"):
    run_lib.Run.open(run).splits()
  result = charrnn("eval", run)
  assert result.code == 2 and result.err.count("\n") == 1


def test_a_cleared_cache_and_another_vocabulary_keep_the_ids(runs, monkeypatch, tmp_path):
  """The run's own vocabulary is used, even if the package would learn another one."""
  run = run_lib.Run.open(runs["bpe"])
  ids = np.array(run.corpus().ids)
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path))
  other = tokenizers.Tokenizer.from_text("abc abc", "bpe")
  monkeypatch.setattr(tokenizers.Pieces, "train", classmethod(lambda *_: other))
  assert run_lib.Run.open(runs["bpe"]).corpus().ids.tolist() == ids.tolist()
