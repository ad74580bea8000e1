import signal

import pytest


@pytest.fixture(autouse=True)
def signal_handlers():
  """Restore the signal handlers that a Trainer replaces."""
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  before = [signal.getsignal(number) for number in numbers]
  yield
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)
