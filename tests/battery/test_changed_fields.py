"""Trial 9: every field of the config is changed when a finished run is resumed."""

import shutil

import programs
import pytest

from charrnn import config as config_lib
from charrnn import errors
from charrnn.runs import tracking

pytestmark = pytest.mark.trial(9)
OTHER = {  # values of text fields without choices, and of fields with few valid values
  "init_from": "other",
  "text.source": "same.txt",
  "text.valid_source": "same.txt",
  "text.test_source": "same.txt",
  "text.encoding": "latin-1",
  "text.limit": 900,
  "model.order": 3,
  "batch_size": 16,
  "remat": 2,
  "cpu_devices": 2,
  "sample.prime": "to be",
}
SHORT = ("seed", "model.hidden", "optimizer.eps", "patience")  # These run in every test session.
FIELDS = [
  pytest.param(field.name, marks=() if field.name in SHORT else pytest.mark.long)
  for field in config_lib.FIELDS
]


def another(field, value):
  """Return a valid value of a field other than `value`."""
  if field.name in OTHER:
    return OTHER[field.name]
  if field.choices:
    return next(choice for choice in field.choices if choice != value)
  if field.type is int:
    return value + 1
  return next(each for each in (value / 2, 0.25) if each != value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_refused_with_both_values_or_listed(
  main, folder, whole, tmp_path, monkeypatch, capsys, name
):
  monkeypatch.setattr(tracking, "check", lambda name: None)  # The packages are optional.
  copy = shutil.copytree(whole, tmp_path / "copy")
  shutil.copy(folder / "text.txt", folder / "same.txt")
  stored = config_lib.flatten(programs.result(copy)["config"])
  field, before = config_lib.BY_NAME[name], programs.contents(copy)
  old = stored[name]
  new = another(field, field.type(0) if old is None else old)
  arguments = "--config=tiny.py", f"--workdir={copy}", f"--config.{name}={new}"
  try:
    code = main(*arguments)
  except errors.UserError as error:
    assert f"--config.{name}={new}: the run has {name}={old}, which cannot change" in str(error)
    assert field.resume == config_lib.FIXED
    assert programs.contents(copy) == before
  else:
    assert code == 0
    assert field.resume != config_lib.FIXED or name == "text.source"
    assert f"changed   {name} {old} -> {new}\n" in capsys.readouterr().err
