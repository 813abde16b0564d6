/** The bar of verbs that copy, on terminals of any width. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { progressLine } from '../../src/cli/verbs/progress-line.ts';
import { imageFolder, writeImage } from '../image/scratch.ts';
import { hasScript, run, SLUICE } from './sluice.ts';

const folder = imageFolder();
const GIB = 2 ** 30;
const ESCAPE = String.fromCharCode(27);
const half = { doneBytes: 999.5 * GIB, totalBytes: 2047 * GIB, seconds: 1000 };

describe('the bar', () => {
  it('has all that there is to say in 80 columns', () => {
    const line = progressLine(half, 79);
    expect(line).toMatch(/^█+░+ 48% \| 999\.5 GiB of \S+ .iB \| \d.*\/s \| 1049 s left$/);
    expect(line.length).toBeLessThanOrEqual(79);
    expect(progressLine(half, 300).length).toBeLessThan(110);
  });

  it('has the percentage in every width, and the time left in most', () => {
    for (let columns = 3; columns < 200; columns += 1) {
      const line = progressLine(half, columns);
      expect(line.length).toBeLessThanOrEqual(columns);
      expect(line).toContain('48%');
      if (columns >= 29) expect(line).toContain('1049 s left');
    }
  });

  it('knows disks of no bytes, and does not know when nothing is done', () => {
    expect(progressLine({ doneBytes: 0, totalBytes: 0, seconds: 0 }, 79)).toContain('100%');
    expect(progressLine({ doneBytes: 0, totalBytes: 9, seconds: 0 }, 79)).toContain('? s left');
  });

  it.for([30, 80])('fits a terminal of %d columns', async (columns, context) => {
    if (!hasScript()) return context.skip('needs script (Debian package bsdutils)');
    const disk = writeImage(folder, 'disk.raw', Buffer.alloc(12 * 2 ** 20, 1));
    const work = `${SLUICE} convert -f raw -r 8M ${disk} ${join(folder, 'copy.raw')}`;
    const command = `stty cols ${columns}; ${work}`;
    const { code, stdout } = await run('script', ['-qec', command, '/dev/null']);
    expect(code, stdout).toBe(0);
    const bars = stdout.split(ESCAPE).filter((text) => /[█░]/.test(text));
    expect(bars.length).toBeGreaterThan(0);
    for (const bar of bars) {
      const [, text = ''] = /([█░].*)$/m.exec(bar) ?? [];
      expect(text.trimEnd().length).toBeLessThan(columns);
      expect(text).toMatch(/\d% \|.*s left/);
    }
  });

  it('that nobody takes any more does not end the work', async () => {
    const disk = writeImage(folder, 'long.raw', Buffer.alloc(40 * 2 ** 20, 1));
    for (const taker of ['| head -c 5 >/dev/null', '>/dev/full']) {
      const copy = join(folder, 'untold.raw');
      const work = `${SLUICE} convert -p -f raw ${disk} ${copy}; echo $? >&2`;
      const { stderr } = await run('sh', ['-c', `(${work}) ${taker}`]);
      expect(stderr).toBe('0\n');
      expect(readFileSync(copy).equals(readFileSync(disk))).toBe(true);
    }
  });
});
