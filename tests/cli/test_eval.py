"""`charrnn eval`: documents, per-character outputs, types of errors, and error messages."""

import csv
import math
import pathlib
import subprocess
import sys

import edits
import pytest

from charrnn import runtime
from charrnn.cli import eval as eval_lib
from charrnn.runs import run as run_lib

SONG = "".join(f"{n} green bottles\n" for n in range(300, 400))
OTHER = "7 bottles green\n" * 60


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)


@pytest.fixture
def files(tmp_path):
  paths = tmp_path / "song.txt", tmp_path / "other.txt"
  for path, text in zip(paths, (SONG, OTHER)):
    path.write_text(text)
  return paths


def nats(result):
  return [each["nats"] for each in result.json["results"]]


def test_files_are_scored_separately_or_with_carried_state(charrnn, trained, files):
  alone = [nats(charrnn("eval", trained["a"], path, "--json"))[0] for path in files]
  both = charrnn("eval", trained["a"], *files, "--json")
  assert nats(both) == alone and both.json["state"] == "reset"
  counts = [each["characters"] for each in both.json["results"]]
  assert counts == [len(SONG) - 1, len(OTHER) - 1]
  overall = both.json["overall"]
  assert overall["characters"] == sum(counts)
  assert overall["nats"] == pytest.approx(
    (alone[0] * counts[0] + alone[1] * counts[1]) / sum(counts)
  )
  carried = charrnn("eval", trained["a"], *files, "--json", "--state=carried")
  assert [each["characters"] for each in carried.json["results"]] == [len(SONG) - 1, len(OTHER)]
  assert nats(carried)[0] == alone[0] and nats(carried)[1] != alone[1]
  lines = charrnn("eval", trained["a"], *files).out.splitlines()
  assert len(lines) == 4 and lines[-1].endswith("all 2 texts")


def test_reset_state_excludes_the_first_character_of_each_document_of_a_split(
  charrnn, trained, monkeypatch
):
  run = trained["a"]
  carried = charrnn("eval", run, "--json")
  corpus = run_lib.load_corpus(run_lib.Run.open(run).config)
  (start, stop), *_ = run_lib.Run.open(run).splits().valid
  document = corpus.documents[0]
  halves = [document._replace(start=a, stop=b) for a, b in [(0, start + 99), (start + 99, stop)]]
  object.__setattr__(corpus, "documents", tuple(halves))
  monkeypatch.setattr(run_lib, "load_corpus", lambda *_, **options: corpus)
  reset = charrnn("eval", run, "--json", "--state=reset")
  assert reset.json["results"][0]["characters"] == carried.json["results"][0]["characters"] - 1
  assert nats(reset) != nats(carried)
  assert nats(charrnn("eval", run, "--json", "--state=carried")) == nats(carried)


