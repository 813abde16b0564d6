/** Whatever a server says, the client ends with an error that says what was wrong, and ends. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { NbdClient } from '../../src/nbd/client/client.ts';
import { expectRefusal } from '../image/scratch.ts';
import { bytes, hex, type Part } from './client.ts';
import {
  MIB,
  type Script,
  type ScriptedPeer,
  type SeenRequest,
  serveScript,
} from './scripted-server.ts';
import { until } from './serving.ts';
import * as wire from './wire.ts';

/** More than any of these takes, less than a hang. */
const LIMIT = { timeout: 10_000 };
const GO = 7;
const STRUCTURED_REPLY = 8;
const SET_META_CONTEXT = 10;
const REPLY_MAGIC = hex('0003e889045565a9');
const BYTES = 4096;
const AT = 65_536;

type Row = readonly [title: string, message: RegExp, script: Script];

/** Answers options up to GO, and that as it is told to. */
function atGo(answer: (peer: ScriptedPeer) => void): Script {
  return async (peer) => {
    await peer.greet();
    for (;;) {
      const { code } = await peer.option();
      if (code === GO) return answer(peer);
      peer.reply(code, wire.ERR_UNSUP);
    }
  };
}

/** Up to the option that is asked for next, structured replies. */
async function withoutExtendedHeaders(peer: ScriptedPeer): Promise<void> {
  const { code } = await peer.option();
  peer.reply(code, wire.ERR_UNSUP);
  await peer.option();
}

function atFirstOption(answer: (peer: ScriptedPeer) => void): Script {
  return async (peer) => {
    await peer.greet();
    await withoutExtendedHeaders(peer);
    answer(peer);
  };
}

const INFO = bytes([2, 0], [8, MIB], [2, 1]);
const withInfos = (...infos: Uint8Array[]): Script =>
  atGo((peer) => {
    for (const info of infos) peer.reply(GO, wire.INFO, info);
    peer.reply(GO, wire.ACK);
  });
const withBlocks = (minimum: number, maximum: number, size = MIB): Script =>
  withInfos(bytes([2, 0], [8, size], [2, 1]), bytes([2, 3], [4, minimum], [4, 4096], [4, maximum]));
const saying =
  (...parts: Part[]): Script =>
  async (peer) => {
    peer.send(...parts);
    await sleep(0);
  };

const HANDSHAKES: readonly Row[] = [
  [
    'that closes at once',
    /closed the connection; check the name/,
    async (p) => void p.socket.end(),
  ],
  ['that is no NBD', /greets with 0x5353482d322e302d/, saying('SSH-2.0-OpenSSH_9.2p1\r\n')],
  ['of the oldstyle', /oldstyle/, saying('NBDMAGIC', hex('0000420281861253'), new Uint8Array(136))],
  ['without IHAVEOPT', /goes on with 0x58/, saying('NBDMAGIC', 'XHAVEOPT', [2, 3])],
  [
    'that closes inside its greeting',
    /closed the connection/,
    async (peer) => {
      peer.send('NBDMAGIC');
      peer.socket.end();
    },
  ],
  [
    'with another magic of option replies',
    /a reply to an option begins with 0xff/,
    atFirstOption((peer) => peer.send(new Uint8Array(20).fill(255))),
  ],
  [
    'that answers another option',
    /asked for option 8 and answers option 7/,
    atFirstOption((peer) => peer.reply(GO, wire.ACK)),
  ],
  [
    'with a huge option reply',
    /has 4294967295 bytes, more than any can need/,
    atFirstOption((peer) =>
      peer.send(REPLY_MAGIC, [4, STRUCTURED_REPLY], [4, wire.ACK], [4, 0xffffffff]),
    ),
  ],
  [
    'with an option reply of no known type',
    /answers option 8 with a reply of type 9/,
    atFirstOption((peer) => peer.reply(STRUCTURED_REPLY, 9)),
  ],
  [
    'that tells without an end',
    /more than 100 replies/,
    atGo((peer) => {
      for (let count = 0; count < 200; count++) peer.reply(GO, wire.INFO, INFO);
    }),
  ],
  ['without a size', /does not say its size/, withInfos()],
  [
    'with information without a type',
    /information about an export without a type/,
    withInfos(hex('00')),
  ],
  [
    'with a size of 4 bytes',
    /information 0 about an export has 8 bytes/,
    withInfos(INFO.subarray(4)),
  ],
  ['of 2^63 bytes', /at most 2\^53-1/, withInfos(bytes([2, 0], [8, 2n ** 63n], [2, 1]))],
  ['with blocks of 3 bytes', /block size is 3, no power of two/, withBlocks(3, 4096)],
  ['with blocks of no bytes', /block size is 0, no power of two/, withBlocks(0, 4096)],
  ['with blocks of 128 KiB', /block size is 131072, no/, withBlocks(131_072, 2 ** 25)],
  ['with a payload of 100 bytes', /maximum payload is 100 bytes/, withBlocks(1, 100)],
  ['with a payload below a block', /maximum payload is 4096 bytes/, withBlocks(8192, 4096)],
  ['that ends inside a block', /1048577 bytes are no multiple/, withBlocks(512, 2 ** 25, MIB + 1)],
  [
    'with a context without an id',
    /metadata context without an id/,
    async (peer) => {
      await peer.greet();
      await withoutExtendedHeaders(peer);
      peer.reply(STRUCTURED_REPLY, wire.ACK);
      await peer.option();
      peer.reply(SET_META_CONTEXT, wire.META_CONTEXT, hex('0000'));
      peer.reply(SET_META_CONTEXT, wire.ACK);
    },
  ],
];

