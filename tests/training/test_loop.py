"""The training loop in one process: its files, how it ends, and exact resumption."""

import dataclasses
import json
import math
import os
import shutil
import signal
import statistics
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from charrnn import errors, process
from charrnn.runs import checkpoints, metrics
from charrnn.training import loop, steps


def digests(workdir, step):
  return checkpoints.read_meta(workdir / "checkpoints", step)["arrays"]


def numbers(workdir):
  """Return the lines of metrics.jsonl without the values that depend on a clock."""
  clocked = {"chars_per_second", "idle", "seconds"}
  return [{k: v for k, v in line.items() if k not in clocked} for line in metrics.read(workdir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Train a run of 12 steps without interruption and return its directory."""
  workdir = tmp_path_factory.mktemp("whole")
  trainer = tiny.trainer(workdir, tiny.config(checkpoint_every=2), dropout=0.3)
  trainer.train(trainer.restore())
  return workdir


def resume(workdir, **overrides):
  """Resume a run; return its state, whether it was interrupted, messages, samples and trainer."""
  messages, samples = [], {}
  c = tiny.config(checkpoint_every=2, **overrides)
  trainer = tiny.trainer(workdir, c, samples, dropout=0.3)
  with mock.patch.object(loop, "say", messages.append):
    result = trainer.train(trainer.restore())
  return (*result, messages, samples, trainer)


def test_a_run_logs_evaluates_and_saves(whole):
  lines = numbers(whole)
  assert [line["step"] for line in lines if "train/loss" in line] == [4, 8, 12]
  assert [line["step"] for line in lines if "valid/loss" in line] == [6, 12]
  assert checkpoints.steps(whole / "checkpoints") == [8, 10, 12]
  memory = checkpoints.read_meta(whole / "checkpoints", 12)["memory"]
  assert memory["best_step"] == 12 and memory["best_loss"] == lines[-1]["valid/loss"]
  assert memory["first_loss"] == lines[0]["train/loss"] and memory["pending_count"] == 0


@pytest.mark.parametrize(
  ("stopped_after", "number"),
  [
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in ((4, signal.SIGTERM), (7, signal.SIGUSR1))
    ),
    (7, signal.SIGHUP),
    (12, signal.SIGTERM),
  ],
)
def test_a_run_stopped_by_a_signal_resumes_to_the_same_result(
  whole, tmp_path, stopped_after, number
):
  c = tiny.config(checkpoint_every=2)
  trainer = tiny.trainer(tmp_path, c, dropout=0.3)
  original_step, count = trainer.train_step._step, 0

  def step_and_signal(*arguments):
    nonlocal count
    count += 1
    if count == stopped_after:
      os.kill(os.getpid(), number)
    return original_step(*arguments)

  trainer.train_step._step = step_and_signal
  _, interrupted = trainer.train(trainer.restore())
  assert interrupted == (stopped_after < 12)  # A signal in the last step changes nothing.
  assert checkpoints.steps(tmp_path / "checkpoints")[-1] == stopped_after
  _, interrupted, messages, _, _ = resume(tmp_path)
  assert not interrupted
  assert stopped_after == 12 or f"resuming from step {stopped_after}" in messages
  assert digests(tmp_path, 12) == digests(whole, 12)
  assert numbers(tmp_path) == numbers(whole)


@pytest.mark.parametrize(
  ("fields", "overrides"),
  [
    # The carry of a transformer has arrays of several ranks and dtypes.
    pytest.param(tiny.TRANSFORMER, {}, marks=pytest.mark.long),
    (tiny.TRANSFORMER | {"compute_dtype": "bfloat16"}, {}),
    # Muon and Adam have states for different parameters.
    ({"layers": 2, "weight_drop": 0.2}, {"optimizer__name": "muon", "optimizer__average": 0.9}),
  ],
  ids=["float32", "bfloat16", "muon"],
)
def test_states_of_all_kinds_resume_to_the_same_result(tmp_path, fields, overrides):
  def train(name, **more):
    c = tiny.config(checkpoint_every=4, **overrides, **more)
    trainer = tiny.trainer(tmp_path / name, c, dropout=0.3, **fields)
    trainer.train(trainer.restore())
    return digests(tmp_path / name, 12)

  whole = train("whole", keep=9)
  shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
  for step in (6, 8, 12):
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(step))
  assert train("resumed") == whole
  assert numbers(tmp_path / "resumed") == numbers(tmp_path / "whole")


def test_damaged_checkpoints_are_skipped_and_the_result_is_the_same(whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / "run")
  for step in (10, 12):
    (workdir / "checkpoints" / str(step) / "meta" / "metadata").write_text("{")
  (workdir / "checkpoints" / "9999").mkdir()
  _, _, messages, samples, _ = resume(workdir)
  assert [text.split()[1] for text in messages[:3]] == ["9999", "12", "10"]
  assert messages[3] == "resuming from step 8"
  assert sorted(p.name for p in (workdir / "damaged").iterdir()) == ["10", "12", "9999"]
  assert digests(workdir, 12) == digests(whole, 12)
  assert numbers(workdir) == numbers(whole)
  assert list(samples) == [12]


def test_a_finished_run_trains_nothing(whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / "run")
  state, interrupted, _, samples, trainer = resume(workdir)
  assert state.step == 12 and not interrupted and not samples
  assert trainer.loop_state.best_step == 12
  assert digests(workdir, 12) == digests(whole, 12)
  assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_finished_run_can_be_extended(whole, tmp_path):
  workdir, first_steps = shutil.copytree(whole, tmp_path / "run"), []
  for max_steps, count in ((12, 0), (14, 1), (14, 1)):
    trainer = tiny.trainer(workdir, tiny.config(max_steps=max_steps), dropout=0.3)
    state, _ = trainer.train(trainer.restore(), lambda: first_steps.append("done"))
    assert state.step == max_steps and len(first_steps) == count
  assert numbers(workdir)[: len(numbers(whole))] == numbers(whole)
  seconds = [line["seconds"] for line in metrics.read(workdir)]
  assert seconds[0] > 0 and seconds == sorted(seconds) and len(seconds) > len(numbers(whole))


WSD = {"schedule__name": "wsd", "schedule__decay_fraction": 0.25, "keep": 1}


@pytest.mark.parametrize(("first", "then"), [(12, 8), pytest.param(8, 12, marks=pytest.mark.long)])
def test_a_run_whose_length_changes_continues_from_the_start_of_the_decay(tmp_path, first, then):
  def train(name, steps, last=math.inf):
    c = tiny.config(max_steps=steps, **WSD | {"keep": 9})
    trainer = tiny.trainer(tmp_path / name, c, dropout=0.3)
    trainer.train(trainer.restore(last=last))
    return trainer.stable_steps

  starts = train("run", first), train("whole", then)
  assert starts == (first * 3 // 4, then * 3 // 4)
  train("run", then, last=min(starts))
  assert digests(tmp_path / "run", then) == digests(tmp_path / "whole", then)
  after = [line for line in numbers(tmp_path / "run") if line["step"] > 6]
  assert after == [line for line in numbers(tmp_path / "whole") if line["step"] > 6]
  folders = ("checkpoints", "replaced") if first > 6 else ("checkpoints",)
  stored = {int(path.name) for name in folders for path in (tmp_path / "run" / name).iterdir()}
  assert {*starts, first, then} <= stored


def test_without_a_checkpoint_before_the_decay_the_length_cannot_change(tmp_path):
  train = tiny.trainer(tmp_path, tiny.config(**WSD))
  train.train(train.restore())
  shutil.rmtree(tmp_path / "checkpoints" / "9")
  with pytest.raises(errors.UserError, match=r"has no checkpoint up to step 9, after which"):
    tiny.trainer(tmp_path, tiny.config(**WSD | {"max_steps": 20})).restore(last=9)
  assert checkpoints.steps(tmp_path / "checkpoints") == [12]


def test_a_run_that_reaches_its_time_limit_resumes_to_the_same_result(whole, tmp_path):
  for step in (1, 2):  # Each launch makes one step, although the limit has passed already.
    trainer = tiny.trainer(tmp_path, tiny.config(checkpoint_every=2), dropout=0.3)
    messages = []
    with mock.patch.object(loop, "say", messages.append):
      state, is_stopped = trainer.train(trainer.restore(), end=0.0)
    assert int(state.step) == step and is_stopped
    text = f"stopped at the time limit, saved after step {step}: run the same command to resume"
    assert messages[-1] == text
  resume(tmp_path)
  assert digests(tmp_path, 12) == digests(whole, 12)
  assert numbers(tmp_path) == numbers(whole)


@pytest.mark.parametrize(("longest", "stops_at"), [(1, 96), (10, 87)])
def test_a_time_limit_leaves_time_for_the_longest_step_so_far(monkeypatch, longest, stops_at):
  now = 0.0
  monkeypatch.setattr(loop.time, "monotonic", lambda: now)
  limit = loop.TimeLimit(end=100.0)
  assert not limit.check()
  now = longest
  while not limit.check():
    now += 1
  assert now == stops_at and limit.is_near


def test_a_time_limit_leaves_time_for_the_first_evaluation(tmp_path, monkeypatch):
  now = 0.0
  monkeypatch.setattr(loop.time, "monotonic", lambda: now)
  limit = loop.TimeLimit(end=100.0)
  now = 5.0  # for the compilation of a step
  assert not limit.check()
  now = 6.0
  assert not limit.check() and not limit.check(evaluation=80.0)
  assert limit.check(evaluation=82.0)  # and for the compilation of two programs

  config = tiny.config(eval_every=6)  # of 12 steps
  trainer = tiny.trainer(tmp_path, config)
  trainer._eval_steps, trainer._pace = 30, types.SimpleNamespace(seconds=0.5)
  assert [trainer._first_evaluation(step, 1) for step in (1, 4, 5, 6, 11)] == [
    *(None, None, 15.0, None, 15.0)
  ]
  assert trainer._first_evaluation(4, 4) == 15.0
  trainer._has_evaluated = True
  assert trainer._first_evaluation(5, 1) is None


def test_a_compiled_fresh_state_is_bit_identical_to_an_uncompiled_one(tmp_path):
  trainer = tiny.trainer(tmp_path, tiny.config(seed=2**32 - 1), embed=5)
  uncompiled = steps.create_state(trainer.model, trainer.optimizer, 8, 2**32 - 1)
  jax.tree.map(np.testing.assert_array_equal, trainer.restore(), uncompiled)
  assert trainer.shapes() == jax.eval_shape(lambda: uncompiled.params)


def test_training_can_start_from_given_weights(tmp_path):
  trainer = tiny.trainer(tmp_path, tiny.config())
  params = jax.tree.map(lambda leaf: leaf + 1, trainer.restore().params)
  state = trainer.restore(lambda fresh: params)
  jax.tree.map(np.testing.assert_array_equal, state.params, params)
  assert state.step == 0


def replace_steps(trainer, losses):
  """Replace the step of a trainer by one that only counts and reports these losses."""
  remaining = iter(losses)

  def step(state, *batch):
    loss = jnp.float32(next(remaining))
    out = {"loss": loss, "grad_norm": jnp.float32(1.0), "is_finite": True}
    out["is_updated"] = jnp.isfinite(loss)
    return state._replace(step=state.step + 1), out

  trainer.train_step._step = step


def with_losses(workdir, losses, **overrides):
  """Return a trainer that reports these training losses."""
  trainer = tiny.trainer(workdir, tiny.config(log_every=1, **overrides))
  replace_steps(trainer, losses)
  return trainer


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_consecutive_non_finite_updates_end_training(tmp_path, bad):
  few = [2.0, *[bad] * (loop.MAX_NONFINITE - 1), 2.0, *[bad] * (loop.MAX_NONFINITE - 1)]
  trainer = with_losses(tmp_path, [*few, 2.0], max_steps=len(few) + 1, eval_every=100)
  trainer.train(trainer.restore())
  trainer = with_losses(tmp_path / "b", [2.0, *[bad] * 50], max_steps=40, eval_every=100)
  with pytest.raises(errors.UserError, match=r"step 11: 10 consecutive updates .*learning_rate"):
    trainer.train(trainer.restore())


def test_skipped_updates_are_counted_in_the_metrics(tmp_path):
  trainer = with_losses(tmp_path, [2.0, math.nan, 2.0, math.inf, 2.0], max_steps=5, eval_every=9)
  trainer.train(trainer.restore())
  lines = [line for line in metrics.read(tmp_path) if "train/loss" in line]
  assert [(line["step"], line.get("skipped")) for line in lines] == [(1, None), (3, 1), (5, 2)]
  assert trainer.loop_state.skipped == 2 and trainer.loop_state.nonfinite == 0


def test_training_restores_the_signal_handlers(tmp_path):
  before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
  trainer = with_losses(tmp_path, [2.0] * 3, max_steps=3)
  trainer.train(trainer.restore())
  assert signal.signal(signal.SIGTERM, before) is signal.SIG_IGN
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_mean_loss_is_compared_with_the_loss_of_the_first_step(tmp_path):
  trainer = with_losses(tmp_path, [2.0, 9.0, 9.0, 9.0], max_steps=4)
  trainer.config.log_every = 4
  with pytest.raises(
    errors.UserError, match=r"step 3: the training loss 6\.667 is more than 3 times the first, 2"
  ):
    trainer.train(trainer.restore())


@pytest.mark.parametrize(
  ("losses", "fields"),
  [
    ([2.0, 9e9, 9e9], {"log_every": 100}),  # before the first log line
    ([2.0, 2.0, 2.0, 2.0, 2.0, 9e9, 9e9, 9e9], {"log_every": 4, "checkpoint_every": 6}),
    ([2.0, 2.0, 2.0, 2.0, 2.0, 9e9], {"log_every": 4}),  # at the end
    ([2.0, 2.0, 2.0, 2.0, 9e9, 9e9, 9e9], {"log_every": 4, "eval_every": 6}),
  ],
)
def test_divergence_is_noticed_before_anything_is_saved(tmp_path, losses, fields):
  c = tiny.config(**{"eval_every": 100} | fields, max_steps=len(losses))
  trainer = tiny.trainer(tmp_path, c)
  replace_steps(trainer, losses)
  with pytest.raises(errors.DivergedError, match=r"the training loss .* is more than 3 times"):
    trainer.train(trainer.restore())
  assert not checkpoints.steps(tmp_path / "checkpoints")


def test_a_learning_rate_that_is_far_too_high_is_noticed(tmp_path):
  c = tiny.config(optimizer__name="rmsprop", optimizer__clip_norm=0.0, log_every=20)
  c.optimizer.learning_rate = 1e30
  trainer = tiny.trainer(tmp_path, c)
  with pytest.raises(errors.DivergedError, match="training diverged at step"):
    trainer.train(trainer.restore())


def test_the_message_about_divergence_names_checkpoints_only_if_there_are_any(tmp_path):
  for number, losses in enumerate(([2.0, 9.0], [2.0, 2.0, 9.0])):
    workdir = tmp_path / str(number)
    trainer = with_losses(workdir, losses, max_steps=3, eval_every=2)
    with pytest.raises(errors.DivergedError) as caught:
      trainer.train(trainer.restore())
    assert ("are kept" in str(caught.value)) == bool(number)


def test_a_loss_far_above_the_first_one_ends_training(tmp_path):
  trainer = with_losses(tmp_path, [2.0, 5.9, 6.1], max_steps=3, diverged=3.0)
  with pytest.raises(
    errors.UserError, match=r"diverged at step 3: the training loss 6\.100 is more than"
  ):
    trainer.train(trainer.restore())


def with_validation(workdir, losses, **overrides):
  """Return a trainer that reports these validation losses."""
  trainer = tiny.trainer(workdir, tiny.config(eval_every=2, **overrides), losses=losses)
  replace_steps(trainer, [2.0] * 12)
  return trainer


def test_patience_ends_training_and_a_restart_does_not_continue(tmp_path, monkeypatch):
  messages = []
  monkeypatch.setattr(loop, "say", messages.append)
  losses = [2.0, 1.0, 1.5, 1.0, 0.5, 0.4]
  trainer = with_validation(tmp_path, losses, patience=2)
  state, interrupted = trainer.train(trainer.restore())
  assert state.step == 8 and not interrupted
  assert messages[-1] == (
    "stopped early at step 8: the validation loss did not improve in 2 evaluations "
    "(--config.patience)"
  )
  assert checkpoints.best(checkpoints.losses(tmp_path / "checkpoints")) == 4
  again = with_validation(tmp_path, [], patience=2)
  state, _ = again.train(again.restore())
  assert state.step == 8
  longer = with_validation(tmp_path, [0.5, 0.4], patience=3)
  state, _ = longer.train(longer.restore())
  assert state.step == 12


def test_training_without_a_validation_split(tmp_path):
  trainer = with_validation(tmp_path, [None] * 6)
  state, _ = trainer.train(trainer.restore())
  assert state.step == 12 and trainer.loop_state.best_loss is None
  assert checkpoints.best(checkpoints.losses(tmp_path / "checkpoints")) == 12
  assert not [line for line in metrics.read(tmp_path) if "valid/loss" in line]


class StepMetrics:
  """Metrics of a step, which are ready if the step is done."""

  def __init__(self, done):
    self._done = done

  def __getitem__(self, name):
    return self

  def is_ready(self):
    return self._done


def test_idle_is_the_share_of_time_in_which_the_devices_wait_for_the_loop(monkeypatch):
  seconds = 0.0
  monkeypatch.setattr(loop.time, "monotonic", lambda: seconds)
  pace = loop.Pace()
  assert math.isnan(pace.take_idle()) and math.isnan(pace.seconds)
  # The second step is dispatched late, because the first one is compiled.
  previous = None
  for step, done, host in ((1, False, 9.0), (2, True, 0.5), (3, False, 0.5), (4, True, 1.0)):
    seconds += host
    pace.dispatch(previous)
    seconds += 2.0 - host if step > 1 else 0.0  # The loop waits for the step.
    if previous:
      pace.finish()
    previous = StepMetrics(done)
  assert pace.take_idle() == pytest.approx(0.5 / 4)
  pace.resume()
  seconds += 1.0
  pace.dispatch(previous)
  seconds += 3.0
  pace.finish()
  assert pace.take_idle() == pytest.approx(1.0 / 4)


def test_the_first_step_and_pauses_do_not_change_the_seconds_per_step(monkeypatch):
  seconds = 0.0
  monkeypatch.setattr(loop.time, "monotonic", lambda: seconds)
  pace = loop.Pace()
  for duration in (9.0, 0.5, 0.5, 600.0, 0.001, 0.5, 0.5):
    seconds += duration
    pace.finish()
  assert pace.seconds == pytest.approx(0.5)


@pytest.mark.parametrize("way", ["renamed", "deleted", "replaced"])
def test_a_run_directory_that_disappears_ends_training_in_one_line(tmp_path, way):
  workdir = tmp_path / "run"
  trainer = with_losses(workdir, [2.0] * 20, max_steps=20, eval_every=100, checkpoint_every=5)

  def disappear():
    if way == "deleted":
      shutil.rmtree(workdir)
    else:
      workdir.rename(tmp_path / "new")
    if way == "replaced":
      workdir.mkdir()

  with pytest.raises(errors.UserError, match="was moved or deleted while it was trained"):
    trainer.train(trainer.restore(), disappear)
  assert not (workdir / "checkpoints").exists()


def test_a_failing_writer_does_not_end_training(tmp_path, capsys):
  trainer = with_losses(tmp_path, [2.0] * 4, max_steps=4, eval_every=2)

  def write(params, step):
    raise errors.UserError("cannot write to samples: Permission denied")

  trainer.writers = [write]
  trainer.train(trainer.restore())
  assert capsys.readouterr().err.count("warning: cannot write to samples: Permission denied") == 2
  assert checkpoints.steps(tmp_path / "checkpoints") == [2, 4]


@pytest.fixture
def diverges(monkeypatch):
  """Return a function that trains a run which diverges at step 9 unless the rate is below 0.004.

  With `stopped_after`, a signal stops it after this number of updates.
  """

  def run(workdir, stopped_after=None, rolls_back=True, **overrides):
    c = tiny.config(eval_every=4, checkpoint_every=3, log_every=2, keep=2, **overrides)
    trainer = tiny.trainer(workdir, c, rolls_back=rolls_back, dropout=0.3)
    update, count, records = trainer._update, 0, {}

    def spoiled(step, state, batch):
      nonlocal count
      state, out = update(step, state, batch)
      count += 1
      if count == stopped_after:
        os.kill(os.getpid(), signal.SIGTERM)
      if step >= 8 and trainer.peak_rate > 0.004:
        out["loss"] = out["loss"] * 100
      return state, out

    trainer._update = spoiled
    state, interrupted = trainer.train(
      trainer.restore(), on_rollback=lambda record, number: records.update({number: record})
    )
    return state, interrupted, trainer, records

  return run


def test_a_rollback_returns_to_the_best_step_with_half_the_learning_rate(diverges, tmp_path):
  state, _, trainer, records = diverges(tmp_path)
  assert state.step == 12 and trainer.loop_state.rollbacks == 2
  assert [records[n]["learning_rate"] for n in (1, 2)] == [0.005, 0.0025]
  assert [(records[n]["step"], records[n]["diverged_at"]) for n in (1, 2)] == [(8, 9)] * 2
  lines = [line for line in metrics.read(tmp_path) if "train/loss" in line]
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
  assert [line.get("rollbacks") for line in lines] == [None] * 4 + [2] * 2
  assert lines[4]["learning_rate"] == pytest.approx(float(trainer.learning_rate(9)))
  assert all(np.isfinite(line["train/loss"]) and line["train/loss"] < 5 for line in lines)


@pytest.mark.parametrize(
  "stopped_after", [10, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 8, 9, 11, 13))]
)
def test_an_interrupted_run_with_rollbacks_has_the_same_result(diverges, tmp_path, stopped_after):
  diverges(tmp_path / "whole")
  _, interrupted, *_ = diverges(tmp_path / "stopped", stopped_after)
  assert interrupted
  _, interrupted, trainer, _ = diverges(tmp_path / "stopped")
  assert not interrupted and trainer.loop_state.rollbacks == 2
  assert digests(tmp_path / "stopped", 12) == digests(tmp_path / "whole", 12)
  assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
  memories = [
    checkpoints.read_meta(tmp_path / name / "checkpoints", 12)["memory"] | {"seconds": None}
    for name in ("whole", "stopped")
  ]
  assert memories[0] == memories[1]


def test_a_run_rolls_back_to_the_start_before_the_first_evaluation(tmp_path):
  def losses():
    yield from [2.0, 9.0, 9.0]  # One step is dispatched before the loss is seen.
    yield from [2.0] * 12

  messages = []
  with mock.patch.object(loop, "say", messages.append):
    trainer = tiny.trainer(tmp_path, tiny.config(log_every=1), rolls_back=True)
    remaining = losses()
    trainer._update = lambda step, state, batch: (
      state._replace(step=state.step + 1),
      {
        "loss": jnp.float32(next(remaining)),
        "grad_norm": jnp.float32(1),
        "learning_rate": trainer.learning_rate(step),
        "is_updated": True,
        "is_finite": True,
      },
    )
    state, _ = trainer.train(trainer.restore())
  assert state.step == 12 and trainer.loop_state.rollbacks == 1
  assert any("back to step 0 with learning rate 0.005" in text for text in messages)


def test_the_number_of_rollbacks_is_limited(tmp_path):
  trainer = tiny.trainer(tmp_path, tiny.config(log_every=1), rolls_back=True)
  rates = []

  def diverge(step, state, batch):
    rates.append(trainer.peak_rate)
    out = {"loss": jnp.float32(2 * 10**step), "grad_norm": jnp.float32(1)}
    out |= {"learning_rate": trainer.learning_rate(step), "is_updated": True, "is_finite": True}
    return state._replace(step=state.step + 1), out

  trainer._update = diverge
  with pytest.raises(errors.DivergedError, match=r"\(here 0\.0003125\)") as caught:
    trainer.train(trainer.restore())
  assert "(after 5 rollbacks)" in str(caught.value) and "add --rollback" not in str(caught.value)
  assert [*dict.fromkeys(rates)] == [0.01 * 0.5**n for n in range(loop.MAX_ROLLBACKS + 1)]


def test_a_run_that_was_rolled_back_keeps_its_learning_rate_without_the_option(diverges, tmp_path):
  diverges(tmp_path, stopped_after=13)
  _, _, trainer, records = diverges(tmp_path, rolls_back=False)
  assert trainer.peak_rate == 0.0025 and not records


def test_a_stored_state_that_is_not_finite_is_refused(tmp_path):
  writer = checkpoints.Writer(tmp_path / "checkpoints", 1)
  trainer = tiny.trainer(tmp_path, tiny.config())
  state = jax.tree.map(np.array, trainer.restore())
  state.params["head"]["b_y"][0] = np.nan
  writer.save(3, state._replace(step=np.int32(3)), {"memory": {}, "valid_loss": None})
  writer.close()
  with pytest.raises(errors.UserError, match=r"checkpoint 3 in .* \(params/head/b_y\): delete it"):
    tiny.trainer(tmp_path, tiny.config()).restore()


@pytest.mark.parametrize(
  "memory",
  [
    *(
      {"pending": "x"},
      {"pending": ["x"]},
      {"pending_count": 0.5},
      {"pending_count": -1},
      {"stale": "1"},
      {"best_step": [1]},
    ),
    *({"rollbacks": -3}, {"rollbacks": 10**9}, {"rollbacks": True}, {"nonfinite": None}),
  ],
)
def test_a_damaged_state_of_the_loop_is_refused(tmp_path, memory):
  trainer, folder = tiny.trainer(tmp_path, tiny.config()), tmp_path / "checkpoints"
  meta = {"step": 3, "memory": {"best_loss": None, "stale": 0} | memory}
  with (
    mock.patch.object(checkpoints, "read_newest", lambda *_: ({}, meta)),
    pytest.raises(errors.UserError, match=rf"checkpoint 3 in {folder} .* \(memory: "),
  ):
    trainer.restore()


def test_the_loop_state_is_small_and_has_the_mean_of_all_losses():
  losses = np.random.default_rng(0).uniform(0.3, 30, 10_000).astype(np.float32).tolist()
  state = loop.LoopState()
  for n, loss in enumerate(losses):
    state.add(loss)
    if n == 5000:  # A restart changes nothing.
      state = loop.LoopState.from_json(json.loads(json.dumps(dataclasses.asdict(state))))
  assert state.pending_mean == statistics.fmean(losses) and state.initial_loss == losses[0]
  assert len(json.dumps(dataclasses.asdict(state))) < 500


def test_the_losses_in_a_checkpoint_of_an_older_version_are_kept():
  losses = [3.5, 3.25, 0.1]
  old = {"first_loss": None, "best_loss": 1.0, "pending": losses, "seconds": 1.0}
  state = loop.LoopState.from_json(old)
  assert (state.initial_loss, state.pending_mean) == (3.5, statistics.fmean(losses))
  assert (state.best_loss, state.seconds) == (1.0, 1.0)
  assert loop.LoopState.from_json(old | {"pending": []}) == loop.LoopState(
    best_loss=1.0, seconds=1.0
  )


def test_a_state_that_is_not_finite_is_not_saved_after_a_signal(tmp_path, capsys):
  trainer = tiny.trainer(tmp_path, tiny.config())
  update = trainer._update

  def spoiled(step, state, batch):
    state, out = update(step, state, batch)
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
      bad = jax.tree.map(np.array, trainer.train_step.get(state))
      bad.params["head"]["b_y"][0] = np.nan
      state = trainer.train_step.put(bad)
    return state, out

  trainer._update = spoiled
  _, interrupted = trainer.train(trainer.restore())
  assert interrupted and not checkpoints.steps(tmp_path / "checkpoints")
  err = capsys.readouterr().err
  assert "step 3 is not saved, because its state is not finite" in err
  assert "saved after step" not in err


def test_the_summary_of_a_diverged_run_without_rollback_names_the_option(diverges, tmp_path):
  with pytest.raises(errors.DivergedError, match="or add --rollback; the checkpoints in"):
    diverges(tmp_path, rolls_back=False)


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_only_a_second_sigint_or_sigterm_ends_the_program_at_once(number):
  received = []
  before = signal.signal(number, lambda *arguments: received.append(arguments[0]))
  with process.StopRequest() as stop:
    os.kill(os.getpid(), number)
    assert stop.is_requested and not received
    os.kill(os.getpid(), number)
  signal.signal(number, before)
  assert received == ([number] if number in (signal.SIGTERM, signal.SIGINT) else [])
