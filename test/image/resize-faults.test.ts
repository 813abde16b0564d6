/**
 * Each command to the files of a qcow2 image fails once while its disk is resized: that is told,
 * the disk has one size or the other, keeps what it holds, and goes on.
 */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, it, vi } from 'vitest';

import { ERRNO_EIO, ERRNO_ENOSPC } from '../../src/abi/command.ts';
import type { Done } from '../../src/backend/backend.ts';
import type * as FileModule from '../../src/backend/file.ts';
import type { Disk } from '../../src/disk.ts';
import { SluiceError } from '../../src/errors.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { openDisk } from '../../src/node.ts';
import { expectSame, pattern } from '../backend/driver.ts';
import { Random } from '../engine/random.ts';
import { guestSize, readGuest } from '../model/qcow2.ts';
import { firstOther } from '../support/bytes.ts';
import { describeWithPeers } from '../support/peers.ts';
import { img } from './resized-image.ts';
import { imageFolder } from './scratch.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const UNDER_BYTES = 400 * KIB;
/** Each so many images are shown to QEMU. */
const SHOWN = 12;
const COMMANDS = ['read', 'write', 'writeZeroes', 'discard', 'extend', 'sync'] as const;

type Command = (typeof COMMANDS)[number] | 'resize';

/** Fails the commands from the `first`th on, `count` of them. */
class Fault {
  first = Infinity;
  count = 1;
  errno = ERRNO_EIO;
  seen = 0;
  readonly commands: Command[] = [];
  readonly failed: Command[] = [];
  /** Is called before each command. */
  before: (command: Command) => void = () => undefined;

  strikes(command: Command): boolean {
    this.before(command);
    this.commands.push(command);
    this.seen += 1;
    if (this.seen < this.first || this.seen >= this.first + this.count) return false;
    this.failed.push(command);
    return true;
  }
}

let fault = new Fault();

/** Lets commands of a file fail that is open. */
function wrap(backend: FileModule.FileBackend): FileModule.FileBackend {
  let done: Done = () => undefined;
  const attach = backend.attach.bind(backend);
  const twin = backend.twin.bind(backend);
  const resize = backend.resize.bind(backend);
  backend.attach = (memory, toCall) => {
    done = toCall;
    attach(memory, toCall);
  };
  backend.twin = () => wrap(twin());
  backend.resize = async (sizeBytes) => {
    if (fault.strikes('resize')) throw new SluiceError('ERR_SLUICE_IO', 'no luck');
    await resize(sizeBytes);
  };
  for (const name of COMMANDS) {
    const command = backend[name].bind(backend) as (id: number, ...more: number[]) => void;
    const maybe = (id: number, ...more: number[]): void => {
      const { errno } = fault;
      const answer = done;
      if (fault.strikes(name)) setImmediate(() => answer(id, errno, 0));
      else command(id, ...more);
    };
    Object.assign(backend, { [name]: maybe });
  }
  return backend;
}

vi.mock('../../src/backend/file.ts', async (importOriginal) => {
  const original = await importOriginal<typeof FileModule>();
  const openFileBackend: typeof original.openFileBackend = async (path, options) =>
    wrap(await original.openFileBackend(path, options));
  return { ...original, openFileBackend };
});

/** A resizing. */
interface Scenario {
  readonly name: string;
  readonly options: string;
  readonly fromBytes: number;
  readonly toBytes: number;
  /** A backing file of UNDER_BYTES. */
  readonly backing?: true;
}

const SCENARIOS: readonly Scenario[] = [
  {
    name: 'a longer L1 table, over a longer backing file',
    options: 'cluster_size=512,refcount_bits=64',
    fromBytes: 256 * KIB + 512,
    toBytes: 6 * MIB,
    backing: true,
  },
  {
    name: 'an L1 table longer than a refcount block',
    options: 'cluster_size=512,refcount_bits=64',
    fromBytes: 256 * KIB,
    toBytes: 200 * MIB,
  },
  {
    name: 'an L1 table in its cluster',
    options: 'cluster_size=4k',
    fromBytes: 256 * KIB + 1024,
    toBytes: 60 * MIB,
  },
  {
    name: 'a smaller disk',
    options: 'cluster_size=512',
    fromBytes: 3 * MIB,
    toBytes: 100 * KIB + 512,
  },
  {
    name: 'a smaller disk, over a backing file',
    options: 'cluster_size=4k',
    fromBytes: 2 * MIB,
    toBytes: 100 * KIB + 512,
    backing: true,
  },
  {
    name: 'a data file',
    options: 'cluster_size=4k,data_file=DATA.data,data_file_raw=on',
    fromBytes: 256 * KIB + 1024,
    toBytes: 3 * MIB,
  },
  {
    name: 'a smaller data file',
    options: 'cluster_size=4k,data_file=DATA.data',
    fromBytes: 3 * MIB,
    toBytes: 100 * KIB + 512,
  },
];

