"""Tests of sparse linear probes on planted states, and against a plain greedy search."""

import json

import numpy as np
import pytest
import targets as targets_lib

from charrnn.analysis import effects, probes, recording, study

N, UNITS = 4000, 24


def _state(seed=0, units=UNITS):
  return np.random.default_rng(seed).standard_normal((N, units), np.float32)


def _recorded(values, names=None):
  names = names or [(0, "h", unit) for unit in range(values.shape[1])]
  columns = tuple(recording.Column(*name) for name in names)
  units = tuple(recording.Unit(column.layer, "", column.unit) for column in columns)
  return recording.Recording(columns, units, values, None)


def _probe(values, labeled, types=None, recorded=None, lags=(-1, 0, 1), seed=0, **options):
  """Return the entries of probes of all columns, by hypothesis."""
  types = np.random.default_rng(1).integers(0, 50, N) if types is None else types
  design = effects.Design(targets_lib.in_two(N), lags=lags, shifts=0)
  labels = targets_lib.make(labeled, **options)
  recorded = recorded or _recorded(values)
  entries = probes.probe(
    recorded, range(values.shape[1]), labels, design, types, seed, lambda done, total: None
  )
  return {entry["hypothesis"]: entry for entry in entries}


def _binary(values, mask=None):
  return "binary", targets_lib.label(values, mask)


def _graded(values, mask=None):
  return "graded", targets_lib.label(values, mask)


def test_a_label_in_one_unit_needs_one_unit_but_many_rotated_directions():
  values = _state()
  label = np.random.default_rng(2).random(N) < 0.2
  values[:, 5] = 2 * label + 0.3 * values[:, 5]
  entry = _probe(values, {"a": _binary(label)})["a"]
  assert entry["k"] == [1, 2, 4, 8, 16]
  assert entry["columns"][0] == ["0:h5"]
  assert entry["units"][0] > 0.99
  assert abs(entry["units"] - entry["units"][0]).max() < 0.01
  assert entry["rotated_high"][0] < 0.9
  assert entry["rotated"][-1] > entry["rotated"][0] + 0.1
  assert (entry["rotated_low"] <= entry["rotated"]).all()
  assert (entry["rotated"] <= entry["rotated_high"]).all()


def test_a_label_in_a_direction_of_eight_units_needs_eight_units():
  values, direction = _state(), np.zeros(UNITS)
  direction[:16:2] = np.array([1, -1, 1, 1, -1, 1, -1, -1]) / np.sqrt(8)
  label = values @ direction > 1
  entry = _probe(values, {"a": _binary(label)})["a"]
  assert sorted(entry["columns"][3]) == sorted(f"0:h{n}" for n in range(0, 16, 2))
  assert entry["units"][3] > 0.99 and entry["units"][0] < 0.8
  assert (np.diff(entry["units"][:4]) > 0.03).all()
  assert abs(entry["units"][4] - entry["units"][3]) < 0.01
  # In a basis that contains the direction, one feature suffices.
  random = np.column_stack([direction, _state(3)[:UNITS, 1:]])
  basis = [np.linalg.qr(random)[0].astype(np.float32)]
  moments = values.T @ (label - label.mean()).astype(np.float32)
  gram = values.T @ values
  found = probes.select(gram.__matmul__, [gram], moments[:, None], basis)
  assert found.features_SxR[0, 0] == 0
  weights = found.weights_KxFxR[0, :, 0]
  assert abs(weights @ direction) / np.linalg.norm(weights) > 0.999


def test_a_label_in_the_direction_of_the_largest_variance_needs_one_component():
  rng = np.random.default_rng(2)
  latent = rng.standard_normal(N)
  values = np.float32(_state() + np.outer(latent, rng.choice([-1.5, 1.5], UNITS)))
  entry = _probe(values, {"a": _graded(np.exp(latent))})["a"]
  assert entry["components"][0] > 0.97
  assert entry["units"][0] < 0.9


