/** Results on stdout, and readers who go away before they come. */
import { writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { Folder, type Outcome, Running, SLUICE } from './sluice.ts';

/** `sluice ARGS` whose stdout nobody reads: it is closed before there is a result. */
async function unread(args: readonly string[]): Promise<Outcome> {
  await using running = new Running(process.execPath, [SLUICE, ...args]);
  running.child.stdout!.destroy();
  return await running.outcome;
}

describe('a reader who has gone away', () => {
  it('is no error: the exit code is that of the verb', async () => {
    await using folder = await Folder.make();
    const [a, b] = [await folder.image('a.img', 2 ** 20), folder.file('b.img')];
    await writeFile(b, Buffer.alloc(2 ** 20, 1));
    const verbs: readonly (readonly [args: string[], code: number])[] = [
      [['--version'], 0],
      [['info', a], 0],
      [['map', '--output', 'json', a], 0],
      [['measure', '-O', 'qcow2', a], 0],
      [['compare', a, b], 1],
      [['create', folder.file('new.img'), '1M'], 0],
    ];
    const ends = await Promise.all(verbs.map(([args]) => unread(args)));
    expect(ends.map(({ code, stderr }) => [code, stderr])).toEqual(
      verbs.map(([, code]) => [code, '']),
    );
  });
});