describeWithPeers(['qemu-img'], 'a resizing', () => {
  const folder = imageFolder();
  const path = join(folder, 'disk');
  const under = pattern(UNDER_BYTES, 77);
  const open = (maxSizeBytes?: number): Promise<Disk> => {
    const backing = { folders: [folder] };
    const more = { maxSizeBytes, lock: 'none', bufferBytes: MIB } as const;
    return openDisk(path, { format: 'qcow2', writable: true, backing, ...more });
  };

  beforeEach(() => {
    fault = new Fault();
  });

  function make({ options, fromBytes, backing }: Scenario): Uint8Array {
    writeFileSync(join(folder, 'under.raw'), under);
    const base = backing === true ? ['-b', 'under.raw', '-F', 'raw'] : [];
    const about = ['-f', 'qcow2', '-o', options.replace('DATA', 'disk'), ...base];
    img(folder, 'create', '-q', ...about, 'disk', String(fromBytes));
    keepFiles('', '0');
    const expected = new Uint8Array(fromBytes);
    if (backing === true) expected.set(under.subarray(0, fromBytes));
    return expected;
  }

  function keepFiles(from: string, to: string): void {
    for (const name of ['disk', 'disk.data']) {
      const found = join(folder, from + name);
      if (existsSync(found)) copyFileSync(found, join(folder, to + name));
    }
  }

  /** What the disk holds before it is resized, some of it in memory alone. */
  async function begin(expected: Uint8Array, toBytes: number): Promise<Disk> {
    keepFiles('0', '');
    const disk = await open(toBytes);
    for (const [at, length] of PLACES) {
      const from = Math.floor(expected.length * at);
      const bytes = pattern(Math.min(length, expected.length - from), from);
      expected.set(bytes, from);
      await disk.write(from, bytes);
      if (at === 0) await disk.flush();
    }
    return disk;
  }

  it.for(SCENARIOS)('that fails leaves a disk that can be used: $name', async (scenario) => {
    const expected = make(scenario);
    const { toBytes } = scenario;
    const told = new Set<Command>();
    let commands: readonly Command[] = [];
    let runs = 0;
    for (const [errno, count] of FAULTS) {
      for (let first = 1; ; first += count > 1 ? 7 : 1) {
        if (errno === ERRNO_ENOSPC && NEEDS_NO_ROOM.has(commands[first - 1])) continue;
        runs++;
        fault = new Fault();
        const disk = await begin(expected, toBytes);
        fault = Object.assign(new Fault(), { first, errno, count });
        const resized = await outcomeOf(disk.resize(toBytes, { shrink: true }));
        const { failed } = fault;
        if (failed.length === 0) ({ commands } = fault);
        fault = new Fault();
        const label = `${first}, errno ${errno}: ${failed.join()}: ${String(resized)}`;
        await judge(disk, expected, scenario, resized, failed, label);
        expectSound(path, label, runs % SHOWN === 0);
        if (failed.length === 0) break;
        if (resized !== undefined) for (const command of failed) told.add(command);
      }
    }
    expect(runs).toBeGreaterThan(20);
    expect([...told]).toEqual(expect.arrayContaining(['read', 'write', 'sync']));
  });

  it.for(SCENARIOS.filter(({ toBytes }) => toBytes <= 6 * MIB))(
    'that a power cut ends leaves a disk of one size or the other: $name',
    async (scenario) => {
      const expected = make(scenario);
      const { toBytes, fromBytes } = scenario;
      const disk = await begin(expected, toBytes);
      await disk.flush();
      const random = new Random(20_261_122);
      let stable = readFileSync(path);
      const states: Buffer[] = [];
      fault.before = (command) => {
        const now = readFileSync(path);
        for (let mixed = 0; mixed < 3; mixed++) states.push(mixOf(stable, now, random));
        if (command === 'sync') stable = now;
      };
      await disk.resize(toBytes, { shrink: true });
      fault = new Fault();
      await disk.close();
      const dataPath = join(folder, 'disk.data');
      const data = scenario.options.includes('data_file') ? readFileSync(dataPath) : undefined;
      const sizes = new Set<number>();
      for (const [index, state] of states.entries()) {
        const { corruptions, findings } = checkBytes(state, parseHeader(state, path));
        expect({ index, corruptions, found: findings.slice(0, 2) }).toMatchObject({
          corruptions: 0,
        });
        const size = guestSize(state);
        expect([fromBytes, toBytes]).toContain(size);
        sizes.add(size);
        if (data !== undefined) continue;
        const found = readGuest(state, scenario.backing === true ? under : undefined);
        const kept = Math.min(fromBytes, toBytes);
        expectSame(found.subarray(0, kept), expected.subarray(0, kept));
        if (size <= fromBytes) continue;
        expect(firstOther(found.subarray(fromBytes), 0)).toBe(-1);
      }
      expect(states.length).toBeGreaterThan(30);
      expect(sizes.size).toBe(2);
    },
  );

  async function judge(
    disk: Disk,
    expected: Uint8Array,
    { fromBytes, toBytes }: Scenario,
    resized: SluiceError | undefined,
    failed: readonly Command[],
    label: string,
  ): Promise<void> {
    const { size, latched } = disk;
    expect(resized === undefined ? [toBytes] : [fromBytes, toBytes], label).toContain(size);
    const inFile = guestSize(readFileSync(path).subarray(0, 64));
    if (failed.length <= 1) expect(inFile, label).toBe(size);
    // What a failed sync has not written may be lost: nothing after it may be said to be stable.
    if (failed.at(-1) === 'sync') expect({ label, latched }).toEqual({ label, latched: true });
    const kept = Math.min(fromBytes, toBytes);
    expectSame(await disk.read(0, kept), expected.subarray(0, kept));
    if (size > fromBytes) await expectZeroes(disk, fromBytes);
    if (latched) {
      const flushed = await outcomeOf(disk.flush());
      expect({ label, flushed }).toEqual({ label, flushed: expect.any(SluiceError) });
      await outcomeOf(disk.close());
    } else if (failed.length <= 1) {
      await disk.resize(toBytes, { shrink: true });
      expect({ label, size: disk.size }).toEqual({ label, size: toBytes });
      if (toBytes > fromBytes) await expectZeroes(disk, fromBytes);
      const last = pattern(3000, 1);
      await disk.write(toBytes - 3000, last);
      await disk.flush();
      expectSame(await disk.read(toBytes - 3000, 3000), last);
      await disk.close();
    } else {
      // By tables that are not those of the file, it would hit what others have.
      await outcomeOf(disk.write(Math.floor(kept * 0.6), pattern(Math.floor(kept * 0.4), 9)));
      await outcomeOf(disk.flush());
      await outcomeOf(disk.close());
    }
    const again = await open();
    if (failed.length <= 1) expect(again.size, label).toBe(disk.size);
    // Without a flush nothing is promised of what was written after the last one.
    const isFlushed = !latched && failed.length <= 1;
    const whole = isFlushed ? Math.min(kept, again.size - 3000) : FLUSHED_BYTES;
    expectSame(await again.read(0, whole), expected.subarray(0, whole));
    await again.close();
  }

  function expectSound(image: string, label: string, isShown: boolean): void {
    const bytes = readFileSync(image);
    const { corruptions, findings } = checkBytes(bytes, parseHeader(bytes, image));
    const said = findings.slice(0, 3);
    if (corruptions > 0) expect({ label, corruptions, said }).toMatchObject({ corruptions: 0 });
    // It fails for errors; leaks are mended first.
    if (isShown) expect(img(folder, 'check', '-q', '-r', 'leaks', 'disk')).toBe('');
  }
});

