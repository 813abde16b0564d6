/** What callers are told, and how it ends the work. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { Running, sluice, SLUICE } from '../cli/sluice.ts';
import { imageFolder, writeImage } from '../image/scratch.ts';

const folder = imageFolder();
const MIB = 2 ** 20;
const raw = writeImage(folder, 'disk.raw', Buffer.alloc(16 * MIB, 7));
const qcow2 = join(folder, 'disk.qcow2');
const backing = { folders: [folder] };

async function fresh(): Promise<void> {
  const named = { name: 'disk.raw', format: 'raw' } as const;
  await image.create(qcow2, { format: 'qcow2', image: { backing: named }, backing });
}

type OnProgress = () => unknown;
const WATCHED: Readonly<Record<string, (onProgress: OnProgress) => Promise<unknown>>> = {
  amend: (onProgress) => image.amend(qcow2, { refcountBits: 8 }, { onProgress }),
  commit: (onProgress) => image.commit(qcow2, { backing, onProgress }),
  compare: (onProgress) => image.compare(raw, raw, { onProgress }),
  convert: (onProgress) => image.convert(raw, join(folder, 'copy'), { onProgress }),
  create: (onProgress) =>
    image.create(join(folder, 'new'), { sizeBytes: MIB, preallocation: 'full', onProgress }),
  rebase: (onProgress) => image.rebase(qcow2, { backing: 'none', allow: backing, onProgress }),
  stream: async (onProgress) => {
    for await (const _ of image.stream(raw, { onProgress }));
  },
};

describe('a callback', () => {
  it.for(Object.keys(WATCHED))('of %s that rejects ends the work as a throw does', async (name) => {
    const failure = new Error('the listener has failed');
    for (const onProgress of [() => Promise.reject(failure), () => expect.fail('thrown')]) {
      await fresh();
      await expect(WATCHED[name]?.(onProgress)).rejects.toThrow(/the listener has failed|thrown/);
    }
  });
});

describe('a copy that waits for its rate', () => {
  it('rejects with the reason of the signal', async () => {
    const stop = new AbortController();
    const slow = { format: 'raw', rateBytes: 1, signal: stop.signal } as const;
    const work = image.convert(raw, join(folder, 'copy'), slow);
    const reason = new Error('enough');
    setTimeout(() => stop.abort(reason), 200);
    await expect(work).rejects.toBe(reason);
  });

  it('is ended by a signal with the same words as without one, and 0 is none', async () => {
    await using run = new Running(SLUICE, [
      ...'convert -f raw -r 1'.split(' '),
      raw,
      join(folder, 'copy'),
    ]);
    setTimeout(() => run.child.kill('SIGINT'), 700);
    const { code, stderr } = await run.outcome;
    expect(stderr).toContain('nothing was made');
    expect(stderr).not.toContain('ABORT_ERR');
    expect(code).toBe(130);
    const all = await sluice(['convert', '-f', 'raw', '-r', '0', raw, join(folder, 'copy')]);
    expect(all).toMatchObject({ code: 0, stderr: '' });
  });
});
