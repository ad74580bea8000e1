"""The automaton allows exactly the texts that Python's `re` allows, and samples obey it.

The tests enumerate all texts of a small vocabulary. They also check that importance weights recover
the model's distribution.
"""

import itertools
import re
import time

import jax.numpy as jnp
import numpy as np
import pytest
import toys
from scipy import special, stats

from charrnn import errors
from charrnn.data import tokenizers
from charrnn.evaluation import score
from charrnn.sampling import constraints, sampler

DOTTED = tokenizers.Tokenizer.from_text("ab.\n")
ALL_TEXTS = ["".join(each) for n in range(6) for each in itertools.product(DOTTED.tokens, repeat=n)]


def build(require=(), forbid=(), stop=None, length=5, tokenizer=DOTTED):
  required = [constraints.Regex("--require", text) for text in require]
  forbidden = [constraints.Regex("--forbid", text) for text in forbid]
  return constraints.build(required, forbidden, stop, tokenizer, length)


def texts_of(automaton, length):
  """Return all texts that the automaton allows, sorted."""

  def walk(text, state):
    allowed_V = automaton.allowed(state, length - len(text))
    if not allowed_V.any():
      yield text
    for token, allowed, after in zip(DOTTED.tokens, allowed_V, automaton.next_SxV[state]):
      if allowed:
        yield from walk(text + token, after)

  return sorted(walk("", 0))


def good_texts(require, forbid, stop):
  """Return the texts that satisfy the constraints and are no proper prefix of another such text."""

  def good(text):
    ended = stop and text.endswith(stop)
    text = text.removesuffix(stop) if ended else text
    result = [bool(re.search(re.sub(r"\$", r"\\Z", each), text, re.ASCII)) for each in require]
    result += [not re.search(re.sub(r"\$", r"\\Z", each), text, re.ASCII) for each in forbid]
    return all(result)

  def is_past_stop(text):  # a text ends at its first stop text
    return stop and stop in text[:-1]

  texts = [text for text in ALL_TEXTS if not is_past_stop(text) and good(text)]
  before = {text[:n] for text in texts for n in range(len(text))}
  return sorted(set(texts) - before)


PATTERNS = [
  (["a"], []),
  (["^ab"], []),
  (["b$"], []),
  (["^a.b$"], []),
  (["^(ab|b+a){1,2}$"], []),
  (["a{2}|^b|\\.$"], []),
  (["^[^a]*$"], []),
  (["(a|.)*b"], []),
  (["a?b*?", "\\w\\W\\s"], []),
  ([], ["a"]),
  ([], ["ab$", "^b"]),
  ([], ["^$", "[.b]{2,}"]),
  (["aa"], ["b", "\\n"]),
  (["^(a?){3}$"], ["^$"]),
  (["(a*)*b"], ["(b|)+a"]),
  (["[a-b.]\\n", "[]\\n]"], ["[^\\S]b", "[\\-\\^a]{3}"]),
  (["^\\x61(?:b|\\.){1,}?$"], []),
]


@pytest.mark.parametrize("require, forbid", PATTERNS)
@pytest.mark.parametrize("stop", [None, "\n", "ab", "aa", "aba"])
def test_automaton_allows_exactly_the_good_texts(require, forbid, stop):
  if not good_texts(require, forbid, stop):
    with pytest.raises(errors.UserError, match="contradictory"):
      build(require, forbid, stop)
    return
  automaton = build(require, forbid, stop)
  assert texts_of(automaton, 5) == good_texts(require, forbid, stop)
  assert automaton.next_SxV.shape[0].bit_count() == 1


def test_no_constraints_need_no_automaton():
  assert build() is None


def test_texts_end_within_the_length():
  automaton = build(["^(ab){1,}$"], length=7)
  assert texts_of(automaton, 5) == ["abab"]
  assert texts_of(automaton, 3) == ["ab"]


# Bytes of é and €, of invalid UTF-8, and pieces that begin or end inside of a character.
PIECES = [b"a", b"b", b"ab", b"\n", b"\xc3", b"\xa9", b"\xc3\xa9", b"\xe2\x82", b"\xac", b"a\xc3"]
MANY = ["ab", "a", "b\n", "", "aba", "\n"]


class _Vocabulary(tokenizers.Characters):
  """A vocabulary of arbitrary pieces, with or without incomplete characters."""

  represents_bytes = True

  @property
  def texts(self):
    return self.tokens

  @property
  def writable(self):
    return np.array([bool(text) for text in self.tokens])


def vocabulary(pieces):
  texts = [p if isinstance(p, str) else p.decode("utf-8", "surrogateescape") for p in pieces]
  return _Vocabulary((1,) * len(texts), tuple(texts))


