"""Trial 14: invariants of parsers, vocabularies, splits, batches, filters and constraints.

Each case tests a property with random inputs from its seed. The inputs mix ordinary values with
those that often break programs, and the seed of a failed case reproduces it.
"""

import contextlib
import itertools
import json
import pathlib
import random
import re
import shutil
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest

from charrnn import command_line, console, errors
from charrnn import config as config_lib
from charrnn.analysis import hypotheses, labels
from charrnn.data import batches, corpora, kernel, sources, splits, tokenizers
from charrnn.runs import metrics, status
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps, constraints, sampler
from charrnn.scorecards import c, memorization, plays
from charrnn.scorecards import metrics as metrics_lib
from charrnn.sweeps import outcomes

pytestmark = pytest.mark.trial(14)

OLD = pathlib.Path(__file__).parents[1] / "data_files" / "runs_of_0.1.0"
SEEDS, SHORT = 40, 2  # numbers of seeds: all, and in continuous integration
EACH = pytest.mark.parametrize(
  "seed", [pytest.param(n, marks=() if n < SHORT else pytest.mark.long) for n in range(SEEDS)]
)
PIECES = (
  "\n", "\r\n", "\n\n", " ", "\t", "\0", "ROMEO:", "A:\n", '"', "'", "(", ")", "{", "}", "[", "]",
  "/*", "*/", "//", "#if 0\n", "#endif\n", "#define X \\\n", "\\\n", "if (x)", "else",
  "int f(int a)", "return;", "http://a.b/c", "[[link]]", "\x1b[2J", "\u2028", "\u202e", "\ufeff",
  "e\u0301", "é", "日本", "😀", "\U0010ffff", "word", "0123", "==", "</script>",
  "%s", "\\", "`", "$", "...",
)  # fmt: skip


def random_text(rng: random.Random, most: int = 60, surrogates: bool = False) -> str:
  """Return a text of pieces that parsers care about, and of random characters."""

  def piece():
    if rng.random() < 0.7:
      return rng.choice(PIECES)
    point = rng.randrange(rng.choice([128, 0x800, 0x110000]))
    is_surrogate = 0xD800 <= point < 0xE000
    return "x" if is_surrogate and not surrogates else chr(point)

  return "".join(piece() for _ in range(rng.randrange(most)))


@contextlib.contextmanager
def one_line():
  """Accept a UserError whose message is not empty."""
  try:
    yield
  except errors.UserError as error:
    assert str(error)


@EACH
def test_vocabularies(seed):
  rng = random.Random(seed)
  for _ in range(50):
    kind, text = rng.choice(tokenizers.KINDS), random_text(rng, surrogates=True) or "x"
    if kind == "byte":
      text = text.encode("utf-8", "replace").decode()
    tokenizer = tokenizers.Tokenizer.from_text(text, kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and ids.dtype == tokenizer.dtype
    assert tokenizers.Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json()))) == tokenizer
    assert sum(tokenizer.counts) == len(ids) and list(tokenizer.tokens) == sorted(tokenizer.tokens)
    sampled = np.array([rng.randrange(tokenizer.vocab_size) for _ in range(99)])
    decoded = tokenizer.decode(sampled)
    assert tokenizer.encode(decoded).tolist() == sampled.tolist()
    if kind == "byte":
      assert console.encode(decoded) == bytes(sampled.tolist())
    decoder, cut = tokenizer.decoder(), rng.randrange(100)
    assert decoder.decode(sampled[:cut]) + decoder.decode(sampled[cut:], final=True) == decoded


@EACH
def test_splits(seed):
  rng = random.Random(seed)
  for _ in range(300):
    length, kind = (
      rng.choice([0, 1, 2, rng.randrange(50), rng.randrange(10**6)]),
      rng.choice([*splits.SPLITS]),
    )
    fractions = [rng.choice([0.0, 0.05, 0.1, 0.5, rng.random()]) for _ in range(2)]
    sizes = {"streams": rng.randrange(1, 40), "window": rng.randrange(1, 40)}
    with one_line():
      result = splits.split(length, kind, *fractions, **sizes)
      spans = sorted(itertools.chain(*result))
      assert all(0 <= start < stop <= length for start, stop in spans)
      assert all(a.stop <= b.start for a, b in itertools.pairwise(spans))
      assert result.train
      covered = sum(stop - start for start, stop in spans)
      dropped = length % (sizes["streams"] * sizes["window"]) if kind == "streams" else 0
      assert covered == length - dropped


