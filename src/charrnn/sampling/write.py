"""Many texts of a model at once, for those that judge what it writes."""

from collections.abc import Callable

from charrnn.sampling import generate, options, stream


def texts(
  model,
  params,
  alphabet,
  *,
  num: int,
  length: int,
  settings: options.Settings,
  prompt: str = "",
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> list[str]:
  """`num` texts of `length` symbols each, all after the same prompt, which is not part of them."""
  prompt_ids = alphabet.encode(prompt) if prompt else [alphabet.default_id()]
  blocks = generate.generate(
    model, params, prompt_ids, length=length, num=num, seed=seed, settings=settings
  )
  readers = [stream.Reader(alphabet) for _ in range(num)]
  written: list[list[str]] = []
  for pieces in stream.texts(blocks, readers):
    written.append(pieces)
    if progress:
      progress(min(64 * len(written), length), max(length, 1))
  return ["".join(pieces) for pieces in zip(*written)]
