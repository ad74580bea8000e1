"""A scorecard on paper: a row a figure, a column a text."""

from charrnn.scorecards import card, table

FIGURES = (
  card.Figure(
    "shouts", card.SHARE, "words in capitals", lambda s: [w.isupper() for w in s.split()]
  ),
  card.Figure("length", card.MEAN, "letters of a word", lambda s: [len(w) for w in s.split()]),
  card.Figure("words", card.DISTRIBUTION, "words", str.split),
)
COLUMNS = {"model": ["A b"], "real": ["A bb", "c dddd", "E f"] * 4, "nothing": [""]}
SCORED = card.card(FIGURES, {name: card.measure(FIGURES, s) for name, s in COLUMNS.items()})


def _rows(lines):
  return {line[2:10].strip(): line for line in lines}


def test_values_have_their_unit_and_an_interval_where_there_is_one():
  rows = _rows(table.values(SCORED))
  assert list(rows) == ["", "samples", "shouts", "length"]
  low, high = SCORED["figures"][0]["columns"]["real"]["interval"]
  told = ["33.3%", f"[{low:.1%},", f"{high:.1%}]"]
  # Of two words no share is known, and no interval.
  assert rows["shouts"].split() == ["shouts", "50.0%", "(of", "2)", *told, "-"]
  assert rows["length"].split()[:5] == ["length", "1.00", "(of", "2)", "1.67"]
  starts = {row.index(cell) for row, cell in ((rows["shouts"], "33.3"), (rows["length"], "1.67"))}
  assert starts == {rows[""].index("real")}


def test_distances_stand_beside_their_floor():
  rows = _rows(table.distances(SCORED))
  assert list(rows) == ["", "samples", "shouts", "length", "words"]
  assert rows[""].split() == ["model", "nothing"]
  assert rows["samples"].split() == ["samples", "1", "1"]
  cell = SCORED["figures"][1]["columns"]["model"]
  shown = [f"{cell['distance']:.2f}", f"({cell['floor']:.2f})"]
  assert rows["length"].split() == ["length", *shown, "-", shown[1]]
  assert rows["shouts"].split()[1] == "16.7%"


def test_every_figure_is_explained():
  assert [line.split(maxsplit=1)[1] for line in table.meanings(SCORED)] == [
    f.meaning for f in FIGURES
  ]
