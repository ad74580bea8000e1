"""Files that users name, read as a run's own text was."""

import pathlib

import numpy as np

from charrnn import errors


def read(path, text):
  """A file as text (for a byte alphabet: as bytes); `text` is `config.text` of the run."""
  try:
    data = pathlib.Path(path).read_bytes()
    decoded = data.decode("latin-1" if text.tokenizer == "byte" else text.encoding)
  except OSError as error:
    raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"{path} is not {text.encoding} at byte {error.start}, as the run's text was: convert it"
    ) from error
  if text.newlines == "lf":
    decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
  if len(decoded) < 2:
    raise errors.UserError(f"{path} has fewer than two characters: there is nothing to predict")
  return decoded.encode("latin-1") if text.tokenizer == "byte" else decoded


def encode(alphabet, path, text):
  """The ids of what `read` gave; a UserError names characters that the run does not know."""
  try:
    if alphabet.kind == "byte":
      return alphabet.encode_points(np.frombuffer(text, np.uint8))
    return alphabet.encode(text)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error
