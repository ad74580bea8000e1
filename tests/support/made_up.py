"""A synthetic study of a network: a text, a recording with planted units, and all findings."""

import itertools

import numpy as np
from scipy import signal

from charrnn.analysis import explorer, hypotheses
from charrnn.analysis import rates as rates_lib
from charrnn.analysis import recording as recording_lib

QUANTITIES = {
  "lstm": ("h", "c", "i", "f", "g", "o"),
  "gru": ("h", "r", "z", "a", "n"),
  "rnn": ("h",),
  "transformer": ("h", "m"),
}
NAMES = ("in-quotes", "line-position", "near-line-end", "next-is-newline", "url", "speaker")
_WORDS = (
  "the of and a quiet light upon water where no wind had been before it came to rest among old "
  "stones some said that every letter keeps its own small memory but who would count them now"
)
CHANCE = {"auroc": 0.5, "spearman": 0.0}
WEIGHTS = {"step": 7394, "sha256": "0" * 64}
HOSTILE = (
  "</script><script>alert(1)</script><!-- \u2028\u2029\x00\x07\x1b\x7f\x85\r\t\ud800\udc00\udfff"
  "<img src=x onerror=alert(2)>\u202eevil\u202c\u200b\ufeffé e\u0301 שלום 😀 &amp; {{data}} \\u003c"
)


def prose(length: int, seed: int = 0) -> str:
  """Return a random text with lines of about 60 characters, speakers and quotes."""
  rng, words = np.random.default_rng(seed), _WORDS.split()
  text, line, quoted = "FIRST VOICE:\n", 0, False
  while len(text) < length:
    word = str(rng.choice(words))
    if rng.random() < (0.18 if quoted else 0.06):
      quoted, word = not quoted, f'{word}"' if quoted else f'"{word}'
    text, line = text + word, line + len(word) + 1
    if rng.random() < 0.01:
      text += '".\n\nSECOND VOICE:\n' if quoted else ".\n\nSECOND VOICE:\n"
      line, quoted = 0, False
    elif line > 52:
      text, line = text + "\n", 0
    else:
      text += " "
  return text[:length]


def walks(rng, n: int, columns: int, memory=0.95) -> np.ndarray:
  """Return decaying random walks, float32 [n, columns], as smooth in time as a cell state."""
  noise = rng.standard_normal((n, columns), np.float32)
  return signal.lfilter(
    np.float32([np.sqrt(1 - memory**2)]), np.float32([1, -memory]), noise, axis=0
  )


def columns_and_units(
  layers: int, hidden: int, cell: str
) -> tuple[list[recording_lib.Column], list[recording_lib.Unit]]:
  """Return the columns of a network, and the unit of each."""
  columns = [
    recording_lib.Column(layer, quantity, number)
    for layer in range(layers)
    for quantity in QUANTITIES[cell]
    for number in range(4 * hidden if quantity == "m" else hidden)
  ]
  is_transformer = cell == "transformer"
  return columns, [
    recording_lib.Unit(layer, quantity if is_transformer else "", number)
    for layer, quantity, number in columns
  ]


def recording(
  n: int, layers: int, hidden: int, cell: str = "lstm", seed: int = 0
) -> tuple[list[recording_lib.Column], np.ndarray]:
  """Return (columns, values float32 [n, C]): states that drift, and gates that open and close."""
  rng = np.random.default_rng(seed)
  columns, _ = columns_and_units(layers, hidden, cell)
  values = np.empty((n, len(columns)), np.float32)
  for (_, quantity), group in itertools.groupby(range(len(columns)), lambda n: columns[n][:2]):
    first, *_, last = group
    drift = walks(rng, n, last + 1 - first, memory=0.95 if quantity == "c" else 0.6)
    gate = quantity in "iforz"
    values[:, first : last + 1] = (
      1 / (1 + np.exp(-3 * drift)) if gate else drift if quantity in "ca" else np.tanh(drift)
    )
  return columns, values


