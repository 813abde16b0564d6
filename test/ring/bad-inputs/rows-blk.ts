/** V50 to V76: requests of virtio-blk. */

import { expect } from 'vitest';
import { COMMAND_SYNC } from '../../../src/abi/command.ts';
import {
  VIRTIO_BLK_T_BARRIER,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_GET_LIFETIME,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_SECURE_ERASE,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../../src/abi/virtio-blk.ts';
import {
  DEVICE_BARRIER,
  DEVICE_DISCARD,
  DEVICE_RUNNING,
  DEVICE_WRITE_ZEROES,
} from '../../../src/abi/virtio-device.ts';
import { type BlkRange, encodeRanges } from '../../../src/testing/guest/blk.ts';
import { both, type Play, type Row } from './row.ts';
import { BODY, type Part, SECTORS, STATUS, W, type World, type WorldOptions } from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OUT = VIRTIO_BLK_T_OUT;
const DISCARD = VIRTIO_BLK_T_DISCARD;
const ZEROES = VIRTIO_BLK_T_WRITE_ZEROES;
const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

const READ_ONLY: WorldOptions = { engine: { readOnly: true } };
const ONE_SEGMENT: WorldOptions = { device: { discardSegments: 1, zeroesSegments: 1 } };
const ID = 'sluice-test-serial\0\0';

/** A chain that comes back with a status, one byte written, and without a command. */
function answered(status: number, parts: (world: World) => readonly Part[]): Play {
  return (world) => {
    world.offer(parts(world));
    world.run({ used: [{ length: 1 }], writes: [[STATUS, [status]]] });
    expect(world.rig.commands).toEqual([]);
  };
}

/** A request with header, data and status. */
function request(status: number, type: number, sector: number | bigint, length: number): Play {
  return answered(status, (world) => world.request(type, sector, length));
}

/** DISCARD, WRITE_ZEROES and the like. */
function ranges(status: number, type: number, list: readonly BlkRange[]): Play {
  return rawRanges(status, type, encodeRanges(list));
}

function rawRanges(status: number, type: number, bytes: Uint8Array): Play {
  return answered(status, (world) => {
    const [header, data, last] = world.request(type, 0, bytes.length);
    world.ram.set(bytes, BODY);
    return bytes.length === 0 ? [header, last] : [header, data, last];
  });
}

/** The read of sector 3 with the barrier bit. */
function readBehindBarrier(world: World): void {
  const parts = world.request(IN, 3, 512);
  world.header(VIRTIO_BLK_T_BARRIER + IN, 3);
  world.offer(parts);
  world.run({ used: [{ length: 513 }], writes: world.readWrites() });
}

/** GET_ID into so many bytes. */
function getId(length: number): Play {
  return (world) => {
    world.ram.fill(0xff, BODY, BODY + length);
    world.offer(world.request(VIRTIO_BLK_T_GET_ID, 0, length));
    const id = new TextEncoder().encode(ID).subarray(0, length);
    world.run({
      used: [{ length: id.length + 1 }],
      writes: [
        [BODY, id],
        [STATUS, [OK]],
      ],
    });
  };
}

const RANGE_ROWS: readonly Row[] = [
  both('V52', 'a read of the first sector past the end fails', request(IOERR, IN, SECTORS, 512)),
  both('V53', 'sector 2^64 - 1 fails', request(IOERR, IN, 2n ** 64n - 1n, 512)),
  both(
    'V54',
    'a write at sector 2^55 fails, and sector 0 stays',
    request(IOERR, OUT, 2n ** 55n, 512),
  ),
  both(
    'V55',
    'the last sector and one more fail, without a part',
    request(IOERR, IN, SECTORS - 1, 1024),
  ),
  both('V56', 'a read of 513 bytes fails', request(IOERR, IN, 0, 513)),
  both('V57', 'a write of 511 bytes fails', request(IOERR, OUT, 0, 511)),
];

const DATA_ROWS: readonly Row[] = [
  both(
    'V58',
    'a read without data goes well',
    answered(OK, (world) => {
      const [header, , status] = world.request(IN, 0, 0);
      return [header, status];
    }),
  ),
  both(
    'V59',
    'a write whose data is writable fails',
    answered(IOERR, (world) => {
      const [header, data, status] = world.request(OUT, 0, 512);
      return [header, { ...data, flags: W }, status];
    }),
  ),
  both(
    'V60',
    'a read whose data is readable fails',
    answered(IOERR, (world) => {
      const [header, data, status] = world.request(IN, 0, 512);
      return [header, { ...data, flags: 0 }, status];
    }),
  ),
  both('V61', 'a write to a read-only disk fails', request(IOERR, OUT, 0, 512), READ_ONLY),
  both('V62', 'GET_ID into four bytes writes four', getId(4)),
  both('V63', 'GET_ID into 512 bytes writes twenty', getId(512)),
  both('V64', 'FLUSH with data and a sector flushes', (world) => {
    world.offer(world.request(VIRTIO_BLK_T_FLUSH, 7, 512));
    world.run({ used: [{ length: 1 }], writes: [[STATUS, [OK]]] });
    expect(world.rig.commands.map(({ op }) => op)).toEqual([COMMAND_SYNC]);
  }),
];

const DISCARD_ROWS: readonly Row[] = [
  both('V65', 'DISCARD without a segment fails', ranges(IOERR, DISCARD, [])),
  both(
    'V66',
    'DISCARD of a segment of 15 bytes fails',
    rawRanges(IOERR, DISCARD, new Uint8Array(15)),
  ),
  both(
    'V67',
    'DISCARD of more segments than max_discard_seg fails, and nothing is discarded',
    ranges(IOERR, DISCARD, [
      { sector: 0, sectors: 8 },
      { sector: 16, sectors: 8 },
    ]),
    ONE_SEGMENT,
  ),
  both(
    'V68',
    'DISCARD of no sectors goes well and does nothing',
    ranges(OK, DISCARD, [{ sector: 0, sectors: 0 }]),
  ),
  both(
    'V69',
    'DISCARD past the end fails, and nothing is discarded',
    ranges(IOERR, DISCARD, [{ sector: SECTORS - 1, sectors: 2 }]),
  ),
  both(
    'V69',
    'DISCARD whose second segment is past the end discards nothing',
    ranges(IOERR, DISCARD, [
      { sector: 0, sectors: 8 },
      { sector: SECTORS, sectors: 1 },
    ]),
  ),
  both(
    'V70',
    'DISCARD at sector 2^63 fails',
    ranges(IOERR, DISCARD, [{ sector: 2n ** 63n, sectors: 8 }]),
  ),
  both(
    'V70',
    'DISCARD at sector 2^55, whose byte offset wraps, fails',
    ranges(IOERR, DISCARD, [{ sector: 2n ** 55n, sectors: 8 }]),
  ),
  both(
    'V70',
    'DISCARD whose sector and number wrap 2^64 fails',
    ranges(IOERR, DISCARD, [{ sector: 2n ** 64n - 4n, sectors: 8 }]),
  ),
  both(
    'V71',
    'DISCARD with unmap is unsupported',
    ranges(UNSUPP, DISCARD, [{ sector: 0, sectors: 8, flags: 1 }]),
  ),
  both(
    'V72',
    'WRITE_ZEROES with a reserved flag is unsupported',
    ranges(UNSUPP, ZEROES, [{ sector: 0, sectors: 8, flags: 2 }]),
  ),
  both(
    'V73',
    'WRITE_ZEROES of 0xffffffff sectors fails',
    ranges(IOERR, ZEROES, [{ sector: 0, sectors: 0xffff_ffff }]),
  ),
  both(
    'V73',
    'WRITE_ZEROES of 0xffffffff sectors fails where no limit says so',
    ranges(IOERR, ZEROES, [{ sector: 0, sectors: 0xffff_ffff }]),
    { device: { zeroesSectors: 0xffff_ffff } },
  ),
  both(
    'V74',
    'DISCARD without the OUT bit is unsupported',
    ranges(UNSUPP, VIRTIO_BLK_T_GET_LIFETIME, [{ sector: 0, sectors: 8 }]),
  ),
  both(
    'V75',
    'SECURE_ERASE is unsupported',
    ranges(UNSUPP, VIRTIO_BLK_T_SECURE_ERASE, [{ sector: 0, sectors: 8 }]),
  ),
  both(
    'V76',
    'WRITE_ZEROES to a read-only disk fails',
    ranges(IOERR, ZEROES, [{ sector: 0, sectors: 8 }]),
    READ_ONLY,
  ),
  both(
    'V76',
    'DISCARD to a read-only disk fails, negotiated or not',
    ranges(IOERR, DISCARD, [{ sector: 0, sectors: 8 }]),
    { ...READ_ONLY, device: { flags: DEVICE_RUNNING } },
  ),
  both(
    'V76',
    'SECURE_ERASE on a read-only disk fails',
    ranges(IOERR, VIRTIO_BLK_T_SECURE_ERASE, [{ sector: 0, sectors: 8 }]),
    READ_ONLY,
  ),
];

/** Requests. */
export const BLK_ROWS: readonly Row[] = [
  both('V50', 'an unknown type is unsupported', request(UNSUPP, 0x1234, 0, 512)),
  both('V51', 'the barrier bit is masked where it was not negotiated', readBehindBarrier),
  both(
    'V51',
    'the barrier bit makes a fence where it was negotiated',
    (world) => {
      // A new disk counts as dirty, so that the fence begins with a sync.
      readBehindBarrier(world);
      expect(world.rig.commands[0]?.op).toBe(COMMAND_SYNC);
    },
    {
      engine: { barrier: true, barrierDurable: true },
      device: { flags: DEVICE_RUNNING | DEVICE_BARRIER | DEVICE_DISCARD | DEVICE_WRITE_ZEROES },
    },
  ),
  ...RANGE_ROWS,
  ...DATA_ROWS,
  ...DISCARD_ROWS,
];
