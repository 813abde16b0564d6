/** True when `count` words from `from` on are zero. */
export function areZero(words: Uint32Array, from: number, count: number): boolean {
  for (let i = from; i < from + count; i += 4) {
    if ((words[i]! | words[i + 1]! | words[i + 2]! | words[i + 3]!) !== 0) return false;
  }
  return true;
}