def excerpt(text: str, layers=2, hidden=8, cell="lstm", seed=0) -> explorer.Excerpt:
  """Return an excerpt with two planted units.

  Unit 1:3 follows open quotes with a delay of one character. Unit 0:5 grows along each line.
  """
  n, rng = len(text), np.random.default_rng(seed)
  columns, values = recording(n, layers, hidden, cell, seed)
  labels = {name: tuple(hypotheses.HYPOTHESES[name].function(text)) for name in NAMES}
  planted = {
    (layers - 1, min(3, hidden - 1)): np.roll(1.8 * labels["in-quotes"][0] - 0.9, 1),
    (0, min(5, hidden - 1)): labels["line-position"][0] / 25 - 1.2,
  }
  for (layer, index), signal_N in planted.items():
    for quantity in {"h", "c"} & set(QUANTITIES[cell]):
      noise = 0.05 * rng.standard_normal(n)
      values[:, columns.index((layer, quantity, index))] = 0.9 * signal_N + noise
  symbols = sorted(set(text))
  chances = -np.sort(-rng.dirichlet(np.full(min(5, len(symbols)) + 1, 0.4), n)[:, :-1])
  pad = ((0, 0), (0, 5 - chances.shape[1]))
  ids = rng.integers(0, len(symbols), (n, 5))
  # The most probable token is the next token in half of the positions.
  ids[:-1, 0] = np.where(
    rng.random(n - 1) < 0.5, [symbols.index(each) for each in text[1:]], ids[:-1, 0]
  )
  nats = rng.exponential(1.4, n).astype(np.float32)
  nats[-1] = np.nan
  units = columns_and_units(layers, hidden, cell)[1]
  top_p = np.pad(chances, pad)
  return explorer.Excerpt(text, symbols, columns, units, values, ids, top_p, nats, labels)


def study(layers=2, hidden=8, cell="lstm", seed=0) -> dict:
  """Return the content of cells.json for an `excerpt` with the same sizes."""
  rng = np.random.default_rng(seed)
  units = sorted(set(columns_and_units(layers, hidden, cell)[1]))
  scores = {name: np.round(rng.uniform(-0.3, 0.3, len(units)), 4).tolist() for name in NAMES}
  kind = "h" if cell == "transformer" else ""
  quotes, line = (layers - 1, kind, min(3, hidden - 1)), (0, kind, min(5, hidden - 1))
  scores["in-quotes"][units.index(quotes)] = 0.94
  scores["line-position"][units.index(line)] = 0.91
  scores["url"] = [None] * len(units)
  table = [hypotheses.HYPOTHESES[name] for name in NAMES]
  findings = [_finding(each, scores[each.name], units, rng) for each in table]
  return {
    "run": "runs/made-up",
    "step": 7394,
    "weights": WEIGHTS,
    "model": {"cell": cell, "layers": layers, "hidden": hidden},
    "text": {
      "name": "made up (valid and test)",
      "characters": 200000,
      "documents": 4,
      "nats": 1.43,
      "language": "prose",
    },
    "quantities": list(QUANTITIES[cell]),
    "units": [str(unit) for unit in units],
    "hypotheses": [
      {"name": h.name, "kind": h.kind, "about": h.about, "predicts": h.predicts} for h in table
    ],
    "findings": findings,
    "scores": scores,
    "interpretable": {
      "count": 2,
      "of": len(units),
      "share": 2 / len(units),
      "low": 0.5 / len(units),
      "high": min(1.0, 7 / len(units)),
      "by_hypothesis": {"in-quotes": 1, "line-position": 1, "near-line-end": 0},
    },
    "probes": [
      _probe(f, states)
      for f in findings
      if f["scored"]
      for states in (["h"], ["m"])[: 1 + (cell == "transformer")]
    ],
    "ablations": [_ablation(f, rng) for f in findings[:2]],
    "interchanges": [
      _interchange(findings[0], rng),
      _interchange(findings[1], rng) | {"full": 0.007, "share": None},
    ],
    "steering": [_steering(findings[1])],
    "saturation": [
      _saturated(layer, gate, hidden, rng)
      for layer in range(layers)
      for gate in QUANTITIES[cell]
      if gate in "ifo"
    ],
    "emergence": [_emergence(f, rng) for f in findings[:3]],
    "notes": ["The halves are whole documents.", "The data are synthetic."],
  }


