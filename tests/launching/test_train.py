"""Wrong commands end with a short message, before anything is compiled or written."""

import re

import jax
import jax.numpy as jnp
import programs
import pytest

from charrnn import errors, process, runtime
from charrnn.training import loop

FILES = {
  "empty.txt": "",
  "short.txt": "to be or not to be",
  "syntax.py": "def get_config(:\n",
  "raises.py": "def get_config():\n  return 1 / 0\n",
  "typo.py": programs.EXPERIMENT.replace("c.epochs", "c.epoch"),
  "typo_inside.py": programs.EXPERIMENT.replace("c.model.hidden", "c.model.hiden"),
  "type.py": programs.EXPERIMENT.replace("c.optimizer.learning_rate = 1e-2", "c.keep = 'x'"),
  "nothing.py": "def get_config():\n  pass\n",
  "other.py": "import ml_collections\ndef get_config():\n  return ml_collections.ConfigDict()\n",
  "import.py": "import no_such_module\n",
}


@pytest.fixture
def rejected(main, folder, monkeypatch, tmp_path):
  """Return a function that runs a wrong command and returns its error message.

  It asserts that nothing is trained and that no directory remains.
  """
  for name, content in FILES.items():
    (folder / name).write_text(content)

  monkeypatch.setattr(runtime, "free_memory", lambda: 8 * 10**9)

  def train(*arguments):
    raise AssertionError("the command trains")

  monkeypatch.setattr(loop.Trainer, "train", train)

  def run(*arguments):
    with pytest.raises(errors.UserError) as caught:
      main(*arguments, f"--workdir={tmp_path / 'runs' / 'run'}")
    assert not (tmp_path / "runs" / "run").exists()
    text = str(caught.value)
    assert text and len(text.splitlines()) <= 2 and len(text) < 400
    return text

  return run


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], r"^--config is missing: use --config="),
    (["--config"], "--config has no value"),
    (["--config="], "--config has no value"),
    (["--config=none.py"], r"^no experiment file none\.py"),
    (["--config=none.py", "--config.window=3"], r"^no experiment file none\.py"),
    (["--config.window=3"], "^--config is missing: use --config=FILE with an experiment file"),
    (["--config=tiny.py:huge"], "^no variant huge: use small$"),
    (["--config=syntax.py"], r"^syntax\.py, line 1: invalid syntax"),
    (["--config=raises.py"], r"^raises\.py, line 2: ZeroDivisionError: division by zero"),
    (["--config=raises.py:x"], r"^raises\.py cannot be read .* takes 0 positional"),
    (["--config=typo.py"], r"^typo\.py, line \d+: no field 'epoch' .* epochs\?$"),
    (["--config=typo_inside.py"], r"^typo_inside\.py, line \d+: .*did you mean model.hidden\?$"),
    (["--config=type.py"], r"^type\.py, line \d+: TypeError: .*'keep'"),
    (["--config=nothing.py"], r"^nothing\.py: get_config\(\) must return"),
    (["--config=other.py"], r"^other\.py: get_config\(\) must return"),
    (["--config=import.py"], r"^import\.py, line 1: .*No module named 'no_such_module'"),
    (["--config=tiny.py", "more"], "^'more' is not an option"),
    (["--config=tiny.py", "--nope=1"], "unknown option --nope"),
  ],
)
def test_wrong_command_lines_and_experiment_files_are_rejected(rejected, arguments, message):
  assert re.search(message, rejected(*arguments))


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("nope=1", "^no field 'nope' in the config"),
    ("model.nope=1", r"^no field 'model.nope' in the config: see docs/config\.md"),
    ("model.hiden=1", r"^no field 'model.hiden' in the config: did you mean model.hidden\?$"),
    ("model=lstm", "^model is a section: set one of its fields, for example model.cell$"),
    ("batch_size=1.5", r"--config\.batch_size=1\.5"),
    ("batch_size=many", r"--config\.batch_size=many"),
    ("batch_size=12", "batch_size=12 is not divisible by 8 devices: use a multiple of 8"),
    ("accumulate=3", "8 devices x 3 parts"),
    ("window=0", "window=0: must be at least 1"),
    ("keep=0", "keep=0: must be at least 1"),
    ("remat=7", "remat=7: must divide --config.window="),
    ("remat=-1", "remat=-1: must be at least 0"),
    ("model.unroll=fast", "model.unroll=fast: use one of auto, scan, native, cudnn"),
    ("model.unroll=cudnn", "model.unroll=cudnn: cuDNN runs only the LSTM, and only on NVIDIA GPUs"),
    ("model.hidden=20000", r"^this configuration needs at least [\d.]+ GB of memory \(parameters"),
    (
      "model.hidden=100000000",
      r"gradients [\d.,]+ GB\), .* are free: lower --config\.model\.hidden",
    ),
    ("model.layers=100000000", "must be at most 1000"),
    ("model.embed=2000000000", "GB of memory"),
    ("cpu_devices=100000", "cpu_devices=100000: must be at most 4096"),
    ("seed=-1", "seed=-1: must be from 0 to 4294967295"),
    ("seed=4294967296", "seed=4294967296: must be from 0 to"),
    ("epochs=0", "epochs=0.0: must be above 0"),
    ("epochs=inf", "epochs=inf: must be a finite number"),
    ("optimizer.learning_rate=nan", "learning_rate=nan: must be a finite number"),
    ("optimizer.b2=1", "b2=1.0: must be at least 0 and below 1"),
    ("optimizer.name=adamm", "optimizer.name=adamm: use one of"),
    ("optimizer.momentum=0.9", "needs --config.optimizer.name=sgd"),
    ("schedule.name=step", "schedule.name=step: use one of"),
    ("schedule.warmup_steps=-1", "warmup_steps=-1: must be at least 0"),
    ("model.cell=lstn", "model.cell=lstn: use one of rnn, gru, lstm"),
    ("model.hidden=0", "model.hidden=0: must be at least 1"),
    ("model.dropout=1", "model.dropout=1.0: must be at least 0 and below 1"),
    ("model.compute_dtype=float16", "compute_dtype=float16: use one of float32, bfloat16"),
    ("text.source=none.txt", "none.txt"),
    ("text.source=empty.txt", "empty.txt is empty"),
    ("text.source=short.txt", "too short|fewer than one step"),
    ("text.tokenizer=words", "text.tokenizer=words: use one of char, byte, word, bpe"),
    ("text.alphabet=words", "text.tokenizer=words: use one of char, byte, word, bpe"),
    ("text.split=random", "text.split=random: use one of tail"),
    ("text.valid_fraction=nan", "valid_fraction=nan: must be a finite number"),
    ("text.valid_fraction=0.97", "their sum must be below 1"),
    ("sample.prime=\u2603", "not in the vocabulary: '\u2603'"),
    ("sample.temperature=-1", "temperature=-1.0: must be"),
    ("init_from=none", "none does not exist"),
  ],
)
def test_wrong_fields_are_rejected(rejected, field, message):
  assert re.search(message, rejected("--config=tiny.py", f"--config.{field}"))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=tiny.py", "--config.batch_size=1.5"], "batch_size=1.5"),
    (["--config=raises.py"], "raises.py, line 2: ZeroDivisionError"),
    (["--config=tiny.py", "--config.model.cell=lstn"], "model.cell=lstn"),
  ],
)
def test_the_program_exits_with_code_2_and_without_a_traceback(folder, arguments, message):
  (folder / "raises.py").write_text(FILES["raises.py"])
  code, err = programs.finish(programs.start(folder, *arguments))
  assert code == 2
  assert err.startswith("launch.py: error: ") and message in err
  assert err.count("\n") == 1 and "Traceback" not in err
  assert not list(folder.glob("runs/*"))