describe('a negotiation', LIMIT, () => {
  it.for(HANDSHAKES)('with a server %s is refused', async ([, message, script]) => {
    await using server = await serveScript(script);
    await expectRefusal(NbdClient.connect(server.uri), 'ERR_SLUICE_CONNECTION', message);
  });

  it('with a server that asks for TLS is refused', async () => {
    await using server = await serveScript(atGo((peer) => peer.reply(GO, 0x80000005)));
    await expectRefusal(
      NbdClient.connect(server.uri),
      'ERR_SLUICE_OPEN',
      /asks for TLS; write nbds/,
    );
  });

  it('for an export that is not there says so, and what the server says of it', async () => {
    const text = Buffer.from('no \u001b[2Jsuch\u009b export ü');
    await using server = await serveScript(atGo((p) => p.reply(GO, wire.ERR_UNKNOWN, text)));
    const said = /no export of this name \("no \\u001b\[2Jsuch\? export ü"\)/;
    await expectRefusal(NbdClient.connect(server.uri), 'ERR_SLUICE_OPEN', said);
  });

  it('has a time', async () => {
    await using server = await serveScript(() => Promise.resolve());
    const work = NbdClient.connect(server.uri, { negotiationMs: 100 });
    await expectRefusal(work, 'ERR_SLUICE_CONNECTION', /did not answer in 100 ms/);
  });

  it('is ended by a signal', async () => {
    await using server = await serveScript(() => Promise.resolve());
    const reason = new Error('enough');
    const stop = new AbortController();
    const work = NbdClient.connect(server.uri, { signal: stop.signal });
    setTimeout(() => stop.abort(reason), 50);
    await expect(work).rejects.toBe(reason);
    await expect(NbdClient.connect(server.uri, { signal: stop.signal })).rejects.toBe(reason);
  });

  it('with nobody says that nobody is there', async () => {
    const none = NbdClient.connect('nbd+unix:///?socket=/nonexistent/socket');
    await expectRefusal(
      none,
      'ERR_SLUICE_CONNECTION',
      /cannot connect: .* \(ENOENT\); start the server, /,
    );
    const refused = NbdClient.connect('nbd://localhost:1/');
    await expectRefusal(refused, 'ERR_SLUICE_CONNECTION', /cannot connect: .* \(ECONNREFUSED\)/);
  });
});

type Answer = (peer: ScriptedPeer, request: SeenRequest) => void;
type AnswerRow = readonly [title: string, message: RegExp, answer: Answer];

const DATA = 1;
const HOLE = 2;
const STATUS = 5;
const ERROR = 0x8001;
const part = (offset: number, length: number): Part[] => [[8, offset], new Uint8Array(length)];

