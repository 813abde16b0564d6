// Every small ring with every short chain of an alphabet, and every small state of its indices,
// against the model (test/model/ring.ts): the same outcome, and no byte of the guest's memory that
// differs.
//
// SLUICE_EXHAUSTIVE=1 is the long form: every chain with every feature, and longer lists of heads,
// marks, ids, positions and events.

import { afterAll, describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import { BUILDS } from '../support/engine.ts';
import { forEachChain, type Letter, type Spelling } from './alphabet.ts';
import { RingPair } from './pair.ts';

const LONG = process.env['SLUICE_EXHAUSTIVE'] !== undefined;
const RAM_BYTES = 8192;
const DISK_BYTES = 4096;

// The guest's memory: the ring, an indirect table, a buffer for each descriptor.
const DESC = 0x000;
const DRIVER = 0x100;
const DEVICE = 0x200;
const TABLE = 0x400;
const BUFFERS = 0x800;
const BUFFER_BYTES = 0x300;

/** How many rings came to what: broken by which error, or how many chains were taken. */
const outcomes = new Map<string, number>();
let cases = 0;

function bufferOf(index: number): number {
  return BUFFERS + index * BUFFER_BYTES;
}

/** Memory in which every buffer begins with the header of a request. */
function imageOf(type: number): Uint8Array {
  const image = new Uint8Array(RAM_BYTES + 64);
  const view = new DataView(image.buffer);
  for (let at = BUFFERS; at < image.length; at++) image[at] = at % 251;
  for (const at of [0, 1, 2, 3, 4, 5].map(bufferOf).concat(RAM_BYTES - 16)) {
    view.setUint32(at + blk.BLK_HEADER_TYPE, type, true);
    view.setUint32(at + 4, 0, true);
    view.setBigUint64(at + blk.BLK_HEADER_SECTOR, 3n, true);
  }
  return image;
}

/** Writes descriptors; in a packed ring they are available in the first lap. */
function putChain(
  pair: RingPair,
  table: number,
  chain: readonly Letter[],
  packed: boolean,
  marks = 0,
): void {
  for (const [index, { address, length, flags, next }] of chain.entries()) {
    const at = table + index * ring.DESC_SIZE;
    pair.u64(at + ring.DESC_ADDRESS, BigInt.asUintN(64, pair.base + address));
    pair.u32(at + ring.DESC_LENGTH, length);
    pair.u16(at + (packed ? ring.PACKED_DESC_FLAGS : ring.SPLIT_DESC_FLAGS), flags | marks);
    pair.u16(at + (packed ? ring.PACKED_DESC_ID : ring.SPLIT_DESC_NEXT), packed ? 7 + index : next);
  }
}

/** Runs a ring of which all is in memory; what goes wrong says how to repeat it. */
function runCase(
  pair: RingPair,
  queue: Parameters<RingPair['attach']>[0],
  what: unknown,
  addMore?: () => void,
): void {
  cases++;
  try {
    pair.attach(queue);
    pair.round();
    noteOutcome(pair);
    // A notification of nothing, or of more.
    addMore?.();
    pair.round();
    pair.detach();
  } catch (error) {
    const text = JSON.stringify(what, (_, value: unknown) =>
      typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
    );
    throw new Error(`${String(error)}\n${JSON.stringify(queue)} ${text}`, { cause: error });
  }
}

function noteOutcome({ model }: RingPair): void {
  const { error = 0, taken = 0 } = model ?? {};
  const outcome = error === 0 ? `${taken} taken` : `error ${error}`;
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
}

function areas(packed: boolean, size: number, flags: number) {
  return { packed, size, flags, desc: DESC, driver: DRIVER, device: DEVICE };
}

/** Every set of what can be negotiated, INDIRECT in turn. */
const ALL_FEATURES = Array.from({ length: 16 }, (_, bits) => bits * abi.QUEUE_INDIRECT);
const TYPES = [blk.VIRTIO_BLK_T_IN, blk.VIRTIO_BLK_T_OUT, blk.VIRTIO_BLK_T_GET_ID];

afterAll(() => {
  const list = [...outcomes].map(([outcome, count]) => `${outcome}: ${count}`);
  process.stdout.write(`exhaustive: ${cases} rings; ${list.join(', ')}\n`);
});

describe.each(BUILDS)('all small rings ($name build)', (build) => {
  for (const packed of [false, true]) {
    const kind = packed ? 'packed' : 'split';
    const marks = packed ? ring.VIRTQ_DESC_F_AVAIL : 0;

    it.each([1, 2, 4])(`${kind}, of %i: all chains do what the model says`, (size) => {
      const pair = new RingPair(build, { ramBytes: RAM_BYTES, diskBytes: DISK_BYTES });
      const most = 3;
      const spelling = { packed, entries: size, most, bufferOf, table: TABLE, ramBytes: RAM_BYTES };
      for (const type of TYPES) {
        const image = imageOf(type);
        for (const flags of LONG ? ALL_FEATURES : [0, abi.QUEUE_INDIRECT]) {
          forEachChain(spelling, (chain) => {
            pair.load(image);
            putChain(pair, DESC, chain, packed, marks);
            if (!packed) pair.u16(DRIVER + ring.AVAIL_IDX, 1);
            runCase(pair, areas(packed, size, flags), chain);
          });
        }
      }
    });

    it.each([0, 1, 2, 3])(`${kind}: all indirect tables of %i entries`, (entries) => {
      const pair = new RingPair(build, { ramBytes: RAM_BYTES, diskBytes: DISK_BYTES });
      const spelling: Spelling = {
        packed,
        entries,
        most: 3,
        consecutive: packed,
        bufferOf: (index) => bufferOf(index + 1),
        table: TABLE,
        ramBytes: RAM_BYTES,
      };
      const visit = (direct: number, image: Uint8Array) => (table: readonly Letter[]) => {
        pair.load(image);
        const chain = outerChain(direct, entries * ring.DESC_SIZE);
        putChain(pair, DESC, chain, packed, marks);
        putChain(pair, TABLE, entries === 0 ? [] : table, packed);
        if (!packed) pair.u16(DRIVER + ring.AVAIL_IDX, 1);
        runCase(pair, areas(packed, 2, abi.QUEUE_INDIRECT), { chain, table });
      };
      for (const type of entries === 3 && !LONG ? TYPES.slice(0, 2) : TYPES) {
        const image = imageOf(type);
        for (const direct of packed ? [0] : [0, 1]) forEachChain(spelling, visit(direct, image));
      }
    });
  }
});

/** A split ring in which every descriptor is a chain of one byte to write. */
function putBytes(pair: RingPair, size: number): void {
  for (let index = 0; index < size; index++) {
    const address = BigInt(bufferOf(index));
    const letter = { address, length: 1, flags: ring.VIRTQ_DESC_F_WRITE, next: 0 };
    putChain(pair, DESC + index * ring.DESC_SIZE, [letter], false);
  }
}

/** All lists of `length` of these items. */
function listsOf<T>(items: readonly T[], length: number): T[][] {
  if (length === 0) return [[]];
  const shorter = listsOf(items, length - 1);
  return shorter.flatMap((list) => items.map((item) => list.concat(item)));
}

const SPLIT_FEATURES = [
  0,
  abi.QUEUE_EVENT_IDX,
  abi.QUEUE_IN_ORDER,
  abi.QUEUE_EVENT_IDX | abi.QUEUE_IN_ORDER,
  abi.QUEUE_NOTIFY_ON_EMPTY,
];

describe.each(BUILDS)('all small states of the indices ($name build)', (build) => {
  const image = imageOf(blk.VIRTIO_BLK_T_IN);

  it.each([1, 2, 4])('split, of %i: heads, indices and events', (size) => {
    const pair = new RingPair(build, { ramBytes: RAM_BYTES, diskBytes: DISK_BYTES });
    const heads = listsOf(size === 4 && !LONG ? [0, 3, 4] : [0, size - 1, size, 0xffff], size);
    const ahead = [...Array(size + 2).keys(), 0x7fff, 0xffff];
    const events = size === 4 && !LONG ? [0, 2] : [0, 1, size, 0xffff];
    for (const flags of SPLIT_FEATURES) {
      for (const position of [0, 0xffff]) {
        for (const list of heads) {
          for (const idx of ahead) {
            for (const event of events) {
              pair.load(image);
              putBytes(pair, size);
              pair.u16(DRIVER + ring.AVAIL_FLAGS, event & 1);
              pair.u16(DRIVER + ring.AVAIL_IDX, position + idx);
              for (const [slot, head] of list.entries()) {
                pair.u16(DRIVER + ring.AVAIL_RING + 2 * slot, head);
              }
              pair.u16(DRIVER + ring.AVAIL_RING + 2 * size, position + event);
              pair.u16(DEVICE + ring.USED_IDX, position);
              const more = (): void => pair.u16(DRIVER + ring.AVAIL_IDX, position + idx + 1);
              const queue = { ...areas(false, size, flags), position };
              runCase(pair, queue, { list, idx, event }, more);
            }
          }
        }
      }
    }
  });

  it.each([1, 2, 3])('packed, of %i: marks, ids and events', (size) => {
    const pair = new RingPair(build, { ramBytes: RAM_BYTES, diskBytes: DISK_BYTES });
    const { VIRTQ_DESC_F_AVAIL: AVAIL, VIRTQ_DESC_F_USED: USED, WRAP_BIT } = ring;
    const marks = [0, AVAIL, USED, AVAIL | USED].flatMap((mark) => [mark, mark | 1]);
    const letters = marks.flatMap((flags) => [0, 9].map((id) => ({ flags, id })));
    const lists = listsOf(
      size === 3 && !LONG ? letters.filter(({ id }) => id === 0) : letters,
      size,
    );
    const positions = size === 3 && !LONG ? [WRAP_BIT, 2] : [WRAP_BIT, 0, size - 1];
    const events = [0, 1, 2, 3].flatMap((flags) =>
      [WRAP_BIT, size - 1].map((position) => ({ flags, position })),
    );
    for (const flags of [0, abi.QUEUE_EVENT_IDX, abi.QUEUE_IN_ORDER | abi.QUEUE_EVENT_IDX]) {
      for (const position of positions) {
        for (const list of lists) {
          for (const event of flags === 0 ? events.slice(0, 4) : events) {
            pair.load(image);
            for (const [slot, { flags: mark, id }] of list.entries()) {
              const at = DESC + slot * ring.DESC_SIZE;
              pair.u64(at + ring.DESC_ADDRESS, pair.base + BigInt(bufferOf(slot)));
              pair.u32(at + ring.DESC_LENGTH, 1);
              pair.u16(at + ring.PACKED_DESC_ID, id === 0 ? slot : id);
              pair.u16(at + ring.PACKED_DESC_FLAGS, mark | ring.VIRTQ_DESC_F_WRITE);
            }
            pair.u16(DRIVER + ring.EVENT_OFFSET, event.position);
            pair.u16(DRIVER + ring.EVENT_FLAGS, event.flags);
            runCase(pair, { ...areas(true, size, flags), position }, { list, event });
          }
        }
      }
    }
  });
});

/** Some direct descriptors, then that of an indirect table. */
function outerChain(direct: number, tableBytes: number): Letter[] {
  const header = {
    address: BigInt(bufferOf(0)),
    length: 16,
    flags: ring.VIRTQ_DESC_F_NEXT,
    next: 1,
  };
  const table = {
    address: BigInt(TABLE),
    length: tableBytes,
    flags: ring.VIRTQ_DESC_F_INDIRECT,
    next: 0xffff,
  };
  return direct === 0 ? [table] : [header, table];
}

it('hundreds of thousands of rings were tried', () => {
  expect(cases).toBeGreaterThan(400_000);
});
