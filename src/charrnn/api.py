"""The Python interface: train runs, load them, sample from them, score texts and record states."""

import numbers
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from charrnn import command_line, errors, runtime
from charrnn.evaluation import score as score_lib
from charrnn.launching import train as train_lib
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps, constraints, sampler, selection

# {"LAYER:UNIT": value}, for example {"1:37": 2.5, "0:h3": "hold"}
Clamps = Mapping[str, float | str]

_PATH, _TEXT = ((str, os.PathLike), "a path"), (str, "text")
_INTEGER, _NUMBER = (numbers.Integral, "an integer"), (numbers.Real, "a number")
# The types of arguments, and how a message describes them.
_TYPES: dict[str, tuple[Any, str]] = {
  "path": _PATH,
  "workdir": _PATH,
  "config": (config_dict.ConfigDict, "a config, for example charrnn.config.default()"),
  "clamp": (Mapping, "a dict"),
  **dict.fromkeys(("prompt", "text", "stop", "corpus", "require", "forbid"), _TEXT),
  **dict.fromkeys(("length", "num", "seed", "top_k", "step", "draws"), _INTEGER),
  **dict.fromkeys(("temperature", "top_p"), _NUMBER),
  **dict.fromkeys(("fetch", "distinct", "novel"), (bool, "True or False")),
}
# Arguments that may be None.
_OPTIONAL = ("stop", "corpus", "top_k", "top_p", "step", "clamp", "draws")


def _check_types(**arguments):
  """Raise UserError if an argument does not have its type."""
  for name, value in arguments.items():
    types, description = _TYPES[name]
    is_bool = isinstance(value, bool) and types is not bool  # Python counts it as an integer.
    if (value is None and name in _OPTIONAL) or (isinstance(value, types) and not is_bool):
      continue
    raise errors.UserError(f"{name} is of type {type(value).__name__}: use {description}")