def network(score=0.9, significant=True, share=0.1, first=10, weights=WEIGHTS):
  """Return results for `rates.aggregate`: one hypothesis, whose unit emerges at step `first`."""
  by_hypothesis = {"if-condition": 2, "url": 0}
  finding = {"hypothesis": "if-condition", "significant": significant, "statistic": "auroc"}
  confirmation = {"score": score, "family_to_beat": 0.6}
  steps = [0, 10, 20, 30]
  entry = {"hypothesis": "if-condition", "steps": steps, "nats": [4.0, 3.0, 2.0, 1.5]}
  entry["score"] = [0.7 if step >= first else 0.65 for step in steps]
  return {
    "step": 30,
    "model": {"cell": "gru", "layers": 1, "hidden": 20},
    "text": {"name": "code", "characters": 9000, "nats": 1.5},
    "hypotheses": [{"name": name, "kind": "binary"} for name in by_hypothesis],
    "findings": [
      finding | {"confirmation": confirmation, "untrained": 0.68},
      {"hypothesis": "url", "significant": None},
    ],
    "interpretable": {"share": share, "by_hypothesis": by_hypothesis},
    "emergence": [entry],
    "settings": {"weights": weights},
  }


def rates():
  """Return the rates of two groups of ten networks; one of the networks has the study's weights."""
  others = [WEIGHTS | {"step": n} for n in range(20)]
  others[13] = WEIGHTS
  groups = []
  for label, start in {"gru 1 x 20": 0, "lstm 1 x 20": 10}.items():
    networks = {
      f"{n}": network(0.8 + n / 200, n < 18, n / 100, weights=others[n])
      for n in range(start, start + 10)
    }
    groups.append(rates_lib.aggregate(networks) | {"label": label})
  return rates_lib.around({"characters": 9000, "groups": groups}, WEIGHTS)


