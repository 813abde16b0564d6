/**
 * Hostile sequences, N01 to N60: each title says what a correct server does, and after each one an
 * honest client must be served.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OP_FLUSH, STATUS_IO_ERROR } from '../../src/abi/request.ts';
import {
  HANDSHAKE_GRACE_MS,
  MAX_DRAINED_BYTES,
  MAX_HANDSHAKES,
  MAX_OPTIONS,
  MAX_PAYLOAD_BYTES,
} from '../../src/nbd/limits.ts';
import {
  bytes,
  contextData,
  hex,
  infoData,
  option,
  request,
  said,
  type TestClient,
} from './client.ts';
import { hostileRows, rowsOf, sequencesOf } from './hostile-rows.ts';
import { serveFake, type Serving, settle, until } from './serving.ts';
import {
  ACK,
  BLOCK_STATUS,
  DISC,
  EINVAL,
  EIO,
  ENOSPC,
  EPERM,
  ERR_INVALID,
  ERR_POLICY,
  ERR_UNKNOWN,
  ERR_UNSUP,
  FLUSH,
  FUA,
  INFO,
  pattern,
  READ,
  SERVER,
  TRIM,
  WRITE,
  WRITE_ZEROES,
} from './wire.ts';

const SIZE = 2 ** 20;
const LIST = 3;
const GO = 7;
/** Numbers that the table has; none gets lost. */
const SEQUENCES = 60;

let serving: Serving;

beforeAll(async () => {
  serving = await serveFake({ sizeBytes: SIZE });
  serving.device.storage.fill(0x5a);
});

afterAll(() => serving[Symbol.asyncDispose]());

/** Runs one sequence, and then an honest client. */
async function against(
  sequence: (client: TestClient) => Promise<void>,
  to: Serving = serving,
): Promise<void> {
  await using client = await to.connect();
  await sequence(client);
  client.destroy();
  await using honest = await to.go();
  expect(await honest.ask({ type: READ, length: 512 })).toMatchObject({ error: 0 });
  honest.destroy();
  await until(() => to.server.clients === 0);
  expect(to.device.arenaIsWhole).toBe(true);
}

/** The same for what comes after client flags. */
function options(sequence: (client: TestClient) => Promise<void>): () => Promise<void> {
  return () =>
    against(async (client) => {
      await client.hello();
      await sequence(client);
    });
}

/** The same for what comes after GO. */
function transmission(
  sequence: (client: TestClient) => Promise<void>,
  ...negotiated: Buffer[]
): () => Promise<void> {
  return options(async (client) => {
    for (const sent of [...negotiated, option(GO, infoData())]) {
      client.send(sent);
      await client.replies();
    }
    await sequence(client);
  });
}

/** The connection is closed without another byte. */
async function dropped(client: TestClient): Promise<void> {
  expect(await client.rest()).toHaveLength(0);
}

