import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const MOST_KEYS = 1024;
const SCRATCH = 65536;
const SCRATCH_BYTES = 12288;
const KEYS = 131072;

/** Fills an array with distinct keys in some order. */
type Pattern = (random: Random, keys: BigUint64Array) => void;

/** Distinct keys with these high bits; the index below makes them distinct. */
function fillRandom(random: Random, keys: BigUint64Array, highMask: number): void {
  const words = new Uint32Array(keys.buffer, keys.byteOffset, 2 * keys.length);
  for (let i = 0; i < keys.length; i++) {
    words[2 * i] = ((random.u32() & ~0xfff) | i) >>> 0;
    words[2 * i + 1] = (random.u32() & highMask) >>> 0;
  }
}

/** Kind and sector of requests on a small disk, the slots in any order. */
function fillElevator(random: Random, keys: BigUint64Array): void {
  const first = random.below(4096);
  for (let i = 0; i < keys.length; i++) {
    const place = (BigInt(random.below(10)) << 56n) | (BigInt(random.below(4096)) << 12n);
    keys[i] = place | BigInt((i * 389 + first) % 4096);
  }
}

function reversePart(keys: BigUint64Array, from: number, to: number): void {
  keys.subarray(from, to).reverse();
}

/** A sorted prefix of at least half; the tail is as random as it was. */
function sortPrefix(random: Random, keys: BigUint64Array): void {
  const half = keys.length >> 1;
  keys.subarray(0, half + random.below(keys.length - half + 1)).sort();
}

const PATTERNS: Readonly<Record<string, Pattern>> = {
  'keys of the elevator': fillElevator,
  'keys of 60 bits': (random, keys) => fillRandom(random, keys, 0x0fffffff),
  'keys of 63 bits': (random, keys) => fillRandom(random, keys, 0x7fffffff),
  'keys of one place, so that only slots differ': (random, keys) => fillRandom(random, keys, 0),
  'sorted keys': (random, keys) => {
    fillElevator(random, keys);
    keys.sort();
  },
  'falling keys': (random, keys) => {
    fillElevator(random, keys);
    keys.sort().reverse();
  },
  'a sorted prefix and a random tail': (random, keys) => {
    fillElevator(random, keys);
    sortPrefix(random, keys);
  },
  'a sorted prefix and a tail of 63 bits': (random, keys) => {
    fillRandom(random, keys, 0x7fffffff);
    sortPrefix(random, keys);
  },
  'a sorted prefix and a tail that is smaller': (random, keys) => {
    fillElevator(random, keys);
    keys.sort();
    const moved = random.below(keys.length >> 2);
    keys.set([...keys.subarray(moved), ...keys.subarray(0, moved)]);
  },
  'a sorted prefix and a falling tail': (random, keys) => {
    fillElevator(random, keys);
    keys.sort();
    reversePart(keys, random.below(keys.length + 1), keys.length);
  },
  'two streams that take turns': (random, keys) => {
    fillElevator(random, keys);
    const sorted = keys.slice().sort();
    const half = (keys.length + 1) >> 1;
    for (let i = 0; i < keys.length; i++) keys[i] = sorted[(i & 1) * half + (i >> 1)]!;
  },
  'one key out of place': (random, keys) => {
    fillElevator(random, keys);
    keys.sort();
    const [a, b] = [random.below(keys.length || 1), random.below(keys.length || 1)];
    if (keys.length > 0) [keys[a], keys[b]] = [keys[b]!, keys[a]!];
  },
};

