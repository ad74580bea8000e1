"""Tests of metrics.jsonl and the plot of the losses."""

import math

from charrnn.runs import metrics


def test_resume_removes_the_lines_that_it_writes_again(tmp_path):
  log = metrics.MetricsLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write(step, {"train/loss": step / 3, "grad_norm": math.nan})
  log.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "train/lo')  # an incomplete line, as after SIGKILL
  metrics.MetricsLog(tmp_path, 2).close()
  assert metrics.read(tmp_path) == [
    {"step": step, "train/loss": step / 3, "grad_norm": None} for step in (1, 2)
  ]


def test_plot_without_losses_and_with_an_unusual_title(tmp_path):
  metrics.plot(tmp_path, "a$^$ \udcff")
  assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "valid/loss": 2.0}\n{"step": 2}\n[]\n')
  metrics.plot(tmp_path, "one point", "order")
  assert metrics.curve(metrics.read(tmp_path), "valid/loss") == [(1, 2.0)]
