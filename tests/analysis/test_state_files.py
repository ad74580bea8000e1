"""Studies of states from files: planted units are found, and unsuitable files are refused."""

import io
import pathlib
import zipfile

import h5py
import made_up
import numpy as np
import pytest

from charrnn import errors
from charrnn.analysis import hypotheses, recording, state_files, study

TEXT = made_up.prose(12_000)
N = len(TEXT)


def write(path, arrays):
  if path.suffix == ".npz":
    np.savez(path, **arrays)
  else:
    with h5py.File(path, "w") as file:
      for name, array in arrays.items():
        file[name] = array


def read(path, text=TEXT, characters=N, files=None):
  files = files or [("text.txt", text)]
  target = path.parent / "recording"
  return state_files.read(str(path), files, characters, target, lambda done, total: None)


def studied(path, **options):
  recorded, text = read(path, **options)
  settings = recording.Settings(shifts=99)
  progress = lambda phase: lambda done, total: None  # noqa: E731
  subject = study.make_subject(str(path), recorded, text, settings, path.parent, progress)
  results, excerpt = study.study(subject)
  return results, {each["hypothesis"]: each for each in results["findings"]}, excerpt


def planted(names, hidden=6):
  """Return random walks by name, and in the last array unit 2 late in quotes, unit 4 in a line."""
  rng = np.random.default_rng(0)
  arrays = {name: made_up.walks(rng, N, hidden) for name in names}
  labels = {name: hypotheses.HYPOTHESES[name].function(TEXT).values for name in made_up.NAMES}
  last = arrays[names[-1]]
  noise = 0.1 * rng.standard_normal((2, N))
  last[:, 2] = np.roll(labels["in-quotes"], 1) + noise[0]
  last[:, 4] = -0.02 * labels["line-position"] + noise[1]
  return arrays


