"""Tests of the config fields: defaults, validation, documentation and resolution."""

import json
import math
import pathlib
import re
import types

import pytest

from charrnn import config as config_lib
from charrnn import errors, models
from charrnn.training import optimizer

ROOT = pathlib.Path(__file__).parents[1]
CHOICES = [field.name for field in config_lib.FIELDS if field.choices]


def test_defaults_are_valid_and_have_the_type_of_their_field():
  c = config_lib.default()
  config_lib.check(c)
  for field in config_lib.FIELDS:
    assert c[field.name] == field.default
    section, _, key = field.name.rpartition(".")
    parent = c[section] if section else c
    setattr(parent, key, field.type(1))
    with pytest.raises(TypeError):
      setattr(parent, key, [1])


def test_documentation_lists_every_field():
  text = config_lib.documentation()
  assert text in (ROOT / "docs" / "config.md").read_text()
  for field in config_lib.FIELDS:
    assert f"| `{field.name}` |" in text and field.help in text and field.help.endswith(".")


def test_documentation_lists_the_values_chosen_from_the_corpus_length():
  page = (ROOT / "docs" / "config.md").read_text()
  lines = [line.split() for line in page.splitlines()]
  for sizes in (config_lib.RECURRENT_SIZES, *config_lib.SIZES.values()):
    for limit, values in sizes.rows:
      label = ["up", "to", f"{limit:,}"] if math.isfinite(limit) else ["more"]
      assert [*label, *(f"{value:g}" for value in values)] in lines


@pytest.mark.parametrize("name", CHOICES)
def test_only_listed_choices_are_accepted(name):
  choices = config_lib.BY_NAME[name].choices
  default = config_lib.default()
  if name == "model.positions":
    default.model.cell = "transformer"
  for choice in choices:
    config_lib.check(config_lib.replace(default, {name: choice}))
  other = config_lib.replace(default, {name: "other"})
  with pytest.raises(errors.UserError, match=f"{name}=other: use one of {', '.join(choices)}$"):
    config_lib.check(other)


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("window", 0, "must be at least 1"),
    ("remat", -1, "must be at least 0"),
    ("remat", 7, "must divide --config.window=64"),
    ("optimizer.eps", 0.0, "must be above 0"),
    ("optimizer.eps", 1e-60, "must be above 0"),
    ("optimizer.b2", 1 - 1e-12, "must be at least 0 and below 1"),
    ("seed", 2**32, "must be from 0 to 4294967295"),
    ("model.dropout", 1.0, "must be at least 0 and below 1"),
    ("model.dropout", -0.1, "must be at least 0 and below 1"),
  ],
)
def test_numbers_out_of_bounds_are_errors(name, value, message):
  with pytest.raises(errors.UserError, match=f"^--config.{name}={value}: {message}$"):
    config_lib.check(config_lib.replace(config_lib.default(), {name: value}))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", [f.name for f in config_lib.FIELDS if f.type in (int, float)])
def test_a_boolean_is_no_number(name, value):
  """Python counts it as an integer, also where it equals the default."""
  c = config_lib.replace(config_lib.default(), {name: value})
  if type(c[name]) is bool:  # In most fields of type float, the config converts it.
    with pytest.raises(errors.UserError, match=rf"^--config\.{name}={value}: must be a .*number$"):
      config_lib.check(c)


@pytest.mark.parametrize("name", [f.name for f in config_lib.FIELDS if f.type in (int, float)])
def test_every_number_has_bounds(name):
  """No field accepts a number that JAX cannot represent in 32 bits, or a negative count."""

  def rejects(value, message=""):
    c = config_lib.replace(config_lib.default(), {name: value})
    with pytest.raises(
      errors.UserError, match=rf"^--config\.{name}={re.escape(str(value))}: {message}"
    ):
      config_lib.check(c)

  field = config_lib.BY_NAME[name]
  assert isinstance(field.values, config_lib.Bounds)
  if field.type is float:
    for value in (math.nan, math.inf, -math.inf, 1e300):
      rejects(value, "must be a finite number")
  elif name != "text.limit":
    rejects(2**33, r"must be (at most \d+|from 0 to 4294967295)$")
  if name != "model.forget_bias":
    rejects(field.type(-1))


