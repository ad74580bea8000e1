"""Tables of a scorecard."""

from charrnn.scorecards import metrics, report

METRICS = {}
metrics.register(METRICS, "shouts", "share", "words in capitals")(
  lambda s: [w.isupper() for w in s.split()]
)
metrics.register(METRICS, "length", "mean", "letters of a word")(
  lambda s: [len(w) for w in s.split()]
)
metrics.register(METRICS, "words", "distribution", "words")(str.split)
SAMPLES = {"model": ["A b"], "held-out": ["A bb", "c dddd", "E f"] * 4, "nothing": [""]}
REPORT = metrics.compare(
  METRICS, {name: metrics.measure(METRICS, s) for name, s in SAMPLES.items()}, "held-out"
)


def cells(lines):
  """Return the words of each row, by its first word."""
  return {line.split()[0]: line.split() for line in lines}


def test_values_have_units_and_intervals():
  rows = cells(report.values(REPORT))
  assert list(rows) == ["metric", "samples", "shouts", "length"]
  low, high = REPORT["metrics"][0]["systems"]["held-out"]["interval"]
  # Two words are too few for a reliable share, and one sample for an interval.
  held_out = ["33.3%", f"[{low:.1%},", f"{high:.1%}]"]
  assert rows["shouts"] == ["shouts", "50.0%", "(of", "2)", *held_out, "-"]
  assert rows["length"][:5] == ["length", "1.00", "(of", "2)", "1.67"]


def test_distances_are_shown_with_noise_floors():
  rows = cells(report.distances(REPORT))
  assert list(rows) == ["metric", "samples", "shouts", "length", "words"]
  assert rows["metric"] == ["metric", "model", "nothing"]
  assert rows["samples"] == ["samples", "1", "1"]
  value = REPORT["metrics"][1]["systems"]["model"]
  distance, floor = f"{value['distance']:.2f}", f"({value['noise_floor']:.2f})"
  assert rows["length"] == ["length", distance, floor, "-", floor]
  assert rows["shouts"][1] == "16.7%"


def test_every_metric_is_defined():
  explained = [line.split(maxsplit=1)[1] for line in report.meanings(REPORT)]
  assert explained == ["definition", *(metric.meaning for metric in METRICS.values())]


def test_json_contains_old_keys():
  data = report.to_json(REPORT, kind="shakespeare")
  assert data["real"] == "real" and data["kind"] == "shakespeare"
  for old, new in zip(data["figures"], REPORT["metrics"], strict=True):
    assert old["columns"]["real"] == new["systems"]["held-out"]
    assert old["columns"]["model"]["floor"] == new["systems"]["model"]["noise_floor"]
