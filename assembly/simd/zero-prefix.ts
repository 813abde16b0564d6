// How far memory is zero.

/** Bytes at `address`, at most `bytes`, that are zero before the first that is not. */
export function zeroPrefix(address: usize, bytes: u32): u32 {
  let at: u32 = 0;
  while (at + 16 <= bytes && !v128.any_true(v128.load(address + <usize>at))) at += 16;
  while (at < bytes && load<u8>(address + <usize>at) == 0) at += 1;
  return at;
}