def test_layers_are_rotated_apart():
  values = _state(units=48)
  labeled = {"a": _binary(values[:, 3] > 0.5)}
  names = [(layer, "h", unit) for layer in range(3) for unit in range(16)]
  apart = _probe(values, labeled, recorded=_recorded(values, names))["a"]
  together = _probe(values, labeled)["a"]
  assert apart["features"] == together["features"] == 48
  assert apart["rotated"][4] > 0.99  # 16 directions span a layer,
  assert together["rotated_high"][4] < 0.98  # but not all 48 units.
  sizes = [3, 5]
  for matrix, size in zip(probes.rotation(sizes, 0, 1), sizes):
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(size), atol=1e-5)


def test_kinds_of_units_are_probed_apart():
  values = _state()
  names = [(0, kind, unit) for kind in "hm" for unit in range(UNITS // 2)]
  columns = tuple(recording.Column(*name) for name in names)
  units = tuple(recording.Unit(*name) for name in names)
  recorded = recording.Recording(columns, units, values, None)
  design = effects.Design(targets_lib.in_two(N), shifts=0)
  label = targets_lib.make({"a": _binary(values[:, 20] > 0), "b": _binary(values[:, 1] > 0)})
  types, calls = np.zeros(N, int), []
  entries = probes.probe(
    recorded, range(UNITS), label, design, types, 0, lambda *call: calls.append(call)
  )
  named = {(each["hypothesis"], *each["quantities"]): each for each in entries}
  assert [*named] == [("a", "h"), ("a", "m"), ("b", "h"), ("b", "m")]
  assert named["a", "m"]["units"][0] > 0.99
  assert named["a", "h"]["units"][0] < 0.6
  assert named["b", "h"]["columns"][0] == ["0:h1"]
  assert calls[-1] == (2, 2)


def _greedy(features_nxF, aim_n, count):
  """Return the features of forward selection, by fitting every candidate, and the prediction."""
  chosen = []
  for _ in range(count):
    errors = {}
    for candidate in set(range(features_nxF.shape[1])) - {*chosen}:
      part = features_nxF[:, [*chosen, candidate]]
      fitted = part @ np.linalg.lstsq(part, aim_n, rcond=None)[0]
      errors[candidate] = ((aim_n - fitted) ** 2).sum(), fitted
    best = min(errors, key=lambda candidate: errors[candidate][0])
    chosen.append(best)
  return chosen, errors[best][1], 1 - errors[best][0] / (aim_n @ aim_n)


@pytest.mark.parametrize("kind", ["units", "rotated"])
def test_the_selection_equals_a_plain_greedy_search(kind):
  rng = np.random.default_rng(4)
  values = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12))  # correlated features
  values -= values.mean(axis=0)
  aims = values @ rng.standard_normal((12, 3)) + 5 * rng.standard_normal((300, 3))
  aims -= aims.mean(axis=0)
  aims /= np.linalg.norm(aims, axis=0)
  sizes = [7, 5]
  basis = probes.rotation(sizes, 0, 0) if kind == "rotated" else [np.eye(n) for n in sizes]
  grams = [part.T @ part for part in np.split(values, [7], axis=1)]
  found = probes.select((values.T @ values).__matmul__, grams, values.T @ aims, basis)
  rotated = np.concatenate([values[:, :7] @ basis[0], values[:, 7:] @ basis[1]], axis=1)
  for row, aim in enumerate(aims.T):
    for place, size in enumerate((1, 2, 4, 8)):
      chosen, fitted, r2 = _greedy(rotated, aim, size)
      assert found.features_SxR[:size, row].tolist() == chosen
      weights = found.weights_KxFxR[place, :, row]
      np.testing.assert_allclose(values @ weights, fitted, atol=1e-4)
      assert found.r2_KxR[place, row] == pytest.approx(r2, abs=1e-5)


def test_a_large_state_has_the_same_products():
  x, d = _state()[:20], _state(1)[:UNITS, :3]
  np.testing.assert_allclose(probes._gram(x)(d), (x.T @ x) @ d, rtol=1e-4, atol=1e-4)
  tall = _state()[:30]
  np.testing.assert_allclose(probes._gram(tall)(d), (tall.T @ tall) @ d, rtol=1e-4, atol=1e-4)


