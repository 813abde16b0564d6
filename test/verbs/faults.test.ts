/**
 * Verbs that change an image in place, killed or refused by the system at their n-th write or sync:
 * the disk reads as it did or as it should, what qemu-img calls an error is what `check -r leaks`
 * mends, and the verb can be done again.
 */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { type Outcome, run, SLUICE, sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { ONE_THREAD, readCalls, underStrace } from '../support/strace.ts';
import { copySparse, create, expectSound, write } from './twins.ts';

/** What is done to the image; `make` is what it is done to. */
interface Deed {
  readonly name: string;
  readonly make?: readonly (readonly string[])[];
  readonly args: readonly string[];
  /** Behind the name of the image. */
  readonly tail?: readonly string[];
}

const SNAPSHOT = ['snapshot', '-c', 'first'];
const DEEDS: readonly Deed[] = [
  { name: 'snapshot -c', args: ['snapshot', '-c', 'new'] },
  { name: 'snapshot -a', make: [SNAPSHOT], args: ['snapshot', '-a', 'first'] },
  { name: 'snapshot -d', make: [SNAPSHOT], args: ['snapshot', '-d', 'first'] },
  { name: 'amend refcount_bits', args: ['amend', '-o', 'refcount_bits=64'] },
  { name: 'amend compat', args: ['amend', '-o', 'compat=0.10'] },
  { name: 'bitmap --add', args: ['bitmap', '--add'], tail: ['new'] },
  { name: 'bitmap --clear', args: ['bitmap', '--clear'], tail: ['kept'] },
  {
    name: 'bitmap --merge',
    args: ['bitmap', '--add', '--merge', 'kept'],
    tail: ['new'],
  },
  { name: 'bitmap --remove', args: ['bitmap', '--remove'], tail: ['kept'] },
  { name: 'resize', args: ['resize'], tail: ['+600M'] },
  { name: 'resize --shrink', args: ['resize', '--shrink'], tail: ['20M'] },
  {
    name: 'resize --preallocation',
    args: ['resize', '--preallocation=full'],
    tail: ['+5M'],
  },
  { name: 'check -r all', args: ['check', '-r', 'all'] },
  { name: 'rebase', args: ['rebase', '-b', '', '-p'] },
];
/** Of these the image has a bitmap that is not empty. */
const BITMAPS = /^(bitmap|resize.*prealloc|resize --shrink)/;

/** `when` is the number of the call. */
const FAULTS: Readonly<Record<string, (when: number) => string>> = {
  'killed at a write': (when) => `pwrite64:signal=SIGKILL:when=${when}`,
  'killed at a sync': (when) => `fdatasync,fsync:signal=SIGKILL:when=${when}`,
  'on a full disk': (when) => `pwrite64,ftruncate,fallocate:error=ENOSPC:when=${when}+`,
  'at an error': (when) => `pwrite64:error=EIO:when=${when}`,
  'at a sync that fails': (when) => `fdatasync,fsync:error=EIO:when=${when}`,
};
/** Up to the last one that there is. */
const CALLS = [1, 2, 3, 5, 9, 17, 33];
/** All faults for all verbs take minutes; else each verb meets one of them. */
const LONG = process.env['SLUICE_EXHAUSTIVE'] !== undefined;
const CASES = DEEDS.flatMap(({ name }, index) =>
  Object.keys(FAULTS)
    .filter((_, at, { length }) => LONG || at === index % length)
    .map((kind) => ({ name, kind })),
);

describeWithPeers(['qemu-img', 'qemu-io', 'strace'], 'a verb that changes an image', () => {
  const folder = imageFolder();
  const path = join(folder, 'disk.qcow2');
  beforeAll(() => {
    create(folder, 'base.qcow2', '40M');
    write(join(folder, 'base.qcow2'), 'write -P 9 10M 3M');
  });

  /** The image before the deed, and the disks that may be in it after. */
  function prepare({ name, make = [] }: Deed): string {
    const over = ['-b', 'base.qcow2', '-F', 'qcow2'];
    create(folder, 'disk.qcow2', '-o', 'cluster_size=4k', ...over, '40M');
    // The head only: what is behind the new end may be gone when the disk is made smaller.
    write(path, 'write -P 1 0 1M', 'write -z 2M 64k', 'write -P 2 11M 300k');
    if (BITMAPS.test(name)) {
      qemu(folder, 'qemu-img', ['bitmap', '--add', path, 'kept']);
      write(path, 'write -P 4 5M 700k');
    }
    for (const args of make) qemu(folder, 'qemu-img', [...args, path]);
    if (make.length > 0) write(path, 'write -P 3 512k 1M');
    if (name.startsWith('check')) leak();
    copySparse(path, `${path}.before`);
    return `${path}.before`;
  }

  /** Counts of 16 bits for clusters that are at the end; the block is the third cluster. */
  function leak(): void {
    const [first, count] = [1500, 100];
    const file = openSync(path, 'r+');
    ftruncateSync(file, (first + count) * 4096);
    writeSync(file, Buffer.from('0001'.repeat(count), 'hex'), 0, count * 2, 8192 + first * 2);
    closeSync(file);
  }

  async function faulty(deed: Deed, fault: string): Promise<Outcome> {
    const logs = mkdtempSync(join(tmpdir(), 'sluice-verb-'));
    try {
      const calls = ['pwrite64', 'ftruncate', 'fallocate', 'fdatasync', 'fsync'];
      const tracing = { path, calls, inject: [fault] };
      const [program = '', ...options] = underStrace(tracing, join(logs, 'calls'));
      const command = [process.execPath, SLUICE, ...deed.args, path, ...(deed.tail ?? [])];
      return await run(program, [...options, ...command], { env: ONE_THREAD });
    } finally {
      rmSync(logs, { recursive: true, force: true });
    }
  }

  function isSame(one: string, other: string): boolean {
    return spawnSync('qemu-img', ['compare', '-q', one, other]).status === 0;
  }

  it.for(CASES)('$name, $kind: harms nothing', { timeout: 300_000 }, async ({ name, kind }) => {
    const deed = DEEDS.find((one) => one.name === name)!;
    const before = prepare(deed);
    const after = `${path}.after`;
    expect((await sluice([...deed.args, path, ...(deed.tail ?? [])])).code).toBe(0);
    copySparse(path, after);
    let faults = 0;
    for (const when of CALLS) {
      copySparse(before, path);
      const { code, signal, stderr } = await faulty(deed, FAULTS[kind]!(when));
      const what = `${when}: ${stderr}`;
      if (code === 0) break;
      faults += 1;
      if (kind.startsWith('killed')) expect(signal ?? code, what).not.toBe(1);
      else expect(stderr, what).toMatch(/^sluice: .*\(ERR_SLUICE_\w+\)\n/m);
      if (kind === 'on a full disk') expect(stderr).toMatch(/ERR_SLUICE_NO_SPACE/);
      const { corruptions = 0 } = await image.check(path, { repair: 'leaks' });
      expect(corruptions, what).toBe(0);
      expectSound(path);
      expect(isSame(path, before) || isSame(path, after), what).toBe(true);
      const again = await sluice([...deed.args, path, ...(deed.tail ?? [])]);
      if (again.code === 0) expect(isSame(path, after), what).toBe(true);
      else expect(again.stderr, what).toMatch(/(there is a|has no) (bitmap|snapshot)/);
      expectSound(path);
    }
    expect(faults).toBeGreaterThan(0);
  });
});

describeWithPeers(['qemu-img', 'strace'], 'a copy', () => {
  it('reads again where a signal came in between', async () => {
    const folder = imageFolder();
    const path = join(folder, 'disk.raw');
    writeFileSync(path, Buffer.alloc(20 * 2 ** 20, 7));
    const tracing = { path, calls: ['pread64'], inject: ['pread64:error=EINTR:when=2+3'] };
    const [program = '', ...options] = underStrace(tracing, join(folder, 'calls'));
    const copy = join(folder, 'copy.qcow2');
    const command = [SLUICE, 'convert', '-U', '-f', 'raw', '-O', 'qcow2', path, copy];
    // Without koffi every read is made on the pool.
    const env = { ...ONE_THREAD, SLUICE_NO_KOFFI: '1' };
    const { code, stderr } = await run(program, [...options, process.execPath, ...command], {
      env,
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const calls = readCalls(folder, 'calls').map(({ error }) => error);
    expect(calls).toContain('EINTR');
    qemu(folder, 'qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', path, copy]);
  });
});
