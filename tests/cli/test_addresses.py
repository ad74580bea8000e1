"""Every command and launch.py refuse the address of a bucket in place of a local path."""

import pathlib
import re

import pytest

import charrnn
from charrnn import cli, errors, files

ADDRESSES = ("gs://bucket/run", "s3://bucket/run")
# Positional arguments that are no run directories.
# Required options.
REQUIRED = {"scorecard": ["--domain", "plays"], "states": ["--file", "x", "--out", "x.npz"]}
OTHERS = {"eval": ["FILE"], "corpus": ["NAME|PATH|URL"], "bench": ["STUDY"]}


def positional(command):
  """Return the values of the positional arguments that are runs or outputs."""
  actions = [a for a in cli.parser(command)._actions if not a.option_strings]
  return [a for a in actions if a.metavar not in OTHERS.get(command, ())]


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if positional(name)])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_run_in_a_bucket_is_refused_with_one_line(
  tmp_path, monkeypatch, capsys, command, address
):
  monkeypatch.chdir(tmp_path)
  values = [f"{address}.npz" if a.metavar == "OUT" else address for a in positional(command)]
  assert cli.main([command, *values, *REQUIRED.get(command, ())]) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and re.search(rf"{address}\S*: is an address, not a local ", err)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "command"), [("--workdir", "rerun"), ("--out", "cells")])
def test_an_output_in_a_bucket_is_refused(trained, monkeypatch, tmp_path, capsys, option, command):
  monkeypatch.chdir(tmp_path)
  assert cli.main([command, str(trained["a"]), option, "gs://bucket/x"]) == 2
  assert "gs://bucket/x: is an address" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", [*ADDRESSES, "hdfs://host/run", "abfss:/host/run"])
def test_no_run_is_launched_or_opened_in_a_bucket(main, tmp_path, monkeypatch, address):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match=r"--workdir=.*://.*train in one, copy the run"):
    main(
      f"--config={pathlib.Path(__file__).parents[2] / 'experiments' / 'shakespeare.py'}",
      f"--workdir={address}",
    )
  with pytest.raises(errors.UserError, match="copy the run to one first"):
    charrnn.load(address)
  with pytest.raises(errors.UserError, match="copy the run to one first"):
    charrnn.load(pathlib.Path(address))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "path", ["C:/runs/a", "C:\\runs", "runs/a:b", "./gs://x", "12:00/x", "a:b"]
)
def test_a_local_path_is_no_address(path):
  files.check_local(path, "")
