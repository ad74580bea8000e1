"""Text that is written while a cell is set: does what the cell stands for change in it?"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.analysis import hypotheses, intervene, labels
from charrnn.sampling import clamps, generate, options

SAMPLES = 8  # rows of each setting, with the same random numbers in all settings
LENGTH = 600
EXCERPT = 400
_QUOTE = re.compile(r'"([^"]*?)("|\n[ \t\r]*\n|\Z)', re.DOTALL)


class Measure(NamedTuple):
  name: str
  unit: str
  function: Callable[[Sequence[str]], float]  # of samples; NaN where there is nothing to measure


def line_length(texts: Sequence[str]) -> float:
  """The mean length of the lines that are not blank; the last, which was cut off, is left out."""
  lengths = [len(line) for text in texts for line in text.split("\n")[:-1] if line.strip()]
  return float(np.mean(lengths)) if lengths else np.nan


def closed_quotes(texts: Sequence[str]) -> float:
  """The share of double quotes opened that are closed before a blank line or the end."""
  ends = [end for text in texts for _, end in _QUOTE.findall(text)]
  return float(np.mean([end == '"' for end in ends])) if ends else np.nan


def indentation(texts: Sequence[str]) -> float:
  """The mean width of the leading blank of the lines that are not blank."""
  lines = [line.expandtabs(labels.TAB) for text in texts for line in text.split("\n")]
  widths = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
  return float(np.mean(widths)) if widths else np.nan


STANDARD = (
  Measure("line length", "characters", line_length),
  Measure("closed quotes", "share", closed_quotes),
  Measure("indentation", "columns", indentation),
)


def of_label(hypothesis: hypotheses.Hypothesis) -> Measure:
  """The mean of the hypothesis's own label over generated text."""

  def mean(texts: Sequence[str]) -> float:
    found = [hypothesis.function(text) for text in texts]
    values = np.concatenate([label.values[label.mask] for label in found])
    return float(values.mean()) if len(values) else np.nan

  unit = "share of the text" if hypothesis.kind == "binary" else "mean"
  return Measure(hypothesis.name, unit, mean)


def write(
  model,
  params,
  prompt_ids,
  decode: Callable,
  rows: Mapping[object, Sequence[clamps.Clamp]],
  *,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> dict[object, list[str]]:
  """SAMPLES texts for each of the rows, by the rows' keys, at temperature 1."""
  keys = [key for key in rows for _ in range(SAMPLES)]
  numbers = np.tile(np.arange(SAMPLES), len(rows))
  groups = np.array_split(np.arange(len(keys)), -(-len(keys) // intervene.ROWS))
  texts = {key: [] for key in rows}
  for done, group in enumerate(groups):
    blocks = generate.generate(
      model,
      params,
      prompt_ids,
      length=LENGTH,
      num=len(group),
      seed=seed,
      settings=options.Settings(),
      clamp=clamps.arrays([rows[keys[row]] for row in group], model),
      rows=numbers[group],
    )
    ids_BxN = np.concatenate(list(blocks), axis=1)
    for row, ids_N in zip(group, ids_BxN):
      texts[keys[row]].append(decode(ids_N))
    if progress:
      progress(done + 1, len(groups))
  return texts
