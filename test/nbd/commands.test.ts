import { describe, expect, it } from 'vitest';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FAST_ZERO,
  REQUEST_FUA,
  REQUEST_MAY_UNMAP,
  STATUS_FLUSH_LATCHED,
  STATUS_INVALID,
  STATUS_IO_ERROR,
  STATUS_NO_SPACE,
  STATUS_OUT_OF_RANGE,
  STATUS_READ_ONLY,
  STATUS_UNSUPPORTED,
} from '../../src/abi/request.ts';
import { COMMANDS, commandName, commandWords } from '../../src/nbd/commands.ts';
import { bytes, contextData, hex, infoData, option, request, said } from './client.ts';
import { serveFake, until } from './serving.ts';
import {
  BLOCK_STATUS,
  CACHE,
  DF,
  DISC,
  EINVAL,
  EIO,
  ENOSPC,
  ENOTSUP,
  EPERM,
  FAST_ZERO,
  FLUSH,
  FUA,
  NO_HOLE,
  pattern,
  READ,
  REQ_ONE,
  TRIM,
  WRITE,
  WRITE_ZEROES,
} from './wire.ts';

const SIZE = 2 ** 20;
const STRUCTURED = option(8);
const CONTEXT = option(10, contextData('', 'base:allocation'));

describe('a session', () => {
  it('says what the walk-through of the digest says, to the last byte', async () => {
    await using serving = await serveFake();
    await using client = await serving.connect();
    expect(await client.read(18)).toEqual(hex('4e42444d41474943 49484156454f5054 0003'));
    client.send(hex('00000003'));
    client.send(hex('49484156454f5054 00000008 00000000'));
    expect(await client.read(20)).toEqual(hex('0003e889045565a9 00000008 00000001 00000000'));
    client.send(hex('49484156454f5054 00000007 00000008 00000000 0001 0003'));
    expect(await client.read(86)).toEqual(
      hex(`0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0ded
        0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
        0003e889045565a9 00000007 00000001 00000000`),
    );
    const data = pattern(4096);
    client.send(
      hex('25609513 0001 0001 1122334455667788 0000000000001000 00001000'),
      data,
      hex('25609513 0000 0003 99aabbccddeeff00 0000000000000000 00000000'),
    );
    expect(await client.read(32)).toEqual(
      hex('67446698 00000000 1122334455667788 67446698 00000000 99aabbccddeeff00'),
    );
    client.send(hex('25609513 0000 0002 0000000000000000 0000000000000000 00000000'));
    expect(await client.rest()).toHaveLength(0);
    expect(Buffer.from(serving.device.storage.subarray(4096, 8192))).toEqual(data);
    expect(serving.device.log).toEqual([
      { op: OP_WRITE, flags: REQUEST_FUA, offset: 4096, length: 4096 },
      { op: OP_FLUSH, flags: 0, offset: 0, length: 0 },
    ]);
  });

  it('begins with requests that came in one segment with GO', async () => {
    await using serving = await serveFake();
    await using client = await serving.connect();
    client.send(
      hex('00000003'),
      option(7, infoData()),
      request({ type: WRITE, data: pattern(512) }),
      request({ type: READ, length: 512 }).subarray(0, 11),
    );
    await client.read(18);
    await client.replies();
    expect((await client.reply()).error).toBe(0);
    client.send(request({ type: READ, length: 512 }).subarray(11));
    expect((await client.reply(512)).data).toEqual(pattern(512));
  });

  it('goes on with EXPORT_NAME as with GO', async () => {
    await using serving = await serveFake({}, { name: 'disk' });
    await using client = await serving.connect();
    await client.hello(1);
    client.send(option(1, Buffer.from('disk')));
    expect((await client.read(134)).subarray(0, 10)).toEqual(hex('0000000000100000 0d6d'));
    expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
  });
});

