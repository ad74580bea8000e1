"""How the cost of training grows with each size, by charrnn alone."""

from charrnn.benchmarks import comparison, race, work

BASE = work.Training(hidden=256, batch=64, window=64)
FACTORS = (0.25, 0.5, 1, 2, 4)  # of the base's width, batch and window
DEPTHS = (1, 2, 3, 4)
LONG = (1, 2, 4, 8, 16)  # times the base's window, for memory
TITLES = {
  "hidden": "width",
  "layers": "depth",
  "batch": "batch",
  "window": "window",
  "devices": "devices",
}


def measure(base, machine, *, rounds, seconds, progress):
  """Everything around `base`, as it goes into the report."""
  sweeps, failed = {}, {}
  for name, tasks in plan(base, device_counts(base, machine)).items():
    progress.begin(f"scale, {TITLES[name]} {', '.join(str(getattr(t, name)) for t in tasks)}")
    sweeps[name], out = _sweep(base, tasks, rounds, seconds, progress.say)
    failed |= out
  memory = []
  for task in memory_plan(base):
    progress.begin(f"scale, memory at window {task.window}, remat {task.remat or 'off'}")
    points, out = _sweep(None, [task], rounds, seconds, progress.say)
    memory += points
    failed |= out
  return {
    "kind": "scale",
    "base": base._asdict(),
    "sweeps": sweeps,
    "memory": memory,
    "failed": failed,
  }


def plan(base, counts):
  """By name of a field: the base with other values of it."""

  def times(name, factors):
    values = sorted({max(1, round(getattr(base, name) * factor)) for factor in factors})
    return [base._replace(**{name: value}) for value in values]

  return {
    "hidden": times("hidden", FACTORS),
    "layers": [base._replace(layers=n) for n in DEPTHS],
    "batch": times("batch", FACTORS),
    "window": times("window", FACTORS),
    "devices": [base._replace(devices=n) for n in counts],
  }


def memory_plan(base):
  """Longer and longer windows, keeping all states and keeping about the root of their number."""
  windows = [base.window * factor for factor in LONG]
  return [
    base._replace(window=window, remat=remat) for window in windows for remat in (0, _root(window))
  ]


def _root(window):
  """The largest divisor that is not above its root: by it memory is least."""
  return max(n for n in range(1, window + 1) if n * n <= window and window % n == 0)


def device_counts(base, machine):
  """Powers of two and all there are, as far as the batch divides; a CPU poses as one a core."""
  most = machine["cores"] if machine["platform"] == "cpu" else machine["devices"]
  counts = {2**n for n in range(most.bit_length()) if 2**n <= most} | {most}
  return [n for n in sorted(counts) if base.batch % n == 0]


def _sweep(base, tasks, rounds, seconds, say):
  entries = {str(n): race.Contestant("charrnn", "train", t, seconds) for n, t in enumerate(tasks)}
  ceilings = comparison.ceilings(base, 2 * seconds) if base else {}
  rows, out = race.race(entries | ceilings, rounds=rounds, say=say)
  best = {label: rows[label] for label in ceilings if label in rows}
  points = [
    {
      "work": task._asdict(),
      **rows[str(n)],
      **comparison.reached(task, rows[str(n)], best),
      "against_first": rows[str(n)]["median"] / rows["0"]["median"] if "0" in rows else None,
    }
    for n, task in enumerate(tasks)
    if str(n) in rows
  ]
  return points, {
    str(tasks[int(label)]) if label in entries else label: why for label, why in out.items()
  }
