"""Many texts of a model at once, for those that judge what it writes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from charrnn.sampling import options, samples


class Writer(NamedTuple):
  """What `samples.draw` draws with: a model, and what its ids stand for."""

  model: Any
  params: Any
  tokenizer: Any


def texts(
  writer: Writer,
  *,
  num: int,
  length: int,
  settings: options.Settings,
  prompt: str = "",
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> list[str]:
  """`num` texts of `length` symbols each, all after the same prompt, which is not part of them."""
  asked = {"num": num, "length": length, "settings": settings, "seed": seed, "stop": None}
  found = samples.draw(writer, writer.tokenizer.encode(prompt), progress=progress, **asked)
  return [sample.text for sample in found]
