def flip(path, offset):
  data = bytearray(path.read_bytes())
  data[offset] ^= 0x10
  path.write_bytes(data)
