/** A server whose bytes are damaged on their way: the client ends, well or with its own error. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { SluiceError } from '../../src/errors.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { Random } from '../engine/random.ts';
import { bytes, type Part } from './client.ts';
import { type Script, type ScriptedPeer, serveScript } from './scripted-server.ts';
import * as wire from './wire.ts';

const SEEDS = 300;
const AT_ONCE = 20;
/** After so long the server has said all, and closes. */
const PATIENCE_MS = 100;
const MIB = 2 ** 20;

/** Answers as a good server does. */
async function answer(peer: ScriptedPeer, extended: boolean): Promise<void> {
  const asked = await peer.request();
  const { type, cookie, offset, length } = asked;
  const chunk = (kind: number, payload: Part[], done = true): void => {
    if (extended) peer.wide(asked, kind, payload, done);
    else peer.chunk(cookie, kind, payload, done);
  };
  if (type === wire.READ) {
    const half = length >> 1;
    const data: Part[] = [[8, offset], wire.pattern(half)];
    if (half > 0) chunk(1, data, false);
    const hole: Part[] = [
      [8, offset + half],
      [4, length - half],
    ];
    chunk(2, hole);
  } else if (type === wire.BLOCK_STATUS) {
    const width = extended ? 8 : 4;
    const extents: Part[] = [
      [width, length >> 1],
      [width, 3],
      [width, length - (length >> 1)],
      [width, 0],
    ];
    const count: Part[] = extended ? [[4, 2]] : [];
    chunk(extended ? 6 : 5, [[4, 5], ...count, ...extents]);
  } else {
    chunk(0, []);
  }
}

/** Damages some bytes of what it sends, or adds or takes away some. */
function damaging(random: Random): Script {
  return async (peer) => {
    const write = peer.socket.write.bind(peer.socket);
    let left = 1 + random.below(3);
    peer.send = (...parts) => {
      const whole = bytes(...parts);
      if (left > 0 && random.below(4) === 0) {
        left -= 1;
        const at = random.below(Math.min(whole.length, 40));
        if (random.below(4) === 0) return void write(whole.subarray(at));
        whole[at] = random.below(3) === 0 ? 255 : random.below(256);
      }
      write(whole);
    };
    setTimeout(() => peer.socket.end(), PATIENCE_MS);
    const extended = random.below(2) === 0;
    await peer.agree({ blocks: [512, 4096, MIB], extended });
    for (;;) await answer(peer, extended);
  };
}

async function use(uri: string): Promise<void> {
  await using client = await NbdClient.connect(uri);
  const reads = [0, 4096, 100_000].map((at) => client.read(at, new Uint8Array(5000)));
  const results = await Promise.allSettled([...reads, client.write(0, new Uint8Array(700))]);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  for await (const { length } of client.extents()) expect(length).toBeGreaterThan(0);
  await client.writeZeroes(0, MIB);
  await client.flush();
}

async function isRight(seed: number): Promise<boolean> {
  await using server = await serveScript(damaging(new Random(seed)));
  try {
    await Promise.race([use(server.uri), sleep(20 * PATIENCE_MS).then(() => expect.unreachable())]);
    return true;
  } catch (error) {
    if (error instanceof SluiceError) return false;
    throw new Error(`seed ${seed}`, { cause: error });
  }
}

describe('a client of a damaged server', { timeout: 60_000 }, () => {
  it(`ends, for ${SEEDS} seeds`, async () => {
    const ends: boolean[] = [];
    for (let seed = 0; seed < SEEDS; seed += AT_ONCE) {
      const seeds = Array.from({ length: AT_ONCE }, (_, index) => seed + index);
      ends.push(...(await Promise.all(seeds.map(isRight))));
    }
    // Some damage harms nobody; most does.
    expect(ends.filter((isWell) => isWell).length).toBeGreaterThan(0);
    expect(ends.filter((isWell) => !isWell).length).toBeGreaterThan(SEEDS / 4);
  });
});