describe('client flags', () => {
  it('N01 flags 0xffffffff: dropped', () =>
    against(async (client) => {
      await client.hello(0xffffffff);
      client.send(option(LIST));
      await dropped(client);
    }));

  it('N02 no FIXED_NEWSTYLE, then LIST: dropped', () =>
    against(async (client) => {
      await client.hello(0);
      client.send(option(LIST));
      await dropped(client);
    }));

  it('N52 an HTTP request: dropped', () =>
    against(async (client) => {
      client.send('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      await client.read(18);
      await dropped(client);
    }));
});

describe('options', () => {
  it(
    'N03 bad option magic: dropped',
    options(async (client) => {
      client.send(hex('1122334455667788 00000003 00000000'));
      await dropped(client);
    }),
  );

  it(
    'N04 option length 0xffffffff: dropped',
    options(async (client) => {
      client.send(option(LIST, hex(''), 0xffffffff));
      await dropped(client);
    }),
  );

  it(
    'N05 unknown option with 32 MiB + 1 announced: dropped',
    options(async (client) => {
      client.send(option(99, hex(''), 2 ** 25 + 1));
      await dropped(client);
    }),
  );

  it(
    'N05 unknown option with 32 MiB of data: ERR_UNSUP, go on, memory flat',
    options(async (client) => {
      const before = process.memoryUsage().arrayBuffers;
      client.send(option(99, hex(''), 2 ** 25));
      const chunk = Buffer.alloc(2 ** 16);
      for (let sent = 0; sent < 2 ** 25; sent += chunk.length) {
        if (!client.socket.write(chunk)) await settle(0);
      }
      expect((await client.replies())[0]?.type).toBe(ERR_UNSUP);
      expect(await client.types(LIST)).toEqual([SERVER, ACK]);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 23);
    }),
  );

  it(
    'N06 unknown option 0x7fffffff, empty: ERR_UNSUP, go on',
    options(async (client) => {
      expect(await client.types(0x7fffffff)).toEqual([ERR_UNSUP]);
      expect(await client.types(LIST)).toEqual([SERVER, ACK]);
    }),
  );

  it.each([
    ['N07 LIST with data: ERR_INVALID', LIST, Buffer.from('abcd'), ERR_INVALID],
    [
      'N08 GO with a name longer than the option: ERR_INVALID',
      GO,
      bytes([4, 1000], 'abc', [2, 0]),
      ERR_INVALID,
    ],
    [
      'N09 GO with name length 0xffffffff: ERR_INVALID',
      GO,
      bytes([4, 0xffffffff], [2, 0]),
      ERR_INVALID,
    ],
    ['N10 GO of 4 bytes: ERR_INVALID', GO, hex('00000000'), ERR_INVALID],
    [
      'N11 GO with info count larger than sent: ERR_INVALID',
      GO,
      bytes([4, 0], [2, 500]),
      ERR_INVALID,
    ],
    ['N12 GO for an export that does not exist: ERR_UNKNOWN', GO, infoData('nope'), ERR_UNKNOWN],
    ['N13 GO with a 5000-byte name: ERR_INVALID', GO, infoData('A'.repeat(5000)), ERR_INVALID],
    ['N14 GO with NUL in the name: ERR_INVALID', GO, infoData('a\0b'), ERR_INVALID],
    ['N18 STRUCTURED_REPLY with data: ERR_INVALID', 8, Buffer.from('x'), ERR_INVALID],
    [
      'N19 SET_META_CONTEXT without structured replies: ERR_INVALID',
      10,
      contextData('', 'base:allocation'),
      ERR_INVALID,
    ],
    ['N22 STARTTLS without TLS: ERR_POLICY', 5, hex(''), ERR_POLICY],
  ])('%s, go on', (_title, code, data, expected) =>
    options(async (client) => {
      expect(await client.types(code, data)).toEqual([expected]);
      expect(await client.types(LIST)).toEqual([SERVER, ACK]);
    })(),
  );

  it(
    'N15 EXPORT_NAME of 4097 bytes: dropped',
    options(async (client) => {
      client.send(option(1, Buffer.alloc(4097, 'A')));
      await dropped(client);
    }),
  );

  it(
    'N16 EXPORT_NAME of a missing export: dropped',
    options(async (client) => {
      client.send(option(1, Buffer.from('nope')));
      await dropped(client);
    }),
  );

  it(
    'N17 STRUCTURED_REPLY twice: ACK, ERR_INVALID',
    options(async (client) => {
      expect(await client.types(8)).toEqual([ACK]);
      expect(await client.types(8)).toEqual([ERR_INVALID]);
    }),
  );

  it.each([
    ['N20 SET_META_CONTEXT with 2^32-1 queries', bytes([4, 0], [4, 0xffffffff])],
    ['N21 query length past the option', bytes([4, 0], [4, 1], [4, 5000], 'base:')],
  ])('%s: ERR_INVALID, go on', (_title, data) =>
    options(async (client) => {
      expect(await client.types(8)).toEqual([ACK]);
      expect(await client.types(10, data)).toEqual([ERR_INVALID]);
      expect(await client.types(LIST)).toEqual([SERVER, ACK]);
    })(),
  );

  it(
    `N23 2000 LIST options in a row: ${MAX_OPTIONS} answered, then dropped`,
    options(async (client) => {
      for (let sent = 0; sent < 2000; sent++) client.send(option(LIST));
      for (let answered = 0; answered < MAX_OPTIONS; answered++) await client.replies();
      await dropped(client);
    }),
  );

  it(
    'N24 ABORT, then more bytes: ACK, close',
    options(async (client) => {
      client.send(option(2), Buffer.alloc(100));
      expect(await client.replies()).toMatchObject([{ option: 2, type: ACK }]);
      await dropped(client);
    }),
  );

  it(
    'N51 option data dribbled a byte at a time: works',
    options(async (client) => {
      for (const byte of option(GO, infoData('', 3))) {
        client.send(Uint8Array.of(byte));
        await settle(1);
      }
      expect((await client.replies()).map(({ type }) => type)).toEqual([INFO, INFO, ACK]);
    }),
  );
});

