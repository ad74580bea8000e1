"""An LSTM with weights set by hand: one cell tracks quotes, another counts columns."""

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
  """Random but for the two: at a quote c of one goes from 0 to 1 or back, that of the other grows
  by 0.01 a character and is forgotten at a line end."""
  params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(seed)))
  layer, H = params["layer_0"], net.units["layer_0"]["h"]
  i, f, g, o = (slice(n * H, (n + 1) * H) for n in range(4))
  layer["W_hh"][[QUOTES, COLUMN]] = 0  # else other units would reach them
  for cell in (QUOTES, COLUMN):
    for gate in (i, f, g, o):
      layer["W_xh"][:, gate][:, cell] = 0
      layer["W_hh"][:, gate][:, cell] = 0
      layer["b_h"][gate][cell] = 20  # open by default
  quote, newline = symbols.index('"'), symbols.index("\n")
  layer["b_h"][i][QUOTES] = -20
  layer["W_xh"][quote, i][QUOTES] = 40
  layer["b_h"][g][QUOTES], layer["W_hh"][QUOTES, g][QUOTES] = 5, -10 / np.tanh(1)
  layer["b_h"][i][COLUMN], layer["b_h"][g][COLUMN] = 0, 0.02
  layer["W_xh"][newline, f][COLUMN] = -40
  return params


def ids(text):
  """Return the sorted characters of a text, and its ids."""
  symbols = sorted(set(text))
  return symbols, np.array([symbols.index(each) for each in text], np.uint8)


def _labelled(text, names):
  chosen = [hypotheses.HYPOTHESES[name]._replace(confounds=()) for name in names]
  return chosen, hypotheses.label_documents(chosen, [text])


def prepare(text, names, **options):
  """Return targets and design for a text that is one document."""
  return effects.prepare(*_labelled(text, names), [(0, len(text))], **options)


def subject(net, text, names, recorded, scratch):
  """Return a recording of a text that is one document as the subject of a study."""
  chosen, labelled = _labelled(text, names)
  return recording.Subject(
    types.SimpleNamespace(model=net),
    recording.Text("planted", ids(text)[1], ((0, len(text)),), "prose", (text,)),
    recording.Settings(),
    {each.name: each for each in chosen},
    labelled,
    recorded,
    scratch,
    lambda phase: lambda done, total: None,
  )
