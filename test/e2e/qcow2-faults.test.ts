/**
 * Each system call that changes a served qcow2 image fails, one a run: clients are told, what was
 * acknowledged is there, the tables hold, and what is tried again works.
 *
 * SLUICE_E2E_FAULTS=n tries n faults of each scenario (default 4), 1000 all of them;
 * SLUICE_E2E_SEED=n chooses the same ones again.
 */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import { openDisk } from '../../src/node.ts';
import { Folder } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import * as load from './qcow2-load.ts';
import { CHANGING, checkImage, createImage, qemuIo, ServedImage, SOUND } from './qcow2-server.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE_BYTES = 4 * MIB;
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const FAULTS = Number(process.env['SLUICE_E2E_FAULTS'] ?? 4);
const CALLS_MAX = 40;
const ERRORS = ['EIO', 'ENOSPC'] as const;
const ROOM_MS = 60_000 + 2000 * Math.min(FAULTS, 500);

/** An image, what is in it, and what a client does to it. */
interface Scenario {
  readonly title: string;
  readonly options: string;
  /** A raw backing file of 1 MiB. */
  readonly backing?: true;
  /** Letters that are written by qemu-io before: offset, length, letter. */
  readonly before?: readonly (readonly [offset: number, length: number, letter: string])[];
  readonly steps: readonly (readonly load.Ask[])[];
}

const { FLUSH, fua, trim, write, zero } = load;

const NEW_CLUSTERS = [
  [write('a', 0, 4 * KIB)],
  [FLUSH],
  [write('b', 8 * KIB, 20 * KIB), write('c', 3 * MIB, 512), write('d', 1 * MIB + 512, 9 * KIB)],
  [FLUSH],
  [fua('e', 2 * MIB, 8 * KIB)],
  [write('f', 64 * KIB, 200 * KIB), zero(32 * KIB, 8 * KIB)],
  [FLUSH],
];

const SCENARIOS: readonly Scenario[] = [
  { title: 'new clusters', options: 'cluster_size=4k', steps: NEW_CLUSTERS },
  {
    title: 'a copy of what is under it',
    options: 'cluster_size=16k',
    backing: true,
    steps: [
      [write('a', 512, 1024)],
      [FLUSH],
      [write('b', 40 * KIB, 24 * KIB), fua('c', 200 * KIB, 512), write('d', 1023 * KIB, 2 * KIB)],
      [FLUSH],
      [zero(100 * KIB, 20 * KIB), write('e', 2 * KIB, 2 * KIB)],
      [FLUSH],
    ],
  },
  {
    title: 'discards, and new contents',
    options: 'cluster_size=4k',
    before: [[0, MIB, 'o']],
    steps: [
      [trim(0, 64 * KIB)],
      [write('a', 4 * KIB, 4 * KIB), write('b', 17 * KIB, 512)],
      [FLUSH],
      [trim(512 * KIB, 512 * KIB), zero(128 * KIB, 64 * KIB)],
      [FLUSH],
      [write('c', 600 * KIB, 100 * KIB), write('d', 130 * KIB, 3 * KIB)],
      [FLUSH],
    ],
  },
  {
    title: 'a close with all to do',
    options: 'cluster_size=4k',
    before: [[0, 64 * KIB, 'o']],
    steps: [
      [write('a', 512, 512), write('b', MIB, 300 * KIB), trim(16 * KIB, 16 * KIB)],
      [write('c', 2 * MIB, 4 * KIB)],
    ],
  },
  {
    title: 'extended L2 entries',
    options: 'cluster_size=16k,extended_l2=on',
    backing: true,
    before: [[0, 32 * KIB, 'o']],
    steps: NEW_CLUSTERS,
  },
  {
    title: 'a refcount table that grows',
    options: 'cluster_size=512,refcount_bits=64',
    before: [[0, 1900 * KIB, 'o']],
    steps: [[write('a', 2 * MIB, 160 * KIB)], [FLUSH], [write('b', 3 * MIB, 512)], [FLUSH]],
  },
];