def test_an_epoch_number_that_needs_too_many_steps_is_rejected():
  c = config_lib.replace(config_lib.default(), {"epochs": 1e12})
  with pytest.raises(errors.UserError, match=r"epochs=1e\+12 is 1.0e\+13 steps: use at most 2147"):
    config_lib.total_steps(c, 10.2)
  assert config_lib.total_steps(config_lib.replace(c, {"max_steps": 7}), 10.2) == 7


@pytest.mark.parametrize(
  ("section", "key", "similar"),
  [("model", "hiden", "model.hidden"), ("", "batchsize", "batch_size"), ("", "epoch", "epochs")],
)
def test_error_for_a_misspelled_field_suggests_a_similar_name(section, key, similar):
  c = config_lib.default()
  with pytest.raises(AttributeError, match=f"no field '{key}' .* did you mean {similar}\\?$"):
    setattr(c[section] if section else c, key, 3)


def test_former_field_name_is_accepted_in_experiments_and_stored_configs():
  c = config_lib.default()
  c.text.alphabet = "byte"
  assert c.text.tokenizer == c.text.alphabet == "byte"
  old = config_lib.to_json(c)
  old["text"]["alphabet"] = old["text"].pop("tokenizer")
  assert config_lib.from_json(old).text.tokenizer == "byte"
  config_lib.check_resumable(old, config_lib.to_json(c))
  with pytest.raises(errors.UserError, match=r"the run has text\.tokenizer=byte"):
    config_lib.check_resumable(old, config_lib.to_json(config_lib.default()))


def test_json_round_trip():
  c = config_lib.replace(config_lib.default(), {"optimizer.learning_rate": 0.003})
  stored = config_lib.to_json(c)
  assert stored["batch_size"] is None and stored["optimizer"]["learning_rate"] == 0.003
  assert [*config_lib.flatten(stored)] == [*config_lib.BY_NAME]
  assert config_lib.to_json(config_lib.from_json(stored)) == stored


def test_fields_missing_in_an_older_config_get_their_defaults():
  stored = config_lib.to_json(config_lib.default())
  del stored["accumulate"], stored["sample"]
  stored["keep"] = 9
  c = config_lib.from_json(stored)
  assert (c.accumulate, c.sample.length, c.keep) == (1, 300, 9)


def changed(schedule="cosine", **fields):
  c = config_lib.default()
  c.schedule.name = schedule
  for field, value in fields.items():
    section, _, last = field.rpartition("__")
    (c[section] if section else c)[last] = value
  return config_lib.to_json(c)


def test_resume_rejects_changes_that_affect_the_result():
  with pytest.raises(errors.UserError, match=r"model.hidden=65: the run has model.hidden=64,"):
    config_lib.check_resumable(changed(model__hidden=64), changed(model__hidden=65))
  with pytest.raises(errors.UserError, match=r"window=32: the run has window=64"):
    config_lib.check_resumable(changed(), changed(window=32, log_every=1))


@pytest.mark.parametrize(
  "fields",
  [{}, {"log_every": 1}, {"sample__length": 3, "keep": 9}, {"patience": 4, "diverged": 9.0}],
)
def test_resume_returns_changes_that_do_not_affect_the_result(fields):
  old, new = changed(), changed(**fields)
  changes = config_lib.check_resumable(old, new)
  assert [(old, new) for old, new in changes.values() if old != new] == [*changes.values()]
  assert {name: new for name, (_, new) in changes.items()} == {
    name.replace("__", "."): value for name, value in fields.items()
  }