def test_tsv_has_a_row_for_each_character(charrnn, trained, tmp_path):
  text = 'a "bottle"\\\n\tgreen, é\n' * 3
  text = "".join(c for c in text if c in SONG + "\n")
  path, table = tmp_path / "text.txt", tmp_path / "out.tsv"
  path.write_text(text)
  result = charrnn("eval", trained["a"], path, "--tsv", table, "--json")
  with table.open(newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
  assert [int(row["index"]) for row in rows] == list(range(len(text)))
  assert "".join(row["character"].encode().decode("unicode_escape") for row in rows) == text
  assert (rows[0]["nats"], rows[0]["p"], rows[0]["rank"]) == ("", "", "")
  values = [float(row["nats"]) for row in rows[1:]]
  assert sum(values) / len(values) == pytest.approx(nats(result)[0], rel=1e-5)
  for row in rows[1:]:
    assert float(row["p"]) == pytest.approx(math.exp(-float(row["nats"])), rel=1e-5)
  assert nats(result)[0] == pytest.approx(nats(charrnn("eval", trained["a"], path, "--json"))[0])


def test_special_characters_are_escaped_in_one_field():
  for symbol in "\n\t\r\\\"'é \x00\u2028\ud800\x85":
    field = eval_lib.escape(symbol)
    assert field.isprintable() and '"' not in field
    if symbol != "é":
      assert field.encode("ascii").decode("unicode_escape") == symbol
  assert eval_lib.escape("\udce9") == "\\xe9"


def test_dynamic_evaluation_lowers_the_loss_and_is_named_on_the_page(charrnn, trained, tmp_path):
  page = tmp_path / "page.html"
  options = ("--characters", 500, "--html", page)
  plain = charrnn("eval", trained["a"], *options, "--json")
  before = page.read_text()
  result = charrnn("eval", trained["a"], *options, "--dynamic", "--json")
  assert plain.json["dynamic"] is None and result.json["dynamic"] == 0.3
  assert plain.json["results"][0]["characters"] == result.json["results"][0]["characters"] == 500
  assert nats(result)[0] < nats(plain)[0]
  assert "dynamic evaluation at rate 0.3" in page.read_text() and page.read_text() != before
  still = ("eval", trained["a"], "--characters", 500, "--dynamic=0")
  assert "dynamic evaluation at rate 0\n" in charrnn(*still).out
  assert nats(charrnn(*still, "--json")) == pytest.approx(nats(plain), abs=1e-3)
  assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_page_and_table_contain_the_first_character(charrnn, trained, files, tmp_path):
  table, page = tmp_path / "x.tsv", tmp_path / "x.html"
  result = charrnn("eval", trained["a"], files[0], "--html", page, "--tsv", table)
  assert result.code == 0, result.err
  assert table.read_text().splitlines()[1].split("\t")[2:] == ["", "", ""]
  assert page.read_text().count("<i") >= len(SONG)


def test_errors_are_counted_by_type(charrnn, trained, files):
  counts = charrnn("eval", trained["a"], *files, "--errors", "--json").json["errors"]
  assert counts["characters"] == len(SONG) + len(OTHER) - 2
  assert sum(row["count"] for row in counts["types"]) == counts["errors"] > 0
  table = charrnn("eval", trained["a"], "--errors").out
  assert "\n  n-gram " in table and "\n  boost 0.5 " in table


def test_dynamic_evaluation_of_an_ngram_is_an_error(charrnn, a):
  edits.change(a, "config.json", lambda c: c["model"].update(cell="ngram", order=3))
  result = charrnn("eval", a, "--dynamic")
  assert (result.code, result.out) == (2, "")
  assert result.err.count("\n") == 1 and "an n-gram, which has no gradient" in result.err


def test_an_ngram_supports_all_options_but_dynamic(charrnn, counted, tmp_path):
  plain = charrnn("eval", counted, "--json")
  table, page = tmp_path / "x.tsv", tmp_path / "x.html"
  result = charrnn("eval", counted, "--errors", "--tsv", table, "--html", page, "--json")
  assert nats(result) == pytest.approx(nats(plain), rel=1e-5)
  assert len(table.read_text().splitlines()) == result.json["errors"]["characters"] + 1
  assert charrnn("eval", counted, "--dynamic").code == 2


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--dynamic=-1"], "--dynamic=-1.0: must be finite and at least 0"),
    (["--dynamic=nan"], "--dynamic=nan: must be finite and at least 0"),
    (["--dynamic=inf"], "--dynamic=inf: must be finite and at least 0"),
    (["--dynamic", "song.txt"], "use --dynamic=0.3, or put --dynamic last"),
    (["--dynamic", "--streams=4"], "--streams=4: --dynamic uses a single stream"),
    (["--dynamic=1e38"], "smaller rate"),
    (["--characters=1"], "--characters=1: must be at least 2"),
    *(
      ([f"--temperature={T}"], f"--temperature={T}: must be from 1e-06 to 1e+06")
      for T in ("nan", "0", "-1", "inf", "1e-30")
    ),
    (["--with=none"], "none does not exist"),
    (["--with=song.txt"], "song.txt is a file"),
    (["--errors", "--split=train"], "--errors: does not apply to the training text"),
    (["--tsv=."], "--tsv=. is a folder"),
    (["--html=none/there.html"], "there is no folder none"),
    (["--html=x", "--tsv=./x"], "--tsv=./x: is the same file as that of --html=x"),
    (["song.txt", "--tsv=song.txt"], "--tsv=song.txt: is also the text to score"),
    (["song.txt", "other.txt", "--html=x"], "--html=x: only one text can be written"),
    (["--state=lost"], "--state"),
    (["none.txt"], "cannot read none.txt"),
  ],
)
def test_errors_are_one_line(charrnn, trained, files, arguments, message, monkeypatch):
  monkeypatch.chdir(files[0].parent)
  result = charrnn("eval", trained["a"], *arguments)
  assert (result.code, result.out) == (2, "")
  line = result.err.splitlines()[-1]
  assert line.startswith("charrnn: error: ") and message in line
  assert files[0].read_text() == SONG
  assert sorted(path.name for path in files[0].parent.iterdir()) == ["other.txt", "song.txt"]


