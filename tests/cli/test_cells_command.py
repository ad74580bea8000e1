"""Tests of `charrnn cells` on a tiny run: its output, and invalid arguments."""

import contextlib
import io
import json
import re
import shutil

import made_up
import pytest

from charrnn import cli, runtime
from charrnn.analysis import explanation, explorer
from charrnn.cli import cells
from charrnn.evaluation import pages
from charrnn.runs import run as run_lib

HEADER = ["hypothesis", "state", "probe"]  # start of the table of the probes
INTERCHANGES = ["hypothesis", "unit", "moved", "same", "full", "share", "p"]
FAST = ("--untrained=2", "--shifts=19", "--characters=6000")


@pytest.fixture(scope="module")
def studied(trained, tmp_path_factory):
  """Return the output folder of one call for a copy of run `a`."""
  folder = tmp_path_factory.mktemp("cells")
  run, text = folder / "run", trained["a"].parent / "text.txt"
  shutil.copytree(trained["a"], run)
  # Explanations of this checkpoint, of another one, and a damaged one.
  entries = [made_up.explanation(0, 5), made_up.explanation(0, 6)]
  entries[0]["weights"] = run_lib.Run.open(run).weights
  (run / "cells").mkdir()
  for entry in entries:
    path = run / "cells" / f"{explanation.name(entry['layer'], entry['unit'])}.json"
    path.write_text(json.dumps(entry))
  (run / "cells" / "explain-1-1.json").write_text("{")
  argv = ["cells", run, "--text", text, *FAST, "--regex", "seven=7[0-9]", "--keep-recording"]
  with contextlib.redirect_stdout(io.StringIO()) as out:
    assert cli.main(list(map(str, argv))) == 0
  (run / "out.txt").write_text(out.getvalue())
  return run / "cells"


def test_the_output_folder_contains_exactly_the_documented_files(studied):
  names = {path.name for path in studied.iterdir() if not path.name.startswith("explain-")}
  pictures = {"findings.png", "probes.png", "saturation.png", "emergence.png"}
  assert names == {"cells.json", "explorer.html", "recording.f32"} | pictures


def test_cells_json_contains_all_results(studied):
  results = json.loads((studied / "cells.json").read_text())
  by_name = {each["hypothesis"]: each for each in results["findings"]}
  assert results["model"] == {"cell": "lstm", "layers": 2, "hidden": 8}
  assert results["text"]["characters"] == 6000
  assert by_name["line-position"]["scored"] and by_name["seven"]["scored"]
  assert by_name["url"]["reason"] == "no positives in the discovery half"
  assert any(note.startswith("url: not scored") for note in results["notes"])
  assert any("no finding can be significant" in note for note in results["notes"])
  assert {each["significant"] for each in results["findings"]} == {None}
  assert results["interpretable"] is None
  # The file also contains the former names of keys.
  assert results["births"] == results["emergence"]
  assert results["settings"]["twins"] == results["settings"]["untrained_networks"] == 2
  assert by_name["seven"]["survives"] == by_name["seven"]["significant"]
  assert by_name["seven"]["twins"] == by_name["seven"]["untrained_baseline"] is not None
  scored = {name for name, each in by_name.items() if each["scored"]}
  assert {each["hypothesis"] for each in results["ablations"]} == scored
  assert {each["hypothesis"] for each in results["steering"]} == scored
  for each in results["ablations"]:
    assert each["p"] is None or each["p"] <= each["p_corrected"] + 1e-6
    assert len(each["controls"]["inside"]) < 8
  assert results["interchanges"]
  for each in results["interchanges"]:
    assert each["hypothesis"] in scored and "|" not in each["hypothesis"]
    assert each["p"] <= each["p_corrected"] + 1e-6 and len(each["controls"]) < 8
  assert {each["hypothesis"] for each in results["emergence"]} == {
    n for n in scored if "|" not in n
  }
  assert all(each["steps"] == [0, 10, 20] for each in results["emergence"])
  assert {(each["layer"], each["gate"]) for each in results["saturation"]} == {
    (layer, gate) for layer in (0, 1) for gate in "ifo"
  }
  plain = [name for name in scored if "|" not in name]
  assert sorted(each["hypothesis"] for each in results["probes"]) == sorted(plain)
  for each in results["probes"]:
    assert each["quantities"] == ["h", "c"] and each["features"] == 32
    assert [len(columns) for columns in each["columns"]] == each["k"] == [1, 2, 4, 8, 16]
    assert {column.split(":")[1][0] for column in each["columns"][-1]} <= {"h", "c"}
    assert all(low <= high for low, high in zip(each["rotated_low"], each["rotated_high"]))
  assert results["units"] == [f"{n // 8}:{n % 8}" for n in range(16)]
  assert all(len(column) == 16 for column in results["scores"].values())
  for finding in (each for each in results["findings"] if each["scored"]):
    assert finding["unit"] == f"{finding['layer']}:{finding['cell']}"
    score, sign = finding["confirmation"]["score"], finding["direction"]
    effect = 2 * score - 1 if finding["kind"] == "binary" else score
    own = results["scores"][finding["hypothesis"]][results["units"].index(finding["unit"])]
    assert sign * own == pytest.approx(effect, abs=2e-3)


