/**
 * Random sessions: many requests in flight, cut into random segments, over a device that completes
 * in random order. Every request gets exactly one reply, every read sees what it must.
 */

import { describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { EngineDevice } from '../../src/engine-device.ts';
import { option } from './client.ts';
import { serveFake, serveOn, until } from './serving.ts';
import { batch, random, REGION, REGIONS } from './sessions.ts';

const CLIENTS = 4;

describe('random sessions', () => {
  const cases = (['inline', 'later', 'held'] as const).flatMap((mode) =>
    [1, 2, 3, 4, 5, 6].map((seed) => [mode, seed] as const),
  );

  it.each(cases)('are answered by the model (%s, seed %i)', async (mode, seed) => {
    const next = random(seed);
    const extended = seed > 4;
    const structured = extended || seed % 2 === 0;
    await using serving = await serveFake({
      sizeBytes: REGION * REGIONS,
      mode,
      slots: 1 + next(40),
      arenaBytes: 2 ** (20 + next(3)),
    });
    const { device } = serving;
    const options = extended ? [option(11)] : structured ? [option(8)] : [];
    await using client = await serving.go(...options);
    const timer = setInterval(() => {
      if (next(2) === 0) device.releaseBackwards();
      else device.release(1 + next(3));
    }, 1);
    const model = new Uint8Array(REGION * REGIONS);
    try {
      const session = { client, next, model, structured, extended, firstRegion: 0 };
      for (let round = 0; round < 8; round++) await batch(session);
    } finally {
      clearInterval(timer);
    }
    expect(Buffer.from(device.storage).equals(model)).toBe(true);
    expect(device.arenaIsWhole).toBe(true);
  });

  it.each([1, 2, 3, 4])('of four clients on an engine are, too (seed %i)', async (seed) => {
    const next = random(seed);
    const sizeBytes = CLIENTS * REGION * REGIONS;
    const backend = new MemoryBackend({ sizeBytes, hold: true, depth: 1 + next(64) });
    const device = new EngineDevice([backend], {
      noFlush: false,
      wce: seed !== 3,
      arenaBytes: 2 ** (21 + next(4)),
      mergeBytes: 2 ** 17,
    });
    await using serving = await serveOn(device);
    const timer = setInterval(() => {
      const held = backend.held.map(({ id }) => id);
      for (const id of held) if (next(3) > 0) backend.release(id);
    }, 1);
    const model = new Uint8Array(sizeBytes);
    try {
      await Promise.all(
        Array.from({ length: CLIENTS }, async (_, at) => {
          const extended = at % 2 === 1;
          await using client = await serving.go(option(extended ? 11 : 8));
          const firstRegion = at * REGIONS;
          const own = random(seed * 100 + at);
          const session = { client, next: own, model, structured: true, extended, firstRegion };
          for (let round = 0; round < 4; round++) await batch(session);
        }),
      );
      await until(() => serving.server.clients === 0);
    } finally {
      clearInterval(timer);
    }
    expect(backend.conflicts).toEqual([]);
    expect(Buffer.from(backend.volatile).equals(model)).toBe(true);
  });
});
