"""Results as text: for every race a table and what it comes to."""

from charrnn.benchmarks import scale, work

LIMITS = {"products": "matrix products alone", "memory": "reading the weights alone"}


def comparison(result):
  """Lines for one race."""
  own = result["contestants"].get("charrnn")
  rows = [("", "characters/s", "min - max", "compile", "memory", "charrnn is")]
  for name, row in result["contestants"].items():
    ratio = result.get("ratios", {}).get(name)
    rows.append((_name(name, row, own), *_measured(row), f"{ratio:.2f} x" if ratio else ""))
  task = work.KINDS[result["kind"]](**result["work"])
  yield f"{result['kind']}: {task}"
  yield from _aligned(rows)
  yield ""
  yield from _ceilings(result)
  yield from _failed(result["failed"])


def _ceilings(result):
  rows = [
    (label, _per_second(label, row["median"]), _span(row["rates"], _giga))
    for label, row in result["ceilings"].items()
  ]
  yield from _aligned(rows)
  if result.get("limit"):
    limit = result["limits"][result["limit"]]
    yield (
      f"  charrnn reaches {result['share']:.0%} of the {_number(limit)} characters/s that "
      f"{LIMITS[result['limit']]} would allow"
    )


def sweeps(result):
  """Lines for `scale`."""
  yield f"scale: {work.Training(**result['base'])}, and one size of it changed at a time"
  for name, points in result["sweeps"].items():
    yield ""
    head = (scale.TITLES[name], "characters/s", "min - max", "compile", "memory", "of products")
    last = "to one device" if name == "devices" else f"to {scale.TITLES[name]} "
    last += "" if name == "devices" or not points else str(points[0]["work"][name])
    rows = [(*head, last)]
    for point in points:
      share = "" if point["share"] is None else f"{point['share']:.0%}"
      against = point["against_first"]
      ratio = "" if against is None else f"{against:.2f} x"
      rows.append((str(point["work"][name]), *_measured(point), share, ratio))
    yield from _aligned(rows)
  yield ""
  rows = [("window", "remat", "characters/s", "memory")]
  for point in result["memory"]:
    size = point["work"]
    remat = str(size["remat"] or "off")
    rate, memory = _number(point["median"]), _memory(point)
    rows.append((str(size["window"]), remat, rate, memory))
  yield from _aligned(rows)
  yield from _failed(result["failed"])


def split(result):
  """Lines for `split`."""
  yield f"split: {work.Training(**result['work'])}"
  total = sum(result["parts"].values())
  rows = [("", "ms a step", "share")]
  for name, seconds in result["parts"].items():
    rows.append((name, f"{seconds * 1e3:.1f}", f"{seconds / total:.0%}" if total else ""))
  rows.append(("not in the record", f"{result['unrecorded'] * 1e3:.1f}", ""))
  yield from _aligned(rows)
  yield f"  a step takes {result['seconds'] * 1e3:.1f} ms; operations that run at a time count both"


def startup(result):
  """Lines for `startup`."""
  count = len(result["launches"])
  yield f"startup: seconds to the first training step, medians of {count} launches"
  rows = [("", "seconds", "min - max")]
  for name, median in result["medians"].items():
    values = [launch[name] for launch in result["launches"]]
    rows.append((name, f"{median:.2f}", f"{min(values):.2f} - {max(values):.2f}"))
  yield from _aligned(rows)


def _name(name, row, own):
  elsewhere = own and row["platform"] != own["platform"]
  return f"{name} {row['version']}" + (f" on {row['platform']}" if elsewhere else "")


def _measured(row):
  """characters/s, their span, compile, memory."""
  span = _span(row["rates"], _number)
  return _number(row["median"]), span, f"{row['compile_seconds']:.1f} s", _memory(row)


def _memory(row):
  return "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:,.0f} MiB"


def _span(rates, text):
  return f"{text(min(rates))} - {text(max(rates))}"


def _per_second(label, rate):
  return f"{_giga(rate)} {'GB/s' if label.startswith('reading') else 'GFLOP/s'}"


def _giga(rate):
  return _number(rate / 1e9)


def _number(x):
  return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _failed(failed):
  for name, why in failed.items():
    yield f"  {name} failed: {why}"


def _aligned(rows):
  """The first column to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  for first, *rest in rows:
    cells = [first.ljust(widths[0]), *(x.rjust(n) for x, n in zip(rest, widths[1:]))]
    yield "  " + "  ".join(cells).rstrip()


def matching(result):
  """One line of what was matched, and one of what it took."""
  yield (
    f"cells, {result['characters']:,} characters x {result['columns']:,} columns x "
    f"{result['hypotheses']} hypotheses x {result['lags']} lags, {result['shifts']} shifts"
  )
  yield f"  {result['median']:.1f} s, {result['peak_bytes'] / 1e9:.1f} GB at most in memory"
