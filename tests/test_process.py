"""The process of a program: errors, closed and full streams, signals, and threads that hang."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import programs
import pytest

from charrnn import errors, process

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = [sys.executable, str(ROOT / "launch.py")]
CHARRNN = [sys.executable, "-m", "charrnn.cli"]
HEAD = "import os, sys, threading, time\nfrom charrnn import console, errors, process\n"


def start(body, run="process.run('charrnn', program, ends_process=True)", **options):
  """Start a program whose main function has this body."""
  lines = "".join(f"  {line}\n" for line in body.splitlines())
  text = f"{HEAD}def program():\n{lines}sys.exit({run})\n"
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  return subprocess.Popen([sys.executable, "-c", text], **pipes | options)


def shell(command, *redirections):
  """Run a command with redirections of a shell; return (exit code, stdout, stderr)."""
  arguments = ["bash", "-c", f'"$@" {" ".join(redirections)}', "bash", *command]
  done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  ("raised", "code", "message"),
  [
    (errors.UserError("no such run"), 2, "charrnn: error: no such run"),
    (KeyboardInterrupt(), 130, ""),
    (SystemExit(0), 0, ""),
    (BrokenPipeError(), 0, ""),
    (
      OSError(28, "No space left on device"),
      2,
      "cannot write to the output: No space left on device",
    ),
    (OSError(28, "No space", "a.txt"), 2, "cannot write to a.txt: No space: free some disk space"),
    (OSError(27, "File too large", b"a.txt"), 2, "raise the file size limit (ulimit -f)"),
    (
      PermissionError(13, "Permission denied", "a.txt"),
      2,
      "a.txt: Permission denied: check the path",
    ),
    (OSError(24, "Too many open files"), 2, "error: Too many open files: raise the limit on open"),
    (OSError(5, "Input/output error"), 2, "error: Input/output error: check the disk or the"),
    (
      OSError(116, "Stale file handle"),
      2,
      "error: Stale file handle: check the disk or the network",
    ),
    (OSError(9, "Bad file descriptor"), 2, "the output: it is not open for writing"),
    (FileNotFoundError(2, "No usable temporary directory"), 2, "directory: set TMPDIR to a folder"),
    (
      FileNotFoundError(2, "No such file or directory"),
      2,
      "the current folder was deleted: change to another",
    ),
    (RuntimeError("can't start new thread"), 2, "new thread: raise the limit"),
    (MemoryError(), 2, "out of memory: free some memory"),
    (
      jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nAllocations: ..."),
      2,
      "out of memory (RESOURCE_EXHAUSTED: no memory): free some memory",
    ),
    (
      jax.errors.JaxRuntimeError("INTERNAL: Failed to allocate 8 bytes for new constant\n..."),
      2,
      "out of memory (INTERNAL: Failed to allocate 8 bytes for new constant): free some memory",
    ),
  ],
)
def test_expected_failures_give_one_line_and_an_exit_code(raised, code, message, capsys):
  def program():
    raise raised

  assert process.run("charrnn", program) == code
  err = capsys.readouterr().err
  assert message in err and len(err.splitlines()) == (code == 2)


@pytest.mark.parametrize(
  "error", [ZeroDivisionError(), OSError("unknown"), ValueError("no"), RuntimeError("no")]
)
def test_unexpected_errors_are_raised(error):
  def program():
    raise error

  with pytest.raises(type(error)):
    process.run("charrnn", program)


@pytest.mark.parametrize("raised", [errors.UserError("no"), ZeroDivisionError()])
def test_signal_handlers_are_restored(raised):
  before = [signal.getsignal(number) for number in process.STOP_SIGNALS]

  def program():
    assert signal.getsignal(signal.SIGUSR1) not in before
    raise raised

  with contextlib.suppress(ZeroDivisionError):
    process.run("charrnn", program)
  assert [signal.getsignal(number) for number in process.STOP_SIGNALS] == before


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
@pytest.mark.parametrize("body", ["", "raise ImportError('a package failed')"], ids=["", "import"])
def test_a_signal_ends_a_program_without_a_traceback(number, body):
  """Packages written in C may turn the exception of a signal into another one."""
  loop = f"try:\n  print('ready', flush=True)\n  time.sleep(60)\nfinally:\n  {body or 'pass'}"
  child = start(loop)
  assert child.stdout.readline() == "ready\n"
  child.send_signal(number)
  out, err = child.communicate(timeout=20)
  assert (child.returncode, out, err) == (process.INTERRUPTED_CODE, "", "")


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_a_signal_ends_a_program_that_does_not_return_to_python(number):
  """As during a long compilation."""
  body = "import hashlib\nprint('ready', flush=True)\n"
  child = start(body + "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)")
  assert child.stdout.readline() == "ready\n"
  time.sleep(0.2)
  child.send_signal(number)
  out, err = child.communicate(timeout=20)
  assert (child.returncode, out, err) == (process.INTERRUPTED_CODE, "", "")


def test_a_package_that_catches_the_exception_of_a_signal_changes_nothing():
  body = "try:\n  print('ready', flush=True)\n  time.sleep(60)\nexcept BaseException:\n"
  child = start(body + "  time.sleep(60)", "process.run('charrnn', program, ends_process=True)")
  assert child.stdout.readline() == "ready\n"
  child.send_signal(signal.SIGTERM)
  child.communicate(timeout=20)
  assert child.returncode == process.INTERRUPTED_CODE


def test_a_second_signal_ends_a_program_at_once():
  body = "try:\n  print('ready', flush=True)\n  time.sleep(60)\nfinally:\n"
  child = start(body + "  print('again', flush=True)\n  time.sleep(60)")
  for line in ("ready\n", "again\n"):
    assert child.stdout.readline() == line
    child.send_signal(signal.SIGTERM)
  child.communicate(timeout=20)
  assert child.returncode == process.INTERRUPTED_CODE


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_a_signal_does_not_end_a_program_that_takes_long_to_save(number):
  body = f"""with process.StopRequest() as stop:
  print('ready', flush=True)
  while not stop.is_requested:
    time.sleep(0.01)
  time.sleep({process.MAX_DELAY + 1})
