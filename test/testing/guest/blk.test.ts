import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_T_SECURE_ERASE,
} from '../../../src/abi/virtio-blk.ts';
import {
  BlkDriver,
  type BlkDriverOptions,
  createDriverQueue,
  cutFraming,
  directFraming,
  type Framing,
  GuestMemory,
  type GuestRequest,
  indirectFraming,
  joinedFraming,
  plainFraming,
  randomFraming,
  type RingFeatures,
  segmentedFraming,
  withEmptyDescriptors,
} from '../../../src/testing/guest/index.ts';
import { createPlainDevice, type PlainDevice, type SeenChain } from './plain-device.ts';

interface Served {
  readonly chain: SeenChain;
  /** All that the device may read, in one piece. */
  readonly readable: Uint8Array;
}

/** A driver, and a device that answers with what it is told. */
class Rig {
  readonly memory = new GuestMemory(new ArrayBuffer(1 << 18), [
    { guestAddress: 0xffff_0000n, sizeBytes: 1 << 18, address: 0 },
  ]);
  readonly disk: BlkDriver;
  readonly device: PlainDevice;

  constructor(
    packed: boolean,
    features: RingFeatures = {},
    options: Partial<BlkDriverOptions> = {},
    size = 64,
  ) {
    const queue = createDriverQueue(packed, { memory: this.memory, size, features });
    this.disk = new BlkDriver({ queue, ...options });
    this.device = createPlainDevice(this.memory, queue.config());
  }

  /** Publishes, and answers the next request: its writable bytes become `answer`, repeated. */
  serve(answer: readonly number[], status = VIRTIO_BLK_S_OK): Served {
    this.disk.publish();
    const chain = this.device.take()!;
    const readable: number[] = [];
    let written = 0;
    let last = 0n;
    for (const { address, length, writable } of chain.descriptors) {
      const bytes = this.memory.bytes(address, length);
      if (!writable) {
        readable.push(...bytes);
        continue;
      }
      for (const index of bytes.keys()) bytes[index] = answer[written++ % answer.length]!;
      if (length > 0) last = address + BigInt(length - 1);
    }
    if (written > 0) this.memory.setU8(last, status);
    this.device.use([chain], written);
    return { chain, readable: Uint8Array.from(readable) };
  }

  /** The only request that has come back. */
  finished(): GuestRequest {
    const [request, ...more] = this.disk.poll();
    expect([more, this.disk.strays]).toEqual([[], []]);
    return request!;
  }
}

function headerOf({ readable }: Served): [type: number, reserved: number, sector: bigint] {
  const view = new DataView(readable.buffer);
  return [view.getUint32(0, true), view.getUint32(4, true), view.getBigUint64(8, true)];
}

function lengthsOf({ chain }: Served): number[] {
  return chain.descriptors.map(({ length, writable }) => (writable ? -length : length));
}

/** Numbers that fast-check chooses, as a source of random cuts. */
const framings: fc.Arbitrary<Framing> = fc.oneof(
  fc.constantFrom<Framing>(
    plainFraming,
    joinedFraming,
    withEmptyDescriptors(plainFraming),
    withEmptyDescriptors(joinedFraming),
    segmentedFraming(3),
    cutFraming([7, 100]),
  ),
  fc.array(fc.nat(), { minLength: 12, maxLength: 12 }).map((numbers) => {
    let next = 0;
    return randomFraming((limit) => numbers[next++ % numbers.length]! % limit);
  }),
);
const packed = fc.boolean();
const indirectFrom = fc.constantFrom(0, 1, 2, Infinity);