describe.each([
  ['simple', []],
  ['structured', [STRUCTURED]],
])('with %s replies', (kind, options) => {
  const structured = kind === 'structured';

  it('READ returns what WRITE wrote, at any alignment and length', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(...options);
    for (const [offset, length] of [
      [0, 1],
      [1, 511],
      [4095, 4098],
      [SIZE - 1, 1],
      [13, 200_001],
      [0, SIZE],
    ] as const) {
      const data = pattern(length, offset & 63);
      expect(await client.ask({ type: WRITE, offset, data })).toMatchObject({ error: 0, type: 0 });
      const reply = await client.ask({ type: READ, offset, length, flags: structured ? DF : 0 });
      expect(reply).toMatchObject({ error: 0, kind: structured ? 'chunk' : 'simple' });
      if (!structured) expect(reply.data.equals(data)).toBe(true);
      else expect(reply.data.equals(bytes([8, offset], data))).toBe(true);
    }
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('an error has no data, and as a chunk its number and a text', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(...options);
    serving.device.statusOf = () => STATUS_IO_ERROR;
    for (const type of [READ, FLUSH]) {
      const reply = await client.ask({ type, length: type === READ ? 512 : 0, cookie: 2n ** 63n });
      expect(reply).toMatchObject({ error: EIO, cookie: 2n ** 63n });
      if (structured) expect(reply).toMatchObject({ flags: 1, type: 0x8001 });
      if (structured) expect(said(reply).text).toContain('the storage of the server reported');
    }
  });

  it('a length of zero succeeds', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(...options);
    for (const type of [READ, WRITE, TRIM, CACHE, WRITE_ZEROES]) {
      const reply = await client.ask({ type, offset: SIZE });
      expect(reply).toMatchObject({ error: 0, type: 0 });
      // READ has no simple reply once structured replies are on.
      expect(reply.kind).toBe(structured && type === READ ? 'chunk' : 'simple');
    }
    expect(serving.device.log).toEqual([]);
  });
});

describe('the names of commands', () => {
  it('are in one table, by number: for statistics, and with spaces for people', () => {
    const numbers = [READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 8];
    expect(numbers.map(commandName)).toEqual([...COMMANDS, 'unknown']);
    const words = 'read,write,request,flush,trim,cache,write zeroes,block status,request';
    expect(numbers.map(commandWords).join()).toBe(words);
  });
});