@pytest.mark.parametrize(
  ("file", "names", "layers", "columns"),
  [
    ("s.npz", ("layer_0/h", "layer_0/c", "layer_1/h", "layer_1/c"), 2, ("1:c2", "1:c4")),
    ("s.h5", ("states1", "states2"), 2, ("2:states2", "2:states4")),
    ("s.hdf5", ("states_1", "output_1"), 1, ("1:output2", "1:output4")),
  ],
)
def test_planted_units_are_found(file, names, layers, columns, tmp_path):
  write(tmp_path / file, planted(names))
  results, findings, excerpt = studied(tmp_path / file)
  quotes, line = findings["in-quotes"], findings["line-position"]
  assert (quotes["name"], line["name"]) == columns
  assert (quotes["lag"], line["lag"]) == (1, 0)
  assert (quotes["direction"], line["direction"]) == (1, -1)
  assert quotes["significant"] and line["significant"]
  assert quotes["confirmation"]["score"] > 0.99 and line["confirmation"]["score"] > 0.8
  assert {quotes["unit"], line["unit"]} <= set(results["units"])
  assert len(results["units"]) == 6 * layers
  assert len(quotes["last_k"]) == len(study.LAST_K)
  assert results["interpretable"].pop("by_hypothesis")["in-quotes"] == 1
  # What needs the network is left out, and the notes say so.
  assert not any(results[key] for key in ("ablations", "steering", "emergence", "model", "step"))
  assert results["text"]["nats"] is results["settings"]["untrained_networks"] is None
  assert all(each["untrained_baseline"] is None for each in findings.values())
  assert results["notes"][-1] == study.WITHOUT_NETWORK
  assert excerpt.text == TEXT and excerpt.top_ids.shape == (N, 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_states_have_no_findings(seed, tmp_path):
  rng = np.random.default_rng(seed)
  write(tmp_path / "s.npz", {"layer_0/h": made_up.walks(rng, N, 24)})
  results, findings, _ = studied(tmp_path / "s.npz")
  assert not any(each["significant"] for each in findings.values())
  assert results["interpretable"]["count"] == 0


def test_quantities_of_different_sizes_are_units_of_their_own_kind(tmp_path):
  arrays = {"layer_0/h": np.zeros((N, 3)), "layer_0/m": np.ones((N, 5))}
  write(tmp_path / "s.npz", arrays)
  recorded, _ = read(tmp_path / "s.npz")
  units = [f"0:h{n}" for n in range(3)] + [f"0:m{n}" for n in range(5)]
  assert list(map(str, recorded.units)) == units
  write(tmp_path / "s.npz", arrays | {"layer_0/m": np.ones((N, 3))})
  recorded, _ = read(tmp_path / "s.npz")
  assert list(map(str, recorded.units)) == [f"0:{n}" for n in range(3)] * 2


def test_a_recording_contains_the_first_rows_in_the_order_of_the_layers(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    "layer_10/h": rng.standard_normal((N, 2)),
    "layer_2/h": np.asfortranarray(rng.standard_normal((N, 3)).astype(np.float32)),
    "layer_2/c": rng.integers(0, 9, (N, 3)).astype(np.int8),
  }
  for compress in (np.savez, np.savez_compressed):
    compress(tmp_path / "s.npz", **arrays)
    recorded, text = read(tmp_path / "s.npz", characters=6000)
    order = "layer_2/h", "layer_2/c", "layer_10/h"
    expected = np.concatenate([arrays[name][:6000] for name in order], axis=1)
    np.testing.assert_array_equal(recorded.values, expected.astype(np.float32))
    assert "".join(text.texts) == TEXT[:6000] and text.documents == ((0, 6000),)
    assert [str(each) for each in recorded.columns[::3]] == ["2:h0", "2:c0", "10:h0"]


def test_several_texts_are_documents(tmp_path):
  write(tmp_path / "s.npz", {"layer_0/h": np.zeros((N, 1))})
  files = [("a.c", TEXT[:7000]), ("b.c", TEXT[7000:])]
  _, text = read(tmp_path / "s.npz", files=files)
  assert text.documents == ((0, 7000), (7000, N)) and text.name == "a.c and 1 more"
  assert text.language == "c" and text.texts == (TEXT[:7000], TEXT[7000:])
  assert len(np.unique(text.ids_N)) == len(set(TEXT))


def _characters(text):
  return {"tokens": np.array(list(text)), "ids": np.zeros(len(text), int)}


def test_tokens_are_compared_with_the_text(tmp_path):
  path, states = tmp_path / "s.npz", {"layer_0/h": np.zeros((N, 1))}
  text = "é\0" + TEXT[2:]
  write(path, states | _characters(text))
  assert read(path, text)[1].texts == (text,)
  other = TEXT[:4000] + "#" + TEXT[4001:]
  write(path, states | _characters(TEXT))
  with pytest.raises(errors.UserError, match=r"another text: character 4000 is '.', but '#' in"):
    read(path, other)
  write(path, states | _characters(TEXT) | {"tokens": np.array(["the "] * N)})
  with pytest.raises(errors.UserError, match=r"tokens are not characters \(for example 'the '\)"):
    read(path)
  # The tokens of a model of bytes are bytes, and Latin-1 makes a character of each byte.
  data = ("é" + TEXT)[: N - 1].encode()
  tokens = np.array([bytes([byte]).decode("utf-8", "surrogateescape") for byte in data])
  write(path, {"layer_0/h": np.zeros((len(data), 1)), "tokens": tokens})
  assert read(path, data.decode("latin-1"))[1].texts == (data.decode("latin-1"),)
  with pytest.raises(errors.UserError, match="states are of bytes: add --encoding=latin-1"):
    read(path, data.decode())
  with pytest.raises(errors.UserError, match="another text: character 0 is 'Ã', but 'X' in"):
    read(path, "X" + data.decode("latin-1")[1:])


@pytest.mark.parametrize(
  ("count", "text", "remedy"),
  [
    (N + 1, TEXT, "that of a token before the text: leave it out"),
    (N - 1, TEXT, "record it after every character, also after the last one"),
    (N + 4, "äöü " + TEXT[4:] + "!", "are of bytes: add --encoding=latin-1"),
    (N, TEXT.replace("\n", "\r\n"), "convert the line ends of the text to LF"),
    (N, "\ufeff" + TEXT, "byte order mark: add --encoding=utf-8-sig"),
    (N // 2, TEXT, "with one state per character"),
  ],
)
def test_another_number_of_states_than_characters_is_explained(count, text, remedy, tmp_path):
  write(tmp_path / "s.npz", {"layer_0/h": np.zeros((count, 2))})
  with pytest.raises(errors.UserError) as caught:
    read(tmp_path / "s.npz", text)
  message = str(caught.value)
  assert f"has {count:,} states, but text.txt has {len(text):,} characters: " in message
  assert remedy in message and "\n" not in message


def _with(value):
  array = np.zeros((N, 3), np.float64)
  array[5000, 1] = value
  return array


@pytest.mark.parametrize(
  ("file", "arrays", "message"),
  [
    ("s.npz", {}, "contains no arrays: .* names like layer_0/h"),
    ("s.npz", {"ids": np.zeros(N)}, "contains no arrays"),
    ("s.h5", {}, "contains no arrays: .* names like states1"),
    ("s.npz", {"hidden": np.zeros((N, 2))}, r"unknown arrays \(hidden\)"),
    ("s.npz", {"layer_0/h": np.zeros((N, 2)), "x": np.zeros(1)}, r"unknown arrays \(x\)"),
    ("s.h5", {"states": np.zeros((N, 2))}, r"unknown arrays \(states\): .* like states1"),
    ("s.npz", {"layer_0/h": np.zeros((1, N, 2))}, r"has the shape \(1, 12000, 2\)"),
    ("s.h5", {"states1": np.zeros(N)}, r"states1 has the shape \(12000,\)"),
    ("s.npz", {"layer_0/h": np.zeros((N, 0))}, "has the shape"),
    ("s.npz", {"layer_0/h": np.zeros((N, 2), complex)}, "and the type complex128"),
    ("s.npz", {"layer_0/h": np.full((N, 2), None)}, "and the type object"),
    ("s.h5", {"states1": np.full((N, 2), "a", "S1")}, "real numbers"),
    (
      "s.npz",
      {"layer_0/h": np.zeros((N, 2)), "layer_1/h": np.zeros((N - 1, 2))},
      "layer_0/h has 12,000 rows, but layer_1/h has 11,999",
    ),
    ("s.npz", {"layer_0/h": _with(np.nan)}, "layer_0/h is nan at character 5000, unit 1"),
    ("s.h5", {"states7": _with(-np.inf)}, "states7 is -inf at character 5000, unit 1"),
    ("s.npz", {"layer_0/h": _with(1e300)}, r"is 1e\+300 at character 5000"),
    ("s.npz", {"layer_0/h": np.zeros((N, 2)), "tokens": np.zeros(N)}, "not a list of texts"),
  ],
)
def test_unsuitable_arrays_are_refused_in_one_line(file, arrays, message, tmp_path):
  write(tmp_path / file, arrays)
  with pytest.raises(errors.UserError, match=message) as caught:
    read(tmp_path / file)
  assert "\n" not in str(caught.value)
  assert str(caught.value).startswith(str(tmp_path / file))


def _npz(member: bytes) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("layer_0/h.npy", member)
  return buffer.getvalue()


def _cut() -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.zeros((N, 2)))
  return _npz(buffer.getvalue()[:-8])


@pytest.mark.parametrize("file", ["s.npz", "s.h5"])
@pytest.mark.parametrize("content", [None, b"", b"text", _npz(b""), _npz(b"\x93NUMPY"), _cut()])
def test_a_file_that_is_not_readable_is_refused(file, content, tmp_path):
  if content is not None:
    (tmp_path / file).write_bytes(content)
  with pytest.raises(errors.UserError, match="cannot read states from") as caught:
    read(tmp_path / file)
  assert "\n" not in str(caught.value)


def test_a_missing_h5py_gives_the_command(monkeypatch, tmp_path):
  monkeypatch.setitem(__import__("sys").modules, "h5py", None)
  with pytest.raises(errors.UserError, match=r"run pip install 'h5py"):
    read(pathlib.Path(tmp_path, "s.h5"))
