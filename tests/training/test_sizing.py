"""Names that a config may have are those that there are programs for."""

import pytest

from charrnn import config, errors
from charrnn.models import cells, rnn
from charrnn.training import optimizer, sizing


def test_every_name_has_its_program():
  c, of = config.default(), sizing.CHOICES
  assert [*of["model.cell"]] == [*cells.CELLS, "ngram"]
  assert {*of["model.init"]} == {*rnn.INITIALIZERS}
  for field, make in (
    ("optimizer.name", lambda: optimizer.make(c.optimizer, lambda step: 0.1)),
    ("schedule.name", lambda: optimizer.schedule(c.schedule, 0.1, 10, 100)),
  ):
    section, name = field.split(".")
    for known in of[field]:
      c[section][name] = known
      c.optimizer.weight_decay = 0.1 if known == "adamw" else 0.0
      make()
    c[section][name] = "none such"
    with pytest.raises(errors.UserError, match=f"use one of {', '.join(of[field])}$"):
      make()


@pytest.mark.parametrize("field", sizing.CHOICES)
def test_another_name_is_refused(field):
  c = config.default()
  section, name = field.split(".")
  sizing.check(c)
  c[section][name] = "none such"
  with pytest.raises(errors.UserError, match=f"{field}=none such: use one of "):
    sizing.check(c)
