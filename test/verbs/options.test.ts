/** Options that no function knows, or that have another type, are refused before anything else. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import {
  createVirtioBlk,
  Disk,
  footprintBytes,
  image,
  openDisk,
  serveNbd,
} from '../../src/node.ts';
import { MemoryBackend } from '../../src/testing.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';

const CODE = 'ERR_SLUICE_INVALID_ARGUMENT';
const folder = imageFolder();
const path = join(folder, 'disk.qcow2');
const target = join(folder, 'target');

/** A call with options of any type, as JavaScript may make it. */
type Call = (options: never) => unknown;

const VERBS: Readonly<Record<string, Call>> = {
  amend: (options) => image.amend(path, {}, options),
  applySnapshot: (options) => image.applySnapshot(path, 'one', options),
  bench: (options) => image.bench(path, options),
  bitmap: (options) => image.bitmap(path, 'one', { do: 'add' }, options),
  chainInfo: (options) => image.chainInfo(path, options),
  check: (options) => image.check(path, options),
  commit: (options) => image.commit(path, options),
  compare: (options) => image.compare(path, path, options),
  convert: (options) => image.convert(path, target, options),
  create: (options) => image.create(target, options),
  createSnapshot: (options) => image.createSnapshot(path, 'one', options),
  deleteSnapshot: (options) => image.deleteSnapshot(path, 'one', options),
  info: (options) => image.info(path, options),
  map: (options) => image.map(path, options).next(),
  measure: (options) => image.measure(path, options),
  rebase: (options) => image.rebase(path, options),
  resize: (options) => image.resize(path, 2 ** 21, options),
  snapshots: (options) => image.snapshots(path, options),
  stream: (options) => image.stream(path, options).next(),
};

/** Calls in which a path or a name has another type. */
function positional(bad: never): Readonly<Record<string, () => unknown>> {
  return {
    amend: () => image.amend(bad, {}),
    applySnapshot: () => image.applySnapshot(bad, 'one'),
    applyNothing: () => image.applySnapshot(path, bad),
    bench: () => image.bench(bad),
    bitmap: () => image.bitmap(bad, 'one', { do: 'add' }),
    bitmapName: () => image.bitmap(path, bad, { do: 'add' }),
    chainInfo: () => image.chainInfo(bad),
    check: () => image.check(bad),
    commit: () => image.commit(bad),
    compare: () => image.compare(bad, path),
    compareOther: () => image.compare(path, bad),
    convert: () => image.convert(bad, target),
    convertSecond: () => image.convert([path, bad], target),
    convertTarget: () => image.convert(path, bad),
    create: () => image.create(bad, { sizeBytes: 512 }),
    createSnapshot: () => image.createSnapshot(bad, 'one'),
    createNothing: () => image.createSnapshot(path, bad),
    deleteSnapshot: () => image.deleteSnapshot(bad, 'one'),
    deleteNothing: () => image.deleteSnapshot(path, bad),
    info: () => image.info(bad),
    map: () => image.map(bad).next(),
    measure: () => image.measure(bad),
    rebase: () => image.rebase(bad),
    resize: () => image.resize(bad, 2 ** 21),
    snapshots: () => image.snapshots(bad),
    stream: () => image.stream(bad).next(),
    openDisk: () => openDisk(bad),
  };
}

const OTHERS: Readonly<Record<string, Call>> = {
  openDisk: (options) => openDisk(path, options),
  serveNbd: (options) => serveNbd(memoryDisk(), options),
  createVirtioBlk: (options) => createVirtioBlk(memoryDisk(), options),
  Disk: (options) => new Disk(new MemoryBackend({ sizeBytes: 2 ** 20 }), options),
  footprintBytes: (options) => footprintBytes(options),
};

const ALL = { ...VERBS, ...OTHERS };

function memoryDisk(): Disk {
  return new Disk(new MemoryBackend({ sizeBytes: 2 ** 20 }));
}

/** What fails at once and what rejects are the same here. */
async function refused(name: string, options: unknown, message: RegExp): Promise<void> {
  const work = (async () => ALL[name as keyof typeof ALL]?.(options as never))();
  await expectRefusal(work, CODE, message);
  expect(readdirSync(folder)).toEqual(['disk.qcow2']);
}

/** Values that an option cannot have, and the functions that take it. */
interface Row {
  readonly option: string;
  readonly values: readonly unknown[];
  readonly names: readonly string[];
}

