/** The client with extended headers: what it sends, and what it believes. */

import { describe, expect, it } from 'vitest';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { type Part } from './client.ts';
import { MIB, type ScriptedPeer, type SeenRequest, serveScript } from './scripted-server.ts';
import { serveFake } from './serving.ts';
import {
  ACK,
  BLOCK_STATUS,
  ERR_UNSUP,
  PAYLOAD_LEN,
  pattern,
  READ,
  WRITE,
  WRITE_ZEROES,
} from './wire.ts';

const TIB = 2 ** 40;
const NONE = 0;
const DATA = 1;
const STATUS = 5;
const STATUS_EXT = 6;

/** Serves one client with extended headers; answers each request. */
function serve(answer: (peer: ScriptedPeer, request: SeenRequest) => void, size = MIB) {
  return serveScript(async (peer) => {
    await peer.agree({ extended: true, size });
    for (;;) answer(peer, await peer.request());
  });
}

async function extentsOf(client: NbdClient): Promise<[number, number, string][]> {
  const found: [number, number, string][] = [];
  for await (const { start, length, kind } of client.extents()) found.push([start, length, kind]);
  return found;
}

describe('a client with extended headers', () => {
  it('reads, writes and asks for extents of 64 bits, all at once', async () => {
    const seen: SeenRequest[] = [];
    const half = TIB / 2;
    await using server = await serve((peer, request) => {
      seen.push(request);
      const { type, offset, length } = request;
      if (type === READ) peer.wide(request, DATA, [[8, offset], pattern(length)]);
      else if (type !== BLOCK_STATUS) peer.wide(request, NONE, []);
      else {
        const extents: Part[] = [
          [8, half],
          [8, 3],
          [8, half],
          [8, 0],
        ];
        peer.wide(request, STATUS_EXT, [[4, 5], [4, 2], ...extents]);
      }
    }, TIB);
    await using client = await NbdClient.connect(server.uri);
    const read = new Uint8Array(5000);
    await client.read(2 ** 39 + 1, read);
    expect(Buffer.from(read)).toEqual(pattern(5000));
    await client.write(7, pattern(600));
    await client.writeZeroes(0, 4096);
    expect(await extentsOf(client)).toEqual([
      [0, half, 'zero'],
      [half, half, 'data'],
    ]);
    expect(seen.map(({ type, flags, length }) => [type, flags, length])).toEqual([
      [READ, 0, 5000],
      [WRITE, PAYLOAD_LEN, 600],
      [WRITE_ZEROES, 0, 4096],
      [BLOCK_STATUS, 0, TIB],
    ]);
  });

  it('agrees on them with sluice', async () => {
    await using serving = await serveFake({ sizeBytes: TIB, storage: false });
    await using client = await NbdClient.connect(serving.server.uri);
    expect(await extentsOf(client)).toEqual([[0, TIB, 'zero']]);
    expect(serving.device.log).toHaveLength(1);
    await client.write(TIB - 9, pattern(9));
    await expect(client.read(0, new Uint8Array(64 * MIB))).resolves.toBeUndefined();
  });

  it.each<[string, RegExp, (peer: ScriptedPeer, request: SeenRequest) => void]>([
    ['that is compact', /an extended reply begins with 0x668e33ef/, compact],
    ['that is simple', /an extended reply begins with 0x67446698/, simple],
    [
      'of another offset',
      /at offset 0 as one at 4096/,
      (peer, { cookie }) => peer.wide({ cookie, offset: 4096 }, STATUS_EXT, extents(1, MIB)),
    ],
    [
      'of another cookie',
      /a request that is not open/,
      (peer, { offset }) => peer.wide({ cookie: 99n, offset }, STATUS_EXT, extents(1, MIB)),
    ],
    [
      'of 32 bits',
      /extents of 32 bits, which were not agreed on/,
      (peer, request) =>
        peer.wide(request, STATUS, [
          [4, 5],
          [4, MIB],
          [4, 0],
        ]),
    ],
    [
      'that counts wrongly',
      /says that 2 extents come, and sends 1/,
      (peer, request) => peer.wide(request, STATUS_EXT, extents(2, MIB)),
    ],
    [
      'with an extent of nothing',
      /an extent of 0 bytes/,
      (peer, request) => peer.wide(request, STATUS_EXT, extents(1, 0)),
    ],
    [
      'with half an extent',
      /a list of extents has 16 bytes/,
      (peer, request) =>
        peer.wide(request, STATUS_EXT, [
          [4, 5],
          [4, 0],
          [8, MIB],
        ]),
    ],
    [
      'of 2^64-1 bytes',
      /a list of extents has 18446744073709552000 bytes/,
      (peer, { cookie }) => {
        const lengths: Part[] = [
          [8, 0],
          [8, 2n ** 64n - 1n],
        ];
        peer.send([4, 0x6e8a278c], [2, 1], [2, STATUS_EXT], [8, cookie], ...lengths);
      },
    ],
  ])('a reply %s ends the connection', async (_what, message, answer) => {
    await using server = await serve(answer);
    await using client = await NbdClient.connect(server.uri);
    await expect(client.extents().next()).rejects.toMatchObject({
      code: 'ERR_SLUICE_CONNECTION',
      message: expect.stringMatching(message) as string,
    });
  });

  it('a count of 0 says nothing, and the last extent may be longer than the disk', async () => {
    await using server = await serve((peer, request) =>
      peer.wide(request, STATUS_EXT, [
        [4, 5],
        [4, 0],
        [8, 2n ** 64n - 1n],
        [8, 3],
      ]),
    );
    await using client = await NbdClient.connect(server.uri);
    expect(await extentsOf(client)).toEqual([[0, MIB, 'zero']]);
  });

  it('EXPORT_NAME is not tried where there is no GO', async () => {
    await using server = await serveScript(async (peer) => {
      await peer.greet();
      for (;;) {
        const { code } = await peer.option();
        peer.reply(code, code === 11 ? ACK : ERR_UNSUP);
      }
    });
    await expect(NbdClient.connect(server.uri)).rejects.toThrow(
      'it has extended headers and does not know GO',
    );
  });
});

function compact(peer: ScriptedPeer, { cookie }: SeenRequest): void {
  peer.chunk(cookie, NONE, []);
  peer.send(new Uint8Array(12));
}

function simple(peer: ScriptedPeer, { cookie }: SeenRequest): void {
  peer.simple(cookie);
  peer.send(new Uint8Array(16));
}

/** One extent of data, behind a count. */
function extents(count: number, length: number): Part[] {
  return [
    [4, 5],
    [4, count],
    [8, length],
    [8, 0],
  ];
}
