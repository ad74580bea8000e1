"""The figures of `charrnn eval`."""

import math

import numpy as np

from charrnn import errors
from charrnn.data import batches


def losses(run, text, readers: int) -> list[float]:
  """Mean nats of the characters of each part, by many readers on all devices."""
  from charrnn.evaluation import evaluate
  from charrnn.training import steps

  loss_step = steps.LossStep(run.model)
  found = [
    evaluate.evaluate(
      loss_step,
      run.params,
      text.ids,
      part.segments,
      begins=text.begins,
      **_reading(run, readers),
    )
    for part in text.parts
  ]
  for nats, part in zip(found, text.parts):
    if not math.isfinite(nats):
      reason = "its training has diverged" if _count(text, part) else "there is nothing to score"
      raise errors.UserError(f"no loss on {part.name}: {reason}")
  return found


def scores(run, text, readers: int, rate: float | None, progress) -> list:
  """What was said of the characters of each part, a surprisal.Scores; `rate`: dynamically."""
  from charrnn.evaluation import dynamic, surprisal

  model = run.model, run.params, text.ids
  if rate is None:
    arguments = {"begins": text.begins, "progress": progress("reading"), **_reading(run, readers)}
    return [surprisal.read(*model, part.segments, **arguments) for part in text.parts]
  found = dynamic.read(
    *model,
    text.segments,
    rate=rate,
    burn_in=run.config.eval_burn_in,
    begins=text.begins,
    progress=progress("reading and learning"),
  )
  return [found.within(part.segments) for part in text.parts]


def _reading(run, readers):
  return {"readers": readers, "window": run.config.window, "burn_in": run.config.eval_burn_in}


def errors_by_type(run, text, scored: list, corpus, progress) -> dict:
  """Those of all parts together, see `mistakes`."""
  from charrnn.evaluation import mistakes

  progress("counting the training text")
  segments = run.splits().train
  training = mistakes.learn(corpus.ids, segments, run.tokenizer.tokens)
  progress("errors")
  found = [
    mistakes.types(training, text.ids, each.places, np.exp(-each.predictions.nats), text.begins)
    for each in scored
  ]
  return mistakes.table(np.concatenate(found), sum(int(each.scored.sum()) for each in scored))


def summary(text, nats: list[float]) -> dict:
  """The results by part, and where there are several, that of all characters."""
  counts = [_count(text, part) for part in text.parts]
  names = [part.name for part in text.parts]
  found = {"results": list(map(_result, names, counts, nats))}
  if len(names) > 1:
    mean = sum(map(math.prod, zip(counts, nats))) / sum(counts)
    found["overall"] = _result(f"all {len(names)} texts", sum(counts), mean)
  return found


def _count(text, part) -> int:
  return sum(stop - first for first, stop in batches.scorable_spans(part.segments, text.begins))


_HUGE = 700.0  # nats, whose exponential is no float


def _result(name, characters, nats):
  return {
    "text": name,
    "characters": characters,
    "nats": nats,
    "bits": nats / math.log(2),
    "perplexity": math.exp(nats) if nats < _HUGE else None,
  }


def perplexity(result: dict) -> str:
  return "-" if result["perplexity"] is None else f"{result['perplexity']:.3f}"


def line(result: dict) -> str:
  return (
    f"{result['characters']:>12,} characters  {result['nats']:.4f} nats  {result['bits']:.4f} "
    f"bits  perplexity {perplexity(result)}  {result['text']}"
  )