const CHAIN = ['chainInfo', 'commit', 'convert', 'map', 'measure', 'stream'];
const COPIES = ['convert', 'stream'];
const IMAGE = Object.keys(VERBS).filter((name) => name !== 'create' && name !== 'compare');
const WATCHED = ['amend', 'commit', 'compare', 'convert', 'create', 'rebase', 'stream'];
const KEYED = ['amend', 'bench', 'commit', 'convert', 'openDisk', 'rebase', 'resize', 'stream'];
const MADE = ['convert', 'create', 'measure', 'stream'];
const OPENED = ['bench', 'openDisk'];

const COUNTS = [Number.NaN, -1, 1.5, Infinity, '1', {}, -1n];
const SWITCHES = ['true', 1, 0, {}];
const WORDS = ['bogus', '', 1, {}];

const ROWS: readonly Row[] = [
  { option: 'signal', values: [1, 'abort', {}, true], names: [...IMAGE, 'compare', 'create'] },
  { option: 'format', values: WORDS, names: IMAGE.filter((name) => name !== 'bench') },
  { option: 'lock', values: [...WORDS, true], names: [...IMAGE, 'openDisk'] },
  { option: 'cache', values: [...WORDS, 'constructor'], names: [...IMAGE, 'openDisk'] },
  { option: 'onProgress', values: [1, 'log', {}], names: WATCHED },
  { option: 'onNotice', values: [1], names: ['commit', 'rebase', 'openDisk', 'createSnapshot'] },
  { option: 'onFinding', values: [1], names: ['check'] },
  { option: 'onUnreadable', values: [true], names: COPIES },
  { option: 'repair', values: ['bogus', true, 1], names: ['check'] },
  { option: 'targetFormat', values: [...WORDS, 'vmdk'], names: [...COPIES, 'measure'] },
  { option: 'preallocation', values: WORDS, names: [...MADE, 'resize'] },
  { option: 'bitmaps', values: [...WORDS, true], names: ['convert'] },
  { option: 'targetCache', values: WORDS, names: ['convert'] },
  { option: 'sourceCache', values: WORDS, names: ['rebase'] },
  { option: 'backingFormat', values: [...WORDS, 'vmdk'], names: [...CHAIN, ...OPENED] },
  { option: 'discard', values: WORDS, names: OPENED },
  { option: 'compress', values: SWITCHES, names: COPIES },
  { option: 'existing', values: SWITCHES, names: ['convert'] },
  { option: 'targetIsZero', values: SWITCHES, names: ['convert'] },
  { option: 'shrink', values: SWITCHES, names: ['amend', 'resize'] },
  { option: 'keep', values: SWITCHES, names: ['commit'] },
  { option: 'unsafe', values: SWITCHES, names: ['rebase'] },
  { option: 'strict', values: SWITCHES, names: ['compare'] },
  { option: 'drain', values: SWITCHES, names: ['bench'] },
  { option: 'writable', values: SWITCHES, names: ['openDisk'] },
  { option: 'readOnly', values: SWITCHES, names: ['serveNbd'] },
  { option: 'openBacking', values: SWITCHES, names: ['create'] },
  { option: 'startOffset', values: COUNTS, names: [...COPIES, 'map'] },
  { option: 'maxLength', values: COUNTS, names: [...COPIES, 'map'] },
  { option: 'rateBytes', values: [...COUNTS, 0], names: COPIES },
  { option: 'sparseBytes', values: [...COUNTS, 100, 2 ** 22], names: COPIES },
  { option: 'parallel', values: [...COUNTS, 0, 17], names: COPIES },
  { option: 'bytesPerSecond', values: [...COUNTS, 0], names: ['commit'] },
  { option: 'sizeBytes', values: COUNTS, names: ['create'] },
  { option: 'count', values: [...COUNTS, 0], names: ['bench'] },
  { option: 'requestBytes', values: [...COUNTS, 0], names: ['bench'] },
  { option: 'pattern', values: [...COUNTS, 256], names: ['bench'] },
  { option: 'metadataCacheBytes', values: COUNTS, names: OPENED },
  { option: 'depth', values: [...COUNTS, 0], names: OPENED },
  { option: 'port', values: [...COUNTS, 65_536], names: ['serveNbd'] },
  { option: 'date', values: [1, '2020-01-01', new Date(Number.NaN)], names: ['createSnapshot'] },
  { option: 'backing', values: [...WORDS, { folders: 'x' }, { folders: [1] }], names: CHAIN },
  { option: 'backing', values: [...WORDS, { name: 'x' }, { format: 'raw' }], names: ['rebase'] },
  { option: 'allow', values: [...WORDS, { folder: ['.'] }], names: ['rebase'] },
  { option: 'snapshot', values: [1, null, { nmae: 'x' }], names: CHAIN },
  { option: 'encryption', values: [null, 'key', {}, { kye: 'x' }, { key: 1 }], names: KEYED },
  { option: 'image', values: [null, 1, { clusterbits: 16 }, { version: 4 }], names: MADE },
  { option: 'image', values: [{ backing: { name: 'x', fromat: 'raw' } }], names: MADE },
  { option: 'image', values: [{ encryption: { key: 'x', hash: 'md5' } }], names: MADE },
  { option: 'first', values: [null, { foramt: 'raw' }, { lock: 'x' }], names: ['compare'] },
];

