"""Fuzz a parser with Atheris: search for inputs that reach new code and break a property.

  python tests/support/fuzz.py test_labels_of_any_text -max_total_time=60

The argument is the name of a property in tests/battery/test_properties.py. The options are those of
libFuzzer. An input that breaks the property ends the program with its traceback and is written to a
file, whose path as a second argument repeats it.
"""

import pathlib
import sys

import atheris

sys.path.append(str(pathlib.Path(__file__).parents[1] / "battery"))
with atheris.instrument_imports(include=["charrnn"]):
  import test_properties

if __name__ == "__main__":
  name = sys.argv.pop(1)
  atheris.Setup(sys.argv, getattr(test_properties, name).given.hypothesis.fuzz_one_input)
  atheris.Fuzz()