/** To a read of 4096 bytes at offset 65536. */
const READS: readonly AnswerRow[] = [
  ['that is none', /begins with 0x00000000/, (peer) => peer.send(new Uint8Array(16))],
  ['to nobody', /request that is not open/, (peer, r) => peer.simple(r.cookie + 99n)],
  ['to a huge cookie', /not open/, (peer, r) => peer.simple(r.cookie + 2n ** 63n)],
  ['that is simple', /with a simple reply/, (p, r) => p.simple(r.cookie, 0, new Uint8Array(BYTES))],
  ['of an unknown type', /unknown type 7/, (peer, r) => peer.chunk(r.cookie, 7, [])],
  [
    'with no data in it',
    /has 8 bytes, too few/,
    (peer, r) => peer.chunk(r.cookie, DATA, [[8, AT]]),
  ],
  [
    'of bytes before',
    /10 bytes at offset 65535 are no part of the read of 4096 bytes at offset 65536/,
    (peer, r) => peer.chunk(r.cookie, DATA, part(AT - 1, 10)),
  ],
  ['of bytes behind', /no part/, (p, r) => p.chunk(r.cookie, DATA, part(AT + BYTES - 1, 2))],
  ['of too many bytes', /no part/, (p, r) => p.chunk(r.cookie, DATA, part(AT, BYTES + 1))],
  [
    'of 4 GiB',
    /4294967287 bytes at/,
    (peer, r) => peer.chunk(r.cookie, DATA, [[8, AT]], true, 0xffffffff),
  ],
  [
    'far away',
    /no part/,
    (peer, r) => peer.chunk(r.cookie, DATA, [[8, 2n ** 64n - 1n], new Uint8Array(2)]),
  ],
  ['of a short hole', /hole has 11 bytes/, (p, r) => p.chunk(r.cookie, HOLE, [new Uint8Array(11)])],
  [
    'of a hole of nothing',
    /^.*: 0 bytes at/,
    (p, r) =>
      p.chunk(r.cookie, HOLE, [
        [8, AT],
        [4, 0],
      ]),
  ],
  [
    'of a long hole',
    /no part/,
    (p, r) =>
      p.chunk(r.cookie, HOLE, [
        [8, AT],
        [4, BYTES + 1],
      ]),
  ],
  [
    'with bytes twice',
    /bytes of a read twice/,
    (peer, r) => {
      peer.chunk(r.cookie, DATA, part(AT + 100, 100), false);
      peer.chunk(
        r.cookie,
        HOLE,
        [
          [8, AT + 150],
          [4, 1],
        ],
        false,
      );
    },
  ],
  [
    'without its middle',
    /sends 4095 bytes of a read of 4096/,
    (peer, r) => {
      peer.chunk(r.cookie, DATA, part(AT, 100), false);
      peer.chunk(r.cookie, DATA, part(AT + 101, BYTES - 101));
    },
  ],
  ['with nothing', /sends 0 bytes of a read/, (peer, r) => peer.chunk(r.cookie, 0, [])],
  ['of NONE that goes on', /NONE goes on/, (peer, r) => peer.chunk(r.cookie, 0, [], false)],
  ['of NONE with bytes', /NONE goes on/, (peer, r) => peer.chunk(r.cookie, 0, [[4, 0]])],
  [
    'of extents',
    /answers a read with extents/,
    (peer, r) =>
      peer.chunk(r.cookie, STATUS, [
        [4, 5],
        [4, BYTES],
        [4, 0],
      ]),
  ],
  [
    'with a short error',
    /error has 5 bytes/,
    (p, r) => p.chunk(r.cookie, ERROR, [new Uint8Array(5)]),
  ],
  [
    'with an error of 4 GiB',
    /error has 4294967295 bytes/,
    (peer, r) => peer.chunk(r.cookie, ERROR, [], true, 0xffffffff),
  ],
  [
    'with the error 0',
    /reports the error 0/,
    (p, r) =>
      p.chunk(r.cookie, ERROR, [
        [4, 0],
        [2, 0],
      ]),
  ],
  [
    'with an error whose message is not there',
    /longer than the error/,
    (peer, r) => peer.chunk(r.cookie, ERROR, [[4, 5], [2, 4], 'abc']),
  ],
  [
    'that ends inside its data',
    /read of 4096 bytes at offset 65536 failed: .* closed the connection; look at it/,
    (peer, r) => {
      peer.chunk(r.cookie, DATA, part(AT, 100), true, BYTES + 8);
      peer.socket.end();
    },
  ],
  [
    'in too many parts',
    /too many parts/,
    (peer, r) => {
      for (let at = 0; at < BYTES; at += 2) peer.chunk(r.cookie, DATA, part(AT + at, 1), false);
    },
  ],
];

