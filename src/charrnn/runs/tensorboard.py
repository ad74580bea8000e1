"""A writer of scalars in the event files that TensorBoard reads.

TensorBoard's own packages import PyTorch or TensorFlow if they are installed, which takes seconds.
"""

import array
import math
import pathlib
import struct
import time
from collections.abc import Mapping

_CRC_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed


def _crc_entry(value: int) -> int:
  for _ in range(8):
    value = value >> 1 ^ (_CRC_POLYNOMIAL if value & 1 else 0)
  return value


_CRC_TABLE = [_crc_entry(n) for n in range(256)]


class EventFile:
  """A new event file in a folder; it starts with the version of the format."""

  def __init__(self, folder: pathlib.Path, first_step: int):
    """Tell TensorBoard to ignore the steps from `first_step` on in older files of the folder."""
    self._file = open(folder / f"events.out.tfevents.{time.time_ns()}", "xb", buffering=0)  # noqa: SIM115
    try:
      self._write(_bytes(3, b"brain.Event:2"))
      self._write(_integer(2, first_step) + _bytes(7, _integer(1, 1)))  # SessionLog.START
    except OSError:
      self.close()
      raise

  def write(self, step: int, values: Mapping[str, float]):
    """Write the finite values of a step by name."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    scalars = (_bytes(1, name.encode()) + _float(2, value) for name, value in finite.items())
    self._write(_integer(2, step) + _bytes(5, b"".join(_bytes(1, each) for each in scalars)))

  def _write(self, fields: bytes):
    """Write an Event as a record: its length and its content, each with a checksum."""
    event = _key(1, 1) + struct.pack("<d", time.time()) + fields
    length = struct.pack("<Q", len(event))
    self._file.write(length + masked_crc(length) + event + masked_crc(event))

  def close(self):
    self._file.close()


def masked_crc(data: bytes) -> bytes:
  """Return the checksum of a record: a rotated CRC-32C plus a constant."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
  crc ^= 0xFFFFFFFF
  return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# The encoding of protocol buffers: each field is a key, which contains its number and its wire
# type, followed by its value.


def _key(number: int, wire_type: int) -> bytes:
  return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
  parts = bytearray()
  while value > 0x7F:
    parts.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*parts, value])


def _integer(number: int, value: int) -> bytes:
  return _key(number, 0) + _varint(value)


def _float(number: int, value: float) -> bytes:
  return _key(number, 5) + array.array("f", [value]).tobytes()  # struct rejects large numbers


def _bytes(number: int, value: bytes) -> bytes:
  return _key(number, 2) + _varint(len(value)) + value
