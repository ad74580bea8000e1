"""Search spaces, random search, and search with Optuna.

The trials of the searches only write losses; they do not train.
"""

import math
import sys

import pytest

from charrnn import errors
from charrnn.runs import status as status_lib
from charrnn.sweeps import local, outcomes, spaces

SPACE = {
  "optimizer.learning_rate": spaces.log_uniform(1e-4, 1e-1),
  "model.dropout": spaces.uniform(0.1, 0.5),
  "model.hidden": spaces.integers(16, 70, step=16),
  "model.cell": spaces.choice(["rnn", "gru"]),
}


def test_random_values_are_in_the_space():
  trials = spaces.draw(SPACE, 300, seed=0)
  rates = [trial["optimizer.learning_rate"] for trial in trials]
  assert all(1e-4 <= rate <= 1e-1 for rate in rates)
  # About half of the values are below the geometric mean of the limits.
  assert 115 < sum(rate < math.sqrt(1e-5) for rate in rates) < 185
  assert all(0.1 <= trial["model.dropout"] <= 0.5 for trial in trials)
  assert {trial["model.hidden"] for trial in trials} == {16, 32, 48, 64}
  assert {trial["model.cell"] for trial in trials} == {"rnn", "gru"}


def test_trials_do_not_change_when_trials_or_fields_are_added():
  trials = spaces.draw(SPACE, 20, seed=3)
  assert spaces.draw(SPACE, 30, seed=3)[:20] == trials
  assert spaces.draw(SPACE, 20, seed=4) != trials
  more = spaces.draw({"window": spaces.integers(8, 64)} | SPACE, 20, seed=3)
  assert [{name: trial[name] for name in SPACE} for trial in more] == trials


def test_all_trials_are_different():
  space = {"model.cell": spaces.choice(["rnn", "gru"]), "seed": spaces.integers(1, 3)}
  assert len({tuple(trial.items()) for trial in spaces.draw(space, 6, seed=0)}) == 6
  with pytest.raises(errors.UserError, match="only 6 different trials"):
    spaces.draw(space, 7, seed=0)


def test_extremes():
  assert list(spaces.extremes(SPACE))[4:] == [
    *({"model.hidden": hidden} for hidden in (16, 64)),
    *({"model.cell": cell} for cell in ("rnn", "gru")),
  ]


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: spaces.uniform(2, 1), "not a range"),
    (lambda: spaces.uniform(0, math.nan), "not a range"),
    (lambda: spaces.log_uniform(0, 1), "not a range above 0"),
    (lambda: spaces.integers(4, 2), "use integers"),
    (lambda: spaces.integers(1, 8, step=0), "use integers"),
    (lambda: spaces.integers(1, 2.5), "use integers"),
    (lambda: spaces.choice([]), "use at least one value"),
    (lambda: spaces.choice([[1]]), "only numbers and text"),
    (lambda: spaces.checked({}), "return a dict"),
    (lambda: spaces.checked([1]), "return a dict"),
    (lambda: spaces.checked({"model.width": spaces.integers(1, 2)}), "'model.width'"),
    (lambda: spaces.checked({"seed": 3}), "seed is 3"),
  ],
)
def test_invalid_spaces_are_refused(make, message):
  with pytest.raises(errors.UserError, match=message):
    make()


RATES = {"optimizer.learning_rate": spaces.log_uniform(1e-4, 1.0)}
# The best rate is 0.01. A trial writes six losses unless it is ended early.
PROGRAM = """
import json, math, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
folder, rate = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with (folder / "launches").open("a") as file:
  file.write("x")
loss = 1 + math.log10(rate / 0.01) ** 2
with (folder / "metrics.jsonl").open("w") as file:
  for step in range(1, 7):
    print(json.dumps({"step": step, "valid/loss": loss + 1 / step}), file=file, flush=True)
    time.sleep(PAUSE)
"""
QUICK = PROGRAM.replace("PAUSE", "0")


@pytest.fixture
def fast_polling(monkeypatch):
  """Read the losses without waiting, so that no evaluation is missed."""
  monkeypatch.setattr(local, "POLL", 0.02)
  monkeypatch.setattr(spaces, "POLL", 0.0)


def _search(folder, count, program=QUICK, **about):
  def make(name, overrides):
    own = folder / name
    rate = overrides["optimizer.learning_rate"]
    command = [sys.executable, "-c", program, str(own), str(rate)]
    return outcomes.Trial(name, overrides, own, command)

  folder.mkdir(exist_ok=True)
  return spaces.Search(folder, RATES, count, 0, make, about)


def _run(search, parallel=1, watch=lambda pool: None):
  def both(pool):
    search.watch(pool)
    watch(pool)

  local.Pool(search.ask(), parallel, None).run(both)
  return search


def _states(search):
  ended = [status_lib.read_outcome(trial.folder) for trial in search.trials]
  return [each and each.status for each in ended]