@EACH
def test_training_windows(seed):
  rng = random.Random(seed)
  for _ in range(20):
    N, batch, window = rng.randrange(2, 400), rng.randrange(1, 6), rng.randrange(1, 9)
    cuts = sorted(rng.sample(range(N + 1), min(N + 1, 2 * rng.randrange(1, 4))))
    spans = [splits.Span(a, b) for a, b in zip(cuts[::2], cuts[1::2])]
    ids = np.arange(N)
    with one_line():
      windows = batches.TrainingWindows(ids, spans, batch, window)
      text = np.concatenate([ids[a:b] for a, b in spans])
      follows = dict(zip(text.tolist(), np.roll(text, -1).tolist()))
      step = rng.choice([0, 1, rng.randrange(10**6), 10**12])
      x, y = windows.window_at(step)
      x_next, _ = windows.window_at(step + 1)
      assert x.shape == y.shape == (window, batch)
      assert [follows[i] for i in x.ravel().tolist()] == y.ravel().tolist()
      assert (x_next[0] == y[-1]).all()  # A stream continues where it was.
      rows = slice(rng.randrange(batch), batch)
      assert (windows.window_at(step, rows)[0] == x[:, rows]).all()


@EACH
def test_scoring_windows(seed):
  rng = random.Random(seed)
  for _ in range(20):
    N = rng.randrange(2, 300)
    cuts = sorted(rng.sample(range(N + 1), min(N + 1, 2 * rng.randrange(1, 5))))
    spans = list(zip(cuts[::2], cuts[1::2]))
    starts = sorted({0, *(rng.randrange(N) for _ in range(rng.randrange(4)))})
    options = (rng.randrange(1, 20), rng.randrange(1, 9), rng.randrange(12), starts)
    expected = {i for a, b in spans for i in range(a, b)} - set(starts)
    scored = []
    for each in batches.scoring_windows(np.arange(N), spans, *options):
      where = each.weight == 1
      assert set(np.unique(each.weight)) <= {0, 1}
      assert (each.y[where] == each.positions[where]).all()
      assert (each.x[where] == each.positions[where] - 1).all()
      scored += each.positions[where].tolist()
    assert sorted(scored) == sorted(expected)


@EACH
def test_filters(seed):
  rng, V = np.random.default_rng(seed), 12
  for _ in range(10):
    logits = rng.choice([0.0, 1.0, -np.inf, 3e38, -3e38, 1e-30], V)
    logits = np.where(rng.random(V) < 0.5, rng.normal(0, 10.0 ** rng.integers(-2, 3), V), logits)
    logits = np.float32(logits)
    logits[rng.integers(V)] = 0.5  # at least one finite logit
    k, p = int(rng.integers(1, 20)), float(rng.choice([1e-9, 0.5, 0.9, 1 - 1e-7, 1.0]))
    T = float(rng.choice([0, 1e-45, 1e-30, 1, 5, 1e30]))
    top_k, top_p = int(rng.integers(2)), int(rng.integers(2))
    kept = np.asarray(
      sampler.filter_logits(jnp.array(logits), T, k if top_k else None, p if top_p else None)
    )
    assert not np.isnan(kept).any() and (kept > -np.inf).any()
    is_kept = kept > -np.inf
    assert kept.max() <= 0 or T == 0
    assert not is_kept.all() or not (top_k and k < V)
    assert is_kept.sum() <= k or not top_k
    # A token is kept only if all larger logits are kept. A large temperature makes them equal.
    with np.errstate(over="ignore"):
      logits = (logits - logits.max()) / np.float32(max(T, sampler.TINY))
    assert logits[is_kept].min() >= logits[~is_kept & (logits > logits[is_kept].min())].max(
      initial=-np.inf
    )
    if T == 0:
      assert is_kept.sum() == 1 and is_kept.argmax() == logits.argmax()


def random_regex(rng: random.Random, depth: int = 3) -> str:
  kind = rng.randrange(7) if depth else 0
  if kind < 2:
    return rng.choice(["a", "b", "ab", "[ab]", "[^a]", ".", r"\w", "c"])
  inner = random_regex(rng, depth - 1)
  if kind == 2:
    return inner + random_regex(rng, depth - 1)
  if kind == 3:
    return f"({inner}|{random_regex(rng, depth - 1)})"
  return f"({inner}){rng.choice(['*', '+', '?', '{2}', '{0,2}'])}"


