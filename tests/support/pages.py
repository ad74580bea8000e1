"""The README and the documentation: their code blocks, and a function to run them."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
  """Return (language, code) of the shell and Python blocks of a page, in order."""
  return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), re.M | re.S)


def table_commands(page: pathlib.Path) -> list[str]:
  """Return the commands in the tables of a page, in order."""
  rows = re.findall(r"^\|.*\|$", page.read_text(), re.M)
  pattern = r"`((?:charrnn|charrnn-launch|python launch\.py) [^`]+)`"
  return [command for row in rows for command in re.findall(pattern, row)]


def run(folder: pathlib.Path, language: str, code: str):
  """Run a block in a folder, with its `bin` first on the PATH; fail if the block fails."""
  path = [folder / "bin", pathlib.Path(sys.executable).parent, os.environ["PATH"]]
  python_path = [ROOT / "src", os.environ.get("PYTHONPATH", "")]
  process = subprocess.run(
    ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code],
    cwd=folder,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "PATH": os.pathsep.join(map(str, path)),
      "PYTHONPATH": os.pathsep.join(map(str, python_path)),
    },
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    errors="replace",
    check=False,
  )
  assert process.returncode == 0, f"{code}\n{process.stdout}\n{process.stderr}"
