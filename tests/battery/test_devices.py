"""Trial 8: a run is resumed on 8, 2, 1 and again 8 devices, with the same global batch."""

import itertools

import jax
import numpy as np
import programs
import pytest
import tiny

from charrnn.runs import metrics

pytestmark = pytest.mark.trial(8)
DEVICES, STEPS, TOLERANCE = (8, 2, 1, 8), 10, 1e-5


CASES = [
  pytest.param(*case, marks=() if case == ("lstm", 0.3, 1) else pytest.mark.long)
  for case in itertools.product(("rnn", "gru", "lstm"), (0.0, 0.3), (1, 2))
]


@pytest.mark.parametrize(("cell", "dropout", "accumulate"), CASES)
def test_losses_do_not_depend_on_the_devices(cell, dropout, accumulate):
  """Each launch starts from the state of the launch before, as from its checkpoint."""
  net = tiny.model(cell=cell, dropout=dropout, layers=1)
  c = tiny.config(batch_size=8 * accumulate, accumulate=accumulate)
  one, runs = tiny.Steps(net, c, devices=1), {n: tiny.Steps(net, c, devices=n) for n in DEVICES}
  state = one.initial
  for devices in DEVICES:
    # A run reuses the memory of its state.
    states = [jax.tree.map(np.array, state) for _ in range(2)]
    _, expected = one.run(states[0], STEPS)
    state, losses = runs[devices].run(states[1], STEPS)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.long
def test_launches_on_other_numbers_of_devices(folder):
  def launch(workdir, devices, steps):
    fields = f"--config.cpu_devices={devices}", f"--config.max_steps={steps}"
    options = "--config=tiny.py", "--config.log_every=1", f"--workdir={workdir}", *fields
    code, err = programs.finish(programs.start(folder, *options), timeout=300)
    assert code == 0, err
    assert f"devices   {devices} x cpu" in err
    return [line["train/loss"] for line in metrics.read(folder / workdir) if "train/loss" in line]

  for n, devices in enumerate(DEVICES, 1):
    losses = launch("devices", devices, n * STEPS)
  expected = launch("one-device", 1, len(DEVICES) * STEPS)
  np.testing.assert_allclose(losses, expected, rtol=0, atol=TOLERANCE)