@pytest.mark.parametrize("pieces", [PIECES, MANY], ids=["pieces of characters", "words"])
@pytest.mark.parametrize(
  "require, forbid, stop",
  [
    (["^.{2}$"], [], None),
    (["é"], [], None),
    ([], ["[^ab]"], None),
    (["^[^é]b"], ["a$"], None),
    (["^(ab|é)+$"], [], "\n"),
    (["b"], ["aa"], "ba"),
    ([], ["\\n"], "é"),
    (["[€-\U0001f600]"], [], "a"),
  ],
)
def test_tokens_of_several_characters_or_parts_of_one(pieces, require, forbid, stop):
  """Every sequence of tokens is allowed exactly if its decoded text is."""
  tokenizer, length = vocabulary(pieces), 4
  try:
    automaton = build(require, forbid, stop, length, tokenizer)
  except errors.UserError as error:
    assert "contradictory" in str(error)
    automaton = None
  content = [t.encode("utf-8", "surrogateescape") for t in tokenizer.texts]

  def decode(ids):
    return b"".join(content[n] for n in ids).decode("utf-8", "surrogateescape")

  def is_good(ids):
    text = decode(ids)
    if stop and stop in text:
      if stop in decode(ids[:-1]):
        return False  # A text ends at its first stop text.
      text = text.partition(stop)[0]
    match = [re.search(re.sub(r"\$", r"\\Z", each), text, re.ASCII) for each in require + forbid]
    return all(match[: len(require)]) and not any(match[len(require) :])

  options = [n for n, text in enumerate(tokenizer.texts) if text]
  sequences = [ids for n in range(length + 1) for ids in itertools.product(options, repeat=n)]
  good = {ids for ids in sequences if is_good(ids)}
  before = {ids[:n] for ids in good for n in range(len(ids))}
  found = set()

  def walk(ids, state):
    allowed_V = automaton.allowed(state, length - len(ids))
    if not allowed_V.any():
      found.add(ids)
    for token in np.flatnonzero(allowed_V).tolist():
      walk((*ids, token), automaton.next_SxV[state, token])

  if automaton:
    walk((), 0)
  assert found == good - before
  assert good or automaton is None


def test_a_byte_vocabulary_writes_any_character():
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  automaton = build(["^.{2}\xff$"], tokenizer=tokenizer)
  assert automaton.next_SxV.shape[1] == 256
  assert not automaton.allowed(0, 4)[ord("\n")]
  assert automaton.allowed(0, 4).sum() == 255
  assert build(["é"], tokenizer=tokenizer).allowed(0, 2).nonzero()[0].tolist() == [0xC3]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"require": ["abc"]}, "--require=abc: not in the run's vocabulary: c"),
    ({"forbid": ["\\d"]}, r"--forbid=\\d: not in the run's vocabulary: \\d"),
    ({"require": ["a{6}"]}, "--length=5: must be at least 6 for --require=a.6."),
    (
      {"require": ["^a$"], "forbid": ["a"]},
      "--require=.* --forbid=a: the constraints are contradictory",
    ),
    ({"forbid": ["a*"]}, "contradictory"),
    ({"require": ["a(a|b){20}a"]}, r"too large \(more than 8,192 states\)"),
    ({"require": ["^(.?){4000}$"]}, r"too large \(more than"),
    ({"require": ["(.{999}){999}"]}, "too large"),
    ({"stop": "ab" * 5000}, "--stop: too large"),
  ],
)
def test_impossible_constraints(arguments, message):
  start = time.monotonic()
  with pytest.raises(errors.UserError, match=message) as error:
    build(**arguments)
  assert "\n" not in str(error.value)
  assert time.monotonic() - start < 60


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "--require: must not be empty"),
    ("(a", r"missing \)"),
    ("a**", "multiple repeat"),
    ("[b-a]", "bad character range"),
    *(
      (text, "not supported")
      for text in ("\\bx", "(?=a)", "(a)\\1", "(^a)", "a$b", "(?i)a", "x{,3}")
    ),
    ("(" * 5000 + ")" * 5000, "not supported"),
    ("a\nb(", r"--require='a\\nb\('"),
  ],
)
def test_invalid_regular_expression(text, message):
  with pytest.raises(errors.UserError, match=message) as error:
    constraints.Regex("--require", text)
  assert "\n" not in str(error.value)


ABC = tokenizers.Tokenizer.from_text("abc")
TABLE = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)
LENGTH = 5
SETTINGS = "temperature", "top_k", "top_p"
CHAIN = toys.Chain()  # shared by all tests, because each object compiles its own programs


