/**
 * True when all of `lengthBytes` bytes from `address` on are zero (0 bytes are). Any alignment.
 * Reads nothing outside: the last block overlaps the one before it.
 */
export function isZero(address: usize, lengthBytes: u32): bool {
  if (lengthBytes < 16) return isZeroShort(address, lengthBytes);
  const end = address + lengthBytes;
  if (lengthBytes < 128) {
    for (let at = address; at < end - 16; at += 16) {
      if (v128.any_true(v128.load(at))) return false;
    }
    return !v128.any_true(v128.load(end - 16));
  }
  for (let at = address; at < end - 128; at += 128) {
    if (v128.any_true(or128(at))) return false;
  }
  return !v128.any_true(or128(end - 128));
}

function or128(address: usize): v128 {
  const a = v128.or(v128.load(address), v128.load(address, 16));
  const b = v128.or(v128.load(address, 32), v128.load(address, 48));
  const c = v128.or(v128.load(address, 64), v128.load(address, 80));
  const d = v128.or(v128.load(address, 96), v128.load(address, 112));
  return v128.or(v128.or(a, b), v128.or(c, d));
}

function isZeroShort(address: usize, lengthBytes: u32): bool {
  let bits: u32 = 0;
  for (let i: u32 = 0; i < lengthBytes; i++) bits |= load<u8>(address + i);
  return bits == 0;
}
