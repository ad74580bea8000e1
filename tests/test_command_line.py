"""The command line of launch.py: experiment files, overrides, stored configs, run names."""

import re
import types

import pytest
from absl import flags

from charrnn import command_line, errors
from charrnn import config as config_lib

EXPERIMENT = """
from charrnn import config as config_lib

def get_config(variant=""):
  c = config_lib.default()
  c.model.hidden = {"": 100, "small": 10}[variant]
  return c
"""


@pytest.fixture
def experiment(tmp_path):
  path = tmp_path / "words.py"
  path.write_text(EXPERIMENT)
  return path


def parse(*arguments):
  return command_line.parse(["launch.py", *map(str, arguments)])


def test_a_variant_is_passed_to_the_experiment(experiment):
  assert parse(f"--config={experiment}").config.model.hidden == 100
  line = parse("--config", f"{experiment}:small")
  assert line.config.model.hidden == 10
  assert (line.experiment, line.variant) == ("words", "small")


@pytest.mark.parametrize("folder", ["a:b", "C:", "plain"])
@pytest.mark.parametrize("variant", ["", "small", "https://host:80/a:b.py", "C:\\book.json"])
def test_a_path_and_a_variant_may_contain_colons(tmp_path, folder, variant):
  path = tmp_path / folder / "words.py"
  path.parent.mkdir()
  text = EXPERIMENT.replace("[variant]", ".get(variant, 5)")
  path.write_text(text)
  line = parse(f"--config={path}{':' * bool(variant)}{variant}")
  assert (line.experiment, line.variant) == ("words", variant)
  assert line.config.model.hidden == {"": 100, "small": 10}.get(variant, 5)
  other = path.with_name("other.py")
  with pytest.raises(errors.UserError, match=f"^no experiment file {re.escape(str(other))}: use"):
    parse(f"--config={other}{':' * bool(variant)}{variant}")


def test_the_path_of_a_config_may_contain_colons(stored):
  path = stored.parent / "a:b" / "config.json"
  path.parent.mkdir()
  stored.rename(path)
  assert parse(f"--config={path}").experiment == "a:b"


def test_overrides_have_the_type_of_their_field(experiment):
  line = parse(
    f"--config={experiment}",
    "--config.model.layers=3",  # None in the defaults
    "--config.epochs=2",
    "--config.text.source=a/b.txt",
  )
  assert line.overrides == {"model.layers": 3, "epochs": 2.0, "text.source": "a/b.txt"}
  assert isinstance(line.config.epochs, float) and isinstance(line.config.model.layers, int)


def test_other_flags_can_be_combined_with_overrides(experiment):
  def define(values):
    flags.DEFINE_string("workdir", None, "", flag_values=values)

  line = command_line.parse(["launch.py", "--workdir=x", f"--config={experiment}"], define)
  assert line.flags.workdir == "x"


@pytest.mark.parametrize("value", ["1.5", "x", "", "true"])
def test_a_value_of_the_wrong_type_is_rejected(experiment, value):
  with pytest.raises(errors.UserError, match="batch_size"):
    parse(f"--config={experiment}", f"--config.batch_size={value}")


def name(variant="", **overrides):
  overrides = {key.replace("__", "."): value for key, value in overrides.items()}
  line = types.SimpleNamespace(experiment="words", variant=variant, overrides=overrides)
  return command_line.run_name(line)


def test_runs_are_named_by_experiment_variant_and_overrides():
  assert name() == "words"
  expected = "words-small-optimizer.learning_rate=0.01-seed=2"
  assert name("small", optimizer__learning_rate=0.01, seed=2) == expected
  assert name("small", log_every=7, sample__length=0, seed=2) == "words-small-seed=2"


@pytest.mark.parametrize(
  "text",
  [
    "../../etc/passwd",
    "..",
    ".",
    "/",
    "a b\n",
    "\u2603\x00",
    "~/x",
    "$(rm)",
    "a\\b",
    "-rf",
    "x" * 999,
  ],
)
def test_run_names_are_safe_for_any_file_system(text):
  for run_name in (name(text), name(text__source=text), name(text, text__source=text)):
    assert re.fullmatch(r"words[A-Za-z0-9_.,=+-]*", run_name)
    assert len(run_name) <= 100


def test_long_names_of_different_runs_differ():
  a, b = (name(text__source="x" * 200 + end) for end in "ab")
  assert a != b and a[:90] == b[:90]
  assert a == name(text__source="x" * 200 + "a")


@pytest.fixture
def stored(experiment, tmp_path):
  """Return the path of the config.json of a run."""
  path = tmp_path / "runs" / "words-small" / "config.json"
  path.parent.mkdir(parents=True)
  path.write_text(parse(f"--config={experiment}:small", "--config.epochs=2").config.to_json())
  return path


