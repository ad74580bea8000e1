"""The Python interface: trained runs to sample from, to score text with and to look into."""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from charrnn import command_line, errors, runtime
from charrnn.evaluation import score as score_lib
from charrnn.launching import train as train_lib
from charrnn.runs import run as run_lib
from charrnn.sampling import clamps, constraints, sampler

SCORING_WINDOW = 64

Clamps = Mapping[str, float | str]  # {"1:37": 2.5, "0:h3": "hold"}: LAYER:UNIT, both from 0


class Run(run_lib.Run):
  """A trained run: what `runs.run.Run` reads from its directory, and its model at work.

  `params` are nested dicts of NumPy arrays, `model` and `tokenizer` the objects that they belong
  to, `config` the resolved config, and `step` the training step of the parameters.
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
  ) -> list[sampler.Sample]:
    """Return `num` samples of up to `length` tokens after a prompt; see `charrnn sample --help`.

    A sample has its `text` (without the prompt), its log-probability `log_p` in nats under the
    model, and `log_q` under the settings that it was drawn with. The same seed gives the same text.
    """
    sampler.check(length=length, num=num, seed=seed)
    regexes = [
      [constraints.Regex(f"--{option}", text) for text in texts]
      for option, texts in (("require", _as_list(require)), ("forbid", _as_list(forbid)))
    ]
    samples = sampler.sample(
      self,
      self.tokenizer.encode(prompt),
      num=num,
      length=length,
      stop=stop,
      seed=seed,
      settings=sampler.Settings(temperature, top_k, top_p),
      clamp=self._clamp(clamp),
      automaton=constraints.build(*regexes, stop, self.tokenizer, length),
    )
    return list(samples)

  def score(self, text: str) -> score_lib.Scores:
    """Return the predictions of the tokens of a text, each after all that stand before it.

    `nats` [N] is -log p of each token; that of the first one is NaN. `rank`, `top_ids` and `top_p`
    say what was predicted, and `mean` is the loss in nats per token.
    """
    ids_N = self.tokenizer.encode(text)
    spans = [(0, len(ids_N))]
    return score_lib.score(self.model, self.params, ids_N, spans, window=SCORING_WINDOW)

  def states(self, text: str, *, clamp: Clamps | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Return every state and gate after each token of a text.

    states["layer_1"]["c"] has the shape [T, H]: T tokens, H units. The text is read at once: it
    takes T times the memory of one step.
    """
    if not self.model.units:
      raise errors.UserError(f"{self.path} is an n-gram run: it has no units to record")
    ids_Tx1 = np.asarray(self.tokenizer.encode(text), np.int32)[:, None]
    apply = jax.jit(functools.partial(self.model.apply, record=True, clamp=self._clamp(clamp)))
    _, _, recorded = apply(self.params, ids_Tx1, self.model.initial_carry(1))
    return jax.tree.map(lambda array_Tx1xH: np.asarray(array_Tx1xH)[:, 0], recorded)

  def _clamp(self, values):
    if not values:
      return None
    parsed = [clamps.parse(f"{name}={value}") for name, value in values.items()]
    return clamps.arrays([parsed], self.model)


def _as_list(texts: str | Sequence[str]) -> Sequence[str]:
  return [texts] if isinstance(texts, str) else texts


def load(path: str | pathlib.Path, step: int | None = None) -> Run:
  """Return the run at `path` with the verified parameters of a step.

  `step`: a checkpoint; None: the best by validation loss, else the newest. Raises UserError if
  there is no such run or step, or if it is damaged.
  """
  runtime.start()
  return Run.open(path, step).load()


def train(config: config_dict.ConfigDict, workdir: str | pathlib.Path) -> Run:
  """Train what a config describes in the directory `workdir`, or resume there; return the run.

  `config`: charrnn.config.default() with values of its own. An interrupt (Ctrl-C, or the stop
  button of a notebook) ends training after the current step, and the run is saved.
  """
  workdir = pathlib.Path(workdir)
  line = command_line.CommandLine(config, {}, workdir.name, "", flags.FlagValues())
  train_lib.run(line, workdir)
  return load(workdir)
