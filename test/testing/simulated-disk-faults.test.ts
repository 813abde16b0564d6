/** Every fault of a simulated disk, each beside a disk that does not have it. */
import { describe, expect, it } from 'vitest';
import { Disk } from '../../src/disk.ts';
import { SimulatedDisk } from '../../src/testing/simulated-disk.ts';
import type {
  SimulatedDiskOptions,
  SimulatedFaults,
} from '../../src/testing/simulated-disk-options.ts';
import { Driver, expectSame } from '../backend/driver.ts';

const EIO = 5;
const ENOSPC = 28;
const SIZE = 65536;
const latency = { read: 10, write: 10, stableWrite: 10, writeZeroes: 10, sync: 10 };

function create(faults: SimulatedFaults, options: Partial<SimulatedDiskOptions> = {}) {
  const shape = { sizeBytes: SIZE, seed: 3, clock: 'manual', latency } as const;
  const disk = new SimulatedDisk({ ...shape, faults, ...options });
  return { disk, driver: new Driver(disk) };
}

const filled = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value);

/** The errnos of one call after the other. */
async function errnos(
  disk: SimulatedDisk,
  calls: readonly (() => Promise<number | { readonly errno: number }>)[],
): Promise<number[]> {
  const found: number[] = [];
  for (const call of calls) {
    const asked = call();
    disk.run();
    const answer = await asked;
    found.push(typeof answer === 'number' ? answer : answer.errno);
  }
  return found;
}

/** The first byte of each of the first sectors. */
function bytesAt(contents: Uint8Array, sectors: number): number[] {
  return Array.from({ length: sectors }, (_, sector) => contents[sector * 512]!);
}

/** The same for every state that a power cut now may leave, as text. */
function statesOf(disk: SimulatedDisk, sectors: number): string[] {
  return [...disk.crashStates()].map((state) => bytesAt(state.contents(), sectors).join(''));
}

describe('which commands a fault hits', () => {
  const everything = (driver: Driver) => [
    () => driver.write(0, filled(1)),
    () => driver.tryRead(0, 512),
    () => driver.zero(512, 512),
    () => driver.discard(1024, 512),
    () => driver.sync(),
  ];

  it('all of its operations, or those that are named', async () => {
    const all = create({ eio: true });
    expect(await errnos(all.disk, everything(all.driver))).toEqual([EIO, EIO, EIO, EIO, EIO]);
    const some = create({ eio: { ops: ['read', 'discard'] } });
    expect(await errnos(some.disk, everything(some.driver))).toEqual([0, EIO, 0, EIO, 0]);
    const none = create({});
    expect(await errnos(none.disk, everything(none.driver))).toEqual([0, 0, 0, 0, 0]);
  });

  it('those that touch some sectors', async () => {
    const { disk, driver } = create({ eio: { sectors: [2, 4] } });
    const reads = [
      [0, 1024],
      [0, 1025],
      [1536, 512],
      [2047, 1],
      [2048, 512],
    ] as const;
    const calls = reads.map(
      ([offset, length]) =>
        () =>
          driver.tryRead(offset, length),
    );
    expect(await errnos(disk, calls)).toEqual([0, EIO, EIO, EIO, 0]);
  });

  it('the n-th ones of those', async () => {
    const { disk, driver } = create({ eio: { ops: ['read'], sectors: [0, 2], nth: [2, 3] } });
    const read = (offset: number) => () => driver.tryRead(offset, 512);
    const write = () => driver.write(0, filled(1));
    const calls = [read(0), write, read(4096), read(512), read(0), read(0)];
    expect(await errnos(disk, calls)).toEqual([0, 0, 0, EIO, EIO, 0]);
  });

  it('with a probability, drawn from the seed', async () => {
    const run = (seed: number) => {
      const { disk, driver } = create({ eio: { probability: 0.3 } }, { seed });
      return errnos(
        disk,
        Array.from({ length: 300 }, () => () => driver.tryRead(0, 512)),
      );
    };
    const first = await run(5);
    const failed = first.filter((errno) => errno === EIO).length;
    expect(failed).toBeGreaterThan(60);
    expect(failed).toBeLessThan(120);
    expect(await run(5)).toEqual(first);
    expect(await run(6)).not.toEqual(first);
  });

  it('whether or not there are other faults', async () => {
    const run = (others: SimulatedFaults) => {
      const { disk, driver } = create({ enospc: { probability: 0.5 }, ...others });
      return errnos(
        disk,
        Array.from({ length: 50 }, () => () => driver.write(0, filled(1))),
      );
    };
    expect(await run({ stuck: { ops: ['read'] }, lyingSync: true })).toEqual(await run({}));
  });
});