@pytest.mark.parametrize("flag", [["--config={}"], ["--config", "{}"], ["-config={}"]])
def test_the_config_of_a_run_can_be_used_as_an_experiment(stored, flag):
  arguments = [each.format(stored) for each in flag]
  line = parse(*arguments, "--config.window=9", "--config.model.layers=3")
  again = parse(*arguments)
  assert (again.config.model.hidden, again.config.epochs, again.overrides) == (10, 2.0, {})
  assert (line.experiment, line.variant, line.argument) == ("words-small", "", str(stored))
  assert line.overrides == {"window": 9, "model.layers": 3}
  expected = config_lib.to_json(again.config) | {"window": 9}
  expected["model"] = expected["model"] | {"layers": 3}
  assert config_lib.to_json(line.config) == expected
  assert command_line.run_name(line) == "words-small-window=9-model.layers=3"


def test_a_config_file_may_have_another_name_and_lack_fields(tmp_path):
  (tmp_path / "mine.json").write_text('{"epochs": 3, "model": {"hidden": 7}}')
  line = parse(f"--config={tmp_path}/mine.json", "--config.epochs=2.5")
  assert (line.experiment, line.config.model.hidden, line.config.epochs) == ("mine", 7, 2.5)
  assert line.config.window == config_lib.default().window


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('{"seed"', "is damaged"),
    ("[]", "is damaged"),
    ("3", "is damaged"),
    ("\0", "is damaged"),
    ('{"nope": 1}', "has nope=1"),
    ('{"model": {"nope": 1}}', "has model.nope=1"),
    ('{"model": 3}', "has model=3"),
    ('{"model": {"layers": {"a": 1}}}', "has model.layers.a=1"),
    ('{"window": null}', "has window=None"),
    ('{"window": "x"}', "'window'"),
    ('{"window": 2.5}', "'window'"),
    ('{"window": {}}', "'window'"),
    ('{"model": {"layers": 1.5}}', "'layers'"),
  ],
)
def test_a_damaged_config_is_rejected_in_one_line(tmp_path, content, message):
  path = tmp_path / "config.json"
  path.write_text(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    parse(f"--config={path}")
  assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config.window=x"], "window=x"),
    (["--config.nope=1"], "no field 'nope'"),
    (["--nope=1"], "nope"),
    (["more"], "'more' is not an option"),
  ],
)
def test_overrides_of_a_stored_config_are_checked(stored, arguments, message):
  with pytest.raises(errors.UserError, match=message):
    parse(f"--config={stored}", *arguments)


def test_a_missing_config_is_rejected(tmp_path):
  for path in (tmp_path / "config.json", tmp_path):
    with pytest.raises(errors.UserError, match="no experiment file"):
      parse(f"--config={path}")


@pytest.mark.parametrize("flag", ["--config.text.alphabet=byte", "-config.text.alphabet=byte"])
def test_the_former_name_of_a_field_is_accepted(experiment, stored, flag):
  for path in (experiment, stored):
    line = parse(f"--config={path}", flag)
    assert line.overrides == {"text.tokenizer": "byte"}
    assert line.config.text.tokenizer == "byte"


def test_an_experiment_can_import_modules_from_its_folder(tmp_path, monkeypatch):
  hidden = {"a": 3, "b": 4}
  for name, value in hidden.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / "shared.py").write_text(f"HIDDEN = {value}\n")
    text = EXPERIMENT.replace("from", "import shared\nfrom", 1)
    (tmp_path / name / "words.py").write_text(text.replace("100", "shared.HIDDEN"))
  monkeypatch.chdir(tmp_path)
  for name, value in hidden.items():  # The module of the first folder is not reused.
    assert parse(f"--config={name}/words.py").config.model.hidden == value


def test_common_py_is_not_listed_as_an_experiment(tmp_path, monkeypatch):
  (tmp_path / "experiments").mkdir()
  for name in ("one.py", "common.py"):
    (tmp_path / "experiments" / name).write_text("")
  monkeypatch.chdir(tmp_path)
  assert command_line.experiment_files() == ["experiments/one.py"]
  # charrnn's own experiments are found by name in any folder.
  assert command_line.parse(["launch.py", "--config=experiments/gpt.py"]).experiment == "gpt"
  with pytest.raises(errors.UserError, match=r"^no experiment file experiments/two\.py"):
    command_line.parse(["launch.py", "--config=experiments/two.py"])
  with pytest.raises(
    errors.UserError, match=r"^no experiment file two.py: use .*/NAME\.py, .* one of one$"
  ):
    parse("--config=two.py")
