"""Trial 11: bad data files, arguments, configs and misspellings give one line and exit code 2."""

import gzip
import io
import os
import pathlib
import re
import shutil
import sys
import time
import zipfile

import programs
import pytest

from charrnn import cli, process, runtime

pytestmark = pytest.mark.trial(11)

OLD = pathlib.Path(__file__).parents[1] / "data_files" / "runs_of_0.1.0"
SECONDS = 5.0
EXPERIMENT = programs.EXPERIMENT.replace("  return c", "  c.model.unroll = 'scan'\n  return c")
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 200


def zipped() -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("a.txt", TEXT * 9)
  return file.getvalue()


# Files in the folder of the cases.
FILES = {
  "text.txt": TEXT,
  "tiny.py": EXPERIMENT,
  "empty.txt": "",
  "one.txt": "x",
  "short.txt": "short\n" * 5,
  "same.txt": "a" * 9000,
  "latin.txt": ("caf\u00e9 " * 999).encode("latin-1"),
  "utf16.txt": TEXT.encode("utf-16"),
  "utf16-be.txt": b"\xfe\xff" + TEXT.encode("utf-16-be"),
  "utf32.txt": TEXT.encode("utf-32"),
  "utf16-bare.txt": ("\u0416" * 999).encode("utf-16-le"),
  "cut.txt": TEXT.encode() + b"\xc3",
  "text.txt.gz": gzip.compress(os.urandom(999)),
  "text.zip": zipped(),
  "text.docx": zipped(),
  "text.pdf": b"%PDF-1.7\n\xe2\xe3\xcf\xd3" + os.urandom(999),
  "text.png": b"\x89PNG\r\n\x1a\n" + os.urandom(999),
  "text.xz": b"\xfd7zXZ\0" + os.urandom(999),
  "binary/a": b"\0" * 99,
  "folder/.hidden": "x",
  "syntax.py": "def get_config(:\n",
  "raises.py": "def get_config():\n  return 1 / 0\n",
  "nothing.py": "",
  "returns.py": "def get_config():\n  return {}\n",
  "imports.py": "import no_such_module\n",
  "exits.py": "import sys\nsys.exit(3)\n",
  "misspelled.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  c.model.hiden = 3\n  return c\n",
  "misread.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  print(c.model.hiden)\n  return c\n",
  "missection.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  c.modl.hidden = 3\n  return c\n",
  "mistype.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  c.model.hidden = 'x'\n  return c\n",
  "misitem.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  c['batch_sise'] = 3\n  return c\n",
  "misupdate.py": "from charrnn import config\ndef get_config():\n  c = config.default()\n"
  "  c.update({'batch_sise': 3})\n  return c\n",
  "stored/config.json": '{"model": {"hiden": 3}}',
  "deep.json": "[" * 100_000,
  "flags.txt": "--config=tiny.py\n--workdir=x\n",
  "docs/notes.txt": "mine",
  "sweeps.py": EXPERIMENT + "\ndef sweep():\n  return [{'model.hiden': 3}]\n",
  "sweep-type.py": EXPERIMENT + "\ndef sweep():\n  return [{'model.hidden': 'x'}]\n",
  "sweep-empty.py": EXPERIMENT + "\ndef sweep():\n  return []\n",
  "a$^$.txt": TEXT,
}
T = "--config=tiny.py"
# The arguments of launch.py, and a part of the message.
LAUNCHES = {
  "no config": ([], "--config is missing"),
  "no such file": (["--config=none.py"], "no experiment file none.py"),
  "config without value": (["--config", "--workdir=x"], "--config has no value"),
  "config at the end": (["--config"], "--config has no value"),
  "config is empty": (["--config="], "--config has no value"),
  "config is a folder": (["--config=docs"], "no experiment file docs"),
  "config has a NUL": (["--config=a\0b"], "no experiment file"),
  "config in a flagfile": (["--flagfile=flags.txt", "--config.window=0"], "window=0"),
  "no flagfile": ([T, "--flagfile=none.txt"], "none.txt"),
  "no variant": ([f"{T}:big"], "no variant big: use small"),
  "syntax error": (["--config=syntax.py"], "syntax.py, line 1"),
  "raises": (["--config=raises.py"], "raises.py, line 2: ZeroDivisionError"),
  "no get_config": (["--config=nothing.py"], "get_config"),
  "returns a dict": (["--config=returns.py"], "must return"),
  "imports nothing": (["--config=imports.py"], "no_such_module"),
  "exits": (["--config=exits.py"], "exits.py"),
  "misspelled field": (["--config=misspelled.py"], "line 4.*did you mean model.hidden?"),
  "misspelled read": (["--config=misread.py"], "line 4.*did you mean model.hidden?"),
  "misspelled section": (["--config=missection.py"], "line 4.*did you mean model?"),
  "misspelled item": (["--config=misitem.py"], "line 4.*did you mean batch_size?"),
  "misspelled update": (["--config=misupdate.py"], "line 4.*did you mean batch_size?"),
  "mistyped field": (["--config=mistype.py"], "mistype.py, line 4"),
  "override of no field": ([T, "--config.model.hiden=3"], "did you mean model.hidden?"),
  "override without section": ([T, "--config.hidden=3"], "did you mean model.hidden?"),
  "override of another section": ([T, "--config.optimizer.hidden=3"], "model.hidden"),
  "override of a section": ([T, "--config.model=lstm"], "model is a section.*model.cell"),
  "override of a section by a dict": ([T, "--config.model={'hidden': 3}"], "is a section"),
  "override without value": ([T, "--config.window"], "--config.window"),
  "override with no name": ([T, "--config.=3"], "no field"),
  "override of text for a number": ([T, "--config.window=ten"], "window.*ten"),
  "override of a fraction for a number": ([T, "--config.window=1.5"], "window.*1.5"),
  "override of a list": ([T, "--config.window=[1]"], "window"),
  "negative": ([T, "--config.window=-3"], "window=-3: must be at least 1"),
  "zero": ([T, "--config.batch_size=0"], "batch_size=0: must be at least 1"),
  "not finite": ([T, "--config.optimizer.learning_rate=nan"], "learning_rate=nan"),
  "huge": ([T, "--config.model.hidden=100000000000"], "model.hidden"),
  "infinite": ([T, "--config.epochs=inf"], "epochs=inf"),
  "forget_bias": ([T, "--config.model.forget_bias=nan"], "forget_bias=nan"),
  "choice": ([T, "--config.model.cell=lstmm"], "did you mean lstm?"),
  "choice of an optimizer": ([T, "--config.optimizer.name=Adam"], "did you mean adam?"),
  "choice of a schedule": ([T, "--config.schedule.name=cosin"], "did you mean cosine?"),
  "choice of a split": ([T, "--config.text.split=tails"], "did you mean tail?"),
  "choice of a tokenizer": ([T, "--config.text.tokenizer=bytes"], "did you mean byte?"),
  "remat": ([T, "--config.remat=3"], "remat=3: must divide"),
  "fractions": ([T, "--config.text.valid_fraction=0.7", "--config.text.test_fraction=0.7"], "sum"),
  "no such option": ([T, "--temprature=3"], "--temprature"),
  "misspelled option": ([T, "--wrkdir=3"], "did you mean --workdir?"),
  "single dash": ([T, "-wrkdir=3"], "did you mean --workdir?"),
  "misspelled config": (["--confg=tiny.py"], "did you mean --config?"),
  "positional": ([T, "more"], "'more' is not an option"),
  "positional config": (["tiny.py"], "--config=tiny.py"),
  "dry run": ([T, "--dry_run"], "--dry_run is for a sweep or a search"),
  "no search": ([T, "--search=grid"], "search"),
  "no sweep": ([T, "--sweep=none"], "sweep"),
  "no space": ([T, "--search=random"], "space"),
  "sweep of no field": (
    ["--config=sweeps.py", "--sweep", "--dry_run"],
    "did you mean model.hidden",
  ),
  "sweep of another type": (["--config=sweep-type.py", "--sweep", "--dry_run"], "hidden"),
  "empty sweep": (["--config=sweep-empty.py", "--sweep", "--dry_run"], "sweep"),
  "parallel": (["--config=sweeps.py", "--sweep", "--parallel=x"], "parallel"),
  "parallel 0": (["--config=sweeps.py", "--sweep", "--parallel=0"], "parallel"),
  "trials": ([T, "--search=random", "--trials=many"], "trials"),
  "time limit": (["--config=sweeps.py", "--sweep", "--time_limit=-1"], "time_limit"),
  "time limit of a run": ([T, "--time_limit=0"], "must be above 0 minutes"),
  "backend": (["--config=sweeps.py", "--sweep", "--backend=slrm"], "backend"),
  "workdir is a file": ([T, "--workdir=text.txt"], "text.txt"),
  "workdir in a file": ([T, "--workdir=text.txt/x"], "text.txt"),
  "workdir of 300 characters": ([T, f"--workdir={'x' * 300}"], "too long"),
  "workdir of 4000 characters": ([T, f"--workdir={'/'.join(['x' * 99] * 40)}"], "shorter path"),
  "workdir with a NUL": ([T, "--workdir=a\0b"], "unprintable"),
  "workdir not UTF-8": ([T, "--workdir=a\udcff"], "unprintable"),
  "workdir with a line end": ([T, "--workdir=a\nb"], "unprintable"),
  "workdir in a bucket": ([T, "--workdir=gs://bucket/run"], "gs:.*local"),
  "workdir on S3": ([T, "--workdir=s3://bucket/run"], "s3:.*local"),
  "workdir is something else": (
    [T, "--workdir=docs"],
    "docs: is not a run directory, and contains notes.txt",
  ),
  "workdir is the home": ([T, "--workdir=."], "not a run"),
  "workdir is empty": ([T, "--workdir="], "--workdir"),
  "stored misspelling": (["--config=stored/config.json"], "did you mean model.hidden?"),
  "deep JSON": (["--config=deep.json"], "deep.json is damaged"),
  "no text": ([T, "--config.text.source=none.txt"], "none.txt"),
  "misspelled text": ([T, "--config.text.source=txet.txt"], "did you mean text.txt?"),
  "misspelled corpus": ([T, "--config.text.source=shakespear"], "did you mean shakespeare?"),
  "empty source": ([T, "--config.text.source="], "is empty"),
  "empty text": ([T, "--config.text.source=empty.txt"], "empty.txt is empty"),
  "text of one character": ([T, "--config.text.source=one.txt"], "a text of 1 token is"),
  "short text": ([T, "--config.text.source=short.txt"], "longer text"),
  "latin-1 text": ([T, "--config.text.source=latin.txt"], "--config.text.encoding=latin-1"),
  "UTF-16 text": ([T, "--config.text.source=utf16.txt"], "use --config.text.encoding=utf-16"),
  "UTF-16 text of a Mac": ([T, "--config.text.source=utf16-be.txt"], "text.encoding=utf-16"),
  "UTF-32 text": ([T, "--config.text.source=utf32.txt"], "use --config.text.encoding=utf-32"),
  "cut text": ([T, "--config.text.source=cut.txt"], f"byte {len(TEXT)} is not utf-8"),
  "gzip": ([T, "--config.text.source=text.txt.gz"], "it is a gzip archive; extract"),
  "zip": ([T, "--config.text.source=text.zip"], "zip archive"),
  "docx": ([T, "--config.text.source=text.docx"], r"\.docx"),
  "PDF": ([T, "--config.text.source=text.pdf"], "it is a PDF document"),
  "PNG": ([T, "--config.text.source=text.png"], "it is a PNG picture"),
  "xz": ([T, "--config.text.source=text.xz"], "it is an xz archive"),
  "binary files": ([T, "--config.text.source=binary"], "1 binary"),
  "hidden files": (
    [T, "--config.text.source=folder"],
    "1 hidden or outside file, and 0",
  ),
  "glob": ([T, "--config.text.source=*.none"], "no file matches"),
  "device": ([T, "--config.text.source=/dev/zero"], "not a regular file"),
  "source with a NUL": ([T, "--config.text.source=a\0b"], "no corpus"),
  "long source": ([T, f"--config.text.source={'x' * 5000}"], "too long"),
  "no such user": ([T, "--config.text.source=~nobody-at-all/x"], "use another path"),
  "no digest": ([T, "--config.text.source=http://127.0.0.1:9/x#sha256="], "64 hexadecimal"),
  "no server": ([T, "--config.text.source=http://127.0.0.1:9/x"], "Connection refused"),
  "ftp": ([T, "--config.text.source=ftp://127.0.0.1:9/x"], "ftp://"),
  "no encoding": ([T, "--config.text.encoding=utf8-8"], "no text encoding"),
  "punycode": ([T, "--config.text.encoding=punycode"], "no text encoding"),
  "idna": ([T, "--config.text.encoding=idna"], "no text encoding"),
  "hex": ([T, "--config.text.encoding=hex"], "no text encoding"),
  "wrong encoding": ([T, "--config.text.encoding=utf-16"], "byte 0 is not utf-16"),
  "newlines": ([T, "--config.text.newlines=crlf"], "newlines=crlf"),
  "limit": ([T, "--config.text.limit=-1"], "limit=-1"),
  "init_from": ([T, "--config.init_from=none"], "none does not exist"),
  "init_from a pickle": ([T, "--config.init_from=model.pt"], "can contain code"),
  "init_from no file": ([T, "--config.init_from=x.safetensors"], "x.safetensors does not exist"),
  "init_from a text": ([T, "--config.init_from=text.txt"], "text.txt is a file"),
  "vocabulary": ([T, "--config.text.vocabulary=init_from"], "needs --config.init_from"),
  "decay fraction": ([T, "--config.schedule.decay_fraction=0"], "above 0 and at most 1"),
  "sample temperature": ([T, "--config.sample.temperature=-1"], "sample.temperature=-1"),
  "prime": ([T, "--config.sample.prime=\u0416"], "not in the vocabulary"),
}
# The arguments of charrnn, and a part of the message. RUN is a run, NEW a name that does not exist.
COMMANDS = {
  "no command": ([], "COMMAND is missing"),
  "misspelled command": (["smaple", "RUN"], "did you mean sample?"),
  "capital command": (["Sample", "RUN"], "did you mean sample?"),
  "another command": (["generate"], "unknown command 'generate'"),
  "misspelled option": (["sample", "RUN", "--temprature=1"], "did you mean --temperature?"),
  "misspelled help": (["sample", "--hepl"], "did you mean --help?"),
  "shortened option": (["sample", "RUN", "--temp=1"], "did you mean --temperature?"),
  "underscore": (["sample", "RUN", "--top_k=1"], "did you mean --top-k?"),
  "no RUN": (["sample"], "RUN"),
  "run does not exist": (["sample", "none"], "none does not exist"),
  "run is a file": (["sample", "text.txt"], "text.txt is a file"),
  "run is another folder": (["sample", "docs"], "docs is not a run directory"),
  "run with a NUL": (["sample", "a\0b"], "does not exist"),
  "run of 5000 characters": (["sample", "x" * 5000], "does not exist|too long"),
  "a step's folder": (["sample", "RUN/checkpoints/40"], "charrnn sample RUN --step 40"),
  "the checkpoints": (["sample", "RUN/checkpoints"], "charrnn sample RUN"),
  "a sweep": (["sample", "sweep"], "sweep is a sweep: use one of its"),
  "no step": (["sample", "RUN", "--step=41"], "use one of 40, 60"),
  "a step that is no number": (["sample", "RUN", "--step=best"], "--step"),
  "temperature": (["sample", "RUN", "--temperature=-1"], "--temperature=-1"),
  "temperature that is no number": (["sample", "RUN", "--temperature=hot"], "hot"),
  "length": (["sample", "RUN", "--length=-1"], "--length=-1"),
  "a constraint": (["sample", "RUN", "--require=("], "--require=("),
  "a clamp": (["sample", "RUN", "--clamp=x"], "--clamp"),
  "a prompt": (["sample", "RUN", "--prime=\u0416"], "not in the vocabulary"),
  "a prompt of no file": (["sample", "RUN", "--prime-file=none"], "none"),
  "eval of no file": (["eval", "RUN", "none.txt"], "none.txt"),
  "eval of another encoding": (["eval", "RUN", "utf16.txt"], "utf16.txt: byte 0"),
  "eval of an empty file": (["eval", "RUN", "empty.txt"], "empty.txt"),
  "eval of a folder": (["eval", "RUN", "docs"], "docs"),
  "eval of a misspelled split": (["eval", "RUN", "--split=vaild"], "split"),
  "eval into a folder": (["eval", "RUN", "text.txt", "--tsv=docs"], "docs is a folder"),
  "states of an empty file": (["states", "RUN", "--file=empty.txt", "--out=x.npz"], "empty.txt"),
  "diff of one run": (["diff", "RUN"], "RUN_B"),
  "diff of no run": (["diff", "RUN", "none"], "none does not exist"),
  "compare of nothing": (["compare", "none"], "none does not exist"),
  "compare of a file": (["compare", "text.txt"], "text.txt"),
  "compare of no runs": (["compare", "docs"], "docs"),
  "inspect of no run": (["inspect", "docs"], "docs is not a run"),
  "verify of no run": (["verify", "none"], "none does not exist"),
  "export": (["export", "RUN", "out.zip"], "out.zip"),
  "scorecard": (["scorecard", "RUN"], "domain"),
  "scorecard of no domain": (["scorecard", "RUN", "--domain=prose"], "domain"),
  "corpus": (["corpus", "none.txt"], "none.txt"),
  "corpus in latin-1": (
    ["corpus", "latin.txt"],
    "for example --encoding=latin-1.*--tokenizer=byte",
  ),
  "corpus in UTF-16": (["corpus", "utf16.txt"], "use --encoding=utf-16"),
  "corpus with no encoding": (["corpus", "text.txt", "--encoding=klingon"], "--encoding=klingon"),
  "corpus with no tokenizer": (["corpus", "text.txt", "--tokenizer=none"], "--tokenizer=none"),
  "scorecard of the domain --": (["scorecard", "text.txt", "--domain=--"], "invalid choice: '--'"),
  "a prompt of dashes": (["sample", "RUN", "--prime=--", "--length=-1"], "--length=-1"),
  "corpus of a device": (["corpus", "file:///dev/zero"], "no regular file /dev/zero"),
  "corpus with a bad URL": (["corpus", "http://127.0.0.1:9/x#sha256=1"], "64 hexadecimal"),
  "bench": (["bench", "trian"], "train"),
  "cells": (["cells", "RUN", "--regex=x"], "regex"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bad")
  for name, content in FILES.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
  (folder / "sweep").mkdir()
  (folder / "sweep" / "sweep.json").write_text("{}")
  shutil.copytree(OLD / "lstm", folder / "RUN")
  return folder


@pytest.fixture
def folder(made, monkeypatch):
  """Enter the folder of the cases. Training, which a bad input must not reach, is an error."""
  import launch

  from charrnn.launching import programs as programs_lib

  def train(*arguments):
    raise AssertionError("training was started")

  monkeypatch.setattr(programs_lib, "train", train)
  monkeypatch.setattr(runtime, "set_cpu_devices", lambda *arguments: None)
  monkeypatch.chdir(made)
  monkeypatch.setattr(sys, "argv", ["launch.py"])
  return launch


def contents(folder):
  paths = (path for path in folder.rglob("*") if path.name not in ("lock", "runs"))
  # Python writes the bytecode of experiment files.
  return sorted(path for path in paths if "__pycache__" not in path.parts)


def check(result, seconds, message):
  code, err = result
  lines = err.splitlines()
  assert code == 2, err
  assert len(lines) == 1 and ": error: " in err, err
  assert re.search(message.replace("(", r"\(").replace("?", r"\?"), err), err
  for word in ("Traceback", "object at 0x", "<urlopen", "invalid literal", r"\\'", "None)"):
    assert word not in err, err
  assert seconds < SECONDS


@pytest.mark.parametrize("arguments, message", LAUNCHES.values(), ids=LAUNCHES.keys())
def test_launch(folder, made, capsys, arguments, message):
  before, start = contents(made), time.monotonic()
  code = process.run("launch.py", lambda: folder.main(["launch.py", *arguments]))
  check((code, capsys.readouterr().err), time.monotonic() - start, message)
  assert contents(made) == before  # Nothing was written.


@pytest.mark.parametrize("arguments, message", COMMANDS.values(), ids=COMMANDS.keys())
def test_command(folder, made, capsys, arguments, message):
  before, start = contents(made), time.monotonic()
  code = cli.main(arguments)
  check((code, capsys.readouterr().err), time.monotonic() - start, message)
  assert contents(made) == before