const STATUSES: readonly AnswerRow[] = [
  ['without extents', /list of extents has 4 bytes/, (p, r) => p.chunk(r.cookie, STATUS, [[4, 5]])],
  [
    'with half an extent',
    /list of extents has 10 bytes/,
    (peer, r) =>
      peer.chunk(r.cookie, STATUS, [
        [4, 5],
        [4, 1],
        [2, 0],
      ]),
  ],
  [
    'with more extents than there may be',
    /list of extents has 4294967292 bytes/,
    (peer, r) => peer.chunk(r.cookie, STATUS, [], true, 0xfffffffc),
  ],
  [
    'of another context',
    /metadata context 6, which/,
    (peer, r) =>
      peer.chunk(r.cookie, STATUS, [
        [4, 6],
        [4, MIB],
        [4, 0],
      ]),
  ],
  [
    'with an empty extent',
    /extent of 0 bytes/,
    (peer, r) =>
      peer.chunk(r.cookie, STATUS, [
        [4, 5],
        [4, 0],
        [4, 0],
      ]),
  ],
  [
    'with extents behind the end',
    /behind what was asked/,
    (peer, r) =>
      peer.chunk(r.cookie, STATUS, [
        [4, 5],
        [4, MIB],
        [4, 0],
        [4, 1],
        [4, 0],
      ]),
  ],
  [
    'with two lists',
    /extents that nobody asked for/,
    (peer, r) => {
      for (const done of [false, true]) {
        peer.chunk(
          r.cookie,
          STATUS,
          [
            [4, 5],
            [4, MIB],
            [4, 0],
          ],
          done,
        );
      }
    },
  ],
  ['with nothing', /block status without extents/, (peer, r) => peer.chunk(r.cookie, 0, [])],
  ['that is simple', /with a simple reply/, (peer, r) => peer.simple(r.cookie)],
  ['of data', /answers a block status with data/, (p, r) => p.chunk(r.cookie, DATA, part(0, 1))],
];

/** Agrees, and answers the first request. */
function answering(answer: Answer): Script {
  return async (peer) => {
    await peer.agree();
    answer(peer, await peer.request());
  };
}

describe('a reply', LIMIT, () => {
  it.for(READS)('to a read %s ends the connection', async ([, message, answer]) => {
    await using server = await serveScript(answering(answer));
    await using client = await NbdClient.connect(server.uri);
    const reads = [AT, 0, MIB - BYTES].map((at) => client.read(at, new Uint8Array(BYTES)));
    const [first, ...others] = await Promise.allSettled(reads);
    const reason = (first as PromiseRejectedResult).reason as Error;
    await expectRefusal(Promise.reject(reason), 'ERR_SLUICE_CONNECTION', message);
    expect(reason).toMatchObject({ operation: 'read', offset: AT, length: BYTES });
    // All that was open fails with it, and what comes after it.
    for (const other of others) expect(other.status).toBe('rejected');
    await expectRefusal(client.flush(), 'ERR_SLUICE_CONNECTION', /^flush failed/);
  });

  it.for(STATUSES)('to a block status %s ends the connection', async ([, message, answer]) => {
    await using server = await serveScript(answering(answer));
    await using client = await NbdClient.connect(server.uri);
    await expectRefusal(client.extents().next(), 'ERR_SLUICE_CONNECTION', message);
  });

  it('of data to a write ends the connection', async () => {
    const answer: Answer = (peer, r) => peer.chunk(r.cookie, DATA, part(0, 1));
    await using server = await serveScript(answering(answer));
    await using client = await NbdClient.connect(server.uri);
    const work = client.write(0, new Uint8Array(BYTES));
    await expectRefusal(work, 'ERR_SLUICE_CONNECTION', /answers a write with data/);
  });

  it('that comes twice ends the connection', async () => {
    const answer: Answer = (peer, { cookie }) => {
      for (const _ of [1, 2]) peer.chunk(cookie, 0, []);
    };
    await using server = await serveScript(answering(answer));
    await using client = await NbdClient.connect(server.uri);
    await client.flush();
    await expectRefusal(client.flush(), 'ERR_SLUICE_CONNECTION', /request that is not open/);
  });

  it('that nobody asked for ends the connection', async () => {
    await using server = await serveScript(async (peer) => {
      await peer.agree();
      peer.chunk(1n, 0, []);
    });
    await using client = await NbdClient.connect(server.uri);
    await expectRefusal(client.flush(), 'ERR_SLUICE_CONNECTION', /request that is not open/);
  });

  it('in chunks that were not agreed on ends the connection', async () => {
    await using server = await serveScript(async (peer) => {
      await peer.agree({ structured: false });
      peer.chunk((await peer.request()).cookie, 0, []);
    });
    await using client = await NbdClient.connect(server.uri);
    await expectRefusal(client.flush(), 'ERR_SLUICE_CONNECTION', /begins with 0x668e33ef/);
  });

  it('is waited for by 64 requests at most', async () => {
    const seen: SeenRequest[] = [];
    await using server = await serveScript(async (peer) => {
      await peer.agree();
      for (;;) seen.push(await peer.request());
    });
    const client = await NbdClient.connect(server.uri);
    const reads = Array.from({ length: 100 }, (_, at) => client.read(at, new Uint8Array(1)));
    const ended = Promise.allSettled(reads);
    await sleep(200);
    expect(seen).toHaveLength(64);
    expect(new Set(seen.map(({ cookie }) => cookie)).size).toBe(64);
    await client[Symbol.asyncDispose]();
    for (const read of await ended) {
      expect(read).toMatchObject({ reason: { code: 'ERR_SLUICE_CONNECTION' } });
    }
  });

  it('without an end takes no memory', async () => {
    const message = 'x'.repeat(4096);
    let sentBytes = 0;
    await using server = await serveScript(async (peer) => {
      await peer.agree();
      const { cookie } = await peer.request();
      const one = bytes([4, 0x668e33ef], [2, 0], [2, ERROR], [8, cookie], [4, 4102], [4, 5]);
      const many = Buffer.concat(Array(64).fill(bytes(one, [2, 4096], message)) as Buffer[]);
      while (!peer.socket.destroyed) {
        sentBytes += many.length;
        if (!peer.socket.write(many)) {
          await new Promise((resolve) => peer.socket.once('drain', resolve));
        }
      }
    });
    const stop = new AbortController();
    await using client = await NbdClient.connect(server.uri, { signal: stop.signal });
    const before = process.memoryUsage().rss;
    const read = client.read(0, new Uint8Array(1));
    await Promise.race([read.catch(() => undefined), until(() => sentBytes > 256 * MIB)]);
    expect(process.memoryUsage().rss - before).toBeLessThan(128 * MIB);
    stop.abort(new Error('enough'));
    await expect(read).rejects.toThrow('enough');
  });

  it('that never comes is ended by a signal', async () => {
    await using server = await serveScript((peer) => peer.agree());
    const stop = new AbortController();
    await using client = await NbdClient.connect(server.uri, { signal: stop.signal });
    // More than may be open at once.
    const reads = Array.from({ length: 200 }, (_, at) => client.read(at, new Uint8Array(1)));
    const ended = Promise.allSettled(reads);
    await sleep(50);
    const reason = new Error('enough');
    stop.abort(reason);
    for (const read of await ended) expect(read).toEqual({ status: 'rejected', reason });
  });
});

