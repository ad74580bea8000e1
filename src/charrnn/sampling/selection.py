"""Selection of sampled texts: distinct ones, and those that the training text does not contain."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from charrnn import errors
from charrnn.data import splits
from charrnn.runs import run as run_lib
from charrnn.sampling import sampler, streaming

DRAWS = 100  # default of the maximum number of draws, for each text to select
MIN_BATCH = 32  # minimum number of texts in a batch, because some of them may not be selected
BOUNDARY = "\ud800"  # between documents: a surrogate that no text has, so nothing matches across it
BLOCK = 16  # steps of a block: small, because most texts are short


def check(num: int, draws: int | None, settings: sampler.Settings) -> int:
  """Return the maximum number of texts to sample; raise UserError if no selection is possible."""
  if settings.temperature == 0 or settings.top_k == 1:
    option = "--top-k=1" if settings.temperature else "--temperature=0"
    raise errors.UserError(
      f"{option}: all texts are the same: use a higher value, or omit --distinct and --novel"
    )
  high = sampler.MAX_NUM
  draws = min(DRAWS * num, high) if draws is None else draws
  errors.check("--draws", draws, num <= draws <= high, f"must be from --num={num} to {high}")
  return draws


class Training(NamedTuple):
  """The training text of a run."""

  texts: tuple[str, ...]  # text of each span; of a run on documents: all of them, with BOUNDARY
  documents: frozenset[str] | None  # of a run that was trained on documents

  @classmethod
  def of(cls, run: run_lib.Run) -> "Training":
    """Load the training text; raise UserError if it is missing or has changed."""
    corpus, spans, end_id = run.corpus(), run.splits().train, run.tokenizer.end_id
    if end_id is None:
      return cls(tuple(corpus.text(*span) for span in spans), None)
    bounds = splits.intersect(corpus.documents, spans)
    # The last token of a document is its end.
    documents = [corpus.text(start, stop - 1) for _, start, stop in bounds]
    return cls((BOUNDARY.join(documents),), frozenset(documents))

  def contains(self, text: str, is_complete: bool) -> bool:
    """Return whether a text is in the training text. A complete one must be a whole document.

    The empty text always is.
    """
    if text and is_complete and self.documents is not None:
      return text in self.documents
    return any(text in each for each in self.texts)


class Selection:
  """Selects texts, which begin with a prompt, and counts those that it rejects.

  `distinct` rejects a text that was selected before, and `training` one that it contains.
  `has_stop` says that a stop text may end a text before the document is complete.
  """

  def __init__(self, distinct: bool, training: Training | None, *, has_stop: bool = False):
    self._distinct, self._training, self._has_stop = distinct, training, has_stop
    self._known: dict[tuple[str, bool], bool] = {}  # whether the training text contains a text
    self._selected: set[str] = set()
    self.drawn = self.repeated = self.copied = 0

  def sample(
    self,
    source: sampler.Source,
    prompt_ids,
    *,
    num: int,
    draws: int,
    progress: sampler.Progress | None = None,
    **options,
  ) -> Iterator[sampler.Sample]:
    """Sample at most `draws` texts, and select `num` of them; see `sampler.sample` and `select`."""
    options |= {"batch": max(num, MIN_BATCH), "block": BLOCK}
    samples = sampler.sample(source, prompt_ids, num=draws, **options)
    # A character that the prompt leaves incomplete is in the text of a sample.
    prompt = streaming.TextStream(source.tokenizer, prompt_ids).prompt
    return self.select(samples, num, progress, prompt)

  def select(
    self,
    samples: Iterable[sampler.Sample],
    num: int,
    progress: sampler.Progress | None = None,
    prompt: str = "",
  ) -> Iterator[sampler.Sample]:
    """Yield the first `num` samples that are selected, or fewer if there are not so many.

    `prompt` is the part of the prompt that precedes the texts of the samples.
    `progress` is called with (selected, num).
    """
    found = 0
    for sample in samples:
      self.drawn += 1
      if self._accepts(prompt + sample.text, sample.stopped and not self._has_stop):
        found += 1
        if progress:
          progress(found, num)
        yield sample
      if found == num:
        return

  def _accepts(self, text: str, is_complete: bool) -> bool:
    if self._distinct and text in self._selected:
      self.repeated += 1
      return False
    if self._training:
      key = text, is_complete
      if key not in self._known:
        self._known[key] = self._training.contains(*key)
      if self._known[key]:
        self.copied += 1
        return False
    self._selected.add(text)
    return True
