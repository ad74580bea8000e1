"""Losses by position and closers by distance, on planted scores and models."""

import numpy as np
import pytest
import small_models

from charrnn.data import encoded, tokenizers
from charrnn.evaluation import context, score

TEXT = 'f(a, [b]) = {"x": (1)}\n"""long (text\n\nof "two" lines"""\n“so (he) said”)\n' * 40


def encode(text, kind="char", size=300):
  return tokenizers.Tokenizer.from_text(text, kind, size).read(text)


def planted(content, nats, rank=None):
  """Return scores in which token n has nats[n]; a token with NaN begins a context."""
  N = len(content.ids)
  nats = np.broadcast_to(np.asarray(nats, np.float32), N).copy()
  nats[0] = np.nan
  rank = np.ones(N, int) if rank is None else rank
  return score.Scores(np.arange(N), nats, rank, np.zeros((N, 1)), np.zeros((N, 1)), content)


def found(text):
  return [(pair.closer, pair.opened, pair.closed) for pair in context.pairs(text)]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("(a)", [(")", 0, 2)]),
    ("([{}])", [("}", 2, 3), ("]", 1, 4), (")", 0, 5)]),
    (") (a", []),
    ("(a [b)", [(")", 0, 5)]),  # the unclosed [ is dropped
    ("a) b) (c)", [(")", 6, 8)]),
    ('f(")")', [('"', 2, 4), (")", 1, 5)]),  # a bracket in a string closes nothing outside
    ('"a\n\n"b"', [('"', 4, 6)]),  # a blank line ends a quotation
    ("“a\n \nb”", []),
    ('"""a\n\nb "c" """', [('"', 8, 10), ('"""', 0, 12)]),
    ("“a (b” c)", [("”", 0, 5)]),
    ("(a\n\nb)", [(")", 0, 5)]),
    ("", []),
  ],
)
def test_pairs(text, expected):
  assert found(text) == expected


def test_pairs_of_text_that_is_never_closed_take_linear_time():
  assert found("(" * 200_000 + ")") == [(")", 199_999, 200_000)]


def test_pairs_are_nested_for_any_text():
  rng = np.random.default_rng(0)
  for _ in range(200):
    text = "".join(rng.choice(list('()[]{}"“”a\n'), 40))
    ends = found(text)
    for closer, a, b in ends:
      assert a < b and context.CLOSERS[text[a : a + len(closer)]] == closer
      assert not any(a < c < b < d or c < a < d < b for _, c, d in ends)


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_a_model_that_knows_the_closers(kind):
  """The measured probabilities and shares are those that are planted at the closers."""
  content = encode(TEXT, kind)
  before = np.cumsum(content.sizes(0, len(content.ids))[0])
  offsets = np.cumsum([0, *(len(character.encode()) for character in TEXT)])
  nats, rank = np.full(len(content.ids), 5.0), np.full(len(content.ids), 2)
  expected = 0
  for pair in context.pairs(TEXT):
    opened, closed = np.searchsorted(before, offsets[[pair.opened, pair.closed]], side="right")
    expected += opened < closed
    nats[closed], rank[closed] = -np.log(0.75), 1
  result = context.closers(planted(content, nats, rank))
  counts = [row["count"] for row in result["all"]]
  assert sum(counts) == expected > 100 and counts[0] and counts[1]
  for row in (row for rows in result.values() for row in rows if row["count"]):
    assert row["p"] == pytest.approx(0.75) and row["top"] == 1
  others = [sum(row["count"] for row in rows) for key, rows in result.items() if key != "all"]
  assert sum(others) == expected


def test_closers_by_distance():
  text = "(" + "a" * 8 + ")" + "[" + "é" * 200 + "]"  # 9 and 401 bytes
  scores = planted(encode(text), 1.0)
  result = context.closers(scores)
  rows = {key: {row["from"]: row["count"] for row in rows} for key, rows in result.items()}
  assert rows[")"] == {1: 1, 10: 0, 30: 0, 100: 0, 300: 0, 1000: 0}
  assert rows["]"] == {1: 0, 10: 0, 30: 0, 100: 0, 300: 1, 1000: 0}
  assert result["all"][1]["p"] is None


def test_pairs_do_not_cross_documents():
  content = encode("(a b)" * 2)
  nats = np.ones(10)
  nats[2] = np.nan  # a document begins inside the first pair
  result = context.closers(planted(content, nats))
  assert sum(row["count"] for row in result["all"]) == 1
  result = context.closers(planted(content, np.ones(10)), [0, 2])  # its first token is scored
  assert sum(row["count"] for row in result["all"]) == 1


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_contexts_begin_at_the_same_bytes_for_all_tokenizers(kind):
  text = TEXT * 3
  content = encode(text, kind)
  N, size = len(content.ids), len(text.encode())
  starts = context.context_starts(content, [(0, N)])
  sizes, _ = content.sizes(0, N)
  begins = (np.cumsum(sizes) - sizes)[starts]
  marks = np.arange(0, size, context.CONTEXT)
  assert len(begins) == len(marks)
  assert np.all((marks <= begins) & (begins < marks + sizes.max()))
  assert (kind != "char") or starts[0] == 0


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_loss_by_position_adds_up_to_the_loss(kind):
  content = encode(TEXT, kind)
  N = len(content.ids)
  nats = np.random.default_rng(0).random(N)
  nats[context.context_starts(content, [(0, N)])] = np.nan
  scores = planted(content, nats)
  rows = context.loss_by_position(scores)
  total = sum(row["bits_per_byte"] * row["bytes"] for row in rows if row["bytes"])
  assert total / sum(row["bytes"] for row in rows) == pytest.approx(scores.bits_per_byte)


def test_loss_by_position_of_a_loss_that_depends_on_the_position():
  content = encode("ab" * 3000)
  starts = context.context_starts(content, [(0, 6000)])
  assert starts == [0, 2048, 4096]
  offsets = np.arange(6000) % 2048
  nats = np.where(offsets, np.log(2) * np.floor(np.log2(np.maximum(offsets, 1))), np.nan)
  rows = context.loss_by_position(planted(content, nats))
  losses = [row["bits_per_byte"] for row in rows]
  assert losses == pytest.approx(list(range(11)))
  assert rows[3] == {"from": 8, "bytes": 24, "bits_per_byte": pytest.approx(3)}


def test_scores_with_contexts_restart_the_carry():
  """A unigram does not depend on the position; a network reads nothing before the context."""
  ids = small_models.ids(600)
  content = encoded.EncodedText(encode("abcdefg").tokenizer, ids, encoded.UnknownWords.of())
  starts = [0, 200, 400]
  for name in ("lstm", "transformer", "ngram"):
    model, params = small_models.make(name)
    options = {"window": 16, "streams": 1, "burn_in": 0}
    restarted = score.score(model, params, ids, [(0, 600)], starts=starts, **options)
    alone = score.score(model, params, ids[200:400], [(0, 200)], **options)
    np.testing.assert_allclose(restarted.nats[200:400], alone.nats, rtol=2e-5, atol=1e-5)
  flat, params = small_models.make("ngram", order=1)
  scores = score.score(flat, params, ids, [(0, 600)], starts=starts, **options)
  for token in range(small_models.V):
    each = scores.nats[(ids == token) & scores.is_scored]
    assert np.ptp(each) < 1e-5
  assert context.loss_by_position(scores._replace(text=content))[0]["bytes"] == 3
