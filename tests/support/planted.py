"""Networks with hand-set units.

An LSTM has two: one tracks quotes, and one counts the characters of a line. A transformer has one,
which is high at vowels.
"""

import types

import jax
import numpy as np

from charrnn import models
from charrnn.analysis import effects, hypotheses, recording
from charrnn.models import rnn

QUOTES, COLUMN = 3, 7
HIDDEN = 12
VOWEL = 5  # an activation of the MLP of layer 0
VOWELS = hypotheses.from_regex("vowel", "[aeiou]")


def model(vocab, hidden=HIDDEN, cell="lstm"):
  return rnn.make(vocab, cell=cell, layers=1, hidden=hidden)


def params(net, symbols, seed=0):
  """Return random parameters, except for those of the two units QUOTES and COLUMN.

  At each quote, the cell state of QUOTES changes from 0 to 1 or from 1 to 0. The cell state of
  COLUMN grows by 0.01 per character and is reset at a line end.
  """
  params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(seed)))
  layer, H = params["layer_0"], net.units["layer_0"]["h"]
  i, f, g, o = (slice(n * H, (n + 1) * H) for n in range(4))
  layer["W_hh"][[QUOTES, COLUMN]] = 0  # The two units do not affect other units.
  for cell in (QUOTES, COLUMN):
    for gate in (i, f, g, o):
      layer["W_xh"][:, gate][:, cell] = 0
      layer["W_hh"][:, gate][:, cell] = 0
      layer["b_h"][gate][cell] = 20  # The gates are open by default.
  quote, newline = symbols.index('"'), symbols.index("\n")
  layer["b_h"][i][QUOTES] = -20
  layer["W_xh"][quote, i][QUOTES] = 40
  layer["b_h"][g][QUOTES], layer["W_hh"][QUOTES, g][QUOTES] = 5, -10 / np.tanh(1)
  layer["b_h"][i][COLUMN], layer["b_h"][g][COLUMN] = 0, 0.02
  layer["W_xh"][newline, f][COLUMN] = -40
  return params


def transformer(symbols, seed=0):
  """Return a transformer of width 8, and its parameters.

  The elements of an embedding are 1 or -1. The first two are 1 at vowels, and at least one of them
  is -1 at other characters, so that no single element follows vowels. The unit VOWEL is high where
  both are 1.
  """
  fields = {"layers": 1, "hidden": 8, "heads": 2, "context": 16}
  net = models.make(len(symbols), {"cell": "transformer", **fields})
  params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(seed)))
  rng, layer = np.random.default_rng(seed), params["layer_0"]
  for row, symbol in zip(params["embed"]["W_e"], symbols, strict=True):
    pair = (1, 1) if symbol in "aeiou" else rng.permutation([(1, -1), (-1, 1), (-1, -1)])[0]
    row[:] = [*pair, *np.negative(pair), *rng.permutation([1, 1, -1, -1])]  # unchanged by the norm
  layer["W_o"][:] = 0
  layer["W_up"][:, VOWEL], layer["b_up"][VOWEL] = [10, 10, 0, 0, 0, 0, 0, 0], -10
  layer["W_down"][VOWEL] = 0.05 * np.array([-1, -1, 1, 1, 1, 1, 1, 1])
  params["head"]["W_hy"] *= 20
  return net, params


def ids(text):
  """Return the sorted distinct characters of a text, and the text as ids."""
  symbols = sorted(set(text))
  return symbols, np.array([symbols.index(each) for each in text], np.uint8)


def _labeled(text, names):
  """Return hypotheses by name, without confounds, and the labels of a text."""
  known = hypotheses.HYPOTHESES | {VOWELS.name: VOWELS}
  table = [known[name]._replace(confounds=()) for name in names]
  return table, hypotheses.label_documents(table, [text])


def prepare(text, names, **options):
  """Return targets and design for a text that is a single document."""
  return effects.prepare(*_labeled(text, names), [(0, len(text))], **options)


def subject(net, text, names, recorded, scratch, params=None, **settings):
  """Return the subject of a study: a network recorded on a text that is a single document."""
  table, labeled = _labeled(text, names)
  return recording.Subject(
    "planted",
    types.SimpleNamespace(model=net, params=params),
    recording.Text("planted", ids(text)[1], ((0, len(text)),), "prose", (text,)),
    recording.Settings(**settings),
    {each.name: each for each in table},
    labeled,
    recorded,
    scratch,
    lambda phase: lambda done, total: None,
  )
