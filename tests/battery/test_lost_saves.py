"""Trial 5: whatever ends the program after a save was started, the save is there."""

import itertools

import pytest
import tiny

from charrnn.runs import checkpoints

pytestmark = pytest.mark.trial(5)

ENDS = [SystemExit(3), SystemExit("text"), ZeroDivisionError(), KeyboardInterrupt(), MemoryError()]
PLACES = ("the next step", "a later step", "the next evaluation")
SHORT = [(ENDS[0], PLACES[0]), (ENDS[2], PLACES[1]), (ENDS[3], PLACES[2])]
CASES = [
  pytest.param(
    *case, id=f"{case[1]}-{type(case[0]).__name__}", marks=[] if case in SHORT else pytest.mark.long
  )
  for case in itertools.product(ENDS, PLACES)
]


@pytest.mark.parametrize(("end", "place"), CASES)
def test_a_save_survives_whatever_ends_the_program(tmp_path, end, place):
  """The files of a save are written in parallel with the steps that follow it."""
  c = tiny.config(max_steps=12, eval_every=6, checkpoint_every=4)
  trainer = tiny.trainer(tmp_path, c)
  step_of_end = {"the next step": 5, "a later step": 7, "the next evaluation": 6}[place]
  saved = 4 if step_of_end <= 6 else 6
  record = trainer._record

  def fail_at_step(step, *arguments):
    if step == step_of_end and place != "the next evaluation":
      raise end
    record(step, *arguments)

  def fail(params, step):
    raise end

  trainer._record = fail_at_step
  if place == "the next evaluation":
    trainer.writers = [fail]
  with pytest.raises(type(end)):
    trainer.train(trainer.restore())
  assert checkpoints.read_newest(tmp_path / "checkpoints")[1]["step"] == saved
  trainer = tiny.trainer(tmp_path, c)
  state, _ = trainer.train(trainer.restore())
  assert state.step == 12