describeWithPeers(['strace', 'nbdsh', 'qemu-img', 'qemu-io'], 'a qcow2 image', () => {
  beforeAll(() => {
    process.stdout.write(`qcow2 faults: SLUICE_E2E_SEED=${SEED}\n`);
  });

  it.concurrent.for(SCENARIOS)(
    'keeps what it acknowledged and its tables when a call fails: $title',
    { timeout: ROOM_MS },
    async (scenario) => {
      await using stage = await Stage.make(scenario);
      const calm = await stage.run([]);
      expect(calm).toMatchObject({ code: 0, errors: [], damage: [], checked: SOUND });
      const faults = faultsOf(calm.counts);
      let hits = 0;
      for (const fault of chosen(faults)) {
        const outcome = await stage.run([fault]);
        expectGood(fault, outcome);
        hits += outcome.failed.length;
      }
      expect(hits).toBeGreaterThan(0);
      process.stdout.write(`qcow2 faults: ${scenario.title}: ${hits} of ${faults.length} calls\n`);
    },
  );
});

describe('the judge of what may be on a disk', () => {
  const initial = Buffer.alloc(2 * KIB, 'o');
  const step = (ask: load.Ask, answer = 'ok'): load.Answered[] => [{ ...ask, answer }];
  const flushed = [step(write('a', 0, KIB)), step(FLUSH), step(write('b', 512, 512))];
  const disk = (letters: string): Buffer =>
    Buffer.concat(Array.from(letters, (letter) => Buffer.alloc(512, letter)));
  it.for([
    [flushed, 'flushed', 'aaoo', 0],
    [flushed, 'flushed', 'aboo', 0],
    [flushed, 'flushed', 'oboo', 1],
    [flushed, 'acknowledged', 'aaoo', 1],
    [flushed, 'acknowledged', 'abox', 1],
    [[step(write('a', 0, KIB), 'EIO'), step(FLUSH)], 'acknowledged', 'oaoo', 0],
    [[step(fua('a', 0, KIB))], 'flushed', 'oooo', 2],
    [[step(write('a', 0, KIB)), step(FLUSH, 'EIO')], 'flushed', 'oooo', 0],
    [[step(trim(0, KIB)), step(FLUSH)], 'flushed', 'o\0oo', 0],
  ] as const)('finds what is wrong: %j, %s, %j: %i', ([history, keeps, letters, wrong]) => {
    expect(load.damage(disk(letters), initial, history, keeps)).toHaveLength(wrong);
  });
});

/** Nothing lost, tables that hold, and all works again but a sync that failed. */
function expectGood(fault: string, outcome: Outcome): void {
  const { code, errors, failed, damage, retried, again, checked } = outcome;
  const { corruptions } = checked;
  const good = { fault, damage: [], again: 'the same', corruptions: 0 };
  expect({ fault, damage, again, corruptions }).toEqual(good);
  const said = errors.filter((line) => !line.startsWith('sluice: warning: '));
  const reason = code === 0 ? [] : [expect.stringMatching(/^sluice: .* \(ERR_SLUICE_\w+\)$/)];
  expect({ fault, said }).toEqual({ fault, said: reason });
  const latched = failed.includes('fdatasync');
  if (latched) expect({ fault, code }).toEqual({ fault, code: 1 });
  else expect({ fault, retried }).toEqual({ fault, retried: [] });
}

function faultsOf(counts: ReadonlyMap<string, number>): string[] {
  return [...counts].flatMap(([call, count]) =>
    Array.from({ length: Math.min(count, CALLS_MAX) }, (_, index) =>
      ERRORS.map((error) => `${call}:error=${error}:when=${index + 1}`),
    ).flat(),
  );
}

function chosen(faults: readonly string[]): readonly string[] {
  if (faults.length <= FAULTS) return faults;
  return new Random(SEED).shuffle(faults).slice(0, FAULTS);
}