describe.each(FLAVOURS)('sortKeys, %s build', (flavour) => {
  let kernels: KernelMemory;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
  });

  /** Sorts `input` at `address`; fails unless it comes out sorted and nothing else is written. */
  function check(input: BigUint64Array, address = KEYS): void {
    const { bytes, exports } = kernels;
    const given = new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
    bytes.set(given, address);
    exports.sortKeys(address, SCRATCH, input.length);
    const sorted = Buffer.from(input.slice().sort().buffer);
    const end = address + input.byteLength;
    if (sorted.compare(bytes, address, end) === 0) return;
    const found = [...new BigUint64Array(bytes.slice(address, end).buffer)];
    expect({ input: [...input], found }).toEqual({
      input: [...input],
      found: [...input.slice().sort()],
    });
    throw new Error(`${input.length} keys are not sorted`);
  }

  it.each(Object.keys(PATTERNS))('sorts every number of keys: %s', (name) => {
    const random = new Random(name.length);
    const step = flavour === 'release' ? 1 : 7;
    kernels.fill();
    for (let count = 0; count <= MOST_KEYS; count += step) {
      const keys = new BigUint64Array(count);
      PATTERNS[name]!(random, keys);
      check(keys);
    }
    const allowed = [SCRATCH, SCRATCH_BYTES] as const;
    expect(kernels.isUntouchedOutside([...allowed], [KEYS, 8 * MOST_KEYS])).toBe(true);
  });

  it('writes nothing beyond its keys and its scratch', () => {
    const random = new Random(1);
    for (let count = 0; count <= MOST_KEYS; count += 1 + random.below(24)) {
      for (const tail of [0, count >> 4, count]) {
        const keys = new BigUint64Array(count);
        fillElevator(random, keys);
        keys.subarray(0, count - tail).sort();
        kernels.fill();
        check(keys);
        const places = [
          [SCRATCH, SCRATCH_BYTES],
          [KEYS, 8 * count],
        ] as const;
        expect(kernels.isUntouchedOutside([...places[0]], [...places[1]])).toBe(true);
      }
    }
  });

  it('sorts keys that are aligned to eight bytes only', () => {
    const random = new Random(2);
    for (let count = 0; count <= 300; count++) {
      const keys = new BigUint64Array(count);
      fillElevator(random, keys);
      check(keys, KEYS + 8);
    }
  });

  it('sorts every order of up to seven keys', () => {
    for (let count = 1; count <= 7; count++) {
      for (const order of permutations(count)) check(BigUint64Array.from(order));
    }
  });

  it('sorts every input of zeros and ones of up to 16 keys, and so every input', () => {
    // Knuth, The Art of Computer Programming 5.3.4, theorem Z: what a network does with zeros and
    // ones it does with all keys.
    const most = flavour === 'release' ? 16 : 12;
    for (let count = 5; count <= most; count++) {
      const keys = new BigUint64Array(count);
      for (let bits = 0; bits < 1 << count; bits++) {
        for (let i = 0; i < count; i++) keys[i] = BigInt((bits >> i) & 1);
        check(keys);
      }
    }
  });

  it('merges every length of sorted prefix', () => {
    const random = new Random(3);
    for (const count of [64, 65, 66, 72, 127, 128, 129, 200, 257]) {
      const keys = new BigUint64Array(count);
      for (let prefix = 0; prefix <= count; prefix++) {
        fillElevator(random, keys);
        keys.subarray(0, prefix).sort();
        check(keys);
      }
    }
  });

  it('takes the ends of what a key can be', () => {
    const limit = 0x3ff0000000000000n;
    const edges = [0n, 1n, limit - 1n, limit, limit + 1n, (1n << 62n) - 1n, 1n << 62n];
    const all = [...edges, 0x7ff0000000000000n, 0x7ff0000000000001n, (1n << 63n) - 1n];
    const random = new Random(4);
    for (let count = all.length; count <= MOST_KEYS; count += 1 + random.below(8)) {
      for (const some of [all, all.filter((key) => key < limit), [0n, limit]]) {
        const keys = new BigUint64Array(count);
        fillRandom(random, keys, 0x0fffffff);
        for (const key of some) keys[random.below(count)] = key;
        if (new Set(keys).size === count) check(keys);
        sortPrefix(random, keys);
        if (new Set(keys).size === count) check(keys);
      }
    }
  });

  it('sees a key that is too large for the networks at every index', () => {
    const random = new Random(6);
    for (let count = 1; count <= 70; count++) {
      const keys = new BigUint64Array(count);
      for (let at = 0; at < count; at++) {
        fillElevator(random, keys);
        keys[at] = (1n << 63n) - 1n;
        check(keys);
      }
    }
  });

  it('sorts thousands of random mixtures of runs', () => {
    const random = new Random(5);
    const rounds = flavour === 'release' ? 5000 : 500;
    for (let round = 0; round < rounds; round++) {
      const keys = new BigUint64Array(random.below(MOST_KEYS + 1) >>> random.below(8));
      fillElevator(random, keys);
      for (let from = 0; from < keys.length;) {
        const to = from + 1 + random.below(keys.length - from);
        if (random.below(2) === 0) keys.subarray(from, to).sort();
        if (random.below(4) === 0) reversePart(keys, from, to);
        from = to;
      }
      check(keys);
    }
  });
});

/** All orders of 0 to `count` - 1. */
function permutations(count: number): bigint[][] {
  if (count === 0) return [[]];
  return permutations(count - 1).flatMap((shorter) =>
    Array.from({ length: count }, (_, at) => [
      ...shorter.slice(0, at),
      BigInt(count - 1),
      ...shorter.slice(at),
    ]),
  );
}
