/** Extended headers: what they allow, and what hostile clients make of them. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { OP_DISCARD, OP_READ, OP_WRITE_ZEROES } from '../../src/abi/request.ts';
import { MAX_CACHED_BYTES, MAX_PAYLOAD_BYTES } from '../../src/nbd/limits.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  bytes,
  contextData,
  hex,
  option,
  request,
  type RequestParts,
  said,
  type TestClient,
} from './client.ts';
import { serveFake, until } from './serving.ts';
import {
  BLOCK_STATUS,
  CACHE,
  DF,
  DISC,
  EINVAL,
  ENOSPC,
  EPERM,
  FLUSH,
  pattern,
  PAYLOAD_LEN,
  READ,
  REQ_ONE,
  TRIM,
  WRITE,
  WRITE_ZEROES,
} from './wire.ts';

const TIB = 2 ** 40;
const EXTENDED = option(11);
const CONTEXT = option(10, contextData('', 'base:allocation'));

/** Sends a request with an extended header. */
function ask(client: TestClient, parts: RequestParts) {
  return client.ask({ ...parts, extended: true });
}

describe('extended headers', () => {
  it('are in every request and every reply, to the last byte', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED);
    const data = pattern(512);
    client.send(
      hex('21e41c71 0021 0001 1122334455667788 0000000000001000 0000000000000200'),
      data,
      hex('21e41c71 0000 0003 99aabbccddeeff00 0000000000000000 0000000000000000'),
      hex('21e41c71 0004 0000 0102030405060708 0000000000001000 0000000000000200'),
    );
    expect(await client.read(32)).toEqual(
      hex('6e8a278c 0001 0000 1122334455667788 0000000000001000 0000000000000000'),
    );
    expect(await client.read(32)).toEqual(
      hex('6e8a278c 0001 0000 99aabbccddeeff00 0000000000000000 0000000000000000'),
    );
    expect(await client.read(40 + 512)).toEqual(
      bytes(
        hex('6e8a278c 0001 0001 0102030405060708 0000000000001000 0000000000000208'),
        hex('0000000000001000'),
        data,
      ),
    );
    client.send(hex('21e41c71 0000 0002 0000000000000000 0000000000000000 0000000000000000'));
    expect(await client.rest()).toHaveLength(0);
  });

  it('repeat offsets of 64 bits in errors', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED);
    for (const offset of [0n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
      const reply = await ask(client, { type: READ, offset, length: 2n ** 64n - 1n });
      expect(reply).toMatchObject({ error: EINVAL, offset, cookie: 7n });
      expect(said(reply).offset).toBe(offset === 0n ? 2n ** 20n : undefined);
    }
  });

  it.each([
    [TRIM, OP_DISCARD],
    [WRITE_ZEROES, OP_WRITE_ZEROES],
  ])('let type %i have a TiB at once', async (type, op) => {
    await using serving = await serveFake({ sizeBytes: TIB + 5, storage: false });
    await using client = await serving.go(EXTENDED);
    expect((await ask(client, { type, offset: 5, length: TIB })).error).toBe(0);
    expect(serving.device.log).toMatchObject([{ op, offset: 5, length: TIB }]);
    const outside = await ask(client, { type, offset: 6, length: TIB });
    expect(outside.error).toBe(type === TRIM ? EINVAL : ENOSPC);
  });

  it('let BLOCK_STATUS have a TiB at once, in extents of 64 bits', async () => {
    await using serving = await serveFake({ sizeBytes: TIB, storage: false });
    await using client = await serving.go(EXTENDED, CONTEXT);
    const reply = await ask(client, { type: BLOCK_STATUS, length: TIB });
    expect(reply).toMatchObject({ type: 6, flags: 1 });
    expect(reply.data).toEqual(hex('00000001 00000001 0000010000000000 0000000000000003'));
  });

  it('let CACHE have any length, of which some is read', async () => {
    await using serving = await serveFake({ sizeBytes: TIB, storage: false, mode: 'later' });
    await using client = await serving.go(EXTENDED);
    expect((await ask(client, { type: CACHE, offset: 1, length: TIB - 1 })).error).toBe(0);
    const read = serving.device.log.reduce((sum, { length }) => sum + length, 0);
    expect(read).toBe(MAX_CACHED_BYTES);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('CACHE ends with its client', async () => {
    await using serving = await serveFake({ sizeBytes: TIB, storage: false, mode: 'held' });
    await using client = await serving.go(EXTENDED);
    client.send(request({ type: CACHE, length: TIB, extended: true }));
    await until(() => serving.device.open === 1);
    client.destroy();
    await until(() => {
      serving.device.release();
      return serving.server.clients === 0;
    });
    expect(serving.device.log.length).toBeLessThan(MAX_CACHED_BYTES / 2 ** 18);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('are told apart from compact ones by their magic, and nothing else is taken', async () => {
    await using serving = await serveFake();
    for (const [options, extended] of [
      [[EXTENDED], false],
      [[], true],
    ] as const) {
      await using client = await serving.go(...options);
      client.send(request({ type: FLUSH, extended }), Buffer.alloc(4));
      expect(await client.rest()).toHaveLength(0);
    }
  });

  it('may come byte by byte, behind each other, and together with payloads', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED, CONTEXT);
    const ids = bytes([8, 4096], [4, 1]);
    const sent = Buffer.concat([
      request({ type: WRITE, offset: 3, data: pattern(700), extended: true }),
      request({ type: BLOCK_STATUS, data: ids, extended: true }),
      request({ type: READ, offset: 3, length: 700, extended: true }),
    ]);
    for (const size of [1, 31, 32, 33, 5000]) {
      for (let at = 0; at < sent.length; at += size) {
        client.socket.write(sent.subarray(at, at + size));
        if (size < 5000) await new Promise((resolve) => setImmediate(resolve));
      }
      expect((await client.reply()).error).toBe(0);
      expect((await client.reply()).data).toHaveLength(8 + 16);
      expect((await client.reply()).data.subarray(8)).toEqual(pattern(700));
    }
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describe('extents', () => {
  it('are as many as the reply has room for, at least one', async () => {
    await using serving = await serveFake({ sizeBytes: 2 ** 21 });
    const { storage } = serving.device;
    for (let at = 0; at < storage.length; at += 8192) storage.fill(1, at, at + 4096);
    await using client = await serving.go(EXTENDED, CONTEXT);
    const one = request({ type: BLOCK_STATUS, length: 2 ** 21, extended: true });
    // Replies that nobody takes fill the server's buffer.
    client.socket.pause();
    client.send(...Array.from({ length: 256 }, () => one));
    await until(() => serving.device.log.length === 256);
    client.socket.resume();
    const counts: number[] = [];
    for (let seen = 0; seen < 256; seen++) {
      const { data, error } = await client.reply();
      expect(error).toBe(0);
      expect(data).toHaveLength(8 + 16 * data.readUInt32BE(4));
      counts.push(data.readUInt32BE(4));
    }
    expect(Math.max(...counts)).toBe(256);
    expect(Math.min(...counts)).toBe(1);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describe('payloads', () => {
  it('of a WRITE are there whether it says so or not, as QEMU 10 does not', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED);
    for (const bare of [true, false]) {
      const data = pattern(700, Number(bare));
      expect((await ask(client, { type: WRITE, offset: 9, data, bare })).error).toBe(0);
      expect(Buffer.from(serving.device.storage.subarray(9, 709))).toEqual(data);
    }
    client.send(request({ type: WRITE, length: 2n ** 64n - 1n, extended: true, bare: true }));
    expect(await client.rest()).toHaveLength(0);
  });

  it.each([READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 99])(
    'of type %i are read away, and it is EINVAL',
    async (type) => {
      await using serving = await serveFake();
      await using client = await serving.go(EXTENDED);
      for (const length of [0, 1, 100_000]) {
        const data = pattern(length);
        const reply = await ask(client, { type, data, flags: PAYLOAD_LEN });
        expect(reply).toMatchObject({ error: EINVAL, type: 0x8001 });
      }
      expect((await ask(client, { type: READ, length: 512 })).error).toBe(0);
      expect(serving.device.ops()).toEqual([OP_READ]);
    },
  );

  it('are refused without extended headers, where only a WRITE has one', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(option(8), CONTEXT);
    for (const type of [READ, FLUSH, TRIM, BLOCK_STATUS]) {
      expect((await client.ask({ type, flags: PAYLOAD_LEN, length: 12 })).error).toBe(EINVAL);
    }
    const parts = { type: WRITE, flags: PAYLOAD_LEN, data: pattern(12) };
    expect((await client.ask(parts)).error).toBe(EINVAL);
    expect((await client.ask({ type: FLUSH })).error).toBe(0);
  });

  it('above the maximum that are still read away: EINVAL for a smaller arena', async () => {
    await using serving = await serveFake({ arenaBytes: 2 ** 21 });
    await using client = await serving.go(EXTENDED);
    const data = pattern(3 * 2 ** 20);
    const reply = await ask(client, { type: WRITE, data });
    expect(reply.error).toBe(EINVAL);
    expect(said(reply).text).toContain('maximum payload (2097152 bytes)');
    expect((await ask(client, { type: FLUSH })).error).toBe(0);
  });

  it.each([
    [WRITE, MAX_PAYLOAD_BYTES + 1],
    [WRITE, 2n ** 64n - 1n],
    [WRITE, 2n ** 32n],
    [READ, 2n ** 63n],
    [BLOCK_STATUS, 2n ** 64n - 1n],
    [99, 2n ** 32n + 1n],
  ])('of type %i and %s bytes drop the connection', async (type, length) => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED, CONTEXT);
    client.send(request({ type, length, flags: PAYLOAD_LEN, extended: true }));
    expect(await client.rest()).toHaveLength(0);
    await using honest = await serving.go(EXTENDED);
    expect((await ask(honest, { type: READ, length: 512 })).error).toBe(0);
  });

  it('with DISC are not waited for', async () => {
    await using serving = await serveFake();
    await using client = await serving.go(EXTENDED);
    client.send(request({ type: DISC, length: 4096, flags: PAYLOAD_LEN, extended: true }));
    expect(await client.rest()).toHaveLength(0);
    await until(() => serving.server.clients === 0);
  });

  it('of a WRITE on a read-only export are read away', async () => {
    await using serving = await serveFake({}, { readOnly: true });
    await using client = await serving.go(EXTENDED);
    expect((await ask(client, { type: WRITE, data: pattern(100_000) })).error).toBe(EPERM);
    expect((await ask(client, { type: READ, length: 1, flags: DF })).error).toBe(0);
  });
});

describe('the payload of BLOCK_STATUS', () => {
  const DEPTH = option(10, contextData('', 'base:allocation', 'qemu:allocation-depth'));

  it('chooses contexts, of the length that it says', async () => {
    await using serving = await serveFake({}, { allocationDepth: true });
    await using client = await serving.go(EXTENDED, DEPTH);
    const status = async (...ids: number[]): Promise<string[]> => {
      const data = bytes([8, 4096], ...ids.map((id) => [4, id] as const));
      client.send(request({ type: BLOCK_STATUS, data, offset: 4096, extended: true }));
      return (await client.chunks()).map((chunk) => chunk.data.toString('hex'));
    };
    const [allocation, depth] = [
      '0000000100000001 0000000000001000 0000000000000003',
      '0000000200000001 0000000000001000 0000000000000001',
    ].map((digits) => hex(digits).toString('hex'));
    expect(await status(1)).toEqual([allocation]);
    expect(await status(2)).toEqual([depth]);
    expect(await status(2, 1)).toEqual([allocation, depth]);
    client.send(request({ type: BLOCK_STATUS, length: 4096, offset: 4096, extended: true }));
    expect((await client.chunks()).map((one) => one.data.toString('hex'))).toEqual([
      allocation,
      depth,
    ]);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it.each([
    ['without an id', bytes([8, 4096])],
    ['of an id that is not selected', bytes([8, 4096], [4, 1], [4, 2])],
    ['of an unknown id', bytes([8, 4096], [4, 3])],
    ['of the id 0', bytes([8, 4096], [4, 0])],
    ['of the id 2^32-1', bytes([8, 4096], [4, 0xffffffff])],
    ['of the id 33, which has no bit', bytes([8, 4096], [4, 33])],
    ['of an id twice', bytes([8, 4096], [4, 1], [4, 1])],
    ['cut off', bytes([8, 4096], [2, 1])],
    ['shorter than a length', bytes([4, 4096])],
    ['of nothing', hex('')],
    ['of 100 ids', bytes([8, 4096], ...Array.from({ length: 100 }, () => [4, 1] as const))],
    ['of a length of 0', bytes([8, 0], [4, 1])],
    ['of a length past the end', bytes([8, 2 ** 20 + 1], [4, 1])],
    ['of 2^64-1 bytes', bytes([8, 2n ** 64n - 1n], [4, 1])],
  ])('%s is EINVAL, and the next is served', async (_what, data) => {
    await using serving = await serveFake({}, { allocationDepth: true });
    await using client = await serving.go(EXTENDED, CONTEXT);
    const parts = { type: BLOCK_STATUS, data, flags: PAYLOAD_LEN };
    expect((await ask(client, parts)).error).toBe(EINVAL);
    const next = await ask(client, { type: BLOCK_STATUS, length: 512, flags: REQ_ONE });
    expect(next).toMatchObject({ type: 6, error: 0 });
  });
});

describeWithPeers(['nbdinfo'], 'nbdinfo from 1.18 on', () => {
  const run = promisify(execFile);

  it('negotiates extended headers, and gets extents of 64 bits', async (context) => {
    const { stdout } = await run('nbdinfo', ['--version']);
    const [, major, minor] = /libnbd (\d+)\.(\d+)/.exec(stdout) ?? [];
    const isOld = Number(major) === 1 && Number(minor) < 18;
    if (isOld) context.skip('this nbdinfo has no extended headers');
    await using serving = await serveFake({ sizeBytes: TIB, storage: false });
    const { uri } = serving.server;
    expect((await run('nbdinfo', [uri])).stdout).toContain('using extended packets');
    const { stdout: map } = await run('nbdinfo', ['--map', '--json', uri]);
    expect(JSON.parse(map)).toMatchObject([{ offset: 0, length: TIB, type: 3 }]);
  });
});