describe('commands', () => {
  it.each([
    [WRITE, 0, OP_WRITE, 0],
    [WRITE, FUA, OP_WRITE, REQUEST_FUA],
    [READ, FUA, OP_READ, 0],
    [FLUSH, FUA, OP_FLUSH, 0],
    [TRIM, 0, OP_DISCARD, 0],
    [TRIM, FUA, OP_DISCARD, REQUEST_FUA],
    [CACHE, FUA, OP_READ, 0],
    [WRITE_ZEROES, 0, OP_WRITE_ZEROES, REQUEST_MAY_UNMAP],
    [WRITE_ZEROES, NO_HOLE, OP_WRITE_ZEROES, 0],
    [WRITE_ZEROES, NO_HOLE | FUA, OP_WRITE_ZEROES, REQUEST_FUA],
    [WRITE_ZEROES, FAST_ZERO, OP_WRITE_ZEROES, REQUEST_MAY_UNMAP | REQUEST_FAST_ZERO],
    [BLOCK_STATUS, FUA, OP_BLOCK_STATUS, 0],
  ])('type %i with flags %i is operation %i with flags %i', async (type, flags, op, expected) => {
    await using serving = await serveFake();
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const data = type === WRITE ? pattern(4096) : hex('');
    const reply = await client.ask({ type, flags, offset: 8192, length: 4096, data });
    expect(reply.error).toBe(0);
    const { device } = serving;
    const place = type === FLUSH ? { length: 0 } : { offset: 8192, length: 4096 };
    expect(device.log).toHaveLength(1);
    expect(device.log[0]).toMatchObject({ op, flags: expected, ...place });
  });

  it.each([
    [READ, NO_HOLE],
    [READ, REQ_ONE],
    [FLUSH, DF],
    [TRIM, NO_HOLE],
    [CACHE, DF],
    [WRITE_ZEROES, REQ_ONE],
    [WRITE_ZEROES, DF],
    [BLOCK_STATUS, NO_HOLE],
    [WRITE, NO_HOLE],
    [WRITE, 0x20],
    [WRITE, 0x8000],
  ])('type %i with flags %i is EINVAL, and the next is served', async (type, flags) => {
    await using serving = await serveFake();
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const data = type === WRITE ? pattern(512) : hex('');
    expect((await client.ask({ type, flags, length: 512, data })).error).toBe(EINVAL);
    expect((await client.ask({ type: FLUSH })).error).toBe(0);
    expect(serving.device.ops()).toEqual([OP_FLUSH]);
  });

  it('DF without structured replies is EINVAL', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    expect((await client.ask({ type: READ, flags: DF, length: 512 })).error).toBe(EINVAL);
  });

  it.each([
    [STATUS_IO_ERROR, FLUSH, EIO],
    [STATUS_FLUSH_LATCHED, FLUSH, EIO],
    [STATUS_NO_SPACE, WRITE_ZEROES, ENOSPC],
    [STATUS_READ_ONLY, TRIM, EPERM],
    [STATUS_OUT_OF_RANGE, READ, EINVAL],
    [STATUS_INVALID, READ, EINVAL],
    [STATUS_UNSUPPORTED, WRITE_ZEROES, ENOTSUP],
    [STATUS_UNSUPPORTED, TRIM, 0],
  ])('status %i of type %i is error %i', async (status, type, error) => {
    await using serving = await serveFake();
    await using client = await serving.go();
    serving.device.statusOf = () => status;
    expect((await client.ask({ type, length: 512 })).error).toBe(error);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('offsets beyond 2^53 are past the end by class', async () => {
    await using serving = await serveFake({ sizeBytes: 2 ** 53, storage: false });
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const last = 2 ** 53 - 512;
    expect((await client.ask({ type: READ, offset: last, length: 512 })).error).toBe(0);
    for (const offset of [last + 1, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 512n]) {
      const data = pattern(512);
      expect((await client.ask({ type: READ, offset, length: 512 })).error).toBe(EINVAL);
      expect((await client.ask({ type: WRITE, offset, data })).error).toBe(ENOSPC);
      expect((await client.ask({ type: TRIM, offset, length: 512 })).error).toBe(EINVAL);
      expect((await client.ask({ type: WRITE_ZEROES, offset, length: 512 })).error).toBe(ENOSPC);
      expect((await client.ask({ type: BLOCK_STATUS, offset, length: 512 })).error).toBe(EINVAL);
    }
  });

  it('TRIM and WRITE_ZEROES take 2^32-1 bytes as one request', async () => {
    await using serving = await serveFake({ sizeBytes: 2 ** 40, storage: false });
    await using client = await serving.go();
    const length = 0xffffffff;
    for (const type of [TRIM, WRITE_ZEROES]) {
      expect((await client.ask({ type, offset: 2 ** 39 + 1, length })).error).toBe(0);
    }
    expect(serving.device.log).toMatchObject([
      { op: OP_DISCARD, offset: 2 ** 39 + 1, length },
      { op: OP_WRITE_ZEROES, offset: 2 ** 39 + 1, length },
    ]);
  });

  it('a read-only export refuses to change and serves the rest', async () => {
    await using serving = await serveFake({}, { readOnly: true });
    await using client = await serving.go();
    expect((await client.ask({ type: WRITE, data: pattern(100_000) })).error).toBe(EPERM);
    expect((await client.ask({ type: TRIM, length: 512 })).error).toBe(EPERM);
    expect((await client.ask({ type: WRITE_ZEROES, length: 512 })).error).toBe(EPERM);
    expect((await client.ask({ type: WRITE })).error).toBe(EPERM);
    expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    expect((await client.ask({ type: FLUSH })).error).toBe(0);
    expect(serving.device.ops()).toEqual([OP_READ, OP_FLUSH]);
  });

  it('replies come as the device completes, each with its cookie', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    const cookies = [0n, 1n, 2n ** 64n - 1n, 2n ** 53n + 1n, 0x8000_0000n];
    for (const cookie of cookies) client.send(request({ type: FLUSH, cookie }));
    await until(() => serving.device.open === cookies.length);
    serving.device.releaseBackwards();
    for (const cookie of cookies.toReversed()) {
      expect(await client.reply()).toMatchObject({ cookie, error: 0 });
    }
  });

  it('many requests are submitted with one kick', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    const kicks = serving.device.kicks;
    const batch = Array.from({ length: 100 }, (_, cookie) =>
      request({ type: READ, offset: cookie * 512, length: 512, cookie }),
    );
    client.send(...batch);
    for (const cookie of batch.keys()) {
      expect((await client.reply(512)).cookie).toBe(BigInt(cookie));
    }
    expect(serving.device.kicks - kicks).toBeLessThanOrEqual(4);
  });

  it('a FLUSH is submitted at once, whatever is in flight', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    client.send(request({ type: WRITE, data: pattern(4096) }), request({ type: FLUSH }));
    await until(() => serving.device.open === 2);
    expect(serving.device.ops()).toEqual([OP_WRITE, OP_FLUSH]);
    serving.device.release();
  });

  it('DISC has no reply and closes', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    client.send(request({ type: DISC }));
    expect(await client.rest()).toHaveLength(0);
    await until(() => serving.server.clients === 0);
  });
});