@EACH
def test_constraints_agree_with_re(seed):
  rng, length = random.Random(seed), 4
  tokenizer = tokenizers.Tokenizer.from_text("abc\n")
  everything = ["".join(t) for n in range(length + 1) for t in itertools.product("abc\n", repeat=n)]
  for _ in range(10):
    texts = []
    for _ in range(2):
      anchors = rng.choice(["", "^"]), rng.choice(["", "$"])
      texts.append(f"{anchors[0]}{random_regex(rng)}{anchors[1]}")
    required, forbidden = texts
    # In `re`, $ also matches before a line end, so it is replaced.
    searches = [re.compile(re.sub(r"\$$", r"\\Z", text), re.ASCII).search for text in texts]
    allowed = {text for text in everything if searches[0](text) and not searches[1](text)}
    try:
      automaton = constraints.build(
        [constraints.Regex("--require", required)],
        [constraints.Regex("--forbid", forbidden)],
        None,
        tokenizer,
        length,
      )
    except errors.UserError as error:
      is_refused = "contradictory" in str(error) or "must be at least" in str(error)
      assert not (allowed and is_refused), (required, forbidden, allowed)
      continue
    for _ in range(20):
      state, text = 0, ""
      for left in range(length, 0, -1):
        ids = np.flatnonzero(automaton.allowed(np.array([state]), left)[0])
        if not len(ids):
          break
        index = rng.choice(ids.tolist())
        state, text = automaton.next_SxV[state, index], text + tokenizer.tokens[index]
      assert text in allowed, (required, forbidden, text)


@EACH
def test_any_regular_expression_is_parsed_or_refused(seed):
  rng = random.Random(seed)
  signs = [
    *"()[]{}|*+?^$.,\\-01ab",
    r"\d",
    r"\b",
    r"\1",
    "(?:",
    "(?=",
    "(?P<a>",
    "{1,",
    "\x00",
    "é",
  ]
  for _ in range(60):
    text = "".join(rng.choice(signs) for _ in range(rng.randrange(12)))
    with one_line():
      constraints.Regex("--require", text)
    with one_line():
      hypotheses.parse_regexes([text, f"name={text}"])
    with one_line():
      clamps.parse(text)
    with one_line():
      clamps.parse(f"{rng.randrange(10**3)}:{text}={rng.choice(['hold', '1e999', text, '-0'])}")


@EACH
def test_label_parsers(seed):
  rng = random.Random(seed)
  for _ in range(20):
    text = random_text(rng, surrogates=rng.random() < 0.2) or "x"
    for hypothesis in labels.HYPOTHESES.values():
      values, mask = hypothesis.function(text)
      assert values.shape == mask.shape == (len(text),), hypothesis.name
      assert np.isfinite(values[mask]).all(), hypothesis.name
      if hypothesis.kind == "binary":
        assert set(np.unique(values[mask])) <= {0, 1}, hypothesis.name


@EACH
def test_metrics_of_scorecards(seed):
  rng = random.Random(seed)
  training = random_text(rng)
  parse_play = plays.parser(training)
  for _ in range(10):
    text = random_text(rng, surrogates=rng.random() < 0.2)
    for parse, table in ((parse_play, plays.DOMAIN.metrics), (c.parse, c.DOMAIN.metrics)):
      for name, (items,) in metrics_lib.measure(table, [parse(text)]).items():
        assert all(np.isfinite(x) for x in items if isinstance(x, float)), name
    matches = memorization.match_systems(training, {"a": [text]})
    assert all(len(each) == len(text) for each in matches["a"][0])


@EACH
def test_dialogue_and_kernel_readers(seed):
  rng = random.Random(seed)
  marks = ["**ROMEO**  \n", "_\\[Aside]_", "## ACT I\n", "_", "*", "\\", "[", "]", "&amp;", "&#0;"]
  for _ in range(100):
    text = "".join(rng.choice([*marks, *PIECES]) for _ in range(rng.randrange(40)))
    sources.dialogue(text.encode()).decode()
    content = bytes(rng.randrange(256) for _ in range(rng.randrange(30)))
    kernel.utf8(content).decode()


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1", "cp1252",
  "shift_jis", "gb18030", "big5", "euc_kr", "hz", "iso2022_jp", "koi8-r", "mac_roman", "cp037",
  "punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "rot13", "base64",
  "utf8", "UTF-8", "", " ", "\0", "../utf_8", "aliases", "__init__"]  # fmt: skip


@EACH
def test_any_bytes_in_any_encoding_are_a_corpus_or_refused(seed, tmp_path, monkeypatch):
  monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
  rng = random.Random(seed)
  path = tmp_path / "text"
  for encoding in ENCODINGS:
    content = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    if rng.random() < 0.5:
      with contextlib.suppress(LookupError, ValueError, TypeError, AttributeError):
        content = random_text(rng).encode(encoding)
    path.write_bytes(content)
    with one_line():
      newlines, limit = rng.choice(["keep", "lf"]), rng.choice([0, 1, 5])
      corpus = corpora.load(str(path), encoding=encoding, newlines=newlines, limit=limit)
      assert len(corpus.ids) == sum(corpus.tokenizer.counts) > 0
      assert not limit or len(corpus.ids) <= limit
      assert "\r" not in corpus.tokenizer.tokens or newlines == "keep"


