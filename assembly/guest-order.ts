// The order of loads and stores that a guest on another processor sees. With a memory that is not
// shared nobody else runs meanwhile, and plain ones do.

/** Reads a ring index: what the driver wrote before it is seen after it. */
export function loadAcquire(address: usize): u16 {
  return ASC_FEATURE_THREADS ? atomic.load<u16>(address) : load<u16>(address);
}

/** Writes a ring index: what was written before it is seen before it. */
export function storeRelease(address: usize, value: u16): void {
  if (ASC_FEATURE_THREADS) atomic.store<u16>(address, value);
  else store<u16>(address, value);
}
