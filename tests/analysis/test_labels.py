"""Tests of the labels of prose with labels written by hand, and of their causality."""

import random

import aligned
import pytest

from charrnn.analysis import hypotheses, labels

WRITTEN = {
  "line-position": [
    ("abc¶de¶¶f", "123012001"),
    ("¶é→x", "0123"),
    ("ab←¶c", "12301"),
  ],
  # The width is the length of the longer line, 8. Characters from the seventh on are near the end.
  "near-line-end": [
    ("abc¶12345678¶a", "00000000001100"),
    ("¶¶", "00"),
  ],
  "next-is-newline": [
    ("ab¶¶c", "0110."),
    ("ab←¶c", "0110."),
    ("a", "."),
  ],
  # The width is 6: "e" does not fit after "ab cd", but "fgh" fits after "e".
  "word-does-not-fit": [
    ("ab cd¶e¶fgh ij", "000110000000.."),
    ("one", "..."),
    ("a b ", "00.."),
    ("  ab¶abcd¶", "00110....."),
  ],
  "indentation": [
    ("a¶  b c¶d", "0...222.0"),
    ("→x¶  →y¶   ¶z", ".8....8.....0"),
    ("  ←¶ a", ".....1"),
  ],
  "url": [
    ("see http://a.b/c d", "000000000011111100"),
    ("https://é¶http:/ //", "0000000110000000000"),
    ("(http://a)http://b", "000000011111111111"),
  ],
  "wiki-link": [
    ("a[[b|c]]d[e]", "001111100000"),
    ("[[a[[b]c]]d]]e", "01111111111100"),
    ("[[a¶b¶¶c]]", "0111110000"),
    ("]][[", "0001"),
  ],
  "in-quotes": [
    ('a "b c" d', "001111000"),
    ('"a¶b¶¶"c" d', "11111011000"),
    ('"a¶ → ¶b"', "111111001"),
    ("“a” b ”“c“d¶", "110000011111"),
    ("don't 'say' '\"'", "000000000000011"),
    ('é "', "001"),
    ('"a←¶←¶b', "1111100"),
  ],
  "in-single-quotes": [
    ("a 'b c' d", "001111000"),
    ("don't ‘say’ it", "00000011110000"),
    ("he said, 'don't,' twice", "00000000011111110000000"),
    ("'Tis 'bout the '90s' end 'a'", "0000000000000000000000000110"),
    ("\"a 'b,'\" c", "0001110000"),
    # A quotation that is not closed counts if it begins the paragraph.
    ("'a b¶¶'c' d", "11111011000"),
    ("¶‘a¶b¶ ¶c ‘d¶", "0111111000000"),
    ("the boys' 'a'", "0000000000110"),
  ],
  "dialogue-dash": [
    ("—a b¶c¶¶d", "011111100"),
    ("a¶¶¶-- b? —c¶ ¶—", "0000000111111100"),
    ("a —b¶—c¶--", "0000000000"),
    ("---a", "0000"),
    ("  – a", "00001"),
  ],
  "speaker": [
    ("A:¶b¶¶Old Man:¶c", "1100001111111100"),
    ("Hear:¶Me:¶¶me:¶", "111110000000000"),
    ("¶¶Friar John-o:←¶¶¶A: b", "00111111111111100000000"),
    ("→¶O'Neil & Co:", "00111111111111"),
    ("Aé:¶¶A1:", "00000000"),
    ("A" * 41 + ":", "1" * 42),
    ("A" * 42 + ":", "0" * 43),
  ],
  "parenthesis-depth": [
    ("a (b (c) d) e", "0011122111000"),
    (")(¶ ¶ ) (", "011100001"),
  ],
  "bracket-depth": [("[a[b]](c) [", "11221000001")],
}
CASES = [(name, *case) for name, cases in WRITTEN.items() for case in cases]
STATES = [
  each.name for each in hypotheses.HYPOTHESES.values() if each.language != "c" and not each.predicts
]


@pytest.mark.parametrize(("name", "shown", "expected"), CASES)
def test_labels_equal_the_labels_written_by_hand(name, shown, expected):
  aligned.check(hypotheses.HYPOTHESES[name].function, shown, expected)


def test_every_hypothesis_of_prose_has_a_case():
  assert set(WRITTEN) == {h.name for h in hypotheses.HYPOTHESES.values() if h.language != "c"}


@pytest.mark.parametrize("name", STATES)
def test_labels_of_states_depend_on_earlier_characters_only(name, monkeypatch):
  # The width depends on the whole text, so this test fixes it.
  monkeypatch.setattr(labels, "_width", lambda text: 8)
  function, rng = hypotheses.HYPOTHESES[name].function, random.Random(0)
  for _ in range(40):
    text = aligned.random_text(rng, 60)
    aligned.check_causal(function, text)


def test_covering_counts_spans():
  spans = [(1, 4), (2, 3), (2, 2), (0, 1)]
  assert labels.covering(5, spans).tolist() == [1, 1, 2, 1, 0]
  assert labels.covering(0, []).tolist() == []


def test_a_step_lasts_until_the_next_step():
  assert labels.steps(5, [(1, 2), (3, 0), (3, 7), (5, 9)]).tolist() == [0, 2, 2, 7, 7]
  assert labels.steps(0, []).tolist() == []