@pytest.mark.parametrize("fields", [{"epochs": 9.0}, {"max_steps": 900}])
def test_training_length_may_change_unless_the_schedule_depends_on_it(fields, monkeypatch):
  config_lib.check_resumable(changed("constant"), changed("constant", **fields))
  (name,) = fields
  expected = (
    rf"--config\.{name}=.*: the run has {name}=.*schedule\.name=cosine, whose learning rates"
  )
  with pytest.raises(errors.UserError, match=expected):
    config_lib.check_resumable(changed("cosine"), changed("cosine", **fields))
  monkeypatch.setitem(optimizer.SCHEDULES, "linear", optimizer.entry(None, stable=lambda c, n: 0))
  with pytest.raises(errors.UserError, match="cannot change on resume"):
    config_lib.check_resumable(changed("linear"), changed("linear", **fields))
  with pytest.raises(errors.UserError, match=r"schedule\.name"):
    config_lib.check_resumable(changed("cosine"), changed("constant"))


LENGTH = 1_000_000  # number of tokens in a corpus


def test_resolve_fills_every_field_that_a_network_uses():
  original = config_lib.default()
  before = config_lib.to_json(original)
  tpu = types.SimpleNamespace(platform="tpu")
  c, chosen = config_lib.resolve(original, LENGTH, device=lambda config: tpu)
  assert all(c[name] is not None for name in config_lib.used_fields(c))
  assert c.model.hidden == chosen["model.hidden"] == 256 and c.model.compute_dtype == "bfloat16"
  assert config_lib.to_json(original) == before
  with pytest.raises(AttributeError, match="immutable"):
    c.model.hidden = 3
  assert json.loads(c.to_json()) == config_lib.to_json(c)


def test_resolve_keeps_the_values_of_the_experiment():
  values = {"model.hidden": 7, "batch_size": 3, "eval_every": 11, "model.compute_dtype": "float32"}
  original = config_lib.replace(config_lib.default(), values)
  gpu = types.SimpleNamespace(platform="gpu", compute_capability="9.0")
  c, chosen = config_lib.resolve(original, LENGTH, device=lambda config: gpu)
  assert {name: c[name] for name in values} == values
  assert not values.keys() & chosen.keys()


def test_resolve_prefers_the_stored_config_to_the_corpus_length():
  stored = config_lib.to_json(config_lib.resolve(config_lib.default(), 10 * LENGTH)[0])
  c, chosen = config_lib.resolve(config_lib.default(), LENGTH, stored=stored)
  assert config_lib.to_json(c) == stored and not chosen


def test_resolve_uses_the_model_fields_of_the_init_from_run():
  values = {"model.hidden": 9, "batch_size": 5, "model.compute_dtype": "bfloat16"}
  source = config_lib.to_json(config_lib.replace(config_lib.default(), values))
  original = config_lib.replace(config_lib.default(), {"init_from": "runs/a"})
  c, chosen = config_lib.resolve(original, LENGTH, source=source)
  assert c.model.hidden == 9 and c.model.compute_dtype is None and "batch_size" in chosen
  fresh, _ = config_lib.resolve(config_lib.default(), LENGTH)
  factor = c.optimizer.learning_rate / fresh.optimizer.learning_rate
  assert factor == config_lib.FINE_TUNING_RATE
  resumed = config_lib.resolve(original, LENGTH, stored=config_lib.to_json(c))[0]
  assert resumed.optimizer.learning_rate == c.optimizer.learning_rate
  source["model"]["cell"] = "ngram"
  with pytest.raises(errors.UserError, match="init_from=runs/a is an n-gram run"):
    config_lib.resolve(original, LENGTH, source=source)


def test_device_starts_after_all_other_fields_are_filled_in():
  def device(config):
    assert None not in (config.batch_size, config.model.hidden, config.eval_every)
    return types.SimpleNamespace(platform="gpu", compute_capability="7.5")

  c, _ = config_lib.resolve(config_lib.default(), LENGTH, device=device)
  assert c.model.compute_dtype == "float32"