def _launches(trial):
  return len((trial.folder / "launches").read_text())


def test_search_finds_the_best_region(tmp_path, fast_polling):
  search = _run(_search(tmp_path / "s", 24))
  assert search.done == search.total == 24 and set(_states(search)) <= {"finished", "pruned"}
  rates = [trial.overrides["optimizer.learning_rate"] for trial in search.trials]
  far = [abs(math.log10(rate / 0.01)) for rate in rates]
  # Random search would have 15% of the trials so close: 1.8 of 12.
  assert sum(each < 0.3 for each in far[-12:]) >= 4
  assert min(far) < 0.05


def test_bad_trials_are_pruned(tmp_path, fast_polling):
  search = _run(_search(tmp_path / "s", 9, PROGRAM.replace("PAUSE", "0.3")), parallel=3)
  states = _states(search)
  assert states.count("finished") >= spaces.MIN_TRIALS and "pruned" in states
  losses = {state: [] for state in states}
  for trial, state in zip(search.trials, states):
    losses[state].append(abs(math.log10(trial.overrides["optimizer.learning_rate"] / 0.01)))
  assert min(losses["pruned"]) > min(losses["finished"])
  lines = [len((each.folder / "metrics.jsonl").read_text().splitlines()) for each in search.trials]
  assert {n for n, state in zip(lines, states) if state == "finished"} == {6}
  assert min(n for n, state in zip(lines, states) if state == "pruned") < 6


def test_only_failed_trials_run_again_under_the_same_name(tmp_path, fast_polling, monkeypatch):
  monkeypatch.setattr(spaces, "MIN_TRIALS", 100)
  fails = QUICK + "if rate < 0.01: raise SystemExit(3)"
  first = _run(_search(tmp_path / "s", 6, fails))
  states = dict(zip([trial.name for trial in first.trials], _states(first)))
  failed = [name for name, state in states.items() if state == "failed"]
  assert 0 < len(failed) < 6
  again = _search(tmp_path / "s", 8)
  assert (again.done, again.total) == (6 - len(failed), 8)
  _run(again)
  assert [trial.name for trial in again.trials][:6] == list(states) and len(again.trials) == 8
  assert {trial.name for trial in again.trials if _launches(trial) == 2} == set(failed)
  assert _search(tmp_path / "s", 8).done == 8


def test_stopped_and_killed_trials_run_again(tmp_path, fast_polling):
  slow = PROGRAM.replace("PAUSE", "30")
  stopped = _search(tmp_path / "s", 3, slow)

  def stop(pool):
    paths = [each.trial.folder / "metrics.jsonl" for each in pool.running]
    if len(paths) == 2 and not pool.stopping and all(path.exists() for path in paths):
      pool.stop()

  _run(stopped, parallel=2, watch=stop)
  assert _states(stopped) == ["stopped", "stopped"]
  # After a kill, there is no outcome, and Optuna has no result.
  (stopped.trials[0].folder / "outcome.json").unlink()
  again = _run(_search(tmp_path / "s", 3))
  assert [trial.name for trial in again.trials[:2]] == [trial.name for trial in stopped.trials]
  assert _states(again) == ["finished"] * 3
  assert [_launches(trial) for trial in again.trials] == [2, 2, 1]


def test_next_launcher_reports_results_that_a_killed_one_did_not(
  tmp_path, fast_polling, monkeypatch
):
  first = _search(tmp_path / "s", 2)
  with monkeypatch.context() as patch:
    patch.setattr(spaces.Search, "_tell", lambda self, trial, folder: False)
    _run(first)
  assert _states(first) == ["finished", "finished"] and first.done == 0
  # The killed launcher left the lock of the journal and an incomplete last line.
  path = tmp_path / "s" / spaces.FILE
  path.with_name(f"{spaces.FILE}.lock").symlink_to(path)
  with path.open("a") as file:
    file.write('{"op_code": 5, "wor')
  again = _run(_search(tmp_path / "s", 2))
  assert again.done == 2 and [_launches(trial) for trial in again.trials] == [1, 1]


def test_diverged_trials_are_not_repeated(tmp_path, fast_polling):
  program = "import sys; open(f'{sys.argv[1]}/diverged.txt', 'w').close(); sys.exit(2)"
  search = _run(_search(tmp_path / "s", 2, program))
  assert _states(search) == ["diverged", "diverged"] and search.done == 2


def test_search_with_another_config_is_refused(tmp_path):
  _search(tmp_path / "s", 2, space=("a", 1), config={"epochs": 3})
  _search(tmp_path / "s", 5, space=("a", 1), config={"epochs": 3})
  with pytest.raises(errors.UserError, match="another config: use another --workdir"):
    _search(tmp_path / "s", 2, space=("a", 1), config={"epochs": 4})
