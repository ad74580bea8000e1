import signal

import pytest

from charrnn import process


@pytest.fixture(autouse=True)
def signal_handlers():
  """Restore the signal handlers that a Trainer replaces."""
  before = [signal.getsignal(number) for number in process.STOP_SIGNALS]
  yield
  for number, handler in zip(process.STOP_SIGNALS, before, strict=True):
    signal.signal(number, handler)