/** Parts of the disk, and bytes. */
const FLUSHED_BYTES = 20_000;
const PLACES = [
  [0, FLUSHED_BYTES],
  [0.5, 3000],
  [0.9, 700_000],
] as const;

const NEEDS_NO_ROOM: ReadonlySet<Command | undefined> = new Set(['read', 'sync', 'discard']);

/** With two failures the disk may take no more writes. */
const FAULTS = [
  [ERRNO_EIO, 1],
  [ERRNO_ENOSPC, 1],
  [ERRNO_EIO, 1000],
] as const;

/** What is stable, with some of the sectors that were written since. */
function mixOf(stable: Buffer, now: Buffer, random: Random): Buffer {
  const mixed = Buffer.alloc(Math.max(stable.length, now.length));
  mixed.set(stable);
  for (let at = 0; at < now.length; at += 512) {
    const sector = now.subarray(at, at + 512);
    if (!sector.equals(mixed.subarray(at, at + 512)) && random.chance(0.5)) mixed.set(sector, at);
  }
  return mixed;
}

async function outcomeOf(work: Promise<unknown>): Promise<SluiceError | undefined> {
  const error: unknown = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (error === undefined) return undefined;
  expect(error).toBeInstanceOf(SluiceError);
  expect((error as SluiceError).code).toMatch(/^ERR_SLUICE_/);
  return error as SluiceError;
}

/** Behind what was its end. */
async function expectZeroes(disk: Disk, fromBytes: number): Promise<void> {
  const length = Math.min(3 * MIB, disk.size - 3000 - fromBytes);
  const found = await disk.read(fromBytes, length);
  expect(firstOther(found, 0)).toBe(-1);
}
