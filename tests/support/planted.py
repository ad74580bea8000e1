"""An LSTM with two hand-set units: one tracks quotes, and one counts the characters of a line."""

import types

import jax
import numpy as np

from charrnn.analysis import effects, hypotheses, recording
from charrnn.models import rnn

QUOTES, COLUMN = 3, 7
HIDDEN = 12


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


def ids(text):
  """Return the sorted distinct characters of a text, and the text as ids."""
  symbols = sorted(set(text))
  return symbols, np.array([symbols.index(each) for each in text], np.uint8)


def _labeled(text, names):
  """Return hypotheses by name, without confounds, and the labels of a text."""
  table = [hypotheses.HYPOTHESES[name]._replace(confounds=()) for name in names]
  return table, hypotheses.label_documents(table, [text])


def prepare(text, names, **options):
  """Return targets and design for a text that is a single document."""
  return effects.prepare(*_labeled(text, names), [(0, len(text))], **options)


def subject(net, text, names, recorded, scratch):
  """Return the subject of a study: a network recorded on a text that is a single document."""
  table, labeled = _labeled(text, names)
  return recording.Subject(
    types.SimpleNamespace(model=net),
    recording.Text("planted", ids(text)[1], ((0, len(text)),), "prose", (text,)),
    recording.Settings(),
    {each.name: each for each in table},
    labeled,
    recorded,
    scratch,
    lambda phase: lambda done, total: None,
  )
