// The host of guest programs can fail: devices that break a rule each, made of the real one.

import { describe, expect, it } from 'vitest';
import * as abi from '../../../src/abi/virtio-device.ts';
import { USED_IDX, USED_RING } from '../../../src/abi/virtio-ring.ts';
import { Random } from '../../engine/random.ts';
import { BUILDS, type EngineExports, instantiate } from '../../support/engine.ts';
import { ACTION_BYTES, fromLine, HEADER_BYTES, toLine } from '../input.ts';
import { describeProgram } from './describe.ts';
import { GuestHost } from './host.ts';
import { BUFFERS, createGuestMemory, DEVICE, HOST_BUFFERS, RAM, ringPlaces } from './layout.ts';

/** What a device that breaks a rule does after each pump. */
type Fault = (view: DataView, pump: number, engine: EngineExports) => void;

const BUILD = BUILDS[0]!;
const QUEUE = DEVICE + abi.DEVICE_QUEUES;
const USED = RAM + ringPlaces(0).device;

/** The rule that the host finds broken, or nothing. */
function verdict(line: string, fault: Fault): string | undefined {
  const memory = createGuestMemory();
  const engine = instantiate(BUILD, memory);
  const view = new DataView(memory.buffer);
  let pumps = 0;
  const pump = (base: number, now: number): number => {
    const commands = engine.pump(base, now);
    pumps += 1;
    fault(view, pumps, engine);
    return commands;
  };
  try {
    new GuestHost({ ...engine, pump }, memory).run(fromLine(line));
    return undefined;
  } catch (error) {
    return String(error);
  }
}

/** A chain that asks for the id, and everything is done. */
const ID = '00 0003 0e';
/** A write, which waits for the host. */
const WRITE = '00 00 01';
/** A head that is none. */
const BAD_HEAD = '00 000000000000e8 01';
/** A read, which the host answers. */
const READ = '00 0001 01 0e';

const atFirst =
  (change: (view: DataView) => void): Fault =>
  (view, pump) => {
    if (pump === 1) change(view);
  };

const FAULTS: readonly [rule: string, line: string, fault: Fault][] = [
  ['(f): byte', ID, atFirst((view) => view.setUint8(RAM + BUFFERS + 0x400, 1))],
  ['(f): byte', ID, atFirst((view) => view.setUint8(RAM + ringPlaces(0).driver, 1))],
  ['(j): byte', ID, atFirst((view) => view.setUint8(HOST_BUFFERS, 1))],
  [
    'comes back, and is not in flight',
    ID,
    atFirst((view) => view.setUint32(USED + USED_RING, 9, true)),
  ],
  ['bytes used of', ID, atFirst((view) => view.setUint32(USED + USED_RING + 4, 4096, true))],
  ['without status', ID, atFirst((view) => view.setUint32(USED + USED_RING + 4, 0, true))],
  ['(c): 2 used elements', ID, atFirst((view) => view.setUint16(USED + USED_IDX, 2, true))],
  ['the status is 1, not 0', ID, atFirst((view) => view.setUint8(RAM + BUFFERS + 16 + 512, 1))],
  [
    '(a): queue 0 took',
    ID,
    atFirst((view) => view.setUint32(QUEUE + abi.QUEUE_IN_FLIGHT, 2, true)),
  ],
  ['(e): ', WRITE, atFirst((view) => view.setUint32(DEVICE + abi.DEVICE_IN_FLIGHT, 2, true))],
  [
    '(b): error 1, not 2',
    BAD_HEAD,
    atFirst((view) => view.setUint32(QUEUE + abi.QUEUE_ERROR, 1, true)),
  ],
  [
    'of nobody',
    READ,
    atFirst((view) => {
      // The data of the first command.
      const command = 65536 + 67584 + 12;
      view.setUint32(command, RAM, true);
    }),
  ],
];

describe('the host of guest programs', () => {
  it.each([ID, WRITE, BAD_HEAD, READ])('finds nothing wrong with the device in %s', (line) => {
    expect(verdict(line, () => undefined)).toBeUndefined();
  });

  it.each(FAULTS)('finds %s', (rule, line, fault) => {
    expect(verdict(line, fault)).toContain(rule);
  });
});

describe('guest programs', () => {
  it('every byte string means something, and its line means the same', () => {
    const random = new Random(1);
    for (let length = 0; length < HEADER_BYTES + 20 * ACTION_BYTES; length++) {
      const bytes = Uint8Array.from({ length }, () => random.below(256));
      expect(describeProgram(bytes).length).toBeGreaterThan(0);
      expect(describeProgram(fromLine(toLine(bytes)))).toEqual(describeProgram(bytes));
    }
  });
});
