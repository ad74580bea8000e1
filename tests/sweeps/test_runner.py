"""`launch.py --sweep` and `--search` as processes, on a tiny text."""

import csv
import json
import signal
import time

import launch
import programs
import pytest

from charrnn import errors
from charrnn.runs import status as status_lib
from charrnn.sweeps import outcomes, runner

EXPERIMENT = (
  programs.EXPERIMENT
  + """
from charrnn.launching import spaces, sweep as s  # the modules of version 0.1.0

get_tiny_config = get_config

def get_config(variant=""):
  c = get_tiny_config()
  c.max_steps, c.eval_every = 20, 10
  return c

def sweep():
  return s.product(
    s.sweep("model.cell", ["rnn", "gru"]), s.sweep("optimizer.learning_rate", [0.01, 1e30])
  )

def sweep_seed():
  return s.sweep("seed", [1, 2])

def sweep_cell():
  return s.sweep("model.cell", ["rnn", "gru"])

def sweep_long():
  return s.fixed("max_steps", 100_000)

def sweep_raises():
  return 1 / 0

def sweep_string():
  return "no"

def sweep_quits():
  raise SystemExit("first line\\nsecond line")

def sweep_twice():
  return s.sweep("optimizer.learning_rate", [1, 1.0])

def sweep_texts():
  return s.sweep("text.source", ["text.txt", "none.txt"])

def space():
  return {"model.cell": spaces.choice(["rnn", "gru"]), "model.layers": spaces.integers(1, 2)}

def sweep_unknown():
  return s.sweep("model.width", [3])

def sweep_name():
  return s.sweep("model.cell", ["rnn", "lstn"])

def sweep_range():
  return s.sweep("model.hidden", [8, -1])
"""
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
  folder = programs.prepare(tmp_path_factory.mktemp("sweeps"))
  (folder / "many.py").write_text(EXPERIMENT)
  return folder


def _launch(folder, *arguments):
  environment = {"PYTHONPATH": str(folder)}
  return programs.start(folder, "--config=many.py", *arguments, environment=environment)


def _finish(folder, *arguments):
  return programs.finish(_launch(folder, *arguments), timeout=240)


@pytest.fixture
def main(work, monkeypatch):
  """Return launch.py's main for this process, for commands that start no trial."""
  monkeypatch.chdir(work)
  return lambda *arguments: launch.main(["launch.py", "--config=many.py", *arguments])


def _rows(folder):
  with (folder / "summary.csv").open() as file:
    return {row["trial"]: row for row in csv.DictReader(file)}


def test_failures_are_reported_and_only_they_run_again(work):
  code, err = _finish(work, "--sweep", "--parallel=2", "--workdir=all")
  assert code == 1, err
  rows = _rows(work / "all")
  good = {"cell=rnn,learning_rate=0.01", "cell=gru,learning_rate=0.01"}
  assert {name for name, row in rows.items() if row["status"] == "finished"} == good
  assert {row["status"] for name, row in rows.items() if name not in good} == {"diverged"}
  assert all((work / "all" / name / "loss.png").exists() for name in rows)
  assert all(float(rows[name]["valid/loss"]) < 4 for name in good)
  assert "training diverged" in err and "log.txt" in err and "best " in err
  logs = {name: (work / "all" / name / "log.txt").read_text() for name in rows}
  code, err = _finish(work, "--sweep", "--parallel=2", "--workdir=all")
  assert code == 1 and "4 trials, 2 already done" in err
  after = {name: (work / "all" / name / "log.txt").read_text() for name in rows}
  assert {name for name in rows if after[name] == logs[name]} == good
  sweep = json.loads((work / "all" / "sweep.json").read_bytes())
  assert sweep["trials"].keys() == rows.keys()


@pytest.fixture(scope="module")
def finished(work):
  """Return a finished sweep over two cells. Do not change it."""
  code, err = _finish(work, "--sweep=cell", "--parallel=2", "--workdir=finished")
  assert code == 0, err
  return work / "finished"


def test_trial_equals_a_run_of_the_same_command(work, finished):
  own = ("--config.model.cell=gru", "--config.cpu_devices=1")
  code, err = _finish(work, *own, "--workdir=alone")
  assert code == 0, err
  swept, alone = (programs.result(folder) for folder in (finished / "cell=gru", work / "alone"))
  # The number of cores affects the order of sums, so the losses are only nearly equal.
  assert swept["metrics"][-1][5] == pytest.approx(alone["metrics"][-1][5], rel=1e-4)
  assert len(_rows(finished)) == 2


def test_named_sweeps_are_combined_as_a_product(main, capsys):
  assert main("--sweep=cell,seed", "--dry_run", "--workdir=product") == 0
  names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
  assert names == [f"cell={cell},seed={seed}" for cell in ("rnn", "gru") for seed in (1, 2)]


def test_dry_run_prints_commands_and_writes_nothing(work, main, capsys):
  options = "--workdir=dry", "--config.epochs=3.0", "--rollback"
  assert main("--sweep=seed", "--dry_run", *options) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2
  assert all("--config.epochs=3.0" in line and " --rollback " in line for line in lines)
  assert "--config.seed=1" in lines[0] and "--workdir=dry/seed=1" in lines[0]
  assert not (work / "dry").exists()


def test_rollback_is_for_the_networks_of_a_sweep(work, main, capsys):
  options = "--dry_run", "--workdir=dry", "--rollback"
  ladder = f"--config={programs.ROOT}/experiments/ladder.py:smoke"
  assert launch.main(["launch.py", ladder, "--sweep=parameters", *options]) == 0
  lines = capsys.readouterr().out.splitlines()
  is_ngram = ["model.cell=ngram" in line for line in lines]
  assert len(set(is_ngram)) == 2
  assert [" --rollback " not in line for line in lines] == is_ngram
  with pytest.raises(errors.UserError, match=r"^trial cell=rnn: --rollback returns to .* above 0"):
    main("--sweep=cell", *options, "--config.text.valid_fraction=0")
  valid = "--config.text.valid_source=text.txt", "--config.text.valid_fraction=0"
  assert main("--sweep=cell", *options, *valid) == 0
  assert main("--search=random", "--trials=2", "--dry_run", "--workdir=dry", *valid) == 0
  with pytest.raises(errors.UserError, match=r"^--search needs validation losses"):
    main("--search=random", "--dry_run", "--workdir=dry", valid[1])


@pytest.mark.parametrize(
  ("field", "values", "best"),
  [
    ("text.tokenizer", ("char", "bpe"), "b: validation loss 2.5000 bits per byte"),
    ("text.vocab_size", (300, 900), "b: validation loss 2.5000 bits per byte"),
    ("seed", (1, 2), "a: validation loss 2.0000\n"),
  ],
)
def test_the_best_trial_has_the_lowest_comparable_loss(tmp_path, capsys, field, values, best):
  trials = [
    outcomes.Trial(name, {field: value}, tmp_path / name, []) for name, value in zip("ab", values)
  ]
  for trial, nats, bits in zip(trials, (2.0, 4.0), (2.9, 2.5)):
    outcomes.conclude(trial, 0, 1.0)
    line = {"step": 1, "valid/loss": nats, "valid/bits_per_byte": bits}
    (trial.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  assert runner.report(tmp_path, trials, False, outcomes.FINAL, 2) == 0
  assert f"best      {best}" in capsys.readouterr().err


def test_finished_sweep_is_not_reused_for_other_settings(finished, main):
  before = programs.contents(finished)
  for arguments, message in [
    (["--sweep=cell", "--config.max_steps=30"], "trial cell=rnn is finished with max_steps=20"),
    (
      ["--sweep=cell", "--config.model.hidden=9"],
      "trial cell=rnn: --config.model.hidden=9: the run",
    ),
    (["--sweep=seed"], "finished belongs to a sweep with sweep 'cell', not 'seed'"),
    (["--config.seed=3"], "finished is the directory of a sweep"),
    (["--sweep=seed", "--workdir=finished/cell=rnn"], "is a run directory"),
  ]:
    with pytest.raises(errors.UserError) as error:
      main("--workdir=finished", *arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
  assert programs.contents(finished) == before


def test_more_trials_of_a_random_search_keep_the_first_ones(main, capsys):
  lines = []
  for count in (2, 3):
    assert main("--search=random", f"--trials={count}", "--dry_run", "--workdir=random") == 0
    lines.append(capsys.readouterr().out.splitlines())
  assert len(lines[1]) == 3 and lines[1][:2] == lines[0]
  assert all(
    "--config.model.cell=" in line and "--config.model.layers=" in line for line in lines[1]
  )


def test_search_with_optuna(work):
  code, err = _finish(work, "--search=optuna", "--trials=2", "--parallel=2", "--workdir=optuna")
  assert code == 0, err
  rows = _rows(work / "optuna")
  assert len(rows) == 2 and {row["status"] for row in rows.values()} == {"finished"}
  assert all(name.startswith(f"{n:03d},cell=") for n, name in enumerate(sorted(rows)))
  code, err = _finish(work, "--search=optuna", "--trials=2", "--workdir=optuna")
  assert code == 0 and "2 trials, 2 already done" in err
  assert _rows(work / "optuna") == rows


def _resume(work, folder, *names):
  """Repeat the command until every trial has resumed, then send Ctrl-C; return stderr."""
  process = _launch(work, "--sweep=long,seed", f"--workdir={folder}", "--parallel=2")
  for name in names:
    # Waiting for a step is not enough: trials of a killed launcher train on until they have saved.
    programs.wait_for_log(process, work / folder / name, "resuming from step")
  process.send_signal(signal.SIGINT)
  code, err = programs.finish(process)
  assert code == 75, err
  assert {_rows(work / folder)[name]["status"] for name in names} == {"stopped"}
  for name in names:
    assert "resuming from step" in (work / folder / name / "log.txt").read_text()
  return err


def test_early_stop_is_stopped_and_not_killed(work):
  process = _launch(work, "--sweep=long,seed", "--workdir=early", "--parallel=2")
  folders = [work / "early" / f"max_steps=100000,seed={seed}" for seed in (1, 2)]
  while not all((folder / "log.txt").exists() for folder in folders):
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  code, err = programs.finish(process)
  assert code == 75 and "stopping" in err, err
  assert {row["status"] for row in _rows(work / "early").values()} == {"stopped"}


@pytest.mark.long
def test_resumed_trial_gets_the_same_share_of_cores(work):
  """With other cores, the results would not be bit-identical."""
  names = [f"max_steps=100000,seed={seed}" for seed in (1, 2)]
  process = _launch(work, "--sweep=long,seed", "--workdir=long", "--parallel=2")
  for name in names:
    programs.wait_for_step(process, work / "long" / name, 10)
  second = programs.finish(_launch(work, "--sweep=long,seed", "--workdir=long"))
  assert second[0] == 2 and "another process" in second[1] and "Traceback" not in second[1]
  process.send_signal(signal.SIGINT)
  code, err = programs.finish(process)
  assert code == 75 and "stopping" in err
  assert "2 of 2 trials are not done: repeat the command to run only these" in err
  outcome = work / "long" / names[0] / "outcome.json"
  outcome.write_text(outcome.read_text().replace("stopped", "done"))  # the word of older versions
  assert "1 of 2 trials are not done" in _resume(work, "long", names[1])
  launches = json.loads((work / "long" / names[1] / "run.json").read_bytes())["launches"]
  assert len({(each["devices"], each["cores"]) for each in launches}) == 1


def test_next_launcher_resumes_trials_of_a_killed_one(work):
  process = _launch(work, "--sweep=long,seed", "--workdir=killed", "--parallel=2")
  names = [f"max_steps=100000,seed={seed}" for seed in (1, 2)]
  for name in names:
    programs.wait_for_step(process, work / "killed" / name, 10)
  process.kill()
  process.communicate()
  # The trials save and end by themselves, and the next launcher waits for them.
  _resume(work, "killed", *names)


@pytest.mark.parametrize(
  ("statuses", "interrupted", "code"),
  [
    ("finished finished", False, 0),
    ("finished failed", False, 1),
    ("finished stopped", False, 75),
    ("finished failed", True, 75),
    ("finished stopped", True, 75),
  ],
)
def test_exit_code_of_a_sweep(tmp_path, statuses, interrupted, code):
  trials = [outcomes.Trial(str(n), {}, tmp_path / str(n), []) for n in range(2)]
  for trial, status in zip(trials, statuses.split()):
    trial.folder.mkdir()
    status_lib.write_outcome(trial.folder, status_lib.Outcome(status_lib.RunStatus(status), 0))
  assert runner.report(tmp_path, trials, interrupted, outcomes.FINAL, 2) == code


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--sweep=nothing"], "no sweep_nothing(): use seed, cell"),
    (["--sweep=raises"], "ZeroDivisionError"),
    (["--sweep=unknown"], "'model.width'"),
    (["--sweep=range"], "trial hidden=-1"),
    (["--sweep=name"], "trial cell=lstn: --config.model.cell=lstn: use one of rnn, gru, lstm"),
    (["--sweep=string"], "dicts of overrides, not 'n'"),
    (["--sweep=quits"], "SystemExit: first line"),
    (["--sweep=twice"], "the same run: learning_rate=1 and learning_rate=1.0"),
    (["--sweep=texts"], "no corpus, file, folder or URL 'none.txt'"),
    (["--sweep=seed,seed"], "seed is set by two of the combined sweeps"),
    (["--sweep=seed", "--config.seed=3"], "--config.seed: the trials set this field too"),
    (["--sweep", "--backend=cloud"], "--backend=cloud"),
    (["--sweep", "--parallel=0"], "--parallel=0"),
    (["--sweep", "--time_limit=0"], "--time_limit=0"),
    (["--sweep", "--distributed"], "--distributed"),
    (["--parallel=2"], "--parallel is for a sweep"),
    (["--trials=3"], "--trials is for a sweep or a search"),
    (["--sweep", "--trials=3"], "--trials needs --search"),
    (["--search"], "--search=: use random or optuna"),
    (["--search=grid"], "--search=grid: use random or optuna"),
    (["--search=random", "--sweep"], "exclude each other"),
    (["--search=random", "--trials=0"], "--trials=0"),
    (["--search=random", "--trials=9"], "--trials=9: the space has only 4 different trials"),
    (
      ["--search=random", "--config.model.cell=gru"],
      "--config.model.cell: the trials set this field too",
    ),
    (["--search=optuna", "--dry_run"], "use --search=random"),
    (["--search=optuna", "--config.text.source=none.txt"], "no corpus, file, folder or URL"),
    (["--search=optuna", "--backend=slurm"], "runs on this machine only"),
    (["--search=optuna", "--config.text.valid_fraction=0.0"], "needs validation losses"),
  ],
)
def test_errors_are_one_line_and_nothing_is_written(work, main, arguments, message):
  with pytest.raises(errors.UserError) as error:
    main(*arguments, "--workdir=wrong")
  assert message in str(error.value) and "\n" not in str(error.value)
  assert not (work / "wrong").exists()


def test_error_has_exit_code_2_and_one_line(work):
  code, err = _finish(work, "--sweep=nothing", "--workdir=wrong")
  assert code == 2 and len(err.splitlines()) == 1 and "no sweep_nothing()" in err