/** What came of a run. */
interface Outcome {
  readonly code: number | null;
  readonly errors: readonly string[];
  /** The calls that failed: how many there are can differ from run to run. */
  readonly failed: readonly string[];
  readonly damage: readonly string[];
  /** What failed every time. */
  readonly retried: readonly string[];
  /** What a new opening reads. */
  readonly again: string;
  readonly checked: Awaited<ReturnType<typeof checkImage>>;
  /** How often a thread made each call, at most. */
  readonly counts: ReadonlyMap<string, number>;
}

/** A scenario's image, copied for each run. */
class Stage implements AsyncDisposable {
  readonly #folder: Folder;
  readonly #scenario: Scenario;
  readonly #initial: Uint8Array;
  readonly #backing: Uint8Array;

  private constructor(
    folder: Folder,
    scenario: Scenario,
    initial: Uint8Array,
    backing: Uint8Array,
  ) {
    this.#folder = folder;
    this.#scenario = scenario;
    this.#initial = initial;
    this.#backing = backing;
  }

  static async make(scenario: Scenario): Promise<Stage> {
    const folder = await Folder.make();
    const backing = Buffer.alloc(scenario.backing === undefined ? 0 : MIB, 'u');
    await writeFile(folder.file('backing.raw'), backing);
    const base = backing.length === 0 ? undefined : (['backing.raw', 'raw'] as const);
    const image = await createImage(folder, 'base', scenario.options, SIZE_BYTES, base);
    const before = scenario.before ?? [];
    const writes = before.map(([offset, length, letter]) => {
      return `write -q -P ${letter.charCodeAt(0)} ${offset} ${length}`;
    });
    if (writes.length > 0) await qemuIo(image, writes);
    const initial = readGuest(await readFile(image), backing);
    return new Stage(folder, scenario, initial, backing);
  }

  async run(inject: readonly string[]): Promise<Outcome> {
    const image = this.#folder.file('disk');
    await copyFile(this.#folder.file('base'), image);
    await using disk = await ServedImage.serve(this.#folder, image, { traced: true, inject });
    const script = load.clientOf(this.#scenario.steps);
    const history = (await disk.client(script)) as load.History;
    const { code, errors } = await disk.end();
    const keeps = code === 0 ? 'acknowledged' : 'flushed';
    const found = readGuest(await readFile(image), this.#backing);
    return {
      code,
      errors,
      failed: disk.calls().flatMap(({ name, error }) => (error === undefined ? [] : [name])),
      damage: load.damage(found, this.#initial, history, keeps).slice(0, 3),
      retried: failedForGood(history),
      checked: await checkImage(image),
      again: await reopened(image, found),
      counts: countsOf(disk),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** Requests that failed in their last try. */
function failedForGood(history: load.History): string[] {
  const last = new Map<string, string>();
  for (const { answer, ...ask } of history.flat()) last.set(JSON.stringify(ask), answer);
  return [...last].filter(([, answer]) => answer !== 'ok').map(([ask, answer]) => ask + answer);
}

async function reopened(image: string, expected: Uint8Array): Promise<string> {
  const backing = { folders: [dirname(image)] };
  await using disk = await openDisk(image, { format: 'qcow2', writable: true, backing });
  const found = await disk.read(0, expected.length);
  return Buffer.compare(found, expected) === 0 ? 'the same' : 'another';
}

function countsOf(disk: ServedImage): Map<string, number> {
  const threads = new Map<string, number>();
  for (const { name, thread } of disk.calls()) {
    const key = `${name} ${thread}`;
    threads.set(key, (threads.get(key) ?? 0) + 1);
  }
  const most = new Map<string, number>();
  for (const [key, count] of threads) {
    const [name = ''] = key.split(' ');
    if (CHANGING.includes(name)) most.set(name, Math.max(count, most.get(name) ?? 0));
  }
  return most;
}