def explanation(layer=0, unit=5) -> dict:
  """Return the content of explain-LAYER-UNIT.json for a counter of lines."""
  text = prose(140, seed=1)
  account = np.array([len(text[: n + 1].rpartition("\n")[2]) for n in range(140)]) / 25 - 1.2
  rng, levels = np.random.default_rng(unit), np.arange(81) / 25 - 1.2
  length = {"plain": 48.2, "edited": 59.7, "ratio": 59.7 / 48.2}
  characters = [
    {"character": symbol, "count": text.count(symbol), "role": "advances", "keep": 0.97}
    | {"added": 0.05, "change": 0.04, "change_spread": 0.01, "level": 0.2}
    for symbol in sorted(set(text) - {"\n"}, key=lambda each: -text.count(each))
  ]
  line_end = {"character": "\n", "count": 700, "role": "resets"}
  step = {"keep": 0.01, "added": -1.2, "change": -2.1, "change_spread": 0.4, "level": -1.2}
  sources = [("1:h6", 0.41), ("0:h2", -0.08), ("character", 0.3)]
  return {
    "run": "runs/made-up",
    "step": 7394,
    "weights": WEIGHTS,
    "model": {"cell": "lstm", "layers": 2, "hidden": 8},
    "text": {"name": "made up", "characters": 40000, "documents": 4, "nats": 1.43, "halves": ""},
    "seed": 0,
    "layer": layer,
    "unit": unit,
    "state": "c",
    "keep": "f",
    "candidate": "g",
    "kind": "counter",
    "reason": "",
    "r2": {"discovery": 0.83, "confirmation": 0.81, "minimum": 0.5},
    "memory": 60.2,
    "minimum_memory": 10,
    "spread": 0.9,
    "others": {"factor": 0.99, "offset": 0.04, "change": 0.04, "keep": 0.97},
    "events": [
      line_end
      | {"factor": 0.02, "offset": -1.2, "level": -1.2, "spread": 0.1}
      | {"high_before": 0.9, "high_after": 0.0, "levels": [-1.2, -1.2]}
    ],
    "characters": [characters[0], line_end | step, *characters[1:]],
    "gates": [
      {
        "gate": gate,
        "mean": 0.6,
        "spread": 1.3,
        "sources": [{"source": name, "share": share, "weight": 0.3} for name, share in sources],
      }
      for gate in "ifgo"
    ],
    "readers": {
      "spread": 0.4,
      "saturated": 0.2,
      "logits": {
        "raised": [{"character": "\n", "effect": 1.4}],
        "lowered": [{"character": "e", "effect": -0.3}],
      },
      "units": [{"reader": "1:f3", "effect": 0.9}, {"reader": "0:i2", "effect": -0.4}],
    },
    "edit": {
      "ratio": 0.8,
      "where": "at other characters",
      "factor": 0.79,
      "edited": "the weights into g are multiplied by 0.790",
      "quantity": "added",
      "means": [0.05, 0.04],
      "response": {
        "states": np.linspace(-1.2, 1.4, 32).tolist(),
        "p": np.linspace(0.01, 0.09, 32).tolist(),
        "after_line_end": [-1.2, 0.01],
        "at_line_end": [0.8, 0.07],
      },
      "levels": {"plain": levels.tolist(), "edited": (0.8 * levels).tolist()},
      "alone": length | {"ratio": 1.25},
      "predicted": length,
      "measured": length | {"low": 1.2, "high": 1.28},
    },
    "edit_reason": "",
    "excerpt": {
      "start": 20000,
      "text": text,
      "unit": (account + 0.05 * rng.standard_normal(140)).tolist(),
      "account": account.tolist(),
    },
    "summary": "counter: '\\n' sets c to -1.2; each other character changes it by +0.04 on average",
  }


def without_network(study: dict) -> dict:
  """Return a study as it is without the network that was recorded."""
  left_out = {"ablations": [], "interchanges": [], "steering": [], "emergence": []}
  left_out |= {"model": None, "step": None, "weights": None}
  findings = [each | {"untrained": None, "untrained_baseline": None} for each in study["findings"]]
  text = study["text"] | {"nats": None}
  return study | left_out | {"run": "x.npz", "findings": findings, "text": text}


def _finding(hypothesis, scores, units, rng) -> dict:
  binary = hypothesis.kind == "binary"
  common = {
    "hypothesis": hypothesis.name,
    "kind": hypothesis.kind,
    "statistic": "auroc" if binary else "spearman",
  }
  if scores[0] is None:
    reason = "only one value in the discovery half"
    return common | {
      "scored": False,
      "reason": reason,
      "untrained_baseline": None,
      "last_k": [],
      "discovery": None,
      "confirmation": None,
      "significant": None,
    }
  index = int(np.argmax(np.abs(scores)))
  layer, quantity, number = units[index]
  quantity = quantity or "h"
  effect = abs(scores[index])
  in_unit = (lambda e: float(0.5 + e / 2)) if binary else float
  strong = effect > 0.5
  p = 0.005 if strong else 0.4
  half = {"p": p, "family_p": p, "to_beat": in_unit(0.24), "family_to_beat": in_unit(0.31)}
  return common | {
    "scored": True, "reason": "", "column": index, "name": f"{layer}:{quantity}{number}",
    "layer": layer, "quantity": quantity, "cell": number, "unit": str(units[index]),
    "lag": int(rng.integers(0, 2)), "direction": -1 if scores[index] < 0 else 1,
    "discovery": {"score": in_unit(min(1, effect + 0.02))} | half,
    "confirmation": {"score": in_unit(effect)} | half,
    "significant": strong, "confounded": False, "untrained": in_unit(0.26),
    "characters": 98000, "share": 0.21 if binary else None,
    "average_precision": 0.8 * effect if binary else None, "mcc": 0.7 * effect if binary else None,
    "isotonic_r2": None if binary else 0.9 * effect,
    "untrained_baseline": {
      "score": in_unit(0.19), "p": 0.5, "family_p": 0.9, "to_beat": in_unit(0.26)
    },
    "last_k": [{"k": k, "score": in_unit(0.08 * n)} for n, k in enumerate((1, 2, 4, 8), 1)],
  }  # fmt: skip


