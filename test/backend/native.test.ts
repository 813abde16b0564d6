import { closeSync, openSync } from 'node:fs';
import process from 'node:process';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import { loadNative } from '../../src/backend/native.ts';
import { type Bundle, bundle } from '../support/bundle.ts';
import { scratchFile, scratchFolder } from './scratch.ts';

const EBADF = 9;
const folder = scratchFolder();
const native = loadNative();
const skipReason = 'koffi is not usable here';
const options = native === null ? { skip: true, meta: { skipReason } } : {};

describe('the native calls', options, () => {
  it('keep their errno until it is asked for', () => {
    expect(native?.lseek(-1, 0, 0)).toBe(-1);
    expect(native?.errno()).toBe(EBADF);
  });

  it('bring the errno of the pool back', async () => {
    const answer = await new Promise((resolve) => {
      native?.fallocatePooled(-1, 0, 0, 1, (errno, result) => resolve([errno, result]));
    });
    expect(answer).toEqual([EBADF, -1]);
  });

  it('take more pooled calls at once than koffi does', async () => {
    const fd = openSync(scratchFile(folder), 'r');
    const calls = Array.from({ length: 1000 }, (_, index) => index);
    const positions = await Promise.all(
      calls.map(
        (index) =>
          new Promise((resolve) => {
            native?.lseekPooled(fd, index, 0, (_errno, position) => resolve(position));
          }),
      ),
    );
    expect(positions).toEqual(calls);
    closeSync(fd);
  });

  it('are refused when the environment says that there is no koffi', () => {
    vi.stubEnv('SLUICE_NO_KOFFI', '1');
    expect(loadNative()).toBeNull();
    vi.unstubAllEnvs();
    expect(loadNative()).toBe(native);
  });
});

describe('in a worker', options, () => {
  let script: Bundle;
  beforeAll(async () => {
    script = await bundle(new URL('scenario.ts', import.meta.url));
  });
  afterAll(() => script.remove());

  it('a backend works as on the main thread', async () => {
    const steps = [['write', 0, 4096, 1], ['read', 0, 4096], ['zero', 0, 4096], ['close']];
    const scenario = { path: scratchFile(folder), options: { writable: true }, steps };
    const worker = new Worker(script.file, { argv: [JSON.stringify(scenario)], stdout: true });
    let output = '';
    for await (const text of worker.stdout.setEncoding('utf8')) output += String(text);
    expect(JSON.parse(output)).toEqual([0, 0, 0, 0]);
    expect(process.exitCode ?? 0).toBe(0);
  });
});
