"""Probabilities of n-gram counts for a single text, or for contexts of the same length."""

import itertools

import numpy as np


def log_prob(counts, ids, start=0, order=None):
  """Return log p of every token from position `start`, given up to order - 1 tokens: [T]."""
  order = order or counts.order
  begin = max(0, start - order + 1)
  p = next(itertools.islice(counts.by_order(ids, [(begin, len(ids))]), order - 1, None))
  return np.log(p[start - begin :])


def distribution(counts, contexts_BxC):
  """Return p of every token after each context: [B, V]."""
  contexts_BxC = np.asarray(contexts_BxC, int)
  (B, C), V = contexts_BxC.shape, counts.vocab
  text = np.concatenate([contexts_BxC.repeat(V, 0), np.tile(np.arange(V), B)[:, None]], axis=1)
  spans = [(n * (C + 1), (n + 1) * (C + 1)) for n in range(B * V)]
  *_, p = counts.by_order(text.ravel(), spans)
  return p.reshape(B, V, C + 1)[..., -1]