def test_the_report_explains_its_columns(studied):
  lines = (studied.parent / "out.txt").read_text().splitlines()
  assert not any(r"\n" in line for line in lines)
  starts = [line[:17].strip() for line in lines]
  assert {"column", "lag", "discovery", "shifted", "untrained", "last 6", "p"} <= set(starts)
  assert any("with the unit clamped (zero)" in line for line in lines)
  assert any(line.split() == INTERCHANGES for line in lines)
  assert {"unit", "moved", "same", "full", "share"} <= set(starts)
  place = next(n for n, line in enumerate(lines) if line.split()[:3] == HEADER)
  assert lines[place].split()[3:8] == ["k=1", "k=2", "k=4", "k=8", "k=16"]
  assert lines[place + 1].split()[:4] == ["line-position", "h,", "c", "units"]
  probes = [lines[place + n].split()[0] for n in (2, 3, 4)]
  assert probes == ["rotated", "components", "selectivity"] and set(probes) <= set(starts)
  counts = [line for line in lines if "units score higher than every rotation in" in line]
  assert [line.split(":")[0] for line in counts] == ["k=1", "k=16"]


def test_the_report_of_the_probes_counts_those_with_scores():
  entries = made_up.study()["probes"][:3]
  first, second, undefined = entries
  second["units"][0] = second["rotated"][0] - first["units"][0] + first["rotated"][0] + 0.2
  undefined |= dict.fromkeys(("units", "rotated", "rotated_high", "selectivity"), [None] * 5)
  lines = list(cells._probes({"probes": entries}))
  starts = {line[:17].strip() for line in lines}
  assert {"state", "k", "units", "k=1: column", "every rotation"} <= starts
  (line,) = [line for line in lines if line.startswith("k=1: units")]
  assert line.endswith("every rotation in 1 of 2 probes; median of units - rotated: +0.100")
  lines = list(cells._probes({"probes": [undefined]}))
  assert "k=1: units score higher than every rotation in 0 of 0 probes" in lines


def test_the_size_of_the_recording(studied):
  assert (studied / "recording.f32").stat().st_size == 6000 * 2 * 6 * 8 * 4


def test_the_page_loads_nothing(studied):
  page = (studied / "explorer.html").read_text()
  assert "Content-Security-Policy" in page
  code = page.split("application/json")[0]
  assert not re.search(r"(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttp", code)


def test_the_page_shows_the_explanations_of_its_checkpoint(studied):
  block = pages.read_block((studied / "explorer.html").read_text(), "explanations")
  assert list(block["units"]) == ["0:5"]
  assert block["weights"] == json.loads((studied / "cells.json").read_text())["weights"]


