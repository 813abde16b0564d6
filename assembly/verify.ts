// Checks of our own beliefs, compiled into the debug build only. What a guest or a client wrote
// never reaches one of these: it is answered with a status.

/** True in the debug build; release builds are compiled with --noAssert. */
export const VERIFY: bool = !ASC_NO_ASSERT;

/** Traps when `condition` is false. Call it under `if (VERIFY)`. */
export function verify(condition: bool): void {
  if (!condition) unreachable();
}
