/** Bytes of a server come where they are wanted, and none is lost when nobody wants any. */
import type { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';

import { Coverage } from '../../src/nbd/client/coverage.ts';
import { Incoming } from '../../src/nbd/client/incoming.ts';

/** What the system would do: asks for a buffer, and fills it as far as it goes. */
function feed(incoming: Incoming, bytes: Uint8Array): { into: Uint8Array; wantsMore: boolean } {
  const { onread } = incoming;
  const into = typeof onread.buffer === 'function' ? onread.buffer() : onread.buffer;
  into.set(bytes);
  return { into, wantsMore: onread.callback(bytes.length, into) };
}

describe('bytes of a server', () => {
  it('are not read while some of them wait, and are read again after', async () => {
    let resumed = 0;
    const incoming = new Incoming();
    incoming.attach({ resume: () => (resumed += 1) } as unknown as Socket);
    const first = incoming.read(2);
    expect(feed(incoming, Uint8Array.of(1, 2, 3, 4, 5)).wantsMore).toBe(false);
    expect([...(await first)]).toEqual([1, 2]);
    expect([...(await incoming.read(1))]).toEqual([3]);
    expect(resumed).toBe(0);
    const rest = incoming.read(3);
    expect(resumed).toBe(1);
    expect(feed(incoming, Uint8Array.of(6)).wantsMore).toBe(true);
    expect([...(await rest)]).toEqual([4, 5, 6]);
  });

  it('go straight to their place when they are many', () => {
    const incoming = new Incoming();
    const place = new Uint8Array(10_000);
    let isFull = false;
    incoming.expect(place, () => (isFull = true));
    expect(feed(incoming, new Uint8Array(3000).fill(1)).into.buffer).toBe(place.buffer);
    expect(feed(incoming, new Uint8Array(4000).fill(2)).into.byteOffset).toBe(3000);
    expect(feed(incoming, new Uint8Array(2999).fill(3)).into.buffer).not.toBe(place.buffer);
    expect(isFull).toBe(false);
    feed(incoming, Uint8Array.of(4));
    expect(isFull).toBe(true);
    const sums = [1, 2, 3, 4].map((value) => place.filter((byte) => byte === value).length);
    expect(sums).toEqual([3000, 4000, 2999, 1]);
  });
});

describe('the bytes of a read that have come', () => {
  it('are known in any order, each once', () => {
    const coverage = new Coverage();
    for (const start of [400, 0, 200, 100, 300]) coverage.add(start, start + 100);
    expect(coverage.coveredBytes).toBe(500);
    for (let at = 0; at < 500; at += 50) {
      expect(() => coverage.add(at, at + 1)).toThrow(/twice/);
    }
    expect(() => coverage.add(450, 600)).toThrow(/twice/);
    coverage.add(500, 501);
    expect(coverage.coveredBytes).toBe(501);
  });
});