print('saved', flush=True)
return 75"""
  child = start(body)
  assert child.stdout.readline() == "ready\n"
  child.send_signal(number)
  out, err = child.communicate(timeout=20)
  assert (child.returncode, out, err) == (75, "saved\n", "")


def test_signals_that_the_caller_ignores_stay_ignored():
  body = "print('ready', flush=True)\ninput()"
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    child = start(body, stdin=subprocess.PIPE)
  finally:
    signal.signal(signal.SIGHUP, before)
  assert child.stdout.readline() == "ready\n"
  child.send_signal(signal.SIGHUP)
  _, err = child.communicate("\n", timeout=20)
  assert (child.returncode, err) == (0, "")


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_a_signal_during_imports_ends_launch_py_without_a_traceback(number, folder):
  options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  child = subprocess.Popen([*LAUNCH, "--config=tiny.py", "--workdir=imports"], **options)
  while not int(programs.proc_status(child.pid, "SigCgt"), 16) >> (signal.SIGUSR1 - 1) & 1:
    assert child.poll() is None
    time.sleep(0.002)
  time.sleep(0.05 * process.STOP_SIGNALS.index(number))
  child.send_signal(number)
  out, err = child.communicate(timeout=60)
  assert (child.returncode, out) == (process.INTERRUPTED_CODE, "") and "Traceback" not in err


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_programs_work_without_their_streams(redirection, tmp_path):
  """A file that is opened must not take the place of a closed stream."""
  body = f"""
file = open({str(tmp_path / "file")!r}, "w")
for n in range(3):
  console.say("status")
  print("result")