describe('BlkDriver', () => {
  it('sends the same bytes in every framing, and reads back what was written', () => {
    const cases = fc.record({ packed, framing: framings, indirectFrom, sectors: fc.nat(2) });
    fc.assert(
      fc.property(cases, ({ packed, framing, indirectFrom, sectors }) => {
        const rig = new Rig(packed);
        const from = packed && indirectFrom > 0 ? Infinity : indirectFrom;
        const framed = indirectFraming(framing, from);
        const data = Uint8Array.from({ length: sectors * 512 }, (_, index) => index % 251);
        const write = rig.disk.write(0x1_0000_0007, data, framed);
        const read = rig.disk.read((1n << 64n) - 1n, data.length, framed);

        const served = rig.serve([0x11], VIRTIO_BLK_S_IOERR);
        expect(headerOf(served)).toEqual([1, 0, 0x1_0000_0007n]);
        expect(served.readable.subarray(16)).toEqual(data);
        expect(headerOf(rig.serve([...data, 0]))).toEqual([0, 0, (1n << 64n) - 1n]);

        expect([write.status, write.used]).toEqual([undefined, false]);
        expect(rig.disk.poll()).toEqual([write, read]);
        expect([write.status, read.status]).toEqual([VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK]);
        expect([write.usedLength, read.usedLength]).toEqual([1, data.length + 1]);
        expect([write.data().length, read.data()]).toEqual([0, data]);
        expect([write.damage(), read.damage(), rig.disk.strays]).toEqual([[], [], []]);
      }),
    );
  });

  it.each<[string, Framing, number[]]>([
    ['plain', plainFraming, [16, -1024, -1]],
    ['joined', joinedFraming, [16, -1025]],
    ['segmented', segmentedFraming(2), [16, -512, -512, -1]],
    ['finely segmented', segmentedFraming(3), [16, -341, -341, -342, -1]],
    ['cut', cutFraming([10, 600]), [10, 6, -10, -600, -10, -405]],
    ['with empty descriptors', withEmptyDescriptors(joinedFraming), [0, 16, -0, -1025]],
  ])('cuts a read as told: %s', (_, framing, lengths) => {
    const rig = new Rig(false);
    rig.disk.read(0, 1024, framing);
    expect(lengthsOf(rig.serve([0])).map((n) => n + 0)).toEqual(lengths.map((n) => n + 0));
  });

  it('uses an indirect table where that was negotiated, if not told otherwise', () => {
    for (const packed of [false, true]) {
      const rig = new Rig(packed, { indirect: true });
      rig.disk.read(0, 512);
      rig.disk.read(0, 512, directFraming(plainFraming));
      expect([rig.serve([0]).chain.slots, rig.serve([0]).chain.slots]).toEqual([1, 3]);
    }
  });

  it('has every type of request', () => {
    const rig = new Rig(true);
    const ranges = [
      { sector: 8, sectors: 16 },
      { sector: 1n << 40n, sectors: 2 ** 32 - 1, flags: 1 },
    ];
    const encoded = [8, 0, 16, 0, 0, 256, 2 ** 32 - 1, 1];
    const served = (): [number, number, bigint, number[]] => {
      const found = rig.serve([0]);
      rig.finished();
      return [...headerOf(found), [...new Uint32Array(found.readable.buffer.slice(16))]];
    };
    rig.disk.flush();
    expect(served()).toEqual([4, 0, 0n, []]);
    rig.disk.discard(ranges);
    expect(served()).toEqual([11, 0, 0n, encoded]);
    rig.disk.writeZeroes(ranges);
    expect(served()).toEqual([13, 0, 0n, encoded]);
    rig.disk.secureErase(ranges);
    expect(served()).toEqual([VIRTIO_BLK_T_SECURE_ERASE, 0, 0n, encoded]);
    rig.disk.raw(0x8000_1234, { reserved: 77, sector: 9 });
    expect(served()).toEqual([0x8000_1234, 77, 9n, []]);
    rig.disk.getId();
    expect(lengthsOf(rig.serve([65]))).toEqual([16, -20, -1]);
    expect(rig.finished().data()).toEqual(new Uint8Array(20).fill(65));
  });

  it('sends what no driver should: short headers, long statuses, other directions', () => {
    const rig = new Rig(false);
    rig.disk.raw(0, { header: new Uint8Array(15), in: 512 });
    rig.disk.raw(0, { in: 512, status: 5 });
    rig.disk.raw(1, { out: 512, alter: (chain) => chain.map((d) => ({ ...d, writable: true })) });
    rig.disk.raw(1, { out: 512, alter: (chain) => chain.slice(0, 1) });
    expect(lengthsOf(rig.serve([0]))).toEqual([15, -512, -1]);
    expect(lengthsOf(rig.serve([0, 1], 2))).toEqual([16, -512, -5]);
    expect(lengthsOf(rig.serve([0]))).toEqual([-16, -512, -1]);
    expect(lengthsOf(rig.serve([0]))).toEqual([16]);
    const [, long, , none] = rig.disk.poll();
    expect([long!.status, long!.usedLength, long!.data().length]).toEqual([2, 517, 512]);
    expect([none!.status, none!.used]).toEqual([undefined, true]);
  });

  it('places its status where an altered chain says', () => {
    const rig = new Rig(false);
    const request = rig.disk.raw(0, {
      alter: ([header]) => [
        header!,
        { address: 0xffff_0000n + 200000n, length: 1, writable: true },
      ],
    });
    rig.serve([0], 2);
    expect([rig.finished().status, rig.memory.getU8(200000)]).toEqual([2, 2]);
    expect(request.damage()).toEqual([]);
  });
});