def test_the_options_json_and_out(charrnn, trained, tmp_path):
  text = trained["a"].parent / "text.txt"
  result = charrnn(
    "cells", trained["a"], "--text", text, *FAST, "--out", tmp_path / "o", "--json", "--untrained=0"
  )
  assert result.code == 0
  assert result.json == json.loads((tmp_path / "o" / "cells.json").read_text())
  assert all(each["untrained_baseline"] is None for each in result.json["findings"])
  assert not (trained["a"] / "cells").exists()
  assert not (tmp_path / "o" / "recording.f32").exists()
  assert "matching: " in result.err


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", "fewer than two characters"),
    ("12 green bottles\n" * 9, "has 153 characters: use a text of at least 5000"),
    ("12 green bottles ü\n" * 300, "'ü' (U+00FC)"),
  ],
)
def test_an_unsuitable_text_is_an_error(charrnn, trained, tmp_path, content, message):
  (tmp_path / "t.txt").write_text(content)
  result = charrnn("cells", trained["a"], "--text", tmp_path / "t.txt", "--out", tmp_path / "o")
  assert (result.code, result.out) == (2, "")
  assert message in result.err
  assert "Traceback" not in result.err


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--characters=10"], "--characters=10: must be at least 5000"),
    (["--twins=-1"], "--untrained=-1: must be at least 0"),
    (["--shifts=3"], "--shifts=3: must be at least 19"),
    (["--regex=year"], "must be NAME=PATTERN"),
    (["--regex=a=[", "--regex=b=c"], "is not a regular expression"),
    (["--regex=a=b", "--regex=a=c"], "two hypotheses are named a"),
    (["--regex=url=b"], "the name url is in use"),
    (["--regex=a|b=c"], "must be NAME=PATTERN"),
    (["--step=15"], "has no step 15: use one of 10, 20"),
    (["--text=absent.txt"], "cannot read absent.txt"),
    ([f"--seed={2**32}"], "must be from 0 to 2^32 - 1"),
    (["--ablation=half"], "invalid choice"),
    (["--explain=foo"], "--explain foo: must be LAYER:UNIT, for example 1:37"),
    (["--explain=9:1"], "--explain 9:1: no layer 9: the last layer is 1"),
    (["--explain=0:8"], "--explain 0:8: no unit 8: the last unit is 7"),
    (["--explain=0:3", "--characters=10"], "--characters=10: must be at least 5000"),
  ],
)
def test_invalid_arguments_are_an_error_of_one_line(charrnn, trained, tmp_path, argv, message):
  result = charrnn("cells", trained["a"], "--out", tmp_path / "o", *argv)
  assert (result.code, result.out) == (2, "")
  assert message in result.err
  assert result.err.count("\n") == 1


def test_very_short_documents_are_an_error(charrnn, trained, tmp_path):
  texts = [tmp_path / f"{n}.txt" for n in range(1800)]
  for text in texts:
    text.write_text("12\n")
  result = charrnn("cells", trained["a"], "--out", tmp_path / "o", *FAST, "--text", *texts)
  assert result.code == 2
  assert "no hypothesis can be scored" in result.err and "Traceback" not in result.err
  assert list((tmp_path / "o").iterdir()) == []


def test_a_damaged_earlier_checkpoint_is_skipped(charrnn, a, tmp_path):
  (a / "checkpoints" / "10" / "meta" / "metadata").write_text("{}")
  text = a.parent / "text.txt"
  text.write_text("".join(f"{n} green bottles\n" for n in range(700)))
  result = charrnn(
    "cells",
    a,
    "--text",
    text,
    *FAST,
    "--untrained=0",
    "--step=20",
    "--json",
    "--out",
    tmp_path / "o",
  )
  assert result.code == 0, result.err
  assert all(each["steps"] == [0, 20] for each in result.json["emergence"])