VALUES = [None, True, 0, -1, 1e308, 10**30, "", "x", "\0", [], {}, [[]], {"": None}, "nan", 1.5]


def mutated(rng: random.Random, value, depth: int = 0):
  """Return JSON data with a random change: another value, a missing key, or a new one."""
  if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
    return rng.choice(VALUES)
  if isinstance(value, list):
    position = rng.randrange(len(value))
    return [mutated(rng, x, depth + 1) if n == position else x for n, x in enumerate(value)]
  key, result = rng.choice(list(value)), dict(value)
  kind = rng.randrange(4)
  if kind == 0:
    del result[key]
  elif kind == 1:
    result[rng.choice(["", "new", "a.b", key + "x"])] = rng.choice(VALUES)
  else:
    result[key] = mutated(rng, result[key], depth + 1)
  return result


READERS = {
  "config.json": lambda run: (run.config, run.total_steps, run.splits()),
  "run.json": lambda run: (run.origin, run.provenance, run.steps_per_epoch),
  "alphabet.json": lambda run: run.tokenizer.encode("e"),
  "metrics.jsonl": lambda run: (run.metrics, run.status),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
  return pathlib.Path(shutil.copytree(OLD / "lstm", tmp_path_factory.mktemp("runs") / "run"))


@EACH
@pytest.mark.parametrize("name", READERS)
def test_readers_of_metadata(seed, name, old):
  rng, path = random.Random(seed), old / name
  before = path.read_bytes()
  try:
    for _ in range(30):
      content = bytearray(before)
      if name.endswith(".json") and rng.random() < 0.7:
        content = json.dumps(mutated(rng, json.loads(before))).encode()
      else:
        for _ in range(rng.randrange(1, 4)):
          content[rng.randrange(len(content))] = rng.randrange(256)
        content = content[: rng.choice([len(content), rng.randrange(len(content))])]
      path.write_bytes(content)
      with one_line():
        READERS[name](run_lib.Run.open(old))
  finally:
    path.write_bytes(before)


@EACH
def test_small_readers(seed, tmp_path):
  rng = random.Random(seed)
  for _ in range(100):
    value = mutated(rng, {"status": "finished", "code": 0, "seconds": 1.0})
    (tmp_path / "outcome.json").write_text(json.dumps(value))
    outcome = status.read_outcome(tmp_path)
    assert outcome is None or isinstance(outcome.status, status.RunStatus)
    line = json.dumps(mutated(rng, {"step": 3, "train/loss": 1.0})).encode()
    parsed = metrics.parse(line[: rng.choice([len(line), rng.randrange(len(line) + 1)])])
    assert parsed is None or isinstance(parsed["step"], int)
    vocabulary = mutated(rng, tokenizers.Tokenizer.from_text("abc").to_json())
    with one_line():
      tokenizers.Tokenizer.from_json(vocabulary)


@EACH
def test_names_and_escapes(seed):
  rng = random.Random(seed)
  for _ in range(100):
    text = random_text(rng, 20, surrogates=True)
    name = outcomes.trial_name({"text.source": text, "seed": rng.randrange(99)})
    line = command_line.CommandLine(None, {"text.source": text}, text, text, None)
    for each in (name, f"x{command_line.run_name(line)}"):
      assert re.fullmatch(r"[A-Za-z0-9_.,=+-]{1,101}", each) and not each.startswith(".")
    assert console.visible(text).isprintable()
    shown = console.visible(text, lines=True)
    assert not {unicodedata.category(x) for x in shown.replace("\n", "").replace("\t", "")} & {
      "Cc", "Zl", "Zp", "Cs"
    }  # fmt: skip
    assert console.encode(text).decode("utf-8", "surrogateescape")[:1] in (text[:1], "\\")


@EACH
def test_overrides(seed):
  rng = random.Random(seed)
  for _ in range(20):
    field = rng.choice(list(config_lib.BY_NAME))
    value = rng.choice(["", "0", "-1", "1e999", "nan", "None", "[]", "1,2", "x", "\0", "9" * 400])
    misspelt = list(field)
    misspelt[rng.randrange(len(misspelt))] = rng.choice("abc._-=")
    for name in (field, "".join(misspelt)):
      with one_line():
        config = command_line.parse(
          ["launch.py", f"--config={OLD / 'lstm' / 'config.json'}", f"--config.{name}={value}"]
        ).config
        config_lib.check(config)
