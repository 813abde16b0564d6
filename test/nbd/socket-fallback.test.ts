/** The same server on a Node whose sockets have no handle to read into: 'data' events only. */

import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OP_WRITE } from '../../src/abi/request.ts';
import { option, request } from './client.ts';
import { expectBackPressure, serveFake, settle, until } from './serving.ts';
import { DISC, FLUSH, pattern, READ, WRITE } from './wire.ts';

const MIB = 2 ** 20;

interface HandlePrototype {
  useUserBuffer?: unknown;
}

let prototype: HandlePrototype;
let method: unknown;

/** The prototype of the handles of unix sockets. */
async function handlePrototype(): Promise<HandlePrototype> {
  const path = join(tmpdir(), `sluice-fallback-${process.pid}`);
  const server = createServer().listen(path);
  const socket = connect(path) as Socket & { _handle: object };
  await new Promise((resolve) => socket.once('connect', resolve));
  const found = Object.getPrototypeOf(socket._handle) as HandlePrototype;
  socket.destroy();
  server.close();
  return found;
}

beforeAll(async () => {
  prototype = await handlePrototype();
  while (!Object.hasOwn(prototype, 'useUserBuffer')) {
    prototype = Object.getPrototypeOf(prototype) as HandlePrototype;
  }
  method = prototype.useUserBuffer;
  delete prototype.useUserBuffer;
});

afterAll(() => {
  prototype.useUserBuffer = method;
});

describe('without a handle to read into', () => {
  it('reads and writes of every size come through, in order', async () => {
    await using serving = await serveFake({ sizeBytes: 8 * MIB, mode: 'later' });
    await using client = await serving.go(option(8));
    for (const length of [1, 512, 5000, 65_537, 300_000, 3 * MIB]) {
      const data = pattern(length, length & 255);
      client.send(request({ type: WRITE, offset: 3, data }), request({ type: FLUSH }));
      for (let reply = 0; reply < 2; reply++) expect((await client.reply()).error).toBe(0);
      const { data: read } = await client.ask({ type: READ, offset: 3, length });
      expect(read.subarray(8).equals(data)).toBe(true);
    }
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('requests that come a byte at a time are understood', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    for (const byte of request({ type: WRITE, data: pattern(40) })) {
      client.send(Uint8Array.of(byte));
      await settle(1);
    }
    expect((await client.reply()).error).toBe(0);
    expect(Buffer.from(serving.device.storage.subarray(0, 40))).toEqual(pattern(40));
  });

  it('back-pressure holds, and everything arrives in the end', async () => {
    await using serving = await serveFake({ mode: 'held', slots: 4, sizeBytes: 4 * MIB });
    await using client = await serving.go();
    await expectBackPressure(serving, client);
  });

  it('replies that are not read are held back, and the server survives the drop', async () => {
    await using serving = await serveFake({ sizeBytes: MIB, arenaBytes: 16 * MIB });
    const client = await serving.go();
    client.socket.pause();
    for (let read = 0; read < 64; read++) client.send(request({ type: READ, length: MIB }));
    await settle();
    expect(serving.device.log.length).toBeLessThanOrEqual(6);
    client.destroy();
    await until(() => serving.server.clients === 0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('DISC ends the session after everything before it', async () => {
    await using serving = await serveFake({ mode: 'later' });
    await using client = await serving.go();
    for (let at = 0; at < 50; at++) {
      client.send(request({ type: WRITE, offset: at * 512, data: pattern(512) }));
    }
    client.send(request({ type: DISC }));
    expect(await client.rest()).toHaveLength(50 * 16);
    expect(serving.device.ops()).toEqual(Array.from({ length: 50 }, () => OP_WRITE));
  });
});