@pytest.mark.long
def test_explanations_are_in_the_explorer_of_the_same_checkpoint(charrnn, a, tmp_path):
  text, out = a.parent / "text.txt", a / "cells"
  text.write_text("".join(f"{n} green bottles\n" for n in range(700)))
  page, study = out / "explorer.html", ("cells", a, "--text", text, *FAST, "--untrained=0")

  def explain(unit, *options):
    argv = "cells", a, "--text", text, "--characters=6000", "--explain", unit, *options
    result = charrnn(*argv)
    assert result.code == 0, result.err
    return [line for line in result.out.splitlines() if line.startswith("explorer: ")]

  def shown():
    return sorted(pages.read_block(page.read_text(), "explanations")["units"])

  assert explain("0:3", "--step=10") == explain("0:4") == []
  assert charrnn(*study).code == 0
  assert shown() == ["0:4"]
  (line,) = explain("1:2")
  assert line == f"explorer: {page.as_uri()}#unit=1:2&tab=explanations (open it in a browser)"
  assert shown() == ["0:4", "1:2"]
  whole = page.read_bytes()
  (line,) = explain("1:5", "--step=10")
  assert "is of another checkpoint" in line and "run charrnn cells without --explain" in line
  assert page.read_bytes() == whole
  (out / "explain-0-4.json").write_text("{")
  assert charrnn(*study).code == 0
  assert shown() == ["1:2"]


def test_an_explanation_of_a_unit(charrnn, trained, tmp_path):
  text, out = trained["a"].parent / "text.txt", tmp_path / "o"
  argv = "cells", trained["a"], "--text", text, "--characters=6000", "--explain=0:c3", "--out", out
  out.mkdir()
  study = made_up.study() | {"weights": run_lib.Run.open(trained["a"]).weights}
  explorer.write(out / "explorer.html", study, made_up.excerpt(made_up.prose(300)))
  result = charrnn(*argv)
  assert result.code == 0, result.err
  names = {path.name for path in out.iterdir()}
  assert names == {"explain-0-3.json", "explain-0-3.png", "explorer.html"}
  results = json.loads((out / "explain-0-3.json").read_text())
  assert results.keys() == made_up.explanation().keys()
  page = (out / "explorer.html").read_text()
  assert list(pages.read_block(page, "explanations")["units"]) == ["0:3"]
  assert (results["layer"], results["unit"], results["text"]["characters"]) == (0, 3, 6000)
  lines = result.out.splitlines()
  assert lines[0].endswith("2 x 8 lstm, unit 0:3")
  assert lines[3] == results["summary"]
  address = f"{(out / 'explorer.html').as_uri()}#unit=0:3&tab=explanations"
  assert lines[-2] == f"explorer: {address} (open it in a browser)"
  assert lines[-1] == f"picture: {out}/explain-0-3.png    data: {out}/explain-0-3.json"
  assert sum(line.startswith("gate ") for line in lines) == 4


@pytest.fixture
def states(charrnn, trained, tmp_path, monkeypatch):
  """Return a file of the states of run `a` on a text, and the text."""
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  text, path = tmp_path / "text.txt", tmp_path / "x.npz"
  text.write_text("".join(f"{n} green bottles\n" for n in range(330)))
  assert charrnn("states", trained["a"], "--file", text, "--out", path).code == 0
  return path, text


def test_a_study_of_states_from_a_file(charrnn, states, tmp_path):
  path, text = states
  result = charrnn("cells", "--states", path, "--text", text, "--characters=5000", "--shifts=19")
  assert result.code == 0, result.err
  out = tmp_path / "x-cells"
  assert {each.name for each in out.iterdir()} == {
    *("cells.json", "explorer.html", "findings.png", "probes.png", "saturation.png")
  }
  lines = result.out.splitlines()
  assert lines[0] == f"{path}: 16 units, with c, f, g, h, i, o"
  assert lines[1] == f"{text}: 5,000 characters, 1 document"
  assert lines[3].split()[:3] == ["hypothesis", "column", "lag"] and "untrained" not in lines[3]
  assert not {line.split(" ")[0] for line in lines} & {"untrained", "inside,", "p"}
  assert sum("because the network is not available" in line for line in lines) == 1
  results = json.loads((out / "cells.json").read_text())
  assert results["model"] is None and results["settings"]["untrained_networks"] is None