describe('eio', () => {
  it('leaves each sector of a write old or new (durability 3)', async () => {
    const { disk, driver } = create({ eio: { ops: ['write'] } });
    await errnos(disk, [() => driver.write(0, filled(1, SIZE))]);
    const found = bytesAt(disk.contents(), 128);
    const changed = found.filter((byte) => byte === 1).length;
    expect(changed).toBeGreaterThan(30);
    expect(changed).toBeLessThan(98);
    expect(found.filter((byte) => byte === 0).length).toBe(128 - changed);
  });

  it('leaves all of a write or nothing on a drive that tears none', async () => {
    const outcomes = new Set<string>();
    for (let seed = 0; seed < 16; seed++) {
      const { disk, driver } = create({ eio: true }, { seed, torn: false });
      await errnos(disk, [() => driver.write(0, filled(1, 2048))]);
      outcomes.add(bytesAt(disk.contents(), 4).join(''));
    }
    expect([...outcomes].sort()).toEqual(['0000', '1111']);
  });

  it('of a sync is a failing sync', async () => {
    const { disk, driver } = create({ eio: { ops: ['sync'], nth: 1 } });
    const calls = [() => driver.write(0, filled(1)), () => driver.sync(), () => driver.sync()];
    expect(await errnos(disk, calls)).toEqual([0, EIO, 0]);
    expect(statesOf(disk, 1)).toEqual(['0', '1']);
    expect(disk.log).toContainEqual(
      expect.objectContaining({ event: 'taken', op: 'sync', faults: ['failingSync'] }),
    );
  });
});

describe('enospc', () => {
  it('refuses a write, of which nothing has happened, and no read', async () => {
    const { disk, driver } = create({ enospc: { sectors: [0, 8] } });
    const calls = [
      () => driver.write(0, filled(1, 4096)),
      () => driver.zero(0, 512),
      () => driver.tryRead(0, 512),
      () => driver.write(4096, filled(2)),
    ];
    expect(await errnos(disk, calls)).toEqual([ENOSPC, ENOSPC, 0, 0]);
    expect(bytesAt(disk.contents(), 9)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 2]);
    const backend = new SimulatedDisk({ sizeBytes: SIZE, seed: 1, faults: { enospc: true } });
    await expect(new Disk(backend).write(0, filled(1))).rejects.toMatchObject({
      code: 'ERR_SLUICE_NO_SPACE',
    });
  });
});

describe('shortWrites', () => {
  it('bring a prefix of a write to the disk, never all of it, and EIO', async () => {
    const prefixes = new Set<string>();
    for (let seed = 0; seed < 40; seed++) {
      const { disk, driver } = create({ shortWrites: true }, { seed });
      const calls = [() => driver.write(0, filled(1, 2048)), () => driver.sync()];
      expect(await errnos(disk, calls)).toEqual([EIO, 0]);
      expect(statesOf(disk, 4)).toHaveLength(1);
      prefixes.add(bytesAt(disk.contents(), 4).join(''));
    }
    expect([...prefixes].sort()).toEqual(['0000', '1000', '1100', '1110']);
  });
});

describe('failingSync', () => {
  it('fails once; the next one succeeds though data may be lost (durability 6)', async () => {
    const { disk, driver } = create({ failingSync: { nth: 1 } });
    const calls = [
      () => driver.write(0, filled(1)),
      () => driver.sync(),
      () => driver.write(512, filled(2)),
      () => driver.sync(),
    ];
    expect(await errnos(disk, calls)).toEqual([0, EIO, 0, 0]);
    expect(bytesAt(disk.contents(), 2)).toEqual([1, 2]);
    expect(statesOf(disk, 2).sort()).toEqual(['02', '12']);
  });

  it('latches a Disk, which acknowledges no flush after it (F6)', async () => {
    const faults = { failingSync: { nth: 1 } };
    const disk = new Disk(new SimulatedDisk({ sizeBytes: SIZE, seed: 1, faults }));
    await disk.write(0, filled(1));
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
  });
});