class Run(run_lib.Run):
  """A trained run, with methods that use its model.

  `params` is a nested dict of NumPy arrays from the checkpoint of training step `step`.
  `model` and `tokenizer` belong to these parameters. `config` is the resolved config. The base
  class `runs.run.Run` documents all properties.
  """

  def sample(
    self,
    prompt: str = "",
    *,
    length: int = 1000,
    num: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: str | None = None,
    require: str | Sequence[str] = (),
    forbid: str | Sequence[str] = (),
    clamp: Clamps | None = None,
    distinct: bool = False,
    novel: bool = False,
    draws: int | None = None,
  ) -> list[sampler.Sample]:
    """Return `num` samples of at most `length` tokens that continue a prompt.

    A sample has its `text` without the prompt, and two log-probabilities in nats: `log_p` under the
    model, and `log_q` under the sampling settings. The same seed gives the same samples. If not
    enough texts are `distinct` or `novel`, there are fewer than `num` samples. `charrnn sample
    --help` explains the other parameters.
    """
    _check_types(prompt=prompt, length=length, num=num, seed=seed, stop=stop, clamp=clamp)
    _check_types(temperature=temperature, top_k=top_k, top_p=top_p)
    _check_types(distinct=distinct, novel=novel, draws=draws)
    sampler.check(length=length, num=num, seed=seed)
    regexes = [
      [constraints.Regex(f"--{option}", text) for text in _texts(option, value)]
      for option, value in (("require", require), ("forbid", forbid))
    ]
    settings = sampler.Settings(temperature, top_k, top_p)
    prompt_ids = self.tokenizer.encode(prompt)
    options = {"num": num, "length": length, "stop": stop, "seed": seed, "settings": settings}
    options["clamp"] = self._clamp(clamp)
    options["automaton"] = constraints.build(*regexes, stop, self.tokenizer, length)
    if not (distinct or novel):
      return list(sampler.sample(self, prompt_ids, **options))
    draws = selection.check(num, draws, settings)
    training = selection.Training.of(self) if novel else None
    has_stop = stop is not None
    selected = selection.Selection(distinct, training, has_stop=has_stop)
    return list(selected.sample(self, prompt_ids, draws=draws, **options))

  def score(self, text: str) -> score_lib.Scores:
    """Return the prediction of each of the N tokens in a text, given all tokens before it.

    `nats` [N] is -log p of each token; the first is NaN, because the first token is not predicted.
    `rank`, `top_ids` and `top_p` describe the predictions. `mean` is the loss in nats per token,
    and `bits_per_byte` the same for all tokenizers: the exact bits per UTF-8 byte. Words that are
    not in a vocabulary of words become <UNK>. For a run that was trained on documents, the text is
    the beginning of a document, so its first token is predicted too.
    """
    _check_types(text=text)
    content, before = self.tokenizer.read(text), self._before
    ids = np.concatenate([before, content.ids]).astype(np.int32)
    spans, window = [(len(before), len(ids))], score_lib.SCORING_WINDOW
    scores = score_lib.score(self.model, self.params, ids, spans, window=window)
    return scores._replace(text=content, positions=scores.positions - len(before))

  def states(self, text: str, *, clamp: Clamps | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Return all states and gates after each token of a text, by layer and name.

    For example, states["layer_1"]["c"] has the shape [T, H] for T tokens and H units.
    """
    _check_types(text=text, clamp=clamp)
    score_lib.check_units(self.model, self.path)
    before, clamped = self._before, self._clamp(clamp)
    ids_T = np.concatenate([before, self.tokenizer.encode(text)])
    windows = list(score_lib.record(self.model, self.params, ids_T, clamp=clamped))
    empty = jax.tree.map(lambda H: np.zeros((0, H), np.float32), dict(self.model.units))
    return jax.tree.map(
      lambda *arrays_TxH: np.concatenate(arrays_TxH)[len(before) :], empty, *windows
    )

  @property
  def _before(self) -> list[int]:
    """The ids that the model reads before every text."""
    end_id = self.tokenizer.end_id
    return [] if end_id is None else [end_id]

  def _clamp(self, values):
    if not values:
      return None
    parsed = [clamps.parse(f"{name}={value}") for name, value in values.items()]
    return clamps.arrays([parsed], self.model)


def _texts(name: str, value: str | Sequence[str]) -> Sequence[str]:
  """Return a text, or each of several texts, as a sequence."""
  texts = value if isinstance(value, list | tuple) else [value]
  for text in texts:
    _check_types(**{name: text})
  return texts


def load(
  path: str | pathlib.Path,
  step: int | None = None,
  corpus: str | Sequence[str] | None = None,
  fetch: bool = False,
) -> Run:
  """Load and return the run at `path`, with the verified parameters of a checkpoint.

  `step` selects the checkpoint. The default is the best by validation loss; a run without
  validation losses uses the newest. `corpus` is the path of its text, if that has moved since the
  run was launched, or a list of paths; `valid_source=PATH` is a separate validation text. A text is
  downloaded only if `fetch` is true. Raises UserError if the run or the step is missing or damaged.
  """
  _check_types(path=path, step=step, fetch=fetch)
  moved = () if corpus is None else _texts("corpus", corpus)
  runtime.start()
  return Run.open(path, step, moved, fetch).load()


def train(config: config_dict.ConfigDict, workdir: str | pathlib.Path) -> Run:
  """Train a run in the directory `workdir`, or resume it there; return the run.

  `config` is `charrnn.config.default()` with some fields changed. An interrupt (Ctrl-C, or the stop
  button of a notebook) ends training after the current step and saves a checkpoint.
  """
  _check_types(config=config, workdir=workdir)
  workdir = pathlib.Path(workdir)
  line = command_line.CommandLine(config, {}, workdir.name, "", flags.FlagValues())
  train_lib.run(line, workdir)
  return load(workdir)