def test_states_and_a_run_give_the_same_scores(charrnn, trained, states, tmp_path):
  path, text = states
  options = ("--text", text, "--characters=5000", "--shifts=19", "--json", "--out", tmp_path / "o")
  results = [
    charrnn("cells", *argv, *options)
    for argv in ((trained["a"], "--untrained=0"), ("--states", path))
  ]
  assert [each.code for each in results] == [0, 0], results
  run, file = (each.json for each in results)
  # The order of the quantities differs, so that another of several equal columns may be best.
  own, other = (
    {
      each["hypothesis"]: each["discovery"]["score"]
      for each in results["findings"]
      if each["scored"]
    }
    for results in (run, file)
  )
  assert own == pytest.approx(other, abs=1e-5) and len(own) > 3
  assert run["units"] == file["units"]
  gates = [{(each["layer"], each["gate"]) for each in each["saturation"]} for each in (run, file)]
  assert gates[0] == gates[1] != set()


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "one of the arguments RUN --states is required"),
    (["RUN", "--states=x.npz"], "not allowed with argument RUN"),
    (["--states=x.npz"], "--states: add --text"),
    (["--states=x.npz", "--text=x.txt"], "cannot read x.txt"),
    (["--states=x.npz", "--text=x.txt", "--untrained=0"], "--untrained applies only to a run"),
    (["--states=x.npz", "--text=x.txt", "--step=1"], "--step applies only to a run"),
    (["--states=x.npz", "--text=x.txt", "--ablation=zero"], "--ablation applies only to a run"),
    (["--states=x.npz", "--text=x.txt", "--fetch"], "--fetch applies only to a run"),
    (["--states=x.npz", "--text=x.txt", "--corpus=python"], "--corpus applies only to a run"),
    (["RUN", "--encoding=latin-1"], "--encoding applies only to --states"),
    (["--states=x.npz", "--text=x.txt", "--explain=0:1"], "--explain applies only to a run"),
    (["RUN", "--explain=0:1", "--regex=a=b"], "--regex applies only to the study of all units"),
    (["RUN", "--explain=0:1", "--shifts=19"], "--shifts applies only to the study of all units"),
    (["RUN", "--explain=0:1", "--keep-recording"], "--keep-recording applies only to the study"),
  ],
)
def test_options_that_do_not_apply_are_an_error(charrnn, tmp_path, monkeypatch, argv, message):
  monkeypatch.chdir(tmp_path)
  result = charrnn("cells", *argv)
  assert (result.code, result.out) == (2, "")
  assert message in result.err and result.err.count("\n") == 1
  assert not list(tmp_path.iterdir())


def test_states_of_another_text_are_an_error(charrnn, states):
  path, text = states
  text.write_text(text.read_text() + "!")
  result = charrnn("cells", "--states", path, "--text", text)
  assert (result.code, result.out) == (2, "")
  assert "add --" not in result.err and "states, but" in result.err
  text.write_text(text.read_text().replace("7", "8"))
  assert "states are of another text" in charrnn("cells", "--states", path, "--text", text).err


def test_a_missing_run_and_an_invalid_output_folder_are_errors(charrnn, trained, tmp_path):
  assert "does not exist" in charrnn("cells", tmp_path / "nowhere").err
  (tmp_path / "file").write_text("")
  result = charrnn("cells", trained["a"], "--out", tmp_path / "file" / "o")
  assert result.code == 2 and "use another --out" in result.err


def test_sampling_with_clamped_units(charrnn, trained):
  def text(*options):
    result = charrnn("sample", trained["a"], "--length=200", "--seed=1", "--json", *options)
    assert result.code == 0, result.err
    return result.json

  free, clamped = text(), text("--clamp=1:3=5", "--clamp=0:h2=-0.5")
  assert free["text"] != clamped["text"]
  assert (free["clamp"], clamped["clamp"]) == ([], ["1:3=5", "0:h2=-0.5"])
  assert text("--clamp=1:3=hold")["text"] != free["text"]
  twice = charrnn("sample", trained["a"], "--clamp=0:c3=1", "--clamp=0:3=2")
  assert twice.code == 2 and "--clamp 0:c3: clamped twice; remove" in twice.err
  result = charrnn("sample", trained["a"], "--clamp=1:8=0")
  assert result.code == 2
  assert "no unit 8: the last unit is 7" in result.err
  assert (result.out, result.err.count("\n")) == ("", 1)