describe('lyingSync', () => {
  const work = (driver: Driver) => [
    () => driver.write(0, filled(1)),
    () => driver.sync(),
    () => driver.write(512, filled(2), true),
  ];

  it('answers that all is well, and proves nothing', async () => {
    const { disk, driver } = create({ lyingSync: true });
    expect(await errnos(disk, work(driver))).toEqual([0, 0, 0]);
    expect(statesOf(disk, 2).sort()).toEqual(['00', '02', '10', '12']);
    const honest = create({});
    expect(await errnos(honest.disk, work(honest.driver))).toEqual([0, 0, 0]);
    expect(statesOf(honest.disk, 2)).toEqual(['12']);
  });

  it('may be of syncs alone, or for a while: an honest sync makes up for it', async () => {
    const { disk, driver } = create({ lyingSync: { ops: ['sync'], nth: 1 } });
    await errnos(disk, work(driver));
    expect(statesOf(disk, 2).sort()).toEqual(['02', '12']);
    await errnos(disk, [() => driver.sync()]);
    expect(statesOf(disk, 2)).toEqual(['12']);
  });

  it('says nothing of writes that were not to be stable', async () => {
    const { disk, driver } = create({ lyingSync: { ops: ['write'], nth: 1 } });
    await errnos(disk, work(driver));
    expect(disk.log.filter(({ faults }) => faults !== undefined)).toEqual([
      expect.objectContaining({ op: 'write', offset: 512, faults: ['lyingSync'] }),
    ]);
  });
});

describe('stuck', () => {
  it('holds commands until they are released, and nothing else', async () => {
    const { disk, driver } = create({ stuck: { ops: ['write'], nth: [1, 2] } });
    void driver.write(0, filled(1));
    void driver.write(512, filled(2));
    void driver.write(1024, filled(3));
    disk.run();
    expect([driver.answered, disk.stuck.map(({ id }) => id)]).toEqual([[3], [1, 2]]);
    expect(bytesAt(disk.contents(), 3)).toEqual([0, 0, 3]);
    expect(disk.release(2)).toMatchObject({ id: 2, offset: 512 });
    expect(bytesAt(disk.contents(), 3)).toEqual([0, 2, 3]);
    expect(disk.release().id).toBe(1);
    expect([driver.answered, disk.stuck]).toEqual([[3, 2, 1], []]);
    expect(() => disk.release()).toThrow('there is no stuck command');
  });

  it('holds back a Disk that waits for it, and nobody else', async () => {
    const faults = { stuck: { ops: ['sync'], nth: 1 } } as const;
    const backend = new SimulatedDisk({ sizeBytes: SIZE, seed: 1, faults });
    const disk = new Disk(backend);
    await disk.write(0, filled(1));
    let flushed = false;
    const flush = disk.flush().then(() => (flushed = true));
    for (let round = 0; round < 5; round++) await disk.write(4096, filled(round));
    expectSame(await disk.read(0, 512), filled(1));
    expect([flushed, backend.stuck.length]).toEqual([false, 1]);
    backend.release();
    expect(await flush).toBe(true);
  });
});

describe('slow', () => {
  it('makes commands late, with or without another fault', async () => {
    const { disk, driver } = create({ slow: { nth: [1, 4], micros: 5000 }, eio: { nth: 4 } });
    const reads = Array.from({ length: 4 }, () => () => driver.tryRead(0, 512));
    expect(await errnos(disk, reads)).toEqual([0, 0, 0, EIO]);
    const times = disk.log.filter(({ event }) => event === 'answered').map(({ at }) => at);
    expect(times).toEqual([5010, 5020, 5030, 10_040]);
  });

  it('lets others overtake', () => {
    const { disk, driver } = create({ slow: { ops: ['read'] } });
    void driver.tryRead(0, 512);
    void driver.write(512, filled(1));
    disk.run();
    expect(driver.answered).toEqual([2, 1]);
    expect(disk.now).toBe(1_000_010);
  });
});
