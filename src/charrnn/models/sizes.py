"""How large a network is, by its config alone.

V alphabet, E embedding, H hidden, G gates.
"""

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
BIASES = {"gru": 1}  # [H] each, besides b_h


def parameters(vocab: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """All numbers that are trained."""
  wide = GATES[cell] * hidden
  first = (embed or vocab) + (layers - 1) * hidden  # rows of all W_xh
  biases = layers * (wide + BIASES.get(cell, 0) * hidden)
  return vocab * embed + (first + layers * hidden) * wide + biases + (hidden + 1) * vocab


def multiplied(vocab: int, cell: str, layers: int, hidden: int, embed: int = 0) -> int:
  """Weights that a character is multiplied with: one-hot input and embeddings are looked up.

  Training takes 6 floating point operations a weight and character, 2 of them forwards and 4
  backwards: C = 6 N D, with N without embeddings (Kaplan et al. 2020, arXiv 2001.08361).
  """
  rows = embed + (2 * layers - 1) * hidden
  return rows * GATES[cell] * hidden + hidden * vocab