describe('CACHE', () => {
  it('reads in pieces and drops the data', async () => {
    await using serving = await serveFake({ sizeBytes: 2 ** 25, mode: 'later' });
    await using client = await serving.go();
    const length = 2 ** 20 + 5;
    expect(await client.ask({ type: CACHE, offset: 3, length })).toMatchObject({ error: 0 });
    expect(serving.device.log.every(({ op }) => op === OP_READ)).toBe(true);
    expect(serving.device.log.map((one) => one.length)).toEqual([
      ...Array.from({ length: 4 }, () => 2 ** 18),
      5,
    ]);
    expect(serving.device.log.at(-1)?.offset).toBe(3 + 2 ** 20);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('stops at the first error', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    serving.device.statusOf = () => STATUS_IO_ERROR;
    expect((await client.ask({ type: CACHE, length: SIZE })).error).toBe(EIO);
    expect(serving.device.log).toHaveLength(1);
  });

  it('has nothing to do on a device that goes past the page cache', async () => {
    await using serving = await serveFake({ blockSizeBytes: 512 });
    await using client = await serving.go();
    expect((await client.ask({ type: CACHE, length: SIZE })).error).toBe(0);
    expect(serving.device.log).toEqual([]);
  });
});

describe('what takes long', () => {
  const LONG = 64 * 2 ** 20;

  it.each([
    ['CACHE', CACHE, LONG / 2 ** 18],
    ['BLOCK_STATUS', BLOCK_STATUS, 1],
  ])('%s: one in a turn of the event loop for each connection', async (_, type, pieces) => {
    await using serving = await serveFake({ sizeBytes: LONG, storage: false });
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const requests = Array.from({ length: 16 }, () => request({ type, length: LONG }));
    client.send(...requests);
    const { log } = serving.device;
    let most = 0;
    for (let before = 0; before < 16 * pieces;) {
      await new Promise((resolve) => void setImmediate(resolve));
      most = Math.max(most, log.length - before);
      before = log.length;
    }
    // The event loop may have its immediates between ours.
    expect(most).toBeLessThanOrEqual(2);
    for (const _one of requests) expect((await client.reply()).error).toBe(0);
    expect(log).toHaveLength(16 * pieces);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('is passed by other requests', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const status = request({ type: BLOCK_STATUS, length: SIZE });
    client.send(status, status, request({ type: CACHE, length: SIZE }), request({ type: FLUSH }));
    await until(() => serving.device.open === 2);
    expect(serving.device.ops()).toEqual([OP_BLOCK_STATUS, OP_FLUSH]);
    serving.device.mode = 'inline';
    serving.device.release();
    for (let left = 4; left > 0; left--) expect((await client.reply()).error).toBe(0);
  });

  it('is done for a client that only listens, and not for one that has gone', async () => {
    for (const gone of [false, true]) {
      await using serving = await serveFake({ mode: 'held' });
      await using client = await serving.go(STRUCTURED, CONTEXT);
      const status = request({ type: BLOCK_STATUS, length: SIZE });
      client.send(...Array.from({ length: 8 }, () => status));
      await until(() => serving.device.open === 1);
      if (gone) client.destroy();
      else client.socket.end();
      await until(() => {
        serving.device.release();
        return serving.server.clients === 0;
      });
      expect(serving.device.log).toHaveLength(gone ? 1 : 8);
      if (!gone) for (let left = 8; left > 0; left--) expect((await client.reply()).type).toBe(5);
      expect(serving.device.arenaIsWhole).toBe(true);
    }
  });
});

describe('BLOCK_STATUS', () => {
  const HOLE = 3;

  it('describes runs from the offset on', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(STRUCTURED, CONTEXT);
    serving.device.storage.fill(1, 8192, 20_480);
    const status = async (offset: number, length: number, flags = 0): Promise<string> => {
      const reply = await client.ask({ type: BLOCK_STATUS, offset, length, flags });
      expect(reply).toMatchObject({ flags: 1, type: 5, error: 0 });
      return reply.data.toString('hex');
    };
    const words = (...list: number[]): string =>
      bytes(...list.map((value) => [4, value] as const)).toString('hex');
    expect(await status(0, 40_960)).toBe(words(1, 8192, HOLE, 12_288, 0, 20_480, HOLE));
    expect(await status(4097, 8000)).toBe(words(1, 4095, HOLE, 3905, 0));
    expect(await status(0, 40_960, REQ_ONE)).toBe(words(1, 8192, HOLE));
    expect(await status(10_000, 100, REQ_ONE)).toBe(words(1, 100, 0));
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('takes 2^32-1 bytes as one request', async () => {
    await using serving = await serveFake({ sizeBytes: 2 ** 40, storage: false });
    await using client = await serving.go(STRUCTURED, CONTEXT);
    const reply = await client.ask({ type: BLOCK_STATUS, offset: 1, length: 0xffffffff });
    expect(reply.data).toEqual(hex('00000001 ffffffff 00000003'));
  });

  it('of nothing is EINVAL, for no extent describes it', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(STRUCTURED, CONTEXT);
    expect((await client.ask({ type: BLOCK_STATUS })).error).toBe(EINVAL);
  });
});