describe('connections', () => {
  it('N25 connect and send nothing: closed after the time limit', async () => {
    await using limited = await serveFake({}, { handshakeTimeoutMs: 100 });
    await against(async (client) => {
      const began = Date.now();
      await client.read(18);
      await dropped(client);
      expect(Date.now() - began).toBeGreaterThanOrEqual(90);
    }, limited);
  });

  it('N25 an option a byte at a time, without end: closed after the time limit', async () => {
    await using limited = await serveFake({}, { handshakeTimeoutMs: 200 });
    await against(async (client) => {
      await client.hello();
      const timer = setInterval(() => client.send(Uint8Array.of(0x49)), 20);
      await client.rest();
      clearInterval(timer);
    }, limited);
  });

  it('N26 idle connections held: honest clients keep getting in', () =>
    against(async () => {
      const idle: TestClient[] = [];
      const hold = async (): Promise<void> => {
        for (let held = 0; held < MAX_HANDSHAKES; held++) idle.push(await serving.connect());
        for (const client of idle.slice(-MAX_HANDSHAKES)) await client.read(18);
      };
      await hold();
      await settle(HANDSHAKE_GRACE_MS);
      await hold();
      await using honest = await serving.go();
      expect((await honest.ask({ type: READ, length: 512 })).error).toBe(0);
      // The oldest made room for the newest.
      await dropped(idle[0] as TestClient);
      expect(idle.at(-1)?.socket.readableEnded).toBe(false);
      for (const client of idle) client.destroy();
    }));

  it('N57 the server stops with a half-negotiated client: both end', async () => {
    const stopped = await serveFake();
    const silent = await stopped.connect();
    const begun = await stopped.connect();
    await begun.hello();
    begun.send(option(99, hex(''), 100));
    await settle(20);
    await stopped[Symbol.asyncDispose]();
    await silent.rest();
    await begun.rest();
  });

  it('N60 400 connections in a second: all served', async () => {
    const began = Date.now();
    await Promise.all(
      Array.from({ length: 400 }, async () => {
        await using client = await serving.go();
        expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
        client.send(request({ type: DISC }));
        await client.rest();
      }),
    ).catch((error: unknown) => {
      throw new Error(`after ${Date.now() - began} ms`, { cause: error });
    });
    await until(() => serving.server.clients === 0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describe('requests', () => {
  it.each([
    ['N27 bad request magic', request({ type: READ, length: 512, magic: 0x12345678 })],
    ['N28 reply magic as request magic', request({ type: READ, length: 512, magic: 0x67446698 })],
    ['N50 4 KiB of noise', pattern(4096, 99)],
    ['N36 WRITE of 0xffffffff bytes', request({ type: WRITE, length: 0xffffffff })],
    ['N36 WRITE of 64 MiB + 1', request({ type: WRITE, length: MAX_DRAINED_BYTES + 1 })],
  ])('%s: dropped', (_title, sent) =>
    transmission(async (client) => {
      client.send(sent);
      await dropped(client);
    })(),
  );

  it.each([
    ['N29 unknown command 0xffff: EINVAL', { type: 0xffff }, EINVAL],
    [
      'N30 unknown flags 0xffff on READ: EINVAL',
      { type: READ, length: 512, flags: 0xffff },
      EINVAL,
    ],
    ['N31 READ at 2^64-512: EINVAL', { type: READ, offset: 2n ** 64n - 512n, length: 512 }, EINVAL],
    [
      'N32 READ past the end by one: EINVAL',
      { type: READ, offset: SIZE - 511, length: 512 },
      EINVAL,
    ],
    ['N33 READ of 0xffffffff bytes: EINVAL', { type: READ, length: 0xffffffff }, EINVAL],
    ['N34 READ of 0 bytes: success', { type: READ }, 0],
    ['N40 TRIM past the end: EINVAL', { type: TRIM, offset: SIZE - 4096, length: 8192 }, EINVAL],
    ['N41 TRIM of 0xffffffff at 0: EINVAL', { type: TRIM, length: 0xffffffff }, EINVAL],
    [
      'N42 WRITE_ZEROES past the end: ENOSPC',
      { type: 6, offset: SIZE - 512, length: 1024 },
      ENOSPC,
    ],
    ['N43 FLUSH with offset and length: success', { type: FLUSH, offset: 77, length: 99 }, 0],
    ['N44 FUA on a READ: success', { type: READ, length: 512, flags: FUA }, 0],
    ['N45 BLOCK_STATUS without a context: EINVAL', { type: BLOCK_STATUS, length: 512 }, EINVAL],
  ])('%s, go on', (_title, parts, error) =>
    transmission(async (client) => {
      expect((await client.ask(parts)).error).toBe(error);
      expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    })(),
  );

  it(
    'N45 BLOCK_STATUS without a context, with structured replies: EINVAL in an error chunk',
    transmission(async (client) => {
      const reply = await client.ask({ type: BLOCK_STATUS, length: 512 });
      expect(reply).toMatchObject({ kind: 'chunk', type: 0x8001, error: EINVAL });
    }, option(8)),
  );

  it(
    'N35 WRITE past the end, then READ: ENOSPC, payload consumed, next served',
    transmission(async (client) => {
      const write = request({ type: WRITE, offset: SIZE, data: Buffer.alloc(512, 'W') });
      client.send(write, request({ type: READ, length: 512 }));
      expect((await client.reply()).error).toBe(ENOSPC);
      expect((await client.reply(512)).data).toEqual(Buffer.alloc(512, 0x5a));
    }),
  );

  it(
    'N37 WRITE of 33 MiB with its bytes: EINVAL, nothing buffered, next served',
    transmission(async (client) => {
      const length = MAX_PAYLOAD_BYTES + 2 ** 20;
      const before = process.memoryUsage().arrayBuffers;
      client.send(request({ type: WRITE, length }));
      const chunk = Buffer.alloc(2 ** 16);
      for (let sent = 0; sent < length; sent += chunk.length) {
        if (!client.socket.write(chunk)) await settle(0);
      }
      expect((await client.reply()).error).toBe(EINVAL);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 24);
      expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    }),
  );

  it(
    'N38 WRITE cut short, connection closed: nothing is written',
    transmission(async (client) => {
      client.send(request({ type: WRITE, length: 4096 }), Buffer.alloc(1000, 'X'));
      await settle(20);
      client.destroy();
      await settle(20);
      expect(serving.device.storage.every((byte) => byte === 0x5a)).toBe(true);
    }),
  );

  it('N39 WRITE to a read-only export: EPERM, payload consumed', async () => {
    await using readOnly = await serveFake({ readOnly: true });
    await against(async (client) => {
      await client.hello();
      client.send(option(GO, infoData()));
      await client.replies();
      client.send(request({ type: WRITE, data: pattern(512) }));
      client.send(request({ type: READ, length: 512 }));
      expect((await client.reply()).error).toBe(EPERM);
      expect((await client.reply(512)).error).toBe(0);
    }, readOnly);
  });

  it(
    'N46 the same cookie for 64 READs in flight: 64 answers',
    transmission(async (client) => {
      for (let read = 0; read < 64; read++) {
        client.send(request({ type: READ, offset: read * 512, length: 512, cookie: 1 }));
      }
      for (let read = 0; read < 64; read++) {
        expect(await client.reply(512)).toMatchObject({ error: 0, cookie: 1n });
      }
    }),
  );
});

describe('disconnects', () => {
  it.each([
    ['at once', 'inline'],
    ['later', 'later'],
  ] as const)(
    'N47 DISC behind 16 WRITEs that the disk answers %s: all are executed',
    async (_when, mode) => {
      await using disconnected = await serveFake({ mode });
      await against(async (client) => {
        await client.hello();
        client.send(option(GO, infoData()));
        await client.replies();
        for (let at = 0; at < 16; at++) {
          const data = Buffer.alloc(4096, 65 + at);
          client.send(request({ type: WRITE, offset: at * 4096, data, cookie: at }));
        }
        client.send(request({ type: DISC }));
        await client.rest();
        const { storage } = disconnected.device;
        for (let at = 0; at < 65_536; at++) {
          if (storage[at] !== 65 + (at >> 12)) throw new Error(`byte ${at} is ${storage[at]}`);
        }
      }, disconnected);
    },
  );

  it('N47 1000 WRITEs, DISC, and gone without reading a reply: all are executed', async () => {
    await using disconnected = await serveFake({ mode: 'later', sizeBytes: 2 ** 20 });
    await against(async (client) => {
      await client.hello();
      client.send(option(GO, infoData()));
      await client.replies();
      client.socket.pause();
      for (let at = 0; at < 1000; at++) {
        client.send(request({ type: WRITE, offset: at * 512, data: Buffer.alloc(512, 1) }));
      }
      client.send(request({ type: DISC }));
      await new Promise<void>((resolve) => client.socket.end(resolve));
      client.destroy();
      await until(() => disconnected.server.clients === 0);
      const { storage } = disconnected.device;
      expect(storage.subarray(0, 512_000).every((byte) => byte === 1)).toBe(true);
    }, disconnected);
  });

  it('N48 64 READs of 1 MiB, replies not read: at most 6 are begun, others served', async () => {
    await using greedy = await serveFake({ arenaBytes: 2 ** 24 });
    await against(async (client) => {
      await client.hello();
      client.send(option(GO, infoData()));
      await client.replies();
      client.socket.pause();
      for (let read = 0; read < 64; read++) client.send(request({ type: READ, length: SIZE }));
      await settle(100);
      // A quarter of the arena is 4 MiB, and the kernel holds less than one.
      expect(greedy.device.log.length).toBeLessThanOrEqual(6);
      await using honest = await greedy.go();
      expect((await honest.ask({ type: READ, length: SIZE })).error).toBe(0);
    }, greedy);
  });

  it(
    'N49 half a request header, then silence: held, and served when the rest comes',
    transmission(async (client) => {
      client.send(request({ type: READ, length: 512 }).subarray(0, 8));
      await settle(50);
      client.send(request({ type: READ, length: 512 }).subarray(8));
      expect((await client.reply(512)).error).toBe(0);
    }),
  );

  it('N59 closes during a reply of 32 MiB: memory comes back', async () => {
    await using large = await serveFake({ sizeBytes: 2 ** 25 });
    await against(async (client) => {
      await client.hello();
      client.send(option(GO, infoData()));
      await client.replies();
      client.send(request({ type: READ, length: 2 ** 25 }));
      await client.read(100_000);
      client.destroy();
      await until(() => large.server.clients === 0);
      expect(large.device.arenaIsWhole).toBe(true);
    }, large);
  });
});

describe('what past bugs teach', () => {
  it('N55 INFO, and gone before GO: the disk has seen nothing', async () => {
    await using untouched = await serveFake();
    await using client = await untouched.connect();
    await client.hello();
    expect(await client.types(8)).toEqual([ACK]);
    expect(await client.types(6, infoData())).toEqual([INFO, ACK]);
    client.destroy();
    await until(() => untouched.server.clients === 0);
    expect(untouched.device.log).toEqual([]);
    expect(untouched.device.kicks).toBe(0);
    expect(untouched.device.arenaIsWhole).toBe(true);
    await against(async (next) => void (await next.hello()), untouched);
  });

  it(
    'N56 a WRITE_ZEROES after INFO: dropped',
    options(async (client) => {
      expect(await client.types(6, infoData())).toEqual([INFO, ACK]);
      client.send(request({ type: WRITE_ZEROES, length: 512 }));
      await dropped(client);
      expect(serving.device.storage.every((byte) => byte === 0x5a)).toBe(true);
    }),
  );

  it(
    'N58 options with long names and data: error replies of under 100 bytes',
    options(async (client) => {
      for (const [code, data] of [
        [GO, infoData('x'.repeat(4000))],
        [LIST, Buffer.alloc(10_000, 'x')],
        [10, contextData('y'.repeat(4000), 'z'.repeat(4000))],
        [99, Buffer.alloc(10_000, 'x')],
      ] as const) {
        client.send(option(code, data));
        const [reply] = await client.replies();
        expect(reply?.type).toBeGreaterThan(0x80000000);
        expect(reply?.data.length).toBeLessThan(100);
      }
    }),
  );

  it('N58 a FLUSH that fails: a short text that says nothing of what was sent', async () => {
    await using failing = await serveFake();
    await using client = await failing.go(option(8));
    failing.device.statusOf = ({ op }) => (op === OP_FLUSH ? STATUS_IO_ERROR : 0);
    const reply = await client.ask({ type: FLUSH });
    expect(reply.error).toBe(EIO);
    const expected = 'flush failed: the storage of the server reported an error';
    expect(said(reply)).toEqual({ text: expected });
  });
});

describe('the table in docs/nbd.md', () => {
  it('has a line for each sequence of this file, and no other', ({ task }) => {
    expect(rowsOf('hostile.test.ts')).toEqual(sequencesOf(task.file));
  });

  it('has every number, in order, and names files that compare themselves with it', () => {
    const ids = [...new Set(hostileRows().map(({ title }) => title.slice(0, 3)))];
    const all = Array.from({ length: SEQUENCES }, (_, index) => index + 1);
    expect(ids).toEqual(all.map((number) => `N${String(number).padStart(2, '0')}`));
    const files = new Set(hostileRows().map(({ file }) => file));
    expect([...files]).toEqual(['test/nbd/hostile.test.ts', 'test/nbd/tls.test.ts']);
  });
});