@pytest.mark.parametrize("length", [300, 3_000, 30_000, 3_000_000, 300_000_000])
def test_longer_texts_get_larger_models_and_batches(length):
  smaller, larger = (
    config_lib.resolve(config_lib.default(), each)[0] for each in (length, 10 * length)
  )
  assert smaller.model.hidden <= larger.model.hidden and smaller.batch_size <= larger.batch_size
  assert config_lib.steps_per_epoch(smaller, length) > 10 or smaller.batch_size == 1


def test_total_steps():
  c = config_lib.replace(config_lib.default(), {"epochs": 2.5})
  assert config_lib.total_steps(c, 10.2) == 26 and config_lib.total_steps(c, 0.01) == 1
  assert config_lib.total_steps(config_lib.replace(c, {"max_steps": 7}), 10.2) == 7


@pytest.mark.parametrize(
  ("cell", "name", "value"),
  [
    *(
      ("transformer", f"model.{name}", value)
      for name, value in {
        "order": 3,
        "embed": 5,
        "init": "uniform",
        "forget_bias": 2.0,
        "unroll": "scan",
      }.items()
    ),
    *(
      (cell, f"model.{name}", value)
      for cell in ("lstm", "ngram")
      for name, value in {"heads": 2, "context": 5, "positions": "learned", "tie": True}.items()
    ),
    ("lstm", "model.order", 3),
    ("ngram", "model.layers", 2),
    ("ngram", "optimizer.name", "sgd"),
  ],
)
def test_fields_that_the_model_does_not_use_are_rejected(cell, name, value):
  c = config_lib.replace(config_lib.default(), {"model.cell": cell})
  config_lib.check(c)
  message = f"^--config.{name}={value}: the model {cell} does not use this field: remove it, or"
  with pytest.raises(errors.UserError, match=message):
    config_lib.check(config_lib.replace(c, {name: value}))
  # A default value is rejected only if the user sets it.
  with pytest.raises(errors.UserError, match=f"^--config.{name}=.* does not use this field"):
    config_lib.check(c, {name: c[name]})


@pytest.mark.parametrize("length", [50_000, 10**6, 10**7, 10**8, 10**10])
def test_the_sizes_that_are_chosen_for_a_transformer_are_valid(length):
  c = config_lib.replace(config_lib.default(), {"model.cell": "transformer"})
  c, chosen = config_lib.resolve(c, length)
  assert {"model.heads", "model.context"} <= chosen.keys() and models.make(9, c.model)
  lstm, _ = config_lib.resolve(config_lib.default(), length)
  assert lstm.model.heads is None and lstm.model.context is None


@pytest.mark.parametrize(("hidden", "heads"), [(64, 4), (256, 4), (240, 6), (90, 5), (2, 1)])
def test_the_number_of_heads_that_is_chosen_fits_the_width(hidden, heads):
  values = {"model.cell": "transformer", "model.hidden": hidden}
  c, _ = config_lib.resolve(config_lib.replace(config_lib.default(), values), 10**7)
  assert c.model.heads == heads and models.make(9, c.model)


def test_used_fields_of_an_ngram():
  c = config_lib.replace(config_lib.default(), {"model.cell": "ngram"})
  names = config_lib.used_fields(c)
  assert {"model.order", "seed", "text.source", "sample.length"} <= names
  assert not {"batch_size", "window", "optimizer.name", "model.hidden", "keep"} & names
  streams = config_lib.used_fields(config_lib.replace(c, {"text.split": "streams"}))
  assert streams - names == {"batch_size", "window"}
  assert "model.order" not in config_lib.used_fields(config_lib.default())


def test_short_names_are_unique():
  shorts = [config_lib.short(name) for name in config_lib.BY_NAME]
  assert len(set(shorts)) == len(shorts)
  assert config_lib.short("model.hidden") == "hidden"
  assert config_lib.short("schedule.name") == "schedule.name"