def test_a_state_without_information_scores_at_chance_and_has_no_selectivity():
  label = np.random.default_rng(2).random(N) < 0.3
  grade = np.random.default_rng(3).integers(0, 9, N)
  entries = _probe(_state(), {"a": _binary(label), "b": _graded(grade)})
  for name, chance in (("a", 0.5), ("b", 0)):
    for key in ("units", "rotated", "components", "control"):
      assert abs(entries[name][key] - chance).max() < 0.1
    assert abs(entries[name]["selectivity"]).max() < 0.12


def test_a_state_that_contains_only_the_types_predicts_the_control_label_as_well():
  types = np.random.default_rng(2).integers(0, 12, N)
  values = _state()
  values[:, :12] = np.eye(12)[types] + 0.01 * values[:, :12]
  # Half of the types are positive, as in the control labels.
  entry = _probe(values, {"a": _binary(types < 6)}, types=types)["a"]
  assert entry["control"][-1] > 0.99 and entry["units"][-1] > 0.99
  assert abs(entry["selectivity"][-1]) < 0.01
  np.testing.assert_array_equal(entry["selectivity"], entry["units"] - entry["control"])


def test_a_control_label_is_a_random_function_of_the_type_with_the_same_mean():
  rng = np.random.default_rng(5)
  types = rng.zipf(1.5, N).clip(max=300) - 1
  mask = rng.random(N) < 0.8
  values = {"a": rng.random(N) < 0.03, "b": rng.integers(0, 70, N)}
  targets = targets_lib.make({"a": _binary(values["a"], mask), "b": _graded(values["b"], mask)})
  for target in targets:
    first, again, other = (probes.control(target, types, 7, number) for number in (0, 0, 1))
    np.testing.assert_array_equal(first.values, again.values)
    assert (first.values != other.values).any()
    assert set(first.values) <= set(target.values[mask])
    for type_ in set(types):
      assert len(set(first.values[types == type_])) == 1
    expected = target.values[mask].mean()
    assert first.values[mask].mean() == pytest.approx(expected, rel=0.5)
    assert (first.values[mask] != first.values[mask][0]).any()


def _equal(one, other):
  return json.dumps(study.plain(one)) == json.dumps(study.plain(other))