def test_documents_of_one_character_cannot_be_scored(charrnn, trained, tmp_path, monkeypatch):
  corpus = run_lib.load_corpus(run_lib.Run.open(trained["a"]).config)
  document = corpus.documents[0]
  each = [document._replace(start=n, stop=n + 1) for n in range(len(corpus.ids))]
  object.__setattr__(corpus, "documents", tuple(each))
  monkeypatch.setattr(run_lib, "load_corpus", lambda *_, **options: corpus)
  for options in ((), ("--tsv", tmp_path / "x.tsv"), ("--dynamic",)):
    result = charrnn("eval", trained["a"], "--state=reset", *options)
    assert result.code == 2 and "nothing to score" in result.err


FULL = pathlib.Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_one_line(charrnn, trained, files):
  result = charrnn("eval", trained["a"], files[0], "--tsv", FULL)
  assert result.code == 2 and "cannot write to /dev/full: No space left" in result.err
  command = [sys.executable, "-m", "charrnn.cli", "corpus"]
  with FULL.open("w") as full:
    done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_mixture_has_the_mean_of_the_probabilities(charrnn, trained, files, tmp_path):
  def probabilities(*options):
    result = charrnn("eval", trained["a"], files[0], f"--tsv={tmp_path / 'out.tsv'}", *options)
    assert result.code == 0, result.err
    lines = csv.DictReader((tmp_path / "out.tsv").read_text().splitlines(), delimiter="\t")
    return [float(line["p"]) for line in lines if line["p"]]

  one, same, both, other = (
    probabilities(*options)
    for options in (
      [],
      [f"--with={trained['a']}"],
      [f"--with={trained['b']}"],
      [f"--with={trained['b']}"] * 2,
    )
  )
  assert same == pytest.approx(one, rel=1e-4)
  # (a + b) / 2 and (a + 2 b) / 3 determine the probabilities of b.
  of_b = [2 * mean - p for mean, p in zip(both, one)]
  assert [(p + 2 * q) / 3 for p, q in zip(one, of_b)] == pytest.approx(other, rel=1e-3, abs=1e-5)
  assert both != pytest.approx(one, rel=1e-2)


def test_the_mean_of_probabilities_is_better_than_the_mean_of_losses(charrnn, trained, files):
  def loss(run, *options):
    return nats(charrnn("eval", run, files[1], "--json", *options))[0]

  a, b = trained["a"], trained["b"]
  mixed = loss(a, f"--with={b}")
  assert mixed < (loss(a) + loss(b)) / 2
  assert loss(a, f"--with={b}", "--dynamic") < mixed


def test_a_temperature_divides_the_logits(charrnn, trained, files):
  def loss(T):
    return nats(charrnn("eval", trained["a"], files[0], "--json", f"--temperature={T}"))[0]

  vocab = len(run_lib.Run.open(trained["a"]).tokenizer.texts)
  assert loss(1) == nats(charrnn("eval", trained["a"], files[0], "--json"))[0]
  assert loss(1e6) == pytest.approx(math.log(vocab), rel=1e-3)
  assert len({loss(T) for T in (0.5, 1, 2)}) == 3


def test_an_ngram_can_be_mixed_but_does_not_learn(charrnn, trained, counted):
  result = charrnn("eval", trained["a"], f"--with={counted}", "--json")
  assert result.json["with"] == [{"run": str(counted), "step": run_lib.Run.open(counted).step}]
  result = charrnn("eval", trained["a"], f"--with={counted}", "--dynamic")
  assert result.code == 2 and f"{counted} is an n-gram" in result.err


def test_runs_with_different_vocabularies_cannot_be_mixed(charrnn, trained, a):
  edits.change(a, "alphabet.json", lambda value: value["tokens"].__setitem__(-1, "\u2028"))
  result = charrnn("eval", trained["a"], f"--with={a}")
  assert result.code == 2 and len(result.err.splitlines()) == 1
  assert "its vocabulary differs from that of" in result.err


def test_runs_with_different_splits_can_be_mixed_only_on_files(charrnn, trained, files, a):
  """Otherwise, the validation split of one may be in the training split of the other."""
  edits.change(a, "config.json", lambda config: config["text"].update(valid_fraction=0.1))
  result = charrnn("eval", trained["a"], f"--with={a}")
  assert result.code == 2 and len(result.err.splitlines()) == 1
  assert "different splits: use runs with the same splits, or score a FILE" in result.err
  assert charrnn("eval", trained["a"], files[0], f"--with={a}").code == 0


def test_the_page_of_a_mixture_names_all_runs(charrnn, trained, tmp_path):
  page, other = tmp_path / "page.html", trained["b"]
  assert charrnn("eval", trained["a"], f"--with={other}", "--html", page).code == 0
  assert f"{other}, step {run_lib.Run.open(other).step}" in page.read_text()