describe('an error of a server', LIMIT, () => {
  it('fails its request, with what it says of it, and no other', async () => {
    const message = `bad\u001b${'x'.repeat(4000)}`;
    await using server = await serveScript(async (peer) => {
      await peer.agree();
      const { cookie } = await peer.request();
      peer.chunk(cookie, DATA, part(AT, 10), false);
      const offset: Part = [8, AT];
      peer.chunk(cookie, 0x8002, [[4, 5], [2, message.length], message, offset], false);
      peer.chunk(cookie, ERROR, [
        [4, 28],
        [2, 0],
      ]);
      for (const error of [1, 28, 22, 99]) {
        peer.chunk((await peer.request()).cookie, 0x8fff, [
          [4, error],
          [2, 0],
        ]);
      }
      peer.simple((await peer.request()).cookie);
    });
    await using client = await NbdClient.connect(server.uri);
    const read = client.read(AT, new Uint8Array(BYTES));
    const said = /of 4096 bytes at offset 65536 failed: .* EIO \("bad\\u001bx{190,200}"\)$/;
    await expectRefusal(read, 'ERR_SLUICE_IO', said);
    const write = (): Promise<void> => client.write(0, new Uint8Array(BYTES));
    await expectRefusal(write(), 'ERR_SLUICE_READ_ONLY', /reported EPERM$/);
    await expectRefusal(write(), 'ERR_SLUICE_NO_SPACE', /reported ENOSPC$/);
    await expectRefusal(write(), 'ERR_SLUICE_IO', /reported EINVAL$/);
    await expectRefusal(write(), 'ERR_SLUICE_IO', /reported error 99$/);
    await client.flush();
  });
});