def test_characters_without_a_label_and_between_the_halves_are_ignored():
  rng = np.random.default_rng(6)
  values, label = _state(), rng.random(N) < 0.3
  values[:, 4] += label
  mask = np.ones(N, bool)
  mask[500:600] = mask[3000:3100] = False
  before = _probe(values, {"a": _binary(label, mask)})["a"]
  assert before["characters"] == [N // 2 - 104, N // 2 - 104]
  changed, opposite = values.copy(), label.copy()
  changed[~mask] = 1e6 * rng.standard_normal((200, UNITS))
  opposite[~mask] ^= True
  # With lags of 1, the first and the last character of each half are not used either.
  changed[[0, N // 2 - 1, N // 2, N - 1]] = 1e6
  assert _equal(before, _probe(changed, {"a": _binary(opposite, mask)})["a"])


def test_the_confirmation_half_does_not_affect_the_fit():
  values, label = _state(), _state(7)[:, 0] > 0.5
  values[:, 4] += label
  before = _probe(values, {"a": _binary(label)})["a"]
  values[N // 2 :] = _state(8)[N // 2 :]
  after = _probe(values, {"a": _binary(label)})["a"]
  assert before["columns"] == after["columns"]
  assert before["units"][0] > 0.7
  assert after["units"][0] < 0.6


def test_the_lag_is_selected_but_labels_of_the_next_character_have_not_been_read():
  values, label = _state(), np.random.default_rng(2).random(N) < 0.5
  values[1:, 9] += 9 * label[:-1]  # one character late
  labeled = {"state": _binary(label), "next": _binary(label)}
  entries = _probe(values, labeled, of_next=["next"])
  assert entries["state"]["units"][0] > 0.99 and (entries["state"]["lags"] == 1).all()
  assert entries["next"]["units"].max() < 0.6 and (entries["next"]["lags"] <= 0).all()


def test_constant_equal_and_unlike_columns():
  values, label = _state(), np.random.default_rng(2).random(N) < 0.5
  values[:, 2] += 3 * label
  values[:, 3] = 0.1
  values[: N // 2, 6] = 7  # constant in the discovery half only
  values[:, 7] = values[:, 2]
  values[:, 8] = 1e30 * values[:, 8]
  values[:, 9] = 1e-30 * values[:, 9]
  entry = _probe(values, {"a": _binary(label)})["a"]
  for key in ("units", "rotated", "components", "control"):
    assert np.isfinite(entry[key]).all()
  assert entry["columns"][0] == ["0:h2"] and entry["units"][0] > 0.97
  assert not {"0:h3", "0:h6", "0:h7"} & set(entry["columns"][-1])


def test_components_without_variance_are_not_selected():
  rng = np.random.default_rng(2)
  latent = rng.standard_normal((N, 2))
  values = np.float32(latent @ rng.standard_normal((2, UNITS)))
  entry = _probe(values, {"a": _binary(latent[:, 0] > 0)})["a"]
  for key in ("units", "rotated", "components"):
    assert entry[key][1:].min() > 0.99
  assert [len(columns) for columns in entry["columns"]] == [1, 2, 2, 2, 2]


def test_a_state_of_few_or_only_constant_units():
  label = np.random.default_rng(2).random(N) < 0.5
  entry = _probe(_state(units=3), {"a": _binary(label)})["a"]
  assert [len(columns) for columns in entry["columns"]] == [1, 2, 3, 3, 3]
  assert entry["units"][2] == entry["units"][4]
  entry = _probe(np.ones((N, 3), np.float32), {"a": _binary(label)})["a"]
  assert entry["units"].tolist() == [0.5] * 5 and entry["columns"] == [[]] * 5


def test_long_texts_are_sampled_evenly_and_undefined_scores_become_null(monkeypatch):
  monkeypatch.setattr(probes, "MAX_CHARACTERS", 500)
  label, grade = np.zeros(N, bool), np.arange(N) % 50
  label[[2, 30, 2600]] = True  # not at the sampled characters
  entries = _probe(_state(), {"a": _binary(label), "b": _graded(grade)})
  assert entries["a"]["characters"] == entries["b"]["characters"] == [500, 500]
  text = json.dumps(study.plain([*entries.values()]), allow_nan=False)
  rare, other = json.loads(text)
  assert rare["units"] == rare["rotated"] == rare["selectivity"] == [None] * 5
  assert None not in other["units"]
  positions = probes._spread(np.arange(1000, 3000), 500)
  assert (positions[0], positions[-1]) == (1000, 2999)
  assert set(np.diff(positions)) <= {4, 5}


def test_labels_that_are_defined_almost_everywhere_share_their_characters():
  label, mask, half = _state()[:, 0] > 0, np.ones(N, bool), np.ones(N, bool)
  mask[[100, 3000]] = False
  half[::2] = False
  labeled = {"a": _binary(label), "b": _binary(label, mask), "c": _binary(label, half)}
  design = effects.Design(targets_lib.in_two(N), lags=(0,), shifts=0, min_characters=1)
  groups = probes._groups(targets_lib.make(labeled), design)
  assert [[each.name for each in members] for members, _ in groups] == [["a", "b"], ["c"]]
  assert not {100, 3000} & {*groups[0][1][0], *groups[0][1][1]}
  assert [len(places) for places in groups[1][1]] == [N // 4, N // 4]


def test_the_shared_characters_are_nearly_all_of_those_of_each_label():
  label, labeled = _state()[:, 0] > 0, {}
  for name, missing in {"a": 0, "b": 30, "c": 50}.items():  # of the 2,000 of each half
    mask = np.ones(N, bool)
    mask[:missing] = mask[N // 2 : N // 2 + missing] = False
    labeled[name] = _binary(label, mask)
  design = effects.Design(targets_lib.in_two(N), lags=(0,), shifts=0, min_characters=1)
  targets = targets_lib.make(labeled)
  # Labels b and c share enough characters, but these are only 97.5% of those of label a.
  for order, expected in (([0, 1, 2], ["ab", "c"]), ([1, 2, 0], ["bc", "a"])):
    groups = probes._groups([targets[n] for n in order], design)
    assert ["".join(each.name for each in members) for members, _ in groups] == expected
