/** Work of short calls leaves the event loop its turns, however much of it there is at once. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { FileWrites } from '../../src/copy/file-writes.ts';
import { awaitTurn } from '../../src/copy/turns.ts';
import { imageFolder } from '../image/scratch.ts';

const WORKERS = 8;
const CALLS = 10;
const CALL_MS = 4;

function block(ms: number): void {
  const start = performance.now();
  while (performance.now() - start < ms);
}

it('lets timers have their turn between the calls of several at once', async () => {
  let ticks = 0;
  const timer = setInterval(() => (ticks += 1), 1);
  const ends: number[] = [];
  const work = async (worker: number): Promise<void> => {
    for (let call = 0; call < CALLS; call++) {
      await awaitTurn();
      block(CALL_MS);
    }
    ends.push(worker);
  };
  await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
  clearInterval(timer);
  expect(ends).toHaveLength(WORKERS);
  // 320 ms of calls; with 8 ms for each worker by itself there would be 5 turns or fewer.
  expect(ticks).toBeGreaterThan(15);
});

it('has its turn between writes of a copy', async () => {
  const path = join(imageFolder(), 'turns');
  const handle = await open(path, 'wx+');
  const writes = new FileWrites({ handle, isBlockDevice: false }, path);
  const bytes = Buffer.alloc(1 << 20, 1);
  let ticks = 0;
  const timer = setInterval(() => (ticks += 1), 1);
  const start = performance.now();
  while (performance.now() - start < 200) await writes.write(0, bytes);
  clearInterval(timer);
  await handle.close();
  expect(ticks).toBeGreaterThan(0);
});
