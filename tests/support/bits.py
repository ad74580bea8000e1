"""Damage files by flipping a bit."""


def flip(path, offset):
  """Flip one bit of the byte at an offset of a file."""
  data = bytearray(path.read_bytes())
  data[offset] ^= 0x10
  path.write_bytes(data)