describe('the guards of BlkDriver', () => {
  it('name what changed beside the writable buffers', () => {
    const rig = new Rig(false);
    const request = rig.disk.write(0, new Uint8Array(512).fill(3));
    const [header, data, status] = request.chain.map(({ address }) => address as number);
    rig.memory.setU8(header! - 1, 0);
    rig.memory.setU8(header! + 15, 1);
    rig.memory.setU8(data! + 511, 4);
    rig.memory.setU8(status! + 1, 0);
    rig.serve([0]);
    const places = request.damage().map((address) => rig.memory.placeOf(address));
    expect(places).toEqual([header! - 1, header! + 15, data! + 511, status! + 1]);
  });

  it('cost nothing when they are off', () => {
    const rig = new Rig(false, {}, { guards: false });
    const request = rig.disk.read(0, 512);
    rig.memory.bytes(0, 1 << 17).fill(0xee, (request.chain[0]!.address as number) - 16);
    expect(request.damage()).toEqual([]);
  });

  it('keep the alignment that data was asked to have', () => {
    const rig = new Rig(true, {}, { align: 512 });
    const { chain } = rig.disk.read(0, 1536, segmentedFraming(3));
    const addresses = chain.map(({ address }) => rig.memory.addressOf(address as number));
    expect(addresses.slice(1, 4).map((address) => address % 512n)).toEqual([0n, 0n, 0n]);
  });
});

describe.each([false, true])('a request of BlkDriver, packed: %s', (packed) => {
  it('can be sent again, and its memory comes back', () => {
    const rig = new Rig(packed);
    const request = rig.disk.read(3, 512);
    expect(() => rig.disk.again(request)).toThrow(/in flight/);
    expect(() => rig.disk.release(request)).toThrow(/in flight/);
    for (let i = 0; i < 100; i++) {
      expect(headerOf(rig.serve([i]))[2]).toBe(3n);
      expect(rig.finished()).toBe(request);
      expect(request.data()[511]).toBe(i);
      expect(rig.disk.again(request).status).toBeUndefined();
    }
    rig.serve([0]);
    rig.finished();
    for (let i = 0; i < 1000; i++) {
      const other = rig.disk.read(0, 4096);
      rig.serve([0]);
      rig.disk.release(rig.finished());
      expect(other.status).toBe(0);
    }
  });

  it('gives its indirect table back with each use', () => {
    const rig = new Rig(packed, { indirect: true });
    const request = rig.disk.read(0, 64, cutFraming([1]));
    for (let i = 0; i < 400; i++) {
      rig.serve([0]);
      rig.disk.again(rig.finished());
    }
    expect(request.chain).toHaveLength(81);
  });

  it('is refused when the ring is full, and leaves nothing behind', () => {
    const rig = new Rig(packed, {}, {}, 4);
    rig.disk.read(0, 512);
    for (let i = 0; i < 1000; i++) {
      expect(() => rig.disk.read(0, 512)).toThrow(/1 free descriptors, the chain needs 3/);
    }
    rig.serve([0]);
    expect(rig.finished().status).toBe(0);
    expect(rig.disk.read(0, 512).token).toBeGreaterThanOrEqual(0);
  });

  it('comes out of a batch of at most so many', () => {
    const rig = new Rig(packed);
    const made = [rig.disk.flush(), rig.disk.flush(), rig.disk.flush()];
    for (const _ of made) rig.serve([0]);
    expect(rig.disk.poll(2)).toEqual(made.slice(0, 2));
    expect(rig.disk.poll(2)).toEqual(made.slice(2));
  });

  it('is a stray when the device returns it twice', () => {
    const rig = new Rig(packed);
    rig.disk.flush();
    rig.disk.flush();
    rig.disk.publish();
    const chain = rig.device.take()!;
    rig.device.use([chain], 1);
    rig.device.use([chain], 1);
    expect(rig.disk.poll()).toHaveLength(1);
    expect(rig.disk.strays).toEqual([{ token: chain.id, length: 1, known: false }]);
  });

  it('needs a framing that fits', () => {
    const rig = new Rig(packed);
    const framing: Framing = () => ({ readable: [16], writable: [512] });
    expect(() => rig.disk.read(0, 512, framing)).toThrow(/16 readable and 512 writable/);
    expect(() => rig.disk.read(0, 512, cutFraming([]))).toThrow(/cuts nothing/);
  });
});
