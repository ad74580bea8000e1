"""Trial 14: properties of parsers, vocabularies, splits, batches, filters and constraints.

Hypothesis generates the inputs. In continuous integration they are few and always the same; the
long cases generate many new ones, and a failure prints the decorator that reproduces it. Atheris
fuzzes the parsers with the same properties; see tests/support/fuzz.py.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unicodedata

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ml_collections import config_dict

from charrnn import command_line, console, errors, files
from charrnn import config as config_lib
from charrnn.analysis import hypotheses, labels
from charrnn.data import batches, corpora, kernel, sources, splits, tokenizers
from charrnn.runs import checkpoints, status
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps, constraints, sampler
from charrnn.scorecards import memorization, report
from charrnn.scorecards import metrics as metrics_lib
from charrnn.sweeps import outcomes
from charrnn.training import loop

pytestmark = pytest.mark.trial(14)

ROOT = pathlib.Path(__file__).parents[2]
OLD = ROOT / "tests" / "data_files" / "runs_of_0.1.0" / "lstm"
FUZZ_SECONDS = 60  # time of fuzzing for each parser

# The time of an example depends on the machine, so there is no limit.
SHORT = settings(
  max_examples=20,
  derandomize=True,
  database=None,
  deadline=None,
  suppress_health_check=[HealthCheck.too_slow],
)
LONG = settings(SHORT, max_examples=2000, derandomize=False, print_blob=True)
EACH = pytest.mark.parametrize(
  "profile",
  [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.long)],
)


def holds(**strategies):
  """Return a decorator that makes two tests of a property: with few and with many examples.

  The attribute `given` of the tests is the property with its strategies, for the fuzzer.
  """

  def decorate(check):
    @EACH
    def test(profile):
      profile(given(**strategies)(check))()

    test.given = given(**strategies)(check)
    return test

  return decorate


# Text in which parsers look for structure.
PIECES = (
  "\n", "\r\n", "\n\n", " ", "\t", "\0", "ROMEO:", "A:\n", '"', "'", "(", ")", "{", "}", "[", "]",
  "/*", "*/", "//", "#if 0\n", "#endif\n", "#define X \\\n", "\\\n", "if (x)", "else",
  "int f(int a)", "return;", "http://a.b/c", "[[link]]", "\x1b[2J", "\u2028", "\u202e", "\ufeff",
  "e\u0301", "é", "日本", "😀", "\U0010ffff", "word", "0123", "==", "</script>",
  "%s", "\\", "`", "$", "...",
)  # fmt: skip
MARKDOWN = ("**ROMEO**  \n", "_\\[Aside]_", "## ACT I\n", "_", "*", "\\", "[", "]", "&amp;", "&#0;")
EXPRESSIONS = (
  *"()[]{}|*+?^$.,\\-01ab", r"\d", r"\b", r"\1", "(?:", "(?=", "(?P<a>", "{1,", "\0", "é"
)  # fmt: skip
UNICODE = st.characters(codec="utf-8")  # all characters but surrogates


def texts(pieces=PIECES, characters=None, **sizes) -> st.SearchStrategy[str]:
  """Return a strategy for texts of pieces and of any characters, by default also surrogates."""
  characters = st.characters() if characters is None else characters
  return st.lists(st.sampled_from(pieces) | characters, **{"max_size": 30, **sizes}).map("".join)


def is_refused(function, *arguments, **options) -> bool:
  """Return whether a call raises a UserError. It must have a message."""
  try:
    function(*arguments, **options)
  except errors.UserError as error:
    assert str(error)
    return True
  return False


@holds(text=texts(min_size=1), kind=st.sampled_from(["char", "byte"]), other=texts())
def test_text_round_trips(text, kind, other):
  if kind == "byte":
    text = text.encode("utf-8", "replace").decode()
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text and ids.dtype == tokenizer.dtype
  assert sum(tokenizer.counts) == len(ids) and list(tokenizer.tokens) == sorted(tokenizer.tokens)
  assert tokenizers.Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json()))) == tokenizer
  if not is_refused(tokenizer.encode, other):
    assert tokenizer.decode(tokenizer.encode(other)) == other
  elif kind == "char":
    assert not set(other) <= set(text)
  else:  # A byte tokenizer encodes everything but the surrogates that represent no byte.
    assert re.search(r"[\ud800-\udc7f\udd00-\udfff]", other)


@holds(
  text=texts(min_size=1, characters=UNICODE), kind=st.sampled_from(["char", "byte"]), data=st.data()
)
def test_ids_round_trip(text, kind, data):
  tokenizer = tokenizers.Tokenizer.from_text(text, kind)
  ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=50))
  decoded = tokenizer.decode(ids)
  assert tokenizer.encode(decoded).tolist() == ids
  assert kind == "char" or console.encode(decoded) == bytes(ids)
  cut, decoder = data.draw(st.integers(0, len(ids))), tokenizer.decoder()
  assert decoder.decode(ids[:cut]) + decoder.decode(ids[cut:], final=True) == decoded


FRACTIONS = st.sampled_from([0.0, 0.05, 0.1, 0.5]) | st.floats()


@holds(
  length=st.integers(0, 100) | st.integers(0, 10**7),
  kind=st.sampled_from([*splits.SPLITS]),
  valid=FRACTIONS,
  test=FRACTIONS,
  streams=st.integers(1, 40),
  window=st.integers(1, 40),
)
def test_splits(length, kind, valid, test, streams, window):
  # Sizes are rounded to whole windows of each stream, or to whole tokens.
  unit = streams * window if kind == "streams" else 1
  fractions = (1 - valid - test, valid, test)
  is_valid = all(fraction >= 0 for fraction in fractions) and fractions[0] > 0
  is_ample = all(length // unit * fraction >= 2 for fraction in fractions if fraction)
  arguments = (length, kind, valid, test)
  if is_refused(splits.split, *arguments, streams=streams, window=window):
    assert not (is_valid and is_ample)
    return
  result = splits.split(*arguments, streams=streams, window=window)
  spans = sorted(itertools.chain(*result))
  assert is_valid and all(0 <= start < stop <= length for start, stop in spans)
  assert all(a.stop == b.start for a, b in itertools.pairwise(spans))  # disjoint, without gaps
  covered = length // unit * unit
  assert spans[0].start == 0 and spans[-1].stop == covered
  for fraction, part in zip(fractions, result):
    assert bool(part) or not fraction
    size = sum(stop - start for start, stop in part)
    assert abs(size - fraction * covered) <= 2 * unit
  if kind != "streams":
    assert spans == [*result.train, *result.valid, *result.test]


@st.composite
def spans_of_texts(draw) -> tuple[int, list[splits.Span]]:
  """Return the length of a text, and disjoint spans of it in order."""
  length = draw(st.integers(2, 300))
  cuts = draw(st.lists(st.integers(0, length), min_size=2, max_size=8, unique=True).map(sorted))
  return length, [splits.Span(a, b) for a, b in zip(cuts[::2], cuts[1::2])]


@holds(
  text=spans_of_texts(),
  batch=st.integers(1, 6),
  window=st.integers(1, 9),
  first=st.integers(0, 10**12),
  rows=st.slices(6),
)
def test_an_epoch_of_batches_reads_every_token_once_and_in_order(text, batch, window, first, rows):
  length, spans = text
  ids = np.concatenate([np.arange(*span) for span in spans])
  if is_refused(batches.TrainingWindows, np.arange(length), spans, batch, window):
    assert len(ids) < batch * window
    return
  windows = batches.TrainingWindows(np.arange(length), spans, batch, window)
  assert windows.steps_per_epoch == len(ids) / (batch * window)
  steps = range(math.ceil(windows.steps_per_epoch))
  x_NxB = np.concatenate([windows.window_at(step)[0] for step in steps])
  # Stream b reads the b-th part of the text, and then goes on into the next part.
  edges = [b * len(ids) // batch for b in range(batch + 1)]
  parts = [x_NxB[: stop - start, b] for b, (start, stop) in enumerate(itertools.pairwise(edges))]
  assert np.concatenate(parts).tolist() == ids.tolist()
  following = dict(zip(ids.tolist(), np.roll(ids, -1).tolist()))
  for step in (0, first):
    (x, y), (x_next, _) = windows.window_at(step), windows.window_at(step + 1)
    assert x.shape == y.shape == (window, batch) and x.dtype == y.dtype == np.int32
    assert [following[i] for i in x.ravel().tolist()] == y.ravel().tolist()
    assert (x_next[0] == y[-1]).all()  # A stream continues where it was.
    assert (windows.window_at(step, rows)[0] == x[:, rows]).all()


@holds(
  text=spans_of_texts(),
  streams=st.integers(1, 20),
  window=st.integers(1, 9),
  burn_in=st.integers(0, 12),
  data=st.data(),
)
def test_every_token_is_scored_once(text, streams, window, burn_in, data):
  length, spans = text
  starts = sorted({0, *data.draw(st.lists(st.integers(0, length - 1), max_size=4))})
  scored = []
  for each in batches.scoring_windows(np.arange(length), spans, streams, window, burn_in, starts):
    where = each.weight == 1
    assert set(np.unique(each.weight)) <= {0, 1}
    assert (each.y[where] == each.positions[where]).all()
    assert (each.x[where] == each.positions[where] - 1).all()
    scored += each.positions[where].tolist()
  assert sorted(scored) == sorted({i for span in spans for i in range(*span)} - set(starts))


LOGITS = st.sampled_from([0.0, 1.0, -math.inf, 3e38, -3e38, 1e-30]) | st.floats(
  -100, 100, width=32, allow_subnormal=False
)
filter_logits = jax.jit(sampler.filter_logits)


def probabilities(logits) -> np.ndarray:
  weights = np.exp(np.float64(logits) - np.max(logits))
  return weights / weights.sum()


@holds(
  logits=arrays.arrays(np.float32, 12, elements=LOGITS).filter(
    lambda logits: np.isfinite(logits).any()
  ),
  temperature=st.sampled_from([0.0, 1e-45, 1e-30, 1.0, 5.0, 1e30]) | st.floats(0, 1e30),
  k=st.none() | st.integers(1, 20),
  p=st.none() | st.sampled_from([1e-9, 0.5, 0.9, 1 - 1e-7, 1.0]) | st.floats(1e-9, 1),
)
def test_filters(logits, temperature, k, p):
  settings = sampler.Settings(temperature, k, p)
  filtered = np.asarray(filter_logits(logits, settings.temperature, k, p))
  kept = np.flatnonzero(filtered > -np.inf)
  assert not np.isnan(filtered).any() and logits.argmax() in kept
  # Temperature: the logits are divided by it, and 0 keeps only the first of the largest.
  scaled = np.asarray(filter_logits(logits, settings.temperature))
  if temperature < sampler.TINY:
    assert scaled.tolist() == [0.0 if i == logits.argmax() else -np.inf for i in range(len(logits))]
  else:
    with np.errstate(over="ignore"):
      expected = (logits - logits.max()) / np.float32(temperature)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=sampler.TINY)
  # The filters keep the first tokens in the order of probability, and do not change their logits.
  order = np.argsort(-scaled, kind="stable")[: np.isfinite(scaled).sum()][:k]
  assert set(kept) == set(order[: len(kept)])
  assert (filtered[kept] == scaled[kept]).all()
  np.testing.assert_allclose(
    np.exp(jax.nn.log_softmax(filtered)), probabilities(filtered), atol=1e-6
  )
  if p is None:
    assert len(kept) == len(order)
  else:  # as few as have the mass p, except for rounding
    mass = np.cumsum(probabilities(scaled[order]))
    fewest, most = (np.searchsorted(mass, q) + 1 for q in (p - 1e-5, p + 1e-5))
    assert min(fewest, len(order)) <= len(kept) <= min(most, len(order))


REGEXES = st.recursive(
  st.sampled_from(["a", "b", "ab", "[ab]", "[^a]", ".", r"\w", "c"]),
  lambda inner: st.one_of(
    st.tuples(inner, inner).map("".join),
    st.builds("({}|{})".format, inner, inner),
    st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}"])),
  ),
  max_leaves=6,
)
ANCHORED = st.builds(
  "{}{}{}".format, st.sampled_from(["", "^"]), REGEXES, st.sampled_from(["", "$"])
)
ABC, LENGTH = "\nabc", 4
ALL_TEXTS = ["".join(each) for n in range(LENGTH + 1) for each in itertools.product(ABC, repeat=n)]


def automaton(required, forbidden, stop, tokenizer, length):
  """Return the automaton of constraints for lists of expressions."""
  return constraints.build(
    [constraints.Regex("--require", text) for text in required],
    [constraints.Regex("--forbid", text) for text in forbidden],
    stop,
    tokenizer,
    length,
  )


@holds(
  required=st.lists(ANCHORED, max_size=2),
  forbidden=st.lists(ANCHORED, max_size=2),
  stop=st.none() | st.sampled_from(["a", "bc", "aba", "\n"]),
)
def test_constraints_allow_exactly_the_texts_that_re_finds(required, forbidden, stop):
  def searches(regexes):  # In `re`, $ also matches before a line end.
    return [re.compile(re.sub(r"\$$", r"\\Z", text), re.ASCII).search for text in regexes]

  must, must_not = searches(required), searches(forbidden)

  def is_complete(text):
    body, _, rest = text.partition(stop) if stop else (text, "", "")
    satisfied = all(search(body) for search in must)
    return not rest and satisfied and not any(search(body) for search in must_not)

  complete = [text for text in ALL_TEXTS if is_complete(text)]
  arguments = required, forbidden, stop, tokenizers.Tokenizer.from_text(ABC), LENGTH
  if is_refused(automaton, *arguments) or not complete:
    assert is_refused(automaton, *arguments) and not complete
  elif (built := automaton(*arguments)) is None:
    assert not (required or forbidden or stop)
  else:
    beginnings = {text[:n] for text in complete for n in range(1, len(text) + 1)}
    queue = [("", 0)]
    for text, state in queue:
      ids = np.flatnonzero(built.allowed(np.array([state]), LENGTH - len(text))[0])
      after = [(text + ABC[i], built.next_SxV[state, i]) for i in ids]
      assert {each for each, _ in after} == {each for each in beginnings if each[:-1] == text}
      queue += after


@holds(text=texts(min_size=2, characters=UNICODE), data=st.data())
def test_a_forbidden_character_is_never_allowed(text, data):
  tokenizer = tokenizers.Tokenizer.from_text(text)
  forbidden = data.draw(st.sets(st.sampled_from(tokenizer.tokens), min_size=1))
  regexes = ["|".join(map(re.escape, sorted(forbidden)))]
  built, state = automaton([], regexes, None, tokenizer, 10), 0
  has_V = np.array([token in forbidden for token in tokenizer.tokens])
  for left in range(10, 0, -1):
    allowed_V = built.allowed(np.array([state]), left)[0]
    assert (allowed_V == ~has_V).all()
    if allowed_V.any():
      state = built.next_SxV[state, data.draw(st.sampled_from(np.flatnonzero(allowed_V).tolist()))]


@holds(
  text=texts(EXPRESSIONS, max_size=12), values=st.tuples(texts(max_size=3), st.floats().map(str))
)
def test_any_expression_is_parsed_or_refused(text, values):
  if not is_refused(constraints.Regex, "--require", text):
    re.compile(text)
  for argument in (text, f"name={text}"):
    if not is_refused(hypotheses.parse_regexes, [argument]):
      check_labels(hypotheses.parse_regexes([argument]), text)
  for value in ("hold", text, *values):
    for argument in (f"{text}={value}", f"1:{text}={value}", f"1:c2={value}"):
      if not is_refused(clamps.parse, argument):
        clamp = clamps.parse(argument)
        assert clamp.layer >= 0 and clamp.unit >= 0
        assert math.isfinite(clamp.value) != (value == "hold")


def check_labels(functions, text):
  for each in functions:
    values, mask = each.function(text)
    assert values.shape == mask.shape == (len(text),), each.name
    assert (values.dtype, mask.dtype) == (np.float32, bool), each.name
    assert np.isfinite(values[mask]).all(), each.name
    if each.kind == "binary":
      assert set(np.unique(values[mask])) <= {0, 1}, each.name


@holds(text=texts())
def test_labels_of_any_text(text):
  check_labels(labels.HYPOTHESES.values(), text)


@holds(training=texts(characters=UNICODE), text=texts())
def test_scorecards_of_any_text(training, text):
  for domain in report.DOMAINS.values():
    parsed = domain.parser(training)(text)
    for name, (items,) in metrics_lib.measure(domain.metrics, [parsed]).items():
      assert all(math.isfinite(item) for item in items if isinstance(item, float)), name
  matches = memorization.match_systems(training, {"a": [text]})
  assert all(len(each) == len(text) for each in matches["a"][0])


@holds(text=texts([*PIECES, *MARKDOWN], UNICODE), content=st.binary(max_size=30))
def test_readers_of_corpora_return_utf8(text, content):
  sources.dialogue(text.encode()).decode()
  assert kernel.utf8(text.encode()) == text.encode()
  kernel.utf8(content).decode()


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1", "cp1252",
  "shift_jis", "gb18030", "big5", "euc_kr", "hz", "iso2022_jp", "koi8-r", "mac_roman", "cp037",
  "punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "rot13", "base64",
  "utf8", "UTF-8", "", " ", "\0", "../utf_8", "aliases", "__init__"]  # fmt: skip
PROPER = ENCODINGS[: ENCODINGS.index("punycode")]


@holds(
  encoding=st.sampled_from(ENCODINGS) | texts(max_size=3),
  content=st.binary(max_size=40)
  | st.builds(
    lambda text, encoding: text.encode(encoding, "ignore"), texts(), st.sampled_from(PROPER)
  ),
  newlines=st.sampled_from(["keep", "lf"]),
  limit=st.sampled_from([0, 1, 5]),
)
def test_any_bytes_in_any_encoding_are_a_corpus_or_refused(encoding, content, newlines, limit):
  options = {"encoding": encoding, "newlines": newlines, "limit": limit}
  with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
    patch.setenv("CHARRNN_CACHE", f"{folder}/cache")
    path = pathlib.Path(folder, "text")
    path.write_bytes(content)
    if is_refused(corpora.load, str(path), **options):
      return
    corpus = corpora.load(str(path), **options)
    text = corpus.text(0, len(corpus.ids))
    assert len(corpus.ids) == sum(corpus.tokenizer.counts) == len(text) > 0
    assert not limit or len(corpus.ids) <= limit
    assert "\r" not in text or newlines == "keep"
    # What follows the limit is not read.
    expected = content.decode(encoding, "replace" if limit else "strict")
    expected = re.sub("\r\n?", "\n", expected) if newlines == "lf" else expected
    assert text == expected[: limit or None]


HUGE = st.sampled_from([1e308, math.inf, math.nan, 10**15, 10**30, 10**400])
JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | HUGE | texts(max_size=3),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=2), inner, max_size=3),
  max_leaves=5,
)


@st.composite
def changed(draw, value):
  """Return JSON data in which a value at some depth is replaced, removed or renamed."""
  if not isinstance(value, dict | list) or not value or not draw(st.integers(0, 5)):
    return draw(JSON)
  if isinstance(value, list):
    position = draw(st.integers(0, len(value) - 1))
    return [*value[:position], draw(changed(value[position])), *value[position + 1 :]]
  key, result = draw(st.sampled_from(list(value))), dict(value)
  edit = draw(st.sampled_from(["change", "change", "rename", "remove"]))
  old = result.pop(key)
  if edit != "remove":
    result[draw(texts(max_size=2)) if edit == "rename" else key] = draw(changed(old))
  return result


@st.composite
def damaged(draw, content: bytes) -> bytes:
  """Return JSON lines with other values in one line, or with other bytes in any place."""
  if draw(st.booleans()):
    start = draw(st.integers(0, len(content)))
    stop = start + draw(st.sampled_from([0, 1, 2, len(content)]))
    return content[:start] + draw(st.binary(max_size=3)) + content[stop:]
  lines = content.splitlines()
  number = draw(st.integers(0, len(lines) - 1))
  value = draw(changed(json.loads(lines[number])))
  if isinstance(value, dict) and "sha256" in value:  # as somebody else would write it
    value = files.seal({k: v for k, v in value.items() if k != "sha256"})
  return b"\n".join([*lines[:number], json.dumps(value).encode(), *lines[number + 1 :]])


STEP = 60
META = f"checkpoints/{STEP}/meta/metadata"
FILES = {
  **{
    name: json.dumps(json.loads((OLD / name).read_bytes())).encode()
    for name in ("config.json", "run.json", "alphabet.json", META)
  },
  "metrics.jsonl": (OLD / "metrics.jsonl").read_bytes(),
  "outcome.json": b'{"status": "finished", "code": 0, "seconds": 1.0}',
}


def without(name: str, key: str) -> tuple[str, bytes]:
  """Return the name of a file, and its content without a key."""
  value = {k: v for k, v in json.loads(FILES[name]).items() if k not in (key, "sha256")}
  return name, json.dumps(files.seal(value)).encode()


def is_number(value) -> bool:
  return value is None or (type(value) in (int, float) and isinstance(float(value), float))


def has_valid_config(run) -> bool:
  fields = config_lib.BY_NAME.values()
  return type(run.config) is config_dict.FrozenConfigDict and not any(
    field.problem(run.config[field.name]) for field in fields
  )


def has_valid_vocabulary(run) -> bool:
  tokens, counts = run.tokenizer.tokens, run.tokenizer.counts
  is_valid = run.tokenizer.kind in tokenizers.KINDS and len(tokens) == len(counts) > 0
  ids = range(len(tokens))
  return is_valid and run.tokenizer.encode(run.tokenizer.decode(ids)).tolist() == [*ids]


def has_valid_metrics(run) -> bool:
  latest, best = outcomes.progress(run.path)
  lines = [*run.metrics, {"step": 0, **latest}, {"step": 0, **best}]
  return all(type(line["step"]) is int and all(map(is_number, line.values())) for line in lines)


def has_valid_outcome(run) -> bool:
  outcome = status.read_outcome(run.path)
  if outcome is None:
    return True
  numbers = is_number(outcome.code) and is_number(outcome.seconds)
  return type(outcome.status) is status.RunStatus and numbers


def has_valid_checkpoint(run) -> bool:
  folder = run.path / "checkpoints"
  is_valid = checkpoints.best(checkpoints.losses(folder)) in (None, STEP)
  meta = checkpoints.read_meta(folder, STEP)
  checkpoints.check_identity(folder, meta, run.identity)
  return is_valid and meta["step"] == STEP and is_number(meta["valid_loss"])


def has_valid_loop_state(run) -> bool:
  meta = checkpoints.read_meta(run.path / "checkpoints", STEP)
  with contextlib.suppress(ValueError):
    state = loop.LoopState.from_json(meta.get("memory"))
    return is_number(state.best_loss) and type(state.stale) is int and is_number(state.pending_mean)
  return True


READERS = (
  has_valid_config,
  has_valid_vocabulary,
  has_valid_metrics,
  has_valid_outcome,
  has_valid_checkpoint,
  has_valid_loop_state,
  lambda run: type(run.total_steps) is int and run.total_steps > 0,
  lambda run: type(run.splits()) is splits.Splits,
  lambda run: type(run.status) is status.RunStatus,
  lambda run: type(run.steps_per_epoch) is float,
  lambda run: all(type(launch["command"]) is str for launch in run.origin["launches"]),
  lambda run: type(run.provenance["characters"]) is int,
  lambda run: type(run.unverified) is list,
)


@holds(
  damage=st.sampled_from(list(FILES)).flatmap(
    lambda name: st.tuples(st.just(name), damaged(FILES[name]))
  )
)
@example(without(META, "valid_loss"))
@example(without(META, "memory"))
@example(("metrics.jsonl", b'{"step": 1, "train/loss": true}'))
@example(("metrics.jsonl", b'{"step": 1, "train/loss": 1%s}' % (400 * b"0")))
@example(("outcome.json", b'{"status": "failed", "code": 1, "seconds": 1%s}' % (400 * b"0")))
def test_damaged_metadata_is_refused_or_valid(damage):
  with tempfile.TemporaryDirectory() as folder:
    for name, content in [*FILES.items(), damage]:
      path = pathlib.Path(folder, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    for reader in READERS:
      run = run_lib.Run.open(folder)
      assert is_refused(reader, run) or reader(run)


@holds(text=texts(), seed=st.integers())
def test_names_and_escapes(text, seed):
  name = outcomes.trial_name({"text.source": text, "seed": seed})
  line = command_line.CommandLine(None, {"text.source": text}, text, text, None)
  for each in (name, f"x{command_line.run_name(line)}"):
    assert re.fullmatch(r"[A-Za-z0-9_.,=+-]{1,101}", each) and not each.startswith(".")
  assert console.visible(text).isprintable()
  shown = console.visible(text, lines=True)
  assert not {unicodedata.category(x) for x in shown.replace("\n", "").replace("\t", "")} & {
    "Cc", "Zl", "Zp", "Cs"
  }  # fmt: skip
  assert console.encode(text).decode("utf-8", "surrogateescape")[:1] in (text[:1], "\\")


@st.composite
def misspelled(draw, names) -> str:
  """Return a name, possibly with another character at a position."""
  name = draw(st.sampled_from(names))
  position = draw(st.integers(0, len(name)))
  return (
    name[:position]
    + draw(st.sampled_from([name[position : position + 1], *"abc._-="]))
    + name[position + 1 :]
  )


VALUES = st.sampled_from(["", "0", "-1", "1e999", "nan", "None", "[]", "1,2", "9" * 400])


@holds(name=misspelled(list(config_lib.BY_NAME)), value=VALUES | texts(max_size=3))
def test_any_override_is_accepted_or_refused(name, value):
  argv = ["launch.py", f"--config={OLD / 'config.json'}", f"--config.{name}={value}"]
  if not is_refused(command_line.parse, argv):
    line = command_line.parse(argv)
    if not is_refused(config_lib.check, line.config):
      assert not any(
        field.problem(line.config[field.name]) for field in config_lib.BY_NAME.values()
      )


# The properties of parsers.
FUZZED = (
  "test_any_expression_is_parsed_or_refused",
  "test_labels_of_any_text",
  "test_scorecards_of_any_text",
  "test_any_bytes_in_any_encoding_are_a_corpus_or_refused",
  "test_damaged_metadata_is_refused_or_valid",
  "test_any_override_is_accepted_or_refused",
)


@pytest.mark.long
@pytest.mark.parametrize("name", FUZZED)
def test_fuzzing(name, tmp_path, record_property):
  pytest.importorskip("atheris", reason="needs atheris (the fuzz extra)")
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  for n in range(8):  # From shorter inputs, Hypothesis cannot build an example.
    (corpus / f"{n}").write_bytes(random.Random(n).randbytes(1000))
  command = [sys.executable, ROOT / "tests" / "support" / "fuzz.py", name, corpus]
  options = [f"-max_total_time={FUZZ_SECONDS}", "-timeout=60", "-len_control=0"]
  done = subprocess.run(
    [*command, *options],
    cwd=tmp_path,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
  (count,) = re.findall(r"Done (\d+) runs", done.stderr)
  record_property("note", f"Atheris, {name}: {int(count):,} inputs in {FUZZ_SECONDS} s")
