/**
 * Random sessions: many requests in flight, cut into random segments, over a device that completes
 * in random order. Every request gets exactly one reply, every read sees what it must.
 */

import { describe, expect, it } from 'vitest';
import { option, type Reply, request, type RequestParts, type TestClient } from './client.ts';
import { serveFake, settle } from './serving.ts';
import { CACHE, EINVAL, FLUSH, pattern, READ, TRIM, WRITE, WRITE_ZEROES } from './wire.ts';

/** A region of its own for each request that may be in flight with others. */
const REGION = 2 ** 17;
const REGIONS = 64;
const SIZE = REGION * REGIONS;

/** Numbers from 0 to `below`, the same for the same seed (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

interface Expected {
  readonly parts: RequestParts;
  readonly error: number;
  readonly data: Buffer | undefined;
}

/** A request in one region, applied to the model. */
function draw(next: (below: number) => number, region: number, model: Uint8Array): Expected {
  const lengths = [0, 1, 512, 4096, 4097, 40_000, REGION];
  const length = lengths[next(lengths.length)] ?? 0;
  const offset = region * REGION + next(REGION - length + 1);
  const range = model.subarray(offset, offset + length);
  switch (next(8)) {
    case 0:
    case 1:
    case 2: {
      const data = pattern(length, next(256));
      range.set(data);
      return { parts: { type: WRITE, offset, data, flags: next(2) }, error: 0, data: undefined };
    }
    case 3:
      range.fill(0);
      return { parts: { type: WRITE_ZEROES, offset, length }, error: 0, data: undefined };
    case 4:
      return {
        parts: { type: FLUSH },
        error: 0,
        data: undefined,
      };
    case 5:
      return next(2) === 0
        ? { parts: { type: CACHE, offset, length }, error: 0, data: undefined }
        : { parts: { type: TRIM, offset: SIZE, length: 1 }, error: EINVAL, data: undefined };
    default:
      return { parts: { type: READ, offset, length }, error: 0, data: Buffer.from(range) };
  }
}

/** Sends bytes in segments of random sizes, a part of them in turns of their own. */
async function dribble(
  client: TestClient,
  bytes: Buffer,
  next: (below: number) => number,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const length = [1, 27, 28, 29, 1000, 70_000, 2 ** 20][next(7)] ?? 1;
    const free = client.socket.write(bytes.subarray(at, at + length));
    at += length;
    if (next(4) === 0) await new Promise((resolve) => setImmediate(resolve));
    if (!free) await settle(0);
  }
}

/** One batch: at most one request for each region, replies in any order. */
async function batch(
  client: TestClient,
  next: (below: number) => number,
  model: Uint8Array,
  structured: boolean,
): Promise<void> {
  const expected = Array.from({ length: 1 + next(REGIONS) }, (_, at) => draw(next, at, model));
  const sent = expected.map(({ parts }, cookie) => request({ ...parts, cookie }));
  const sending = dribble(client, Buffer.concat(sent), next);
  const seen = new Set<number>();
  while (seen.size < expected.length) {
    const reply = await anyReply(client, expected);
    const cookie = Number(reply.cookie);
    const { parts, error, data } = expected[cookie] as Expected;
    const at = `reply to ${cookie}: ${JSON.stringify({ ...parts, data: undefined })}`;
    expect(seen.has(cookie), at).toBe(false);
    seen.add(cookie);
    expect(reply.error, at).toBe(error);
    if (data === undefined || data.length === 0) continue;
    expect(reply.data.subarray(structured ? 8 : 0).equals(data), at).toBe(true);
  }
  await sending;
}

/** A reply, whose cookie says how much data a simple one has. */
async function anyReply(client: TestClient, expected: Expected[]): Promise<Reply> {
  const reply = await client.reply();
  const { parts } = expected[Number(reply.cookie)] as Expected;
  if (reply.kind === 'chunk' || parts.type !== READ || reply.error !== 0) return reply;
  return { ...reply, data: await client.read(parts.length ?? 0) };
}

describe('random sessions', () => {
  const cases = (['inline', 'later', 'held'] as const).flatMap((mode) =>
    [1, 2, 3, 4].map((seed) => [mode, seed] as const),
  );

  it.each(cases)('are answered by the model (%s, seed %i)', async (mode, seed) => {
    const next = random(seed);
    const structured = seed % 2 === 0;
    await using serving = await serveFake({
      sizeBytes: SIZE,
      mode,
      slots: 1 + next(40),
      arenaBytes: 2 ** (20 + next(3)),
    });
    const { device } = serving;
    await using client = await serving.go(...(structured ? [option(8)] : []));
    const timer = setInterval(() => {
      if (next(2) === 0) device.releaseBackwards();
      else device.release(1 + next(3));
    }, 1);
    const model = new Uint8Array(SIZE);
    try {
      for (let round = 0; round < 8; round++) await batch(client, next, model, structured);
    } finally {
      clearInterval(timer);
    }
    expect(Buffer.from(device.storage).equals(model)).toBe(true);
    expect(device.arenaIsWhole).toBe(true);
  });
});
