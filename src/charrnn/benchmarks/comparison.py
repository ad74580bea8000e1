"""charrnn beside its peers and beside what the machine could do at best."""

from charrnn.benchmarks import contestants, race, work

# The best that was measured is the ceiling, so a turn may be short.
CEILING_SHARE = 0.25


def standard(kind, dtypes):
  """What is timed if no size is asked for: the blog's network, and char-rnn's default."""
  if kind == "train":
    sizes = [work.Training(), work.Training(hidden=128, batch=50, window=50)]
  else:
    sizes = [work.Sampling(), work.Sampling(batch=64)]
  return [size._replace(dtype=dtype) for size in sizes for dtype in dtypes]


def compare(kind, task, peers, *, rounds, seconds, say):
  """One race -> its result, as it goes into the report."""
  names = [name for name in ("charrnn", *peers) if (name, kind) in contestants.ALL]
  entries = {name: race.Contestant(name, kind, task, seconds) for name in names}
  rows, out = race.race(entries | ceilings(task, seconds), rounds=rounds, say=say)
  best = {label: rows.pop(label) for label in list(rows) if label not in names}
  result = {"kind": kind, "work": task._asdict(), "contestants": rows, "ceilings": best}
  if "charrnn" in rows:
    own = rows["charrnn"]
    result["ratios"] = {
      name: own["median"] / row["median"] for name, row in rows.items() if name != "charrnn"
    }
    result |= reached(task, own, best)
  return result | {"failed": out}


def ceilings(task, seconds):
  entries = {}
  for ceiling in work.ceilings(task):
    kind = "read" if isinstance(ceiling, work.Reading) else "product"
    entries[str(ceiling)] = race.Contestant("ceiling", kind, ceiling, seconds * CEILING_SHARE)
  return entries


def reached(task, own, best):
  """The characters a second that products and memory alone would allow, and the share reached.

  `limit` names the lower of the two: memory at batch 1, most often products otherwise.
  """
  devices = 1 if own["platform"] == "cpu" else own["devices"]  # a ceiling is of one device
  limits = {}
  products = [row["median"] for label, row in best.items() if label.startswith("product")]
  if products:
    limits["products"] = max(products) * devices * task.amount / task.flops
  if isinstance(task, work.Sampling):
    weights = best.get(str(work.Reading(task.bytes // task.block)))
    if weights:
      limits["memory"] = weights["median"] * task.amount / task.bytes
  if not limits:
    return {"limits": {}, "limit": None, "share": None}
  limit = min(limits, key=limits.get)
  return {"limits": limits, "limit": limit, "share": own["median"] / limits[limit]}