describe('options', () => {
  beforeAll(async () => {
    await image.create(path, { format: 'qcow2', sizeBytes: 2 ** 20 });
  });

  it('are checked in every function of the namespace', () => {
    expect(Object.keys(VERBS)).toEqual(Object.keys(image).sort());
    expect(Object.keys(positional('' as never))).toEqual(
      expect.arrayContaining(Object.keys(VERBS)),
    );
  });

  it.for(Object.keys(ALL))('%s refuses a name that it does not know', async (name) => {
    await refused(name, { zzz: 1 }, /^\w+ has no option 'zzz'; there are /);
    await refused(name, { zzz: null }, /has no option 'zzz'/);
    if (name in VERBS && name !== 'create') {
      await refused(name, { singal: AbortSignal.abort() }, /'singal'; did you mean 'signal'\?/);
    }
  });

  it.for(Object.keys(ALL))('%s refuses options that are no object', async (name) => {
    for (const options of [null, 1, 'raw', [], true]) {
      await refused(name, options, /the options of \w+ must be an object, not|needs options/);
    }
  });

  it.for(ROWS)('$option of $names is not $values', async ({ option, values, names }) => {
    for (const name of names) {
      for (const value of values) await refused(name, { [option]: value }, /\w+/);
    }
  });

  it('have their names in what is said of them', async () => {
    const key = { encryption: { key: 'x', hsah: 'sha1' } };
    await refused('create', { image: key }, /^image.encryption has no option 'hsah'.*'hash'\?$/);
    await refused('convert', { taretFormat: 'qcow2' }, /did you mean 'targetFormat'\?$/);
    await refused('rebase', { baking: 'none' }, /did you mean 'backing'\?$/);
    await refused('check', { repair: 'x' }, /^repair must be 'leaks' or 'all', not "x"$/);
    await refused('openDisk', { elevator: { batsh: 1 } }, /^elevator has no option 'batsh'/);
    await refused('createVirtioBlk', { features: { packt: true } }, /feature/);
  });

  it('may be undefined, whatever their names are', async () => {
    const options = { signal: undefined, zzz: undefined };
    await expect(image.info(path, options)).resolves.toMatchObject({ format: 'qcow2' });
  });

  it('stand behind paths and names, which are strings', async () => {
    const bad = [undefined, null, 5, {}, { name: 'x' }, new URL('file:///x'), true, [[]]];
    for (const value of bad as never[]) {
      for (const [name, call] of Object.entries(positional(value))) {
        const message =
          name === 'measure' ? /^source/ : /^(\w*[pP]ath|name|idOrName) must be a str/;
        await expectRefusal((async () => call())(), CODE, message);
      }
    }
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
    await expect(image.snapshots(path)).resolves.toEqual([]);
  });

  it('are not all that is checked', async () => {
    const ill: readonly (readonly [call: () => unknown, message: RegExp])[] = [
      [() => image.amend(path, { versoin: 3 } as never), /did you mean 'version'/],
      [() => image.amend(path, null as never), /must be an object/],
      [() => image.resize(path, null as never), /size must be an object, not null/],
      [() => image.resize(path, { bye: 1 } as never), /did you mean 'by'/],
      [() => image.resize(path, Number.NaN), /size must be a whole number/],
      [() => image.measure({ sizeByte: 1 } as never), /did you mean 'sizeBytes'/],
      [() => image.bitmap(path, 'a', { do: 'ad' } as never), /action.do must be 'add' or/],
      [() => image.bitmap(path, 'a', null as never), /action must be an object/],
      [() => image.bitmap(path, 'a', { do: 'merge', nam: 'b' } as never), /mean 'name'/],
      [() => image.bitmap(path, 'a', { do: 'clear', name: 'b' } as never), /no option 'name'/],
    ];
    for (const [call, message] of ill) {
      await expectRefusal((async () => call())(), CODE, message);
    }
  });
});