def draw(model, params, tokenizer, automaton, *, prompt=(0,), length=LENGTH, seed=5, **options):
  settings = {name: options.pop(name) for name in SETTINGS if name in options}
  samples = sampler.sample(
    sampler.Source(model, params, tokenizer),
    np.array(prompt),
    length=length,
    seed=seed,
    settings=sampler.Settings(**settings),
    automaton=automaton,
    **options,
  )
  return list(samples)


def matching(texts, require, forbid):
  return {
    text
    for text in texts
    if all(re.search(each, text) for each in require)
    and not any(re.search(each, text) for each in forbid)
  }


def distributions(require, forbid, temperature=1.0, top_k=None, prompt="a"):
  """Return {text: log p} and {text: log q} of the allowed texts of TABLE's chain after a prompt."""
  texts = ["".join(each) for n in range(LENGTH + 1) for each in itertools.product("abc", repeat=n)]
  good = matching(texts, require, forbid)
  before = {text[:n] for text in good for n in range(len(text))}
  begun, log_p, log_q = before | good, {}, {}
  for text in good - before:  # a text ends only when no good text continues it
    log_p[text] = log_q[text] = 0.0
    for n in range(len(text)):
      logits = TABLE["abc".index((prompt + text)[n])].astype(float)
      allowed = np.array([text[:n] + token in begun for token in "abc"])
      masked = np.where(allowed, logits, -np.inf) / temperature
      if top_k:
        masked = np.where(masked >= np.sort(masked)[-top_k], masked, -np.inf)
      log_p[text] += special.log_softmax(logits)["abc".index(text[n])]
      log_q[text] += special.log_softmax(masked)["abc".index(text[n])]
  return log_p, log_q


CONSTRAINTS = [
  (["bb"], []),
  ([], ["ca"]),
  (["^a", "c$"], ["bb"]),
  (["^(ab|c){2,}.$"], ["aba"]),
]


@pytest.mark.parametrize("require, forbid", CONSTRAINTS)
@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"temperature": 2.0, "top_k": 2}])
def test_frequencies_agree_with_log_q(require, forbid, settings):
  log_p, log_q = distributions(require, forbid, **settings)
  samples = draw(CHAIN, TABLE, ABC, build(require, forbid, tokenizer=ABC), num=3000, **settings)
  for sample in samples[:50]:
    assert sample.log_p == pytest.approx(log_p[sample.text], abs=1e-4)
    assert sample.log_q == pytest.approx(log_q[sample.text], abs=1e-4)
  texts = [text for text in log_q if log_q[text] > -np.inf]
  assert {sample.text for sample in samples} <= set(texts)
  counts = np.array([sum(sample.text == text for sample in samples) for text in texts])
  expected = 3000 * np.exp([log_q[text] for text in texts])
  often = expected >= 5
  counts, expected = (np.append(a[often], a[~often].sum()) for a in (counts, expected))
  assert stats.chisquare(counts + 1e-9, expected + 1e-9).pvalue > 1e-3


@pytest.mark.parametrize("require, forbid", CONSTRAINTS)
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_weights_recover_the_conditional_distribution(require, forbid, temperature):
  log_p, log_q = distributions(require, forbid)
  samples = draw(
    CHAIN, TABLE, ABC, build(require, forbid, tokenizer=ABC), num=3000, temperature=temperature
  )
  probability = sum(map(np.exp, log_p.values()))
  result = sampler.estimate(samples)
  assert np.exp(result.log_p) == pytest.approx(probability, rel=4 * result.error + 1e-5)
  weights = np.exp([sample.log_p - sample.log_q for sample in samples])
  deviations = []
  for text in log_p:
    is_text = np.array([sample.text == text for sample in samples])
    share = np.exp(log_p[text]) / probability
    error = np.sqrt((weights**2 * (is_text - share) ** 2).sum()) / weights.sum()
    deviations.append(abs((weights * is_text).sum() / weights.sum() - share) / (error + 0.003))
  assert max(deviations) < 4
  # Check that the weights matter: the sampler's distribution is not the conditional distribution.
  conditional = np.array([np.exp(log_p[text]) / probability for text in log_p])
  by_step = np.exp([log_q[text] for text in log_p])
  assert 0.5 * abs(conditional - by_step).sum() > 0.003


def test_error_of_the_estimate_matches_repeated_estimates():
  automaton = build(["bb"], tokenizer=ABC)
  estimates = [
    sampler.estimate(draw(CHAIN, TABLE, ABC, automaton, num=200, seed=s)) for s in range(30)
  ]
  p = np.exp([each.log_p for each in estimates])
  assert np.mean([each.error for each in estimates]) == pytest.approx(p.std() / p.mean(), rel=0.35)


