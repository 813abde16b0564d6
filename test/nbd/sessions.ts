/** Random sessions of one or several clients, and the model that says what they must see. */

import { expect } from 'vitest';
import { type Reply, request, type RequestParts, type TestClient } from './client.ts';
import { settle } from './serving.ts';
import { CACHE, EINVAL, FLUSH, pattern, READ, TRIM, WRITE, WRITE_ZEROES } from './wire.ts';

/** A region of its own for each request that may be in flight with others. */
export const REGION = 2 ** 17;
/** Regions of one client: as many requests are in flight. */
export const REGIONS = 64;

/** Numbers from 0 to `below`, the same for the same seed (mulberry32). */
export function random(seed: number): (below: number) => number {
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
        : {
            parts: { type: TRIM, offset: model.length, length: 1 },
            error: EINVAL,
            data: undefined,
          };
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
    const length = [1, 27, 28, 33, 1000, 70_000, 2 ** 20][next(7)] ?? 1;
    const free = client.socket.write(bytes.subarray(at, at + length));
    at += length;
    if (next(4) === 0) await new Promise((resolve) => setImmediate(resolve));
    if (!free) await settle(0);
  }
}

/** A client's part in a test. */
export interface Session {
  readonly client: TestClient;
  readonly next: (below: number) => number;
  /** What the disk must hold in the end; shared by clients that keep to their regions. */
  readonly model: Uint8Array;
  readonly structured: boolean;
  readonly extended?: boolean;
  /** The first of the client's regions. */
  readonly firstRegion: number;
}

/** One batch: at most one request for each region, replies in any order. */
export async function batch(session: Session): Promise<void> {
  const { client, next, model, structured, extended = false, firstRegion } = session;
  const expected = Array.from({ length: 1 + next(REGIONS) }, (_, at) =>
    draw(next, firstRegion + at, model),
  );
  const sent = expected.map(({ parts }, cookie) => request({ ...parts, cookie, extended }));
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
  return { ...reply, data: await client.read(Number(parts.length ?? 0)) };
}
