"""The SLURM backend, with scripts instead of SLURM's programs."""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import types

import programs
import pytest

from charrnn import errors, files
from charrnn.runs import status as status_lib
from charrnn.sweeps import outcomes, slurm

# Importing submitit closes the stream of absl's log handler. In a test, that would be the stream
# that pytest has captured since the collection.
pytest.importorskip("submitit")

SWEPT = """
from charrnn.sweeps import trials as s

def sweep():
  return s.sweep("seed", [1, 2, 3])

def slurm():
  return {"partition": "gpu", "gpus": 2, "tasks": 2, "time": 30, "sbatch": {"account": "lab"}}
"""


def experiment(values):
  return types.SimpleNamespace(__file__="exp.py", slurm=lambda: values)


def test_options_of_sbatch():
  values = {
    "partition": "gpu",
    "nodes": 2,
    "tasks": 4,
    "gpus": 4,
    "cpus": 8,
    "memory": 1.5,
    "time": 2,
    "sbatch": {"account": "lab", "exclusive": True, "mail-type": "END"},
  }
  assert slurm.read_resources(experiment(values)).options == {
    "partition": "gpu",
    "nodes": 2,
    "ntasks-per-node": 4,
    "cpus-per-task": 8,
    "gpus-per-node": 4,
    "mem": "1536M",
    "time": 2,
    "requeue": True,
    "signal": "USR2@40",
    "account": "lab",
    "exclusive": True,
    "mail-type": "END",
  }
  default = slurm.read_resources(types.SimpleNamespace()).options
  assert default["signal"] == "USR2@90" and not default.keys() & {
    "partition",
    "mem",
    "gpus-per-node",
  }


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"gpu": 1}, "'gpu'"),
    ({"gpus": "1"}, "gpus to '1': use a value of type int"),
    ({"gpus": -1}, "at least 0"),
    ({"cpus": 0}, "at least 1"),
    ({"cpus": True}, "type int"),
    ({"memory": float("nan")}, "memory to nan"),
    ({"partition": 3}, "type str"),
    ({"sbatch": ["--account=lab"]}, "type dict"),
    ({"sbatch": {"--account": "lab"}}, "write 'account'"),
    ({"sbatch": {"time": 3}}, "the field 'time'"),
    ({"sbatch": {"cpus_per_task": 3}}, "the field 'cpus'"),
    ({"sbatch": {"array": "0-3"}}, "'array' is set by launch.py"),
    ({"sbatch": {"exclusive": False}}, "exclusive is False"),
    ({"nodes": 2, "gpus": 8}, "set gpus to 1, like tasks"),
    (3, "TypeError"),
  ],
)
def test_invalid_resources_are_one_line(values, message):
  with pytest.raises(errors.UserError) as error:
    slurm.read_resources(experiment(values))
  assert message in str(error.value) and "\n" not in str(error.value)
  assert str(error.value).startswith("exp.py, slurm()")


@pytest.fixture
def swept(folder):
  (folder / "swept_slurm.py").write_text(programs.EXPERIMENT + SWEPT)
  return ("--config=swept_slurm.py", "--sweep", "--backend=slurm", "--workdir=swept-slurm")


def test_dry_run_prints_options_and_commands(main, swept, capsys, folder):
  assert main(*swept, "--parallel=2", "--dry_run") == 0
  first, *commands = capsys.readouterr().out.splitlines()
  assert first.startswith("sbatch --array=0-2%2 --partition=gpu") and "--account=lab" in first
  assert [line.split()[-3:] for line in commands] == [
    [f"--config.seed={n}", f"--workdir=swept-slurm/seed={n}", "--distributed"] for n in (1, 2, 3)
  ]
  assert not (folder / "swept-slurm").exists()