def test_estimate_from_equal_weights_and_from_zero_weights():
  equal = sampler.estimate([sampler.Sample("", False, 1, -3.0, -1.0)] * 4)
  assert equal == pytest.approx((-2.0, 0.0, 4.0))
  assert sampler.estimate([sampler.Sample("", False, 1, -np.inf, -1.0)] * 2).log_p == -np.inf


LETTERS = tokenizers.Tokenizer.from_text("\n 1abcdefg")
LETTERS_TABLE = np.random.default_rng(4).normal(size=(LETTERS.vocab_size,) * 2).astype(np.float32)


@pytest.fixture(scope="module")
def lstm():
  return toys.lstm_params(vocab=LETTERS.vocab_size)


@pytest.mark.parametrize(
  "require, forbid",
  [
    (["bad"], []),
    ([r"^(.{3,7}\n){4}$"], ["[aeg]"]),
    (["^1", r"\d[a-c]+\d"], [r"\s"]),
    ([r"^\d{3}$"], []),
    (["a|b", "(cd){2}|gg1$"], ["(.)?f", "aa"]),
    ([], [r"^[^d]*$", "  "]),
  ],
)
def test_samples_satisfy_the_constraints(require, forbid):
  automaton = build(require, forbid, length=40, tokenizer=LETTERS)
  for seed, (temperature, top_p) in enumerate([(1.0, 1.0), (0.0, 1.0), (1.0, 0.3), (9.0, 1.0)]):
    # top_p is always set, so that all settings share one compiled program.
    settings = {"temperature": temperature, "top_p": top_p}
    samples = draw(
      CHAIN, LETTERS_TABLE, LETTERS, automaton, num=8, length=40, seed=seed, **settings
    )
    for text in (sample.text for sample in samples):
      assert matching([text], require, forbid), text
      assert len(text) == (3 if require == [r"^\d{3}$"] else 40) or "{4}$" in require[0]


def test_constraints_do_not_apply_to_the_prompt():
  automaton = build(forbid=["ab"], tokenizer=ABC)
  samples = draw(CHAIN, TABLE, ABC, automaton, num=200, prompt=[0])
  assert not any("ab" in sample.text for sample in samples)
  assert any(sample.text.startswith("b") for sample in samples)


def test_only_probabilities_include_the_stop_text():
  automaton = build(require=["b"], forbid=["c"], stop="ca", tokenizer=ABC)
  for sample in draw(CHAIN, TABLE, ABC, automaton, num=100):
    before = sample.text.removesuffix("ca")
    assert "b" in before and "c" not in before
    ids = [0, *ABC.encode(sample.text)]
    log_p = special.log_softmax(TABLE, axis=1)[ids[:-1], ids[1:]].sum()
    assert (sample.tokens, sample.log_p) == (len(sample.text), pytest.approx(log_p, abs=1e-4))


def test_log_p_matches_the_rescored_text(lstm):
  model, params = lstm
  automaton = build(["g"], ["f"], length=90, tokenizer=LETTERS)
  (sample,) = draw(
    model, params, LETTERS, automaton, num=1, length=90, prompt=[2, 3], temperature=0.7
  )
  ids_BxN = LETTERS.encode(sample.text)[None]
  _, nats_BxN = score.rescore(model, params, [2, 3], ids_BxN, sampler.Settings())
  assert sample.log_p == pytest.approx(-nats_BxN.sum(), abs=1e-3)
  free = draw(model, params, LETTERS, None, num=3, length=90, prompt=[2, 3])
  assert [each.log_p for each in free] == pytest.approx([each.log_q for each in free], abs=1e-4)


def test_block_size_does_not_change_texts(lstm):
  automaton = build([r"^(\w\n){3,8}$"], length=20, tokenizer=LETTERS)
  rows = draw(*lstm, LETTERS, automaton, num=3, length=20)
  assert [sample.text for sample in draw(*lstm, LETTERS, automaton, num=3, length=20, block=7)] == [
    sample.text for sample in rows
  ]


def test_regexes_of_similar_size_share_a_program():
  model, table = toys.Chain(), jnp.asarray(TABLE)
  draw(model, table, ABC, build(["abc"], tokenizer=ABC), num=2)
  before = sampler._run._cache_size()
  draw(model, table, ABC, build(["cba"], ["bb"], tokenizer=ABC), num=2)
  draw(model, table, ABC, build(stop="abab", length=9, tokenizer=ABC), num=2, length=9)
  assert sampler._run._cache_size() == before


def test_diverged_model_is_an_error():
  with pytest.raises(errors.UserError, match="diverged"):
    draw(CHAIN, np.full((3, 3), np.nan, np.float32), ABC, build(["a"], tokenizer=ABC), num=1)