def test_help_exits_with_code_0(folder):
  process = programs.start(folder, "--help")
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 0 and "--config=" in out


def test_a_directory_that_cannot_be_written_is_rejected(main, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match=r"cannot write to .*file"):
    main("--config=tiny.py", f"--workdir={tmp_path}/file/run")


def raise_error(error):
  raise error


LACKS_OF_MEMORY = {
  "real": lambda: jnp.zeros(1 << 48),
  "XLA": lambda: raise_error(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nParts:")),
  "GPU": lambda: raise_error(jax.errors.JaxRuntimeError("INTERNAL: CUBLAS_STATUS_ALLOC_FAILED")),
  "Python": lambda: raise_error(MemoryError()),
}


@pytest.mark.parametrize("method", ["restore", "_update", "_evaluate"])
@pytest.mark.parametrize("fail", LACKS_OF_MEMORY.values(), ids=LACKS_OF_MEMORY.keys())
def test_a_lack_of_memory_is_one_line_that_names_fields(
  main, tmp_path, monkeypatch, capsys, method, fail
):
  """The check before training knows only a lower bound."""
  monkeypatch.setattr(loop.Trainer, method, lambda *arguments: fail())
  workdir = tmp_path / "run"
  fields = [f"--config.{field}" for field in ("max_steps=2", "eval_every=1", "sample.length=0")]
  program = lambda: main("--config=tiny.py", f"--workdir={workdir}", *fields)  # noqa: E731
  assert process.run("launch.py", program) == 2
  err = capsys.readouterr().err
  (line,) = (line for line in err.splitlines() if "error" in line)
  assert line.startswith("launch.py: error: out of memory") and err.endswith(f"{line}\n")
  for name in ("batch_size", "window", "model.hidden"):
    assert f"--config.{name}" in line


def test_other_errors_of_a_device_are_raised(main, tmp_path, monkeypatch):
  monkeypatch.setattr(
    loop.Trainer, "_update", lambda *_: raise_error(jax.errors.JaxRuntimeError("INTERNAL: no"))
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: no"):
    main("--config=tiny.py", f"--workdir={tmp_path / 'run'}")