describe('a server that is odd, and right', LIMIT, () => {
  it('may send a read in parts of any order, cut anywhere', async () => {
    const data = wire.pattern(BYTES);
    await using server = await serveScript(async (peer) => {
      await peer.agree({ contextId: 0 });
      const { cookie, offset } = await peer.request();
      const order = [3, 0, 2, 1];
      const sent: Buffer[] = [];
      peer.send = (...parts) => void sent.push(bytes(...parts));
      for (const [index, quarter] of order.entries()) {
        const from = quarter * 1024;
        const payload: Part[] = [[8, offset + from], data.subarray(from, from + 1024)];
        peer.chunk(cookie, DATA, payload, index === 3);
      }
      const all = Buffer.concat(sent);
      for (let at = 0; at < all.length; at += 7) {
        peer.socket.write(all.subarray(at, at + 7));
        if (at % 700 === 0) await sleep(1);
      }
    });
    await using client = await NbdClient.connect(server.uri);
    const into = new Uint8Array(BYTES);
    await client.read(AT, into);
    expect(data.equals(into)).toBe(true);
  });

  it('may tell extents in short answers and beyond the end, cut inside blocks', async () => {
    const answers: Part[][] = [
      [
        [4, 5],
        [4, 1000],
        [4, 3],
      ],
      [
        [4, 5],
        [4, 4096 * 2],
        [4, 3],
        [4, 100],
        [4, 0],
        [4, 4096 * 4 - 100],
        [4, 2],
        [4, 1],
        [4, 1],
      ],
      [
        [4, 5],
        [4, 2 ** 31],
        [4, 3],
      ],
    ];
    const asked: (readonly [number, number])[] = [];
    await using server = await serveScript(async (peer) => {
      await peer.agree({ size: 2 ** 31, blocks: [4096, 4096, MIB] });
      for (const answer of [...answers, answers[2]!]) {
        const { cookie, offset, length } = await peer.request();
        asked.push([offset, length]);
        peer.chunk(cookie, STATUS, answer);
      }
    });
    await using client = await NbdClient.connect(server.uri);
    const extents: unknown[] = [];
    for await (const { start, length, kind } of client.extents())
      extents.push([start, length, kind]);
    expect(extents).toEqual([
      [0, 4096, 'data'],
      [4096, 8192, 'zero'],
      [12_288, 4096, 'data'],
      [16_384, 12_288, 'zero'],
      [28_672, 4096, 'data'],
      [32_768, 2 ** 30, 'zero'],
      [32_768 + 2 ** 30, 2 ** 30 - 32_768, 'zero'],
    ]);
    expect(asked.map(([offset]) => offset)).toEqual([0, 4096, 32_768, 32_768 + 2 ** 30]);
    for (const [, length] of asked) expect(length % 4096).toBe(0);
  });

  it('may know no FLUSH and no WRITE_ZEROES: zeroes are sent, and nothing is flushed', async () => {
    const seen: SeenRequest[] = [];
    await using server = await serveScript(async (peer) => {
      await peer.agree({ flags: 1, structured: false, blocks: [512, 4096, 512 * 1024] });
      for (;;) {
        const request = await peer.request();
        seen.push(request);
        peer.simple(request.cookie, 0, request.type === wire.READ ? wire.pattern(512) : undefined);
      }
    });
    await using client = await NbdClient.connect(server.uri);
    await client.writeZeroes(0, MIB - 100);
    await client.flush();
    const parts = seen.map(({ type, offset, length }) => [type, offset, length]);
    expect(parts).toEqual([
      [wire.WRITE, 0, 512 * 1024],
      [wire.WRITE, 512 * 1024, 512 * 1024 - 512],
      [wire.READ, MIB - 512, 512],
      [wire.WRITE, MIB - 512, 512],
    ]);
  });

  it('may not do WRITE_ZEROES after all: zeroes are sent, and it is asked once', async () => {
    const ENOTSUP = 95;
    const seen: SeenRequest[] = [];
    await using server = await serveScript(async (peer) => {
      await peer.agree({ structured: false, blocks: [512, 4096, 512 * 1024] });
      for (;;) {
        const request = await peer.request();
        seen.push(request);
        peer.simple(request.cookie, request.type === wire.WRITE_ZEROES ? ENOTSUP : 0);
      }
    });
    await using client = await NbdClient.connect(server.uri);
    await client.writeZeroes(0, MIB);
    await client.writeZeroes(4096, 512);
    const parts = seen.map(({ type, offset, length }) => [type, offset, length]);
    expect(parts).toEqual([
      [wire.WRITE_ZEROES, 0, MIB],
      [wire.WRITE, 0, 512 * 1024],
      [wire.WRITE, 512 * 1024, 512 * 1024],
      [wire.WRITE, 4096, 512],
    ]);
  });
});
