"""The reference runs and docs/loss.md: the page is up to date, and its tables show the runs."""

import json
import pathlib
import re
import shutil

import loss_report
import pytest

from charrnn import files
from charrnn.sweeps import comparison_reference

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "loss.md").read_text()
AMOUNTS, SIZES = (1000, 20_000), {None: "6-gram", 500: "lstm 1 x 4", 3000: "lstm 2 x 9"}


def value():
  """Return the content of a reference.json in which each loss is unique."""
  runs = []
  for source in ("prose", "code"):
    for amount in AMOUNTS:
      for parameters, model in SIZES.items():
        loss = 2 + len(runs) / 10
        points = [
          {"characters": 100 * n, "seconds": 60.0 * n, "train_nats": 0.8, "nats": 1.0}
          | {"bits_per_byte": loss + x}
          for n, x in enumerate((0.5, 0.0, 0.25), 1)
        ]
        facts = {"run": f"run {len(runs)}", "status": "finished", "source": source}
        facts |= {"text_characters": amount, "model": model, "parameters": parameters}
        losses = {"bits_per_byte": loss, "curve": points if parameters else []}
        runs.append(facts | {"seconds": 180.0} | losses)
  machine = {"processor": "P", "cores": 2, "python": "3.11", "charrnn": "0.2", "date": "2026-01-02"}
  return {"machine": machine, "texts": {"prose": "", "code": "version 7"}, "runs": runs}


def test_the_page_is_up_to_date():
  path = comparison_reference.FILE
  runs = files.read_json(path) if path.exists() else None
  assert loss_report.page(PAGE, runs) == PAGE, "run: python tests/support/loss_report.py"
  for name in re.findall(r"\]\((pictures/[^)]*)\)", PAGE):
    assert (ROOT / "docs" / name).is_file()


def test_the_page_shows_every_run_and_can_be_regenerated():
  page = loss_report.page(PAGE, value())
  assert loss_report.page(page, value()) == page
  assert loss_report.page(page, None) == loss_report.page(PAGE, None)
  assert "| text | characters | n-gram | lstm 1 x 4 | lstm 2 x 9 |" in page
  assert "| prose | 1,000 | 2.000 (6-gram) | 2.100 | 2.200 |" in page
  for run in value()["runs"]:
    assert page.count(f"{run['bits_per_byte']:.3f}") == 1
  assert "| 20,000 | lstm 2 x 9 | 3,000 | 300 | 3.0 |" in page
  # The training loss is 0.8 of the last validation loss, which is 0.25 above the lowest.
  gaps = [0.2 * (run["bits_per_byte"] + 0.25) for run in value()["runs"]]
  assert f"| 1,000 | lstm 1 x 4 | {gaps[1]:.2f} to {gaps[7]:.2f} | 0.25 |" in page


def test_the_examples_go_from_much_to_little_capacity():
  shown = loss_report.examples(comparison_reference.curves(value()))
  assert len({each.source for each in shown}) == 1
  ratios = [each.parameters / each.text_characters for each in shown]
  assert ratios == sorted(ratios, reverse=True)


def test_runs_of_a_comparison_are_stored_and_can_be_read(tmp_path, monkeypatch):
  run = shutil.copytree(ROOT / "tests" / "data_files" / "runs_of_0.1.0" / "lstm", tmp_path / "a")
  facts = {"path": str(run), "fields": {}, "problems": []}
  runs = [facts | each for each in value()["runs"]]
  runs.append(runs[1] | {"run": "not finished", "status": "running"})
  compared, target, docs = tmp_path / "compare.json", tmp_path / "reference.json", tmp_path / "docs"
  compared.write_text(json.dumps({"runs": runs}))
  (docs / "pictures").mkdir(parents=True)
  (docs / "loss.md").write_text(PAGE)
  for module in (loss_report, comparison_reference):
    monkeypatch.setattr(module, "FILE", target)
  monkeypatch.setattr(loss_report, "DOCS", docs)
  loss_report.main([str(compared)])
  stored = files.read_json(target)
  assert str(tmp_path) not in target.read_text()
  assert comparison_reference.read(target) == comparison_reference.curves({"runs": stored["runs"]})
  assert len(stored["runs"]) == len(value()["runs"]) and stored["machine"]["cores"] >= 1
  assert {path.name for path in (docs / "pictures").iterdir()} == {"loss.png", "loss-gaps.png"}
  assert (docs / "loss.md").read_text() == loss_report.page(PAGE, stored)


@pytest.mark.parametrize("text", ["", PAGE * 2])
def test_a_page_without_its_parts_is_rejected(text):
  with pytest.raises(AssertionError, match="parts runs"):
    loss_report.page(text, None)