def _probe(finding, quantities) -> dict:
  sizes, chance = np.array([1, 2, 4, 8, 16]), CHANCE[finding["statistic"]]
  last = chance + 0.9 * (1 - chance)
  first = {"units": 0.8, "rotated": 0.3, "components": 0.4, "control": 0.2}
  scores = {
    key: chance + (last - chance) * (1 - (1 - share) / sizes) for key, share in first.items()
  }
  return {key: values.tolist() for key, values in scores.items()} | {
    "hypothesis": finding["hypothesis"],
    "quantities": quantities,
    "features": 32,
    "characters": [20000, 20000],
    "k": sizes.tolist(),
    "columns": [[f"0:{quantities[0]}{n}" for n in range(size)] for size in sizes],
    "lags": [0, 0, 1, 1, 1],
    "rotated_low": (scores["rotated"] - 0.05).tolist(),
    "rotated_high": (scores["rotated"] + 0.05).tolist(),
    "selectivity": (scores["units"] - scores["control"]).tolist(),
  }


def _ablation(finding, rng) -> dict:
  return {
    "hypothesis": finding["hypothesis"],
    "cell": finding["unit"],
    "inside": 0.31,
    "outside": 0.02,
    "controls": {
      "inside": np.abs(rng.normal(0, 0.05, 19)).tolist(),
      "outside": np.abs(rng.normal(0, 0.02, 19)).tolist(),
    },
    "p": 0.05,
    "p_corrected": 0.12,
  }


def _interchange(finding, rng) -> dict:
  return {
    "hypothesis": finding["hypothesis"],
    "cell": finding["unit"],
    "pairs": 64,
    "moved": 0.09,
    "same": -0.004,
    "full": 0.15,
    "share": 0.6,
    "controls": rng.normal(0, 0.01, 19).tolist(),
    "p": 0.05,
    "p_corrected": 0.12,
  }


def _steering(finding) -> dict:
  return {
    "hypothesis": finding["hypothesis"],
    "cell": finding["unit"],
    "measure": "line length",
    "unit": "characters",
    "free": 38.1,
    "settings": [
      {"setting": setting, "value": value, "result": result, "controls": [35.0, 37.2, 38.9, 40.3]}
      for setting, value, result in (("zero", 0.0, 41.0), ("low", -0.8, 61.5), ("high", 0.9, 12.2))
    ],
    "excerpts": {
      "free": prose(300, 1),
      "zero": prose(300, 2),
      "low": prose(300, 3).replace("\n", " "),
      "high": prose(300, 4).replace(" ", "\n"),
    },
  }


def _saturated(layer, gate, hidden, rng) -> dict:
  left, right, _ = rng.dirichlet((0.6, 0.6, 1.2), hidden).T  # shares of left- and right-saturation
  return {"layer": layer, "gate": gate, "left": left.tolist(), "right": right.tolist()}


def _emergence(finding, rng) -> dict:
  steps = list(range(0, 7401, 370))
  chance, final = CHANCE[finding["statistic"]], finding["confirmation"]["score"]
  rise = (final - chance) / (1 + np.exp(-(np.array(steps) - 2200) / 500))
  rise += chance + rng.normal(0, 0.01, len(steps))
  return {
    "hypothesis": finding["hypothesis"],
    "column": finding["name"],
    "steps": steps,
    "score": rise.tolist(),
    "best": np.maximum(rise, chance + 0.3 * (final - chance)).tolist(),
  }
