// The host of the fuzzer can fail: engines that break a rule each, made of the real one.

import { describe, expect, it } from 'vitest';
import { COMMAND_SIZE } from '../../src/abi/command.ts';
import { RING_ENTRIES } from '../../src/abi/limits.ts';
import * as region from '../../src/abi/region.ts';
import { COMPLETION_SIZE } from '../../src/abi/request.ts';
import { Random } from '../engine/random.ts';
import { BUILDS } from '../support/engine.ts';
import { describeInput } from './describe.ts';
import { type EngineExports, Host } from './host.ts';
import { ACTION_BYTES, fromLine, HEADER_BYTES, toLine } from './input.ts';
import { BUFFERS, createMemory, REGION } from './layout.ts';
import { mutate, randomInput } from './mutate.ts';

/** What an engine that breaks a rule does after each pump. */
type Fault = (view: DataView, pump: number, now: number) => number | void;

const BUILD = BUILDS[0]!;

/** The rule that the host finds broken, or nothing. */
function verdict(line: string, fault: Fault): string | undefined {
  const memory = createMemory();
  const instance = new WebAssembly.Instance(BUILD.module, { env: { memory } });
  const engine = instance.exports as unknown as EngineExports;
  const view = new DataView(memory.buffer);
  let pumps = 0;
  const pump = (base: number, now: number): number => {
    const commands = engine.pump(base, now);
    pumps += 1;
    return fault(view, pumps, now) ?? commands;
  };
  try {
    new Host({ init: (base) => engine.init(base), pump }, memory).run(fromLine(line));
    return undefined;
  } catch (error) {
    return String(error);
  }
}

const load = (view: DataView, at: number): number => view.getUint32(REGION + at, true);
const store = (view: DataView, at: number, value: number): void =>
  view.setUint32(REGION + at, value, true);

/** Copies the last record of a ring to its end once more. */
function repeatLast(view: DataView, ring: number, size: number, tailAt: number): void {
  const tail = load(view, tailAt);
  const bytes = new Uint8Array(view.buffer, REGION + ring, RING_ENTRIES * size);
  bytes.copyWithin((tail % RING_ENTRIES) * size, ((tail - 1) % RING_ENTRIES) * size, tail * size);
  store(view, tailAt, tail + 1);
}

/** Changes a word of the first record of a ring, once there is one. */
function changeFirst(view: DataView, ring: number, tailAt: number, at: number, to: number): void {
  if (load(view, tailAt) > 0) store(view, ring + at, to);
}

/** A volatile cache and a descriptor for stable writes; then a write, a pump, everything. */
const WRITE = '14 00 01 0a';
const WRITE_WITHOUT_FUA = '04 00 01 0a';
const WRITE_AND_FLUSH = '14 00 01 02 04 01 0a';
/** Two writes of one place, and a read of another. */
const OVERLAP = '14 00 00000001 00010000 01 0a';

const FAULTS: readonly [rule: string, line: string, fault: Fault][] = [
  ['pump says', WRITE, () => 7],
  ['P1: results are left', WRITE, (view) => store(view, region.RESULT_TAIL, 9)],
  [
    '(a): request 0 completes twice',
    WRITE,
    (view) => {
      if (load(view, region.COMPLETION_TAIL) !== 1) return;
      repeatLast(view, region.COMPLETION_RING, COMPLETION_SIZE, region.COMPLETION_TAIL);
    },
  ],
  [
    '(a): request 0 ends with status 5',
    WRITE,
    (view) => changeFirst(view, region.COMPLETION_RING, region.COMPLETION_TAIL, 4, 5),
  ],
  [
    'no host error',
    WRITE,
    (view) => changeFirst(view, region.COMPLETION_RING, region.COMPLETION_TAIL, 12, 28),
  ],
  [
    'C1: the id 0',
    WRITE,
    (view, pump) => {
      if (pump === 1) repeatLast(view, region.COMMAND_RING, COMMAND_SIZE, region.COMMAND_TAIL);
      return load(view, region.COMMAND_TAIL) - load(view, region.COMMAND_HEAD);
    },
  ],
  [
    'X1: a command of nobody',
    WRITE,
    (view, pump) => {
      if (pump === 1) store(view, region.COMMAND_RING + 16, 4096);
    },
  ],
  [
    'flags 1 of a command 1',
    WRITE_WITHOUT_FUA,
    (view, pump) => {
      if (pump === 1) view.setUint8(REGION + region.COMMAND_RING + 5, 1);
    },
  ],
  [`(j): byte ${BUFFERS}`, WRITE, (view) => view.setUint8(BUFFERS, 0)],
  [
    'never ends',
    WRITE_AND_FLUSH,
    (view) => {
      // The completions that come are forgotten.
      store(view, region.COMPLETION_TAIL, load(view, region.COMPLETION_HEAD));
      store(view, region.STATE_WAIT, 1);
    },
  ],
];

describe('the host of the fuzzer', () => {
  it.each([WRITE, WRITE_AND_FLUSH, OVERLAP])(
    'finds nothing wrong with the engine in %s',
    (line) => {
      expect(verdict(line, () => undefined)).toBeUndefined();
    },
  );

  it.each(FAULTS)('finds %s', (rule, line, fault) => {
    expect(verdict(line, fault)).toContain(rule);
  });
});

describe('inputs', () => {
  it('every byte string means something, and its line means the same', () => {
    const random = new Random(1);
    for (let length = 0; length < HEADER_BYTES + 20 * ACTION_BYTES; length++) {
      const bytes = Uint8Array.from({ length }, () => random.below(256));
      expect(describeInput(bytes).length).toBeGreaterThan(0);
      expect(describeInput(fromLine(toLine(bytes)))).toEqual(describeInput(bytes));
    }
  });

  it('a mutation never changes the input that it starts from', () => {
    const random = new Random(2);
    const bytes = randomInput(random);
    const before = Uint8Array.from(bytes);
    for (let round = 0; round < 500; round++) mutate(random, bytes, randomInput(random));
    expect(bytes).toEqual(before);
  });
});
