import numpy as np
import pytest

from charrnn.models import ngram


def strings(levels, vocab):
  """The strings of each level as tuples, spelt out from their contexts."""
  spelt = [None, ()]
  for level in levels:
    contexts = np.repeat(np.arange(len(level.first) - 1), np.diff(level.first))
    spelt = [None, *((*spelt[c], int(s)) for c, s in zip(contexts, level.symbols[1:]))]
    yield spelt


def test_a_text_counted_by_hand():
  # a b a b c: the beginning stands before a, a b, a b a and a b a b.
  levels = ngram.count(np.array([0, 1, 0, 1, 2], np.uint8), 3, 3)
  one, two, three = strings(levels, 3)
  assert one[1:] == [(0,), (1,), (2,)]
  assert levels[0].raw[1:].tolist() == [2, 2, 1]
  assert levels[0].continuation[1:].tolist() == [2, 1, 1]  # beginning and b; a; b
  assert two[1:] == [(0, 1), (1, 0), (1, 2)]
  assert levels[1].raw[1:].tolist() == [2, 1, 1]
  assert levels[1].continuation[1:].tolist() == [2, 1, 1]  # beginning and b; a; a
  assert three[1:] == [(0, 1, 0), (0, 1, 2), (1, 0, 1)]
  assert levels[2].raw[1:].tolist() == [1, 1, 1]
  assert levels[2].continuation is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_counts_are_those_of_a_dictionary(dtype):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 4, 300).astype(dtype)
  segments = [(0, 100), (120, 121), (121, 121), (150, 300)]
  levels = ngram.count(ids, 5, 4, segments)
  for n, (level, spelt) in enumerate(zip(levels, strings(levels, 4)), 1):
    raw, left = {}, {}
    for start, stop in segments:
      for t in range(start, stop - n + 1):
        string = tuple(ids[t : t + n].tolist())
        raw[string] = raw.get(string, 0) + 1
        left.setdefault(string, set()).add(int(ids[t - 1]) if t > start else "beginning")
    assert dict(zip(spelt[1:], level.raw[1:].tolist())) == raw
    assert spelt[1:] == sorted(raw)
    if n < 5:
      assert level.continuation[1:].tolist() == [len(left[s]) for s in spelt[1:]]


def test_find_gives_the_number_of_every_string_and_0_for_all_others():
  ids = np.random.default_rng(1).integers(0, 7, 200)
  levels = ngram.count(ids, 3, 7)
  for level, spelt in zip(levels, strings(levels, 7)):
    contexts = np.arange(len(level.first) - 1)
    found = ngram.find(level, contexts[:, None], np.arange(7), 7)
    assert not found[0].any()  # after a context that does not occur
    assert sorted(found[found > 0].tolist()) == list(range(1, len(spelt)))
    rows, symbols = np.nonzero(found)
    assert (level.symbols[found[rows, symbols]] == symbols).all()
    assert (level.first[rows] <= found[rows, symbols]).all()
    assert (found[rows, symbols] < level.first[rows + 1]).all()


def test_a_text_shorter_than_the_order_has_levels_without_strings():
  levels = ngram.count(np.array([1, 0]), 4, 2)
  assert [len(level.raw) - 1 for level in levels] == [2, 1, 0, 0]


def test_discounts_by_hand():
  counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 7])
  # Y = 10 / 20;  1 - 2 Y 5/10, 2 - 3 Y 3/5, 3 - 4 Y 2/3
  np.testing.assert_allclose(ngram.discounts(counts), [0, 0.5, 1.1, 3 - 4 / 3])


@pytest.mark.parametrize(
  "numbers",
  [(0, 5, 3, 2), (10, 0, 3, 2), (10, 5, 0, 2), (10, 1, 30, 2), (10, 5, 1, 9), (0, 0, 0, 0)],
  ids=["no 1", "no 2", "no 3", "D_2 < 0", "D_3 < 0", "none"],
)
def test_discounts_fall_back_where_the_formula_has_none(numbers):
  counts = np.repeat([1, 2, 3, 4], numbers)
  assert ngram.discounts(counts).tolist() == [0, *ngram.FALLBACK]


def test_without_counts_of_4_the_formula_still_holds():
  counts = np.repeat([1, 2, 3], [10, 5, 3])
  np.testing.assert_allclose(ngram.discounts(counts), [0, 0.5, 1.1, 3])
