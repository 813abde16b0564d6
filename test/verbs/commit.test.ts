/** `sluice commit` leaves what `qemu-img commit` leaves, and a disk that reads as before. */
import { mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { beforeAll, beforeEach, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { run, Running, sluice, SLUICE } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { copySparse, create, expectSameDisk, expectSound, mapped, told, write } from './twins.ts';

const KINDS = ['', 'cluster_size=4k', 'compat=0.10', 'cluster_size=16k,extended_l2=on'] as const;
const CHAIN = ['root.raw', 'middle.qcow2', 'top.qcow2'] as const;
const WHO = ['theirs', 'ours', 'kept'] as const;

describeWithPeers(['qemu-img', 'qemu-io'], 'an image that is committed', () => {
  const folder = imageFolder();
  const at = (name: string, who: (typeof WHO)[number] = 'ours'): string => join(folder, who, name);

  /** The same chain in three folders. */
  const makeChain = (options = ''): void => {
    // qemu-img cannot enlarge an image of version 2 that has a backing file.
    const middleSize = options === 'compat=0.10' ? '20M' : '8M';
    for (const who of WHO) {
      rmSync(join(folder, who), { recursive: true, force: true });
      mkdirSync(join(folder, who));
      const inside = join(folder, who);
      const kind = options === '' ? [] : ['-o', options];
      const [root, middle, top] = CHAIN;
      write(create(inside, root, '10M'), 'write -P 1 0 3M', 'write -P 9 7M 2M');
      create(inside, middle, ...kind, '-b', root, '-F', 'raw', middleSize);
      write(at(middle, who), 'write -P 2 2M 1500k', 'write -z 500k 200k');
      create(inside, top, ...kind, '-b', middle, '-F', 'qcow2', '20M');
      write(at(top, who), 'write -P 8 2500k 100k', 'write -P 4 19M 3k', 'write -z 3M 64k');
      write(at(top, who), 'write -P 5 10M 2M', 'write -z 0 64k');
    }
  };
  /** The command, in the folders of both; the exit codes. */
  const both = async (...args: string[]): Promise<(number | null)[]> => {
    const theirs = await run('qemu-img', ['commit', ...args], { cwd: join(folder, 'theirs') });
    const ours = await sluice(['commit', ...args], { cwd: join(folder, 'ours') });
    return [theirs.code, ours.code];
  };
  /** What an image says itself. */
  const own = (path: string): object[] =>
    mapped(path).filter((extent) => 'depth' in extent && extent.depth === 0);
  const expectTwins = (): void => {
    for (const name of CHAIN) {
      expect(told(at(name)), name).toEqual(told(at(name, 'theirs')));
      if (name.endsWith('qcow2')) expectSound(at(name));
      expectSameDisk(at(name), at(name, 'theirs'));
    }
  };

  it.for(KINDS)('leaves what qemu-img leaves, with %s', async (options) => {
    makeChain(options);
    expect(await both('top.qcow2')).toEqual([0, 0]);
    expectTwins();
    expectSameDisk(at('top.qcow2'), at('top.qcow2', 'kept'));
    expectSameDisk(at('middle.qcow2'), at('top.qcow2', 'kept'));
    expect(own(at('top.qcow2'))).toEqual([]);
    expect(statSync(at('top.qcow2')).blocks).toBeLessThanOrEqual(2048);
    expect(await both('middle.qcow2')).toEqual([0, 0]);
    expectTwins();
    expectSameDisk(at('root.raw'), at('top.qcow2', 'kept'));
  });

  it.for([['-d'], ['-b', 'middle.qcow2'], ['-b', 'root.raw'], ['-q', '-r', '100M', '-d']])(
    'with %s is kept as it is',
    async (args) => {
      makeChain();
      expect(await both(...args, 'top.qcow2')).toEqual([0, 0]);
      expect(own(at('top.qcow2'))).toEqual(own(at('top.qcow2', 'theirs')));
      expectSameDisk(at('top.qcow2'), at('top.qcow2', 'kept'));
      const base = args[1] === 'root.raw' ? 'root.raw' : 'middle.qcow2';
      expectSameDisk(at(base), at(base, 'theirs'));
      expectSameDisk(at(base), at('top.qcow2', 'kept'));
      if (base === 'middle.qcow2') expectTwins();
    },
  );

  it.for([
    [],
    ['root.raw', '-f', 'raw'],
    ['-b', 'nowhere', 'top.qcow2'],
    ['-b', 'top.qcow2', 'top.qcow2'],
    ['-f', 'raw', 'top.qcow2'],
    ['-t', 'bogus', 'top.qcow2'],
    ['-r', 'bogus', 'top.qcow2'],
    ['top.qcow2', 'more'],
    ['--bogus', 'top.qcow2'],
    ['missing.qcow2'],
  ])('%s: the exit code is that of qemu-img, and all is as it was', async (args) => {
    makeChain();
    expect(await both(...args)).toEqual([1, 1]);
    for (const name of CHAIN) expectSameDisk(at(name), at(name, 'kept'));
    expect(mapped(at('top.qcow2'))).toEqual(mapped(at('top.qcow2', 'kept')));
  });

  it('is refused when it, or what is below it, is in use, and with snapshots', async () => {
    makeChain();
    const backing = { folders: [join(folder, 'ours')] };
    for (const name of CHAIN) {
      const format = name.endsWith('raw') ? 'raw' : 'qcow2';
      const how = format === 'raw' ? { format } : ({ format, backing } as const);
      await using _disk = await openDisk(at(name), { ...how, format, writable: true });
      for (const base of ['middle.qcow2', 'root.raw']) {
        const work = image.commit(at('top.qcow2'), { backing, base });
        await expectRefusal(work, 'ERR_SLUICE_LOCKED', /lock/);
      }
    }
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'one', at('top.qcow2')]);
    const work = image.commit(at('top.qcow2'), { backing });
    await expectRefusal(work, 'ERR_SLUICE_UNSUPPORTED', /snapshots/);
    for (const name of CHAIN) expectSameDisk(at(name), at(name, 'kept'));
  });

  it('with a data file is refused unless it is kept', async () => {
    makeChain();
    const inside = join(folder, 'ours');
    const options = ['-o', `data_file=${inside}/data.raw`, '-b', 'top.qcow2', '-F', 'qcow2'];
    const path = create(inside, 'external.qcow2', ...options);
    write(path, 'write -P 6 1M 1M');
    expect(await sluice(['commit', path])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/data file, .* pass -d /),
    });
    expectSameDisk(at('top.qcow2'), at('top.qcow2', 'kept'));
    expect((await sluice(['commit', '-d', path])).code).toBe(0);
    expectSameDisk(at('top.qcow2'), path);
  });

  it('reads the same when it is aborted', async () => {
    makeChain();
    const stop = new AbortController();
    const work = image.commit(at('top.qcow2'), {
      backing: { folders: [join(folder, 'ours')] },
      signal: stop.signal,
      onProgress: ({ doneBytes }) => doneBytes > 2 ** 21 && stop.abort(new Error('enough')),
    });
    await expect(work).rejects.toThrow('enough');
    expectSameDisk(at('top.qcow2'), at('top.qcow2', 'kept'));
    for (const name of ['middle.qcow2', 'top.qcow2']) expectSound(at(name));
  });

  it('ends with 130 when it is interrupted, and reads the same', async () => {
    makeChain();
    const args = [SLUICE, 'commit', '-r', '100k', at('top.qcow2')];
    await using running = new Running(process.execPath, args);
    await wait(700);
    const { code, stderr } = await running.stop('SIGINT');
    expect([code, stderr]).toEqual([130, expect.stringMatching(/the disk reads as it did/)]);
    expectSameDisk(at('top.qcow2'), at('top.qcow2', 'kept'));
  });

  it('keeps to the rate', async () => {
    makeChain();
    const started = performance.now();
    const { code } = await sluice(['commit', '-r', '4M', at('top.qcow2')]);
    expect([code, performance.now() - started > 400]).toEqual([0, true]);
  });

  it('says how far it is', async () => {
    makeChain();
    const { stdout } = await sluice(['commit', '-p', at('top.qcow2')]);
    expect(stdout).toMatch(/^ {4}\(0\.00[^]*\(100\.00\/100%\)\r\nImage committed\.\n$/);
    expect((await sluice(['commit', '--help'])).stdout).toMatch(/Exit codes:[^]*Examples:/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'a commit that is killed', () => {
  const folder = imageFolder();
  const path = (name: string): string => join(folder, name);
  beforeAll(() => {
    write(create(folder, 'low.qcow2', '300M'), 'write -P 1 0 50M');
    create(folder, 'high.qcow2', '-b', 'low.qcow2', '-F', 'qcow2', '300M');
    const part = (index: number): string => `write -P ${index + 1} ${index * 10}M 9M`;
    write(path('high.qcow2'), ...Array.from({ length: 30 }, (_, index) => part(index)));
    qemu(folder, 'qemu-img', ['convert', '-O', 'qcow2', 'high.qcow2', 'whole.qcow2']);
    for (const name of ['low', 'high']) copySparse(path(`${name}.qcow2`), path(`${name}.copy`));
  });
  beforeEach(() => {
    for (const name of ['low', 'high']) copySparse(path(`${name}.copy`), path(`${name}.qcow2`));
  });

  it.for([200, 250, 300, 350, 400, 450, 500, 700])(
    'after %s ms reads the same, and can be done again',
    async (milliseconds) => {
      const args = [SLUICE, 'commit', path('high.qcow2')];
      await using running = new Running(process.execPath, args);
      await Promise.race([wait(milliseconds), running.outcome]);
      await running.stop('SIGKILL');
      for (const name of ['low', 'high']) expectSound(path(`${name}.qcow2`), true);
      expectSameDisk(path('high.qcow2'), path('whole.qcow2'));
      expect((await sluice(args.slice(1))).code).toBe(0);
      expectSameDisk(path('low.qcow2'), path('whole.qcow2'));
      expectSound(path('high.qcow2'), true);
    },
  );
});
