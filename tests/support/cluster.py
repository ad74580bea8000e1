"""A SLURM cluster of one machine in a temporary folder: Debian's slurmctld, slurmd and munge."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONF = """
ClusterName=charrnn
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing():
  """Return the reason why SLURM cannot be started on this machine, or "" if it can."""
  path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
  absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
  if absent:
    command = "apt-get install --no-install-recommends slurmctld slurmd munge"
    return f"{absent[0]} is missing: run {command}"
  return "" if os.geteuid() == 0 else "SLURM's daemons must run as root"


@contextlib.contextmanager
def started(folder: pathlib.Path):
  """Start a cluster in `folder`; yield the environment variables for its commands."""
  for name in ("state", "spool", "log", "run"):
    (folder / name).mkdir(mode=0o755)
  key = folder / "munge.key"
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  conf = folder / "slurm.conf"
  host = socket.gethostname().partition(".")[0]
  control, node = _free_ports(2)
  conf.write_text(CONF.format(host=host, folder=folder, control=control, node=node))
  path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
  environment = {"SLURM_CONF": str(conf), "PATH": path}
  run = folder / "run"
  daemons = {
    "munged": [
      f"--key-file={key}",
      f"--socket={run}/munge.sock",
      f"--pid-file={run}/munged.pid",
      f"--log-file={folder}/log/munged",
      f"--seed-file={folder}/state/munge.seed",
      "--force",
    ],
    "slurmctld": ["-f", str(conf), "-c"],
    "slurmd": ["-f", str(conf), "-N", host],
  }
  try:
    for name, arguments in daemons.items():
      # The output is not a pipe, because a daemon would keep it open forever.
      null = subprocess.DEVNULL
      environ = os.environ | environment
      subprocess.run([name, *arguments], env=environ, stdout=null, stderr=null, check=True)
    _wait_until_idle(environment)
    yield environment
  finally:
    with contextlib.suppress(subprocess.SubprocessError):
      command(environment, "scancel", "--user=root")
      _wait_for(lambda: not command(environment, "squeue", "--noheader"), 20)
    for name in reversed(daemons):
      _stop(run / f"{name}.pid")


def command(environment, *arguments):
  """Run a SLURM command; return its output."""
  return subprocess.run(
    arguments,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    text=True,
    timeout=60,
    check=True,
  ).stdout


def _free_ports(count):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(("127.0.0.1", 0))
    return [each.getsockname()[1] for each in sockets]


def _wait_until_idle(environment):
  def idle():
    return command(environment, "sinfo", "--noheader", "--format=%T").strip() == "idle"

  assert _wait_for(idle, 30), command(environment, "sinfo")


def _wait_for(condition, seconds):
  until = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > until:
      return False
    time.sleep(0.1)
  return True


def _stop(pid_file):
  with contextlib.suppress(OSError, ValueError):
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    if not _wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 10):
      os.kill(pid, signal.SIGKILL)