file.close()
assert not os.path.getsize(file.name)
return 3
"""
  text = f"{HEAD}def program():\n" + "".join(f"  {line}\n" for line in body.splitlines())
  text += "sys.exit(process.run('charrnn', program))\n"
  code, _, err = shell([sys.executable, "-c", text], redirection)
  assert (code, "Traceback" in err) == (3, False), err


@pytest.mark.parametrize("command", [LAUNCH, CHARRNN, [*CHARRNN, "sample"]])
def test_help_on_a_full_or_closed_stdout(command):
  code, out, err = shell([*command, "--help"], ">/dev/full")
  assert code == 2 and not out
  assert err.endswith(
    "error: cannot write to the output: No space left on device: free some disk space, and run the "
    "same command again\n"
  )
  assert err.count("\n") == 1
  assert shell([*command, "--help"], ">&-") == (0, "", "")


@pytest.mark.parametrize("command", [[*LAUNCH, "--config=none.py"], [*CHARRNN, "smaple"]])
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_errors_without_a_stderr_have_their_exit_code(command, redirection):
  assert shell(command, redirection) == (2, "", "")


def test_a_stream_works_again_when_there_is_space(tmp_path):
  path = tmp_path / "log"
  body = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
for n in range(8):
  console.say(f"line {n}")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
console.say("the end")
"""
  with path.open("w") as log:
    child = start(body, stderr=log)
    child.communicate(timeout=60)
  assert child.returncode == 0
  text = path.read_text()
  assert text.startswith("line 0\nline 1\n") and text.endswith("the end\n") and "line 7" not in text


@pytest.mark.parametrize("raises", ["", "raise errors.UserError('no')"])
def test_a_process_ends_although_threads_hang(raises):
  run = "(setattr(process, 'MAX_LINGER', 2.0), process.run('charrnn', program, True))[1]"
  child = start(f"threading.Thread(target=threading.Event().wait).start()\n{raises}", run)
  child.communicate(timeout=20)
  assert child.returncode == (2 if raises else 0)


def test_a_current_folder_that_is_deleted_is_one_line(tmp_path):
  (folder := tmp_path / "current").mkdir()
  body = "from charrnn.runs import provenance\nos.rmdir(os.getcwd())\nprovenance.facts(None)"
  child = start(body, cwd=folder)
  out, err = child.communicate(timeout=60)
  message = "charrnn: error: the current folder was deleted: change to another folder\n"
  assert (child.returncode, out, err) == (2, "", message)


def test_a_terminal_that_is_closed_ends_a_program_without_a_traceback(tmp_path):
  """As after a lost connection, for a program that ignores SIGHUP."""
  master, slave = os.openpty()
  body = "input()\nprint('result', flush=True)"
  with (tmp_path / "log").open("w") as log:
    child = start(body, stdin=subprocess.PIPE, stdout=slave, stderr=log)
    os.close(slave)
    os.close(master)
    child.communicate("\n", timeout=60)
  text = (tmp_path / "log").read_text()
  assert child.returncode == 2 and "Traceback" not in text and text.count("\n") == 1


@pytest.mark.parametrize("setting", ["JAX_ENABLE_X64", "JAX_NUM_CPU_DEVICES"])
def test_a_bad_setting_of_jax_is_one_line(setting):
  child = start("import jax", env=os.environ | {setting: "banana"})
  _, err = child.communicate(timeout=60)
  assert child.returncode == 2 and err.count("\n") == 1, err
  assert setting in err.upper() and "correct the environment variable" in err


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
  script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
  begin = time.monotonic()
  with pytest.raises(TimeoutError, match="sh took more than"):
    process.call(["sh", "-c", script], 0.5)
  assert time.monotonic() - begin < 20
  pid = int((tmp_path / "pid").read_text())
  while pathlib.Path(f"/proc/{pid}").exists() and programs.proc_status(pid, "State") != "Z":
    assert time.monotonic() - begin < 20
  result = process.call(["sh", "-c", "cat; echo out; echo err >&2; exit 3"], 20)
  assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


def test_a_program_ends_if_a_signal_arrives_before_its_number_is_known(monkeypatch):
  """The exception of the signal may occur in the constructor of Popen."""
  started = []

  class Interrupted(subprocess.Popen):
    def __init__(self, command, **options):
      super().__init__(command, **options)
      if command[0] == "sleep":
        started.append(self)
        raise KeyboardInterrupt

  monkeypatch.setattr(process.subprocess, "Popen", Interrupted)
  with pytest.raises(KeyboardInterrupt):
    process.call(["sleep", "600"], 600)
  with started[0] as child:
    assert child.wait(timeout=60) == -signal.SIGKILL


def test_warnings_of_packages_are_hidden_unless_they_are_asked_for():
  text = f"{HEAD}import warnings\nprocess.run('a', lambda: warnings.warn('no artists'), True)"
  for options, count in (([], 0), (["-W", "default"], 1)):
    command = [sys.executable, *options, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("no artists") == count