def test_without_slurm_nothing_is_written(main, swept, folder, monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(errors.UserError, match="no sbatch on this machine") as error:
    main(*swept)
  assert "\n" not in str(error.value) and not (folder / "swept-slurm").exists()


@pytest.fixture
def programs_of_slurm(tmp_path, monkeypatch):
  """Put scripts with the names of SLURM's programs on PATH; squeue prints the returned file."""
  answers = tmp_path / "answers"
  answers.write_text("")
  scripts = {
    "sbatch": 'cp "$1" "$(dirname "$0")/script"; echo "Submitted batch job 7"',
    "srun": "",
    "squeue": f"cat {answers}",
    "scontrol": f'echo "$@" >> {tmp_path}/requests',
  }
  (tmp_path / "bin").mkdir()
  for name, text in scripts.items():
    (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "bin" / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  return answers


@pytest.fixture
def pair(tmp_path):
  """Return two trials with folders."""
  trials = [outcomes.Trial(name, {}, tmp_path / "sweep" / name, ["true", name]) for name in "ab"]
  for trial in trials:
    trial.folder.mkdir(parents=True)
  return trials


def flags(parallel=2, time_limit=None):
  return types.SimpleNamespace(parallel=parallel, time_limit=time_limit)


def test_all_trials_are_one_job_array(programs_of_slurm, pair, tmp_path):
  resources = slurm.Resources(tasks=2, cpus=3, sbatch={"account": "lab"})
  outcomes.conclude(pair[1], 75, 50.0)
  jobs = slurm.submit(tmp_path / "sweep", pair, flags(time_limit=2), resources)
  assert jobs == {"a": "7_0", "b": "7_1"}
  script = (tmp_path / "bin" / "script").read_text()
  lines = script.splitlines()
  for option in ("array=0-1%2", "requeue", "signal=USR2@90", "account=lab", "job-name=sweep"):
    assert f"#SBATCH --{option}" in lines
  assert len({line.partition("=")[0] for line in lines if "#SBATCH" in line}) == script.count(
    "#SBATCH"
  )
  assert lines[-1].startswith("srun") and "--cpus-per-task=3" in lines[-1]
  with (tmp_path / "sweep" / "slurm" / "7_1_submitted.pkl").open("rb") as file:
    trial, limit, spent = pickle.load(file).args
  assert spent == 50
  assert trial.name == "b" and trial.command == ["true", "b", "--distributed"] and limit == 120


def ended(trial, state):
  codes = {"finished": 0, "failed": 3, "stopped": 75}
  outcomes.conclude(trial, codes[state], 1.0)


def test_status_is_the_outcome_or_else_the_job_state(programs_of_slurm, pair):
  a, b = pair
  watch = slurm.Watch(pair, {"a": "7_0", "b": "7_1"})

  def statuses(answers):
    programs_of_slurm.write_text(answers)
    watch._query_time = -1e9
    watch._query()
    return [watch._status(each) for each in pair]

  assert statuses("7_0 PENDING\n7_1 RUNNING\n6 COMPLETED\n") == ["waiting", "running"]
  assert statuses("7_0 RUNNING\n7_1 COMPLETING\n") == ["running", "running"]
  ended(b, "stopped")  # The job is requeued.
  assert statuses("7_0 RUNNING\n7_1 PENDING\n") == ["running", "waiting"]
  ended(a, "failed")  # SLURM is still cleaning up.
  assert statuses("7_0 COMPLETING\n7_1 RUNNING\n") == ["failed", "running"]
  (programs_of_slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
  assert statuses("") == ["failed", "running"] and watch.jobs == {"b": "7_1"}
  ended(b, "finished")
  assert statuses("") == ["failed", "finished"] and not watch.jobs


@pytest.mark.parametrize(
  ("job_state", "status"), [("OUT_OF_MEMORY", "killed"), ("CANCELLED", "stopped")]
)
def test_job_that_ended_without_an_outcome(programs_of_slurm, pair, monkeypatch, job_state, status):
  programs_of_slurm.write_text(f"7_0 {job_state}\n")
  watch = slurm.Watch(pair[:1], {"a": "7_0"})
  watch._query()
  assert watch._status(pair[0]) == "waiting"  # Its outcome may still arrive.
  monkeypatch.setattr(slurm, "LOST", 0.0)
  assert watch._status(pair[0]) == status and not watch.jobs
  assert job_state in pair[0].log.read_text()


def test_trials_at_the_time_limit_are_not_submitted(programs_of_slurm, pair, tmp_path):
  for trial in pair:
    outcomes.conclude(trial, 75, 120.0, status_lib.RunStatus.TIMEOUT)
  assert slurm.run(pair, pair, flags(time_limit=2), slurm.Resources()) is False
  assert not (tmp_path / "bin" / "script").exists()


def test_only_trials_without_a_job_are_submitted(programs_of_slurm, pair, tmp_path, capsys):
  b = pair[1]
  programs_of_slurm.write_text("5_0 PENDING\n5_1 COMPLETING\n")
  files.write_json(tmp_path / "sweep" / "slurm.json", {"jobs": {"a": "5_0", "b": "5_1"}})
  ended(b, "failed")
  # The submitted job ends immediately.
  (tmp_path / "bin" / "sbatch").write_text(
    "#!/bin/sh\necho Submitted batch job 7\n"
    + "".join(f"echo '{DONE}' > {each.folder}/outcome.json\n" for each in pair)
  )
  assert slurm.run(pair, pair, flags(), slurm.Resources()) is False
  assert "1 trial submitted by earlier commands" in capsys.readouterr().err
  assert slurm._stored_jobs(tmp_path / "sweep") == {"a": "5_0", "b": "7"}


DONE = '{"state": "finished", "code": 0, "seconds": 1}'
JOB = """
import pathlib, sys
from charrnn.sweeps import outcomes, slurm
folder = pathlib.Path({folder!r})
trial = outcomes.Trial("a", {{}}, folder, [sys.executable, "-c", {program!r}])
slurm.run_job(trial, {limit}, {spent})
"""
SAVES = """
import signal, sys, time

def save(number, frame):
  print("saves", flush=True)
  time.sleep(0.3)
  sys.exit(75)

signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def job(programs_of_slurm, tmp_path):
  """Return a function that starts a job and returns its process and the trial's folder."""
  started = []

  def start(program, limit=None, spent=0.0, **environment):
    text = JOB.format(folder=str(tmp_path / "a"), program=program, limit=limit, spent=spent)
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9"}
    variables |= {"SLURM_ARRAY_TASK_ID": "4"}
    command = [sys.executable, "-c", text]
    started.append(subprocess.Popen(command, env=os.environ | variables | environment))
    return started[-1], tmp_path / "a"

  yield start
  for process in started:
    process.kill()
    process.wait()


def printed(log: pathlib.Path) -> str:
  """Return a log without the lines that mark launches."""
  lines = log.read_text().splitlines(keepends=True)
  return "".join(line for line in lines if not line.startswith(outcomes.LAUNCH))


def wait_for(path: pathlib.Path, text):
  for _ in range(600):
    if path.exists() and text in printed(path):
      return
    subprocess.run(["sleep", "0.05"], check=True)
  raise AssertionError(f"no {text!r} in {path}")


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (3, "failed")])
def test_job_writes_its_outcome(job, code, state):
  process, folder = job(f"print('hello'); raise SystemExit({code})")
  assert process.wait(30) == code
  assert printed(folder / "log.txt") == "hello\n"
  assert status_lib.read_outcome(folder)[:2] == (state, code)


def test_signaled_job_saves_once_and_is_requeued(job, tmp_path):
  for launch in (1, 2):
    process, folder = job(SAVES)
    wait_for(folder / "log.txt", "ready\n" if launch == 1 else "saves\nready\n")
    for _ in range(3):
      process.send_signal(slurm.SAVE)
    assert process.wait(30) == 75
    assert status_lib.read_outcome(folder).status == "stopped"
    assert (tmp_path / "requests").read_text() == "requeue 9_4\n" * launch
    assert status_lib.read_outcome(folder).seconds > 0.3 * launch  # Saving takes this time.
  assert printed(folder / "log.txt") == "ready\nsaves\n" * 2


def test_job_that_is_signaled_before_its_first_step_is_requeued(job, tmp_path):
  process, folder = job("import time; print('ready', flush=True); time.sleep(60)")
  wait_for(folder / "log.txt", "ready")
  process.send_signal(slurm.SAVE)
  assert process.wait(30) == 128 + signal.SIGTERM
  assert status_lib.read_outcome(folder).status == "stopped"
  assert (tmp_path / "requests").read_text() == "requeue 9_4\n"


def test_canceled_job_is_not_requeued(job, tmp_path):
  process, folder = job("raise SystemExit(75)")  # This is the exit code after SIGTERM.
  assert process.wait(30) == 75
  assert (
    status_lib.read_outcome(folder).status == "stopped" and not (tmp_path / "requests").exists()
  )


@pytest.mark.parametrize("is_requeued", [True, False])
def test_time_limit_includes_earlier_launches(job, tmp_path, is_requeued):
  if is_requeued:
    outcomes.conclude(outcomes.Trial("a", {}, tmp_path / "a", []), 75, 100.0)
  process, folder = job(SAVES, limit=101, spent=0.0 if is_requeued else 100.0)
  assert process.wait(30) == 75
  outcome = status_lib.read_outcome(folder)
  assert outcome.status == "timeout" and 101 <= outcome.seconds < 110
  assert not (tmp_path / "requests").exists()


def test_only_the_first_process_writes_the_outcome(job, tmp_path):
  process, folder = job(SAVES, SLURM_PROCID="1")
  wait_for(folder / "log.txt", "ready")
  process.send_signal(slurm.SAVE)
  assert process.wait(30) == 75
  assert status_lib.read_outcome(folder) is None and not (tmp_path / "requests").exists()


def test_exit_code_of_a_signal_is_like_a_shells(job):
  process, folder = job("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
  assert process.wait(30) == 137 and status_lib.read_outcome(folder)[:2] == ("killed", -9)
