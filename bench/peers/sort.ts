/**
 * Sorts of keys in typed arrays, as good TypeScript would have them. A key is taken for a double:
 * of positive doubles the bits order as the values do, so the same 64 bits serve both sides.
 */
export type Sort = (keys: Float64Array, from: number, count: number) => void;

/** By insertion: the fastest up to about 64. */
export function sortByInsertion(keys: Float64Array, from: number, count: number): void {
  for (let i = from + 1; i < from + count; i++) {
    const key = keys[i]!;
    let to = i;
    for (; to > from && keys[to - 1]! > key; to--) keys[to] = keys[to - 1]!;
    keys[to] = key;
  }
}

/** What the language has: the fastest from about 128 to 256. */
export function sortByMethod(keys: Float64Array, from: number, count: number): void {
  keys.subarray(from, from + count).sort();
}

const DIGITS = 8;
const places = new Uint32Array(256);
let scratch = new Uint32Array(0);

/** By eight digits of eight bits, without those that all keys share: the fastest for 1024. */
export function sortByRadix(keys: Float64Array, from: number, count: number): void {
  if (scratch.length < 2 * count) scratch = new Uint32Array(2 * count);
  const words = new Uint32Array(keys.buffer, keys.byteOffset + 8 * from, 2 * count);
  const varying = varyingBits(words);
  let source: Uint32Array = words;
  let target: Uint32Array = scratch;
  for (let digit = 0; digit < DIGITS; digit++) {
    const word = digit >> 2;
    const shift = (digit & 3) * 8;
    if (((varying[word]! >>> shift) & 255) === 0) continue;
    distribute(source, target, count, word, shift);
    [source, target] = [target, source];
  }
  if (source !== words) words.set(source.subarray(0, 2 * count));
}

/** The bits, low and high word, in which not all keys are equal. */
function varyingBits(words: Uint32Array): [low: number, high: number] {
  const firstLow = words[0]!;
  const firstHigh = words[1]!;
  let low = 0;
  let high = 0;
  for (let i = 0; i < words.length; i += 2) {
    low |= words[i]! ^ firstLow;
    high |= words[i + 1]! ^ firstHigh;
  }
  return [low, high];
}

function distribute(
  source: Uint32Array,
  target: Uint32Array,
  count: number,
  word: number,
  shift: number,
): void {
  places.fill(0);
  for (let i = word; i < 2 * count; i += 2) places[(source[i]! >>> shift) & 255]!++;
  let sum = 0;
  for (let i = 0; i < 256; i++) {
    const here = places[i]!;
    places[i] = sum;
    sum += here;
  }
  for (let i = 0; i < 2 * count; i += 2) {
    const place = places[(source[i + word]! >>> shift) & 255]!++;
    target[2 * place] = source[i]!;
    target[2 * place + 1] = source[i + 1]!;
  }
}
