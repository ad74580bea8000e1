"""Tests of matching: effects equal SciPy's, planted units are found, and noise is not."""

import json

import numpy as np
import pytest
import targets as targets_lib
from scipy import signal, stats
from targets import label as _label

from charrnn import errors
from charrnn.analysis import effects, inference, matching, study


def _runs(rng, n, mean=20):
  """Return alternating runs of 0 and 1 with a mean length of about `mean`."""
  lengths = rng.geometric(1 / mean, 2 * n // mean + 100)
  return np.repeat(np.arange(len(lengths)) % 2, lengths)[:n].astype(np.float32)


def _autocorrelated(rng, n, columns, memory=0.97):
  noise = rng.standard_normal((n + 500, columns))
  return signal.lfilter([1], [1, -memory], noise, axis=0)[500:].astype(np.float32)


def _match(recording, labeled, *, bars=None, units=None, progress=None, make=None, **design):
  """Match columns c0, c1, ...; `make` has options of targets.make, `design` fields of Design."""
  columns = [f"c{column}" for column in range(recording.shape[1])]
  targets = targets_lib.make(labeled, **make or {})
  defaults = {"halves": targets_lib.in_two(len(recording)), "shifts": 39, "min_characters": 100}
  design = effects.Design(**defaults | design)
  return matching.match(
    recording, columns, targets, design, bars=bars, units=units, progress=progress
  )


def _mixed(seed=0, n=3000):
  """Return columns with and without ties, and masked and unmasked labels of every kind."""
  rng = np.random.default_rng(seed)
  recording = rng.standard_normal((n, 6)).astype(np.float32)
  recording[:, 1] = np.round(recording[:, 1])
  recording[:, 2] = 0.25
  position = np.arange(n) % 30
  recording[:, 3] += position / 10
  mask = rng.random(n) < 0.7
  labels = {
    "runs": ("binary", _label(_runs(rng, n))),
    "masked": ("binary", _label(np.where(mask, rng.random(n) < 0.2, 9), mask)),
    "position": ("graded", _label(position)),
    "depth": ("graded", _label(np.where(mask, rng.integers(0, 4, n), np.nan), mask)),
  }
  return recording, labels


def _places(label, spans, lags, n_shifts):
  """Return the positions where the label is defined at every lag within the same span."""
  places = [
    t
    for start, stop in spans
    for t in range(start, stop)
    if all(start <= t - lag < stop and label.mask[t - lag] for lag in lags)
  ]
  return np.array(places[: len(places) - len(places) % n_shifts])


def _scipy_effect(kind, x, y):
  if not np.ptp(x):
    return 0.0
  if kind == "graded":
    return stats.spearmanr(x, y).statistic
  above = stats.mannwhitneyu(x[y == 1], x[y == 0]).statistic
  return 2 * above / (y.sum() * (1 - y).sum()) - 1


@pytest.mark.parametrize("lags", [(0,), (-1, 0, 1), (2,)])
def test_every_effect_equals_scipys(lags):
  recording, labels = _mixed()
  parts = inference.Halves(((0, 700), (1400, 2200)), ((700, 1400), (2200, 3000)), "blocks")
  result = _match(recording, labels, lags=lags, halves=parts)
  assert not any(finding.reason for finding in result.findings)
  for index, (kind, label) in enumerate(labels.values()):
    for column, values in enumerate(recording.T.astype(np.float64)):
      lag = int(result.lags[column, index])
      for spans, effects_CxH in [
        (parts.discovery, result.effects),
        (parts.confirmation, result.confirmed),
      ]:
        places = _places(label, spans, lags, 40)
        every = {
          each: _scipy_effect(kind, values[places], label.values[places - each].astype(float))
          for each in lags
        }
        assert effects_CxH[column, index] == pytest.approx(every[lag], abs=2e-4)
        if effects_CxH is result.effects:
          assert abs(every[lag]) == pytest.approx(max(map(abs, every.values())), abs=2e-4)


@pytest.mark.parametrize("kind", ["binary", "graded", "controlled"])
def test_the_null_equals_the_effects_of_rolled_labels(kind):
  rng = np.random.default_rng(0)
  x, position = rng.standard_normal((600, 2)).astype(np.float32), np.arange(600) % 7
  label = _label(_runs(rng, 600)) if kind != "graded" else _label(rng.integers(0, 5, 600))
  stratum = position if kind == "controlled" else None
  target = effects.Target("t", kind, label.values.astype(float), label.mask, None, stratum)
  halves = inference.Halves(((0, 600),), (), "blocks")
  design = effects.Design(halves, lags=(0,), shifts=19)
  (group,) = effects._groups([target], 0, design, design.n_shifts)
  results = effects.group_effects(effects.encode(x, slice(0, 2), ["a", "b"]), group, 20)
  aims = inference.centered_ranks(label.values)
  aims = inference.residual(aims, stratum) if kind == "controlled" else aims
  for shift in range(20):
    for column in range(2):
      y = np.roll(label.values, -30 * shift)
      expected = _scipy_effect(kind, x[:, column], y)
      if kind == "controlled":
        expected = inference.correlation(
          inference.centered_ranks(x[:, column]), np.roll(aims, -30 * shift)
        )
      assert results[column, shift, 0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("lag", [-1, 0, 1])
def test_planted_units_are_found(lag, direction):
  rng = np.random.default_rng(5)
  n = 12_000
  recording = _autocorrelated(rng, n, 20)
  in_quotes, depth = _runs(rng, n, 15), _autocorrelated(rng, n, 1)[:, 0]
  # At lag +1, a column is one character late.
  recording[:, 7] = direction * np.roll(in_quotes, lag) + 0.4 * rng.standard_normal(n)
  recording[:, 11] = direction * np.exp(np.roll(depth, lag)) + 0.1 * rng.standard_normal(n)
  labels = {
    "in quotes": ("binary", _label(in_quotes)),
    "depth": ("graded", _label(depth)),
    "control": ("binary", _label(_runs(rng, n, 15))),
  }
  result = _match(recording, labels)
  quotes, deep, control = result.findings
  assert (quotes.column, quotes.name, quotes.lag, quotes.direction) == (7, "c7", lag, direction)
  assert (deep.column, deep.lag, deep.direction) == (11, lag, direction)
  assert quotes.significant and deep.significant and not control.significant
  for finding in (quotes, deep):
    for half in (finding.discovery, finding.confirmation):
      assert half.p == half.family_p == 1 / 40
      assert half.to_beat <= half.family_to_beat < half.score
  # The expected AUROC is P(N(1, 0.16) > N(0, 0.16)) on both halves.
  expected = stats.norm.cdf(1 / (0.4 * np.sqrt(2)))
  assert quotes.discovery.score == pytest.approx(expected, abs=0.01)
  assert quotes.confirmation.score == pytest.approx(expected, abs=0.01)
  assert quotes.average_precision > 0.9 and quotes.mcc > 0.7 and 0.3 < quotes.share < 0.7
  # The threshold is for direction * column, which is about 0 outside and 1 inside.
  assert quotes.threshold == pytest.approx(0.5, abs=0.1)
  assert deep.isotonic_r2 > 0.5 and deep.mcc is None and quotes.isotonic_r2 is None
  assert result.interpretable.by_hypothesis == {"in quotes": 1, "depth": 1, "control": 0}
  assert (result.interpretable.count, result.interpretable.of) == (2, 20)
  interval = result.interpretable.low, result.interpretable.high
  assert interval == pytest.approx(
    (0.0279, 0.3010), abs=1e-4
  )  # Wilson's interval from R's binom.confint


def test_the_statistics_of_a_finding_equal_those_of_its_column():
  recording, labels = _mixed()
  finding = _match(recording, labels).findings[0]
  _, label = labels["runs"]
  fit, test = (_places(label, spans, (-1, 0, 1), 40) for spans in targets_lib.in_two(3000)[:2])
  x, y = finding.direction * recording[:, finding.column].astype(float), label.values
  y_fit, y_test = y[fit - finding.lag], y[test - finding.lag]
  assert finding.discovery.score == pytest.approx(inference.auroc(x[fit], y_fit))
  assert finding.confirmation.score == pytest.approx(inference.auroc(x[test], y_test))
  assert finding.threshold == inference.best_threshold(x[fit], y_fit)
  assert finding.mcc == inference.mcc_at(finding.threshold, x[test], y_test)
  assert finding.average_precision == inference.average_precision(x[test], y_test)
  assert finding.share == pytest.approx(y_test.mean()) and finding.characters == len(test)


def test_the_column_is_selected_on_the_discovery_half_only():
  rng = np.random.default_rng(0)
  n = 6000
  recording, y = rng.standard_normal((n, 5)).astype(np.float32), _runs(rng, n)
  recording[n // 2 :, 1] += 5 * y[n // 2 :]
  recording[: n // 2, 3] += y[: n // 2]
  finding = _match(recording, {"y": ("binary", _label(y))}).findings[0]
  assert finding.column == 3 and finding.discovery.score > 0.7
  assert abs(finding.confirmation.score - 0.5) < 0.05 and not finding.significant


def test_a_line_position_unit_does_not_follow_if_bodies():
  rng = np.random.default_rng(0)
  n = 20_000
  position = np.arange(n) % 61 + np.repeat(rng.integers(0, 9, n // 50), 50)
  in_body = _runs(rng, n) * (rng.random(n) < 0.2) + (position > 35) * (rng.random(n) < 0.8) > 0
  recording = rng.standard_normal((n, 8)).astype(np.float32)
  recording[:, 2] = position + rng.standard_normal(n)
  recording[:, 5] += 0.8 * in_body
  labels = {"if body": ("binary", _label(in_body)), "column": ("graded", _label(position))}
  result = _match(recording, labels, make={"confounds": {"if body": ["column"]}})
  raw, column, controlled = result.findings
  assert raw.column == column.column == 2 and raw.significant
  assert abs(raw.partial) < 0.05 and abs(raw.stratified_auroc - 0.5) < 0.05
  assert (controlled.hypothesis, controlled.statistic) == ("if body | column", "semipartial")
  assert controlled.column == 5 and controlled.significant
  assert controlled.partial >= controlled.confirmation.score
  assert result.interpretable.by_hypothesis["if body | column"] == 1
  uncounted = _match(
    recording, labels, make={"confounds": {"if body": ["column"]}, "predictions": ["column"]}
  )
  assert (result.interpretable.count, uncounted.interpretable.count) == (2, 1)


def test_columns_of_one_unit_count_once():
  rng = np.random.default_rng(0)
  recording, y = rng.standard_normal((6000, 6)).astype(np.float32), _runs(rng, 6000)
  recording[:, :3] += y[:, None]
  labels = {"y": ("binary", _label(y))}
  units = _match(recording, labels, units=[0, 0, 1, 1, 2, 2]).interpretable
  assert (units.count, units.of, units.by_hypothesis) == (2, 3, {"y": 2})


def _noise(seed, planted, n=6000):
  rng = np.random.default_rng(seed)
  recording = _autocorrelated(rng, n, 8)
  mask = np.ones(n, bool)
  mask[rng.integers(0, n - 300) :][:300] = False
  labels = {
    "fast": ("binary", _label(_runs(rng, n, 10))),
    "slow": ("binary", _label(_runs(rng, n, 60), mask)),
    "graded": ("graded", _label(_autocorrelated(rng, n, 1, 0.95)[:, 0])),
  }
  if planted:
    recording[:, 0] += 4 * labels["fast"][1].values
  result = _match(recording, labels)
  return [finding for finding in result.findings[planted:]], result.interpretable


@pytest.mark.parametrize("planted", [0, pytest.param(1, marks=pytest.mark.long)])
def test_noise_is_significant_at_most_at_the_nominal_rate(planted):
  """Columns have a memory of 33 characters, labels have long runs; one column may be planted."""
  times, alpha = 100, 0.05
  results = [_noise(seed, planted) for seed in range(times)]
  at_most = stats.binom.ppf(0.999, times, alpha)
  for half in ("discovery", "confirmation"):
    wrong = sum(min(getattr(f, half).family_p for f in fs) <= alpha for fs, _ in results)
    assert wrong <= at_most
  assert sum(any(f.significant for f in fs) for fs, _ in results) <= 2
  assert sum(units.count > planted for _, units in results) <= at_most
  # Single hypotheses are significant at about the nominal rate, so the bounds are tight.
  single = [f.discovery.p <= alpha for fs, _ in results for f in fs]
  assert stats.binom.ppf(0.001, len(single), alpha) <= sum(single)


def test_slabs_and_memmaps_give_the_same_result(monkeypatch, tmp_path):
  recording, labels = _mixed()
  mapped = np.memmap(tmp_path / "recording", np.float32, "w+", shape=recording.shape)
  mapped[:] = recording
  whole, ticks = _match(recording, labels), []
  monkeypatch.setattr(effects, "SLAB_BYTES", 4 * effects.BYTES * len(recording))
  parts = _match(mapped, labels, progress=lambda done, of: ticks.append((done, of)))
  assert ticks == [(4, 6), (6, 6)]
  np.testing.assert_allclose(whole.effects, parts.effects, atol=1e-6)
  assert [f.column for f in whole.findings] == [f.column for f in parts.findings]


def test_the_result_can_be_written_as_json():
  recording, labels = _mixed()
  labels |= {"never": ("binary", _label(np.zeros(3000)))}
  result = _match(recording, labels, make={"confounds": {"runs": ["position"]}})
  data = json.loads(json.dumps(study.plain(result._asdict()), allow_nan=False))
  assert [each["hypothesis"] for each in data["findings"]] == [*labels, "runs | position"]
  assert len(data["effects"]) == 6
  assert data["findings"][4]["reason"] == "no positives in the discovery half"
  assert [row[4] for row in data["effects"]] == [None] * 6
  assert data["spacing"] == 1498 // 40
  assert data["findings"][0]["discovery"]["p"] == result.findings[0].discovery.p


def test_without_shifts_there_are_scores_but_no_p_values():
  recording, labels = _mixed()
  finding = _match(recording, {"position": labels["position"]}, shifts=0).findings[0]
  assert finding.column == 3 and finding.confirmation.score > 0.5
  assert finding.confirmation.p is finding.significant is None
  assert _match(recording, labels, shifts=0).interpretable is None
  few = _match(recording, labels, shifts=9)
  assert few.findings[0].discovery.to_beat is None and few.interpretable is None


@pytest.mark.parametrize(
  ("kind", "values", "masked", "reason"),
  [
    ("binary", 0, 0, "no positives in the discovery half"),
    ("binary", 1, 0, "no negatives in the discovery half"),
    ("graded", 7, 0, "constant in the discovery half"),
    ("graded", np.arange(3000) < 1600, 0, "constant in the discovery half"),
    ("binary", np.arange(3000) == 4, 0, "no positives in the confirmation half"),
    # The only positive is at the last position, where it is in range at one lag only.
    ("binary", np.arange(3000) % 1500 == 1499, 0, "no positives in the discovery half"),
    ("binary", np.arange(3000) % 2, 3000, "defined at 0 characters of the discovery half"),
    ("binary", np.arange(3000) % 2, 2950, "defined at 0 characters of the discovery half"),
    ("binary", np.arange(3000) % 2, 1420, "defined at 40 characters of the discovery half"),
  ],
)
def test_an_unscored_hypothesis_has_a_reason(kind, values, masked, reason):
  recording, labels = _mixed()
  label = _label(np.broadcast_to(values, 3000), np.arange(3000) >= masked)
  result = _match(recording, labels | {"flat": (kind, label)})
  assert not result.findings[4].scored and result.findings[4].reason.startswith(reason)
  assert np.isnan(result.effects[:, 4]).all()
  # The other hypotheses are scored as if this one did not exist.
  assert result.findings[:4] == _match(recording, labels).findings


def test_a_function_of_its_confounds_is_not_scored_controlling_for_them():
  recording, labels = _mixed()
  labels["late"] = "binary", _label(labels["position"][1].values > 20)
  late = _match(recording, labels, make={"confounds": {"late": ["position"]}}).findings[-1]
  assert late.reason == "determined by its confounds in the discovery half"


def test_tiny_texts_and_constant_columns_do_not_fail():
  labels = {"y": ("binary", _label([0, 1, 0, 1, 1]))}
  result = _match(np.zeros((5, 2), np.float32), labels)
  assert not result.findings[0].scored and result.interpretable is None
  recording, labels = _mixed()
  result = _match(np.ones_like(recording), labels)
  assert not result.effects.any() and not any(f.significant for f in result.findings)
  assert result.interpretable.count == 0
  json.dumps(study.plain(result._asdict()), allow_nan=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_raise(bad):
  recording, labels = _mixed()
  recording[1234, 4] = bad
  with pytest.raises(errors.UserError, match="column c4 contains values that are not finite"):
    _match(recording, labels)


def test_bad_labels_raise():
  recording, labels = _mixed()
  for bad, message in [
    (("binary", _label(np.arange(3000))), "values other than 0 and 1"),
    (("graded", _label(np.full(3000, np.nan))), "not finite"),
  ]:
    with pytest.raises(errors.UserError, match=message):
      _match(recording, labels | {"bad": bad})


def test_labels_of_the_next_character_are_not_scored_after_it_was_read():
  rng = np.random.default_rng(0)
  label = _label(np.repeat(rng.random(300) < 0.3, 10))
  late = np.roll(label.values, 1) + 0.01 * rng.standard_normal(3000)
  early = label.values + 0.5 * rng.standard_normal(3000)
  recording = np.stack([late, early], axis=1).astype(np.float32)
  labels = {"next": ("binary", label)}
  free = _match(recording, labels, shifts=0)
  restricted = _match(recording, labels, shifts=0, make={"of_next": ["next"]})
  assert (free.findings[0].name, free.findings[0].lag) == ("c0", 1)
  assert restricted.findings[0].lag <= 0


def test_significance_is_none_without_a_bar_if_other_hypotheses_have_bars():
  recording, labels = _mixed()
  plain = _match(recording, labels)
  result = _match(recording, labels, bars={"position": 0.0})
  by_name = {each.hypothesis: each for each in result.findings}
  assert by_name["position"].significant is True
  assert by_name["runs"].significant is None
  assert {each.hypothesis: each.significant for each in plain.findings}["runs"] is not None
  assert result.interpretable.by_hypothesis["runs"] == 0
  assert _match(recording, labels, bars={}).interpretable is None
