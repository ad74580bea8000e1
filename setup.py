"""Add launch.py and the experiments to the wheel. pyproject.toml contains everything else."""

import pathlib

import setuptools
from setuptools.command import build_py


class BuildPy(build_py.build_py):
  """The command that collects the files of the wheel."""

  def run(self):
    super().run()
    if not self.editable_mode:
      for path in (pathlib.Path("launch.py"), *pathlib.Path("experiments").glob("*.py")):
        target = pathlib.Path(self.build_lib, "charrnn", "launcher", path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(path), str(target))


setuptools.setup(cmdclass={"build_py": BuildPy})
