/** Limits, back-pressure, memory, and how connections and servers end. */

import { describe, expect, it } from 'vitest';
import { mayWait } from '../../src/backend/company.ts';
import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE } from '../../src/abi/request.ts';
import {
  CLOSE_TIMEOUT_MS,
  FIRST_BYTES,
  MAX_HANDSHAKES,
  MAX_PARKED,
  MAX_REQUESTS,
  STALL_CHECK_MS,
  STALL_MS,
} from '../../src/nbd/limits.ts';
import { hex, infoData, option, request, type TestClient } from './client.ts';
import { serveFake, settle, until } from './serving.ts';
import { DISC, FLUSH, pattern, READ, TRIM, WRITE } from './wire.ts';

const MIB = 2 ** 20;

describe('back-pressure', () => {
  it('at most MAX_REQUESTS are at the device, and more when they are done', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    const count = 2 * MAX_REQUESTS + 10;
    for (let cookie = 0; cookie < count; cookie++) client.send(request({ type: FLUSH, cookie }));
    await until(() => serving.device.open === MAX_REQUESTS);
    await settle();
    expect(serving.device.open).toBe(MAX_REQUESTS);
    serving.device.mode = 'later';
    serving.device.release();
    for (let cookie = 0; cookie < count; cookie++) {
      expect(await client.reply()).toMatchObject({ cookie: BigInt(cookie), error: 0 });
    }
  });

  it('refusals beyond MAX_REQUESTS in one segment are all answered', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    const count = 3 * MAX_REQUESTS;
    client.send(...Array.from({ length: count }, () => request({ type: 99 })));
    for (let seen = 0; seen < count; seen++) expect((await client.reply()).error).toBe(22);
  });

  it('a full device makes connections wait, and each comes to its turn', async () => {
    await using serving = await serveFake({ slots: 8, mode: 'later' });
    const clients = await Promise.all(Array.from({ length: 4 }, () => serving.go()));
    for (const client of clients) {
      for (let cookie = 0; cookie < 100; cookie++) {
        client.send(request({ type: WRITE, offset: cookie * 512, data: pattern(512), cookie }));
      }
    }
    for (const client of clients) {
      for (let seen = 0; seen < 100; seen++) expect((await client.reply()).error).toBe(0);
      client.destroy();
    }
    expect(serving.device.peak).toBe(8);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('one connection takes its share of the arena, and leaves the rest to others', async () => {
    await using serving = await serveFake({ arenaBytes: 16 * MIB, mode: 'held', sizeBytes: MIB });
    await using greedy = await serving.go();
    for (let read = 0; read < 40; read++) greedy.send(request({ type: READ, length: MIB }));
    await until(() => serving.device.open === 4);
    await settle();
    expect(serving.device.open).toBe(4);
    await using other = await serving.go();
    other.send(request({ type: WRITE, data: pattern(MIB) }));
    await until(() => serving.device.open === 5);
    serving.device.mode = 'inline';
    serving.device.release();
    expect((await other.reply()).error).toBe(0);
    for (let read = 0; read < 40; read++) expect((await greedy.reply(MIB)).error).toBe(0);
  });

  it('a request larger than the share is served alone', async () => {
    await using serving = await serveFake({ arenaBytes: 32 * MIB, sizeBytes: 32 * MIB });
    await using client = await serving.go();
    const data = pattern(32 * MIB);
    client.send(request({ type: WRITE, data }), request({ type: READ, length: 32 * MIB }));
    expect((await client.reply()).error).toBe(0);
    expect((await client.reply(32 * MIB)).data.equals(data)).toBe(true);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('a small arena lowers the largest payload that is offered', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 32 * MIB });
    await using client = await serving.connect();
    await client.hello();
    client.send(option(7, infoData('', 3)));
    const [, sizes] = await client.replies();
    expect(sizes?.data).toEqual(hex('0003 00000001 00001000 00400000'));
    expect((await client.ask({ type: READ, length: 4 * MIB })).error).toBe(0);
    expect((await client.ask({ type: READ, length: 4 * MIB + 1 })).error).toBe(22);
  });

  it('replies that do not fit the socket keep their order and arrive', async () => {
    await using serving = await serveFake({ sizeBytes: 8 * MIB });
    await using client = await serving.go(option(8));
    serving.device.storage.set(pattern(8 * MIB));
    client.socket.pause();
    const lengths = Array.from({ length: 200 }, (_, at) => [1, 4096, 40_000, 700_000][at & 3] ?? 0);
    for (const [cookie, length] of lengths.entries()) {
      client.send(request({ type: READ, offset: cookie * 1000, length, cookie }));
    }
    await settle(100);
    client.socket.resume();
    for (const [cookie, length] of lengths.entries()) {
      const { data, ...reply } = await client.reply();
      expect(reply).toMatchObject({ cookie: BigInt(cookie), error: 0 });
      const from = cookie * 1000;
      const expected = serving.device.storage.subarray(from, from + length);
      if (!data.subarray(8).equals(expected)) throw new Error(`data of read ${cookie}`);
    }
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('many small replies at once are more than their buffer, and all arrive', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    serving.device.storage.set(pattern(MIB));
    const count = 3 * MAX_REQUESTS;
    const reads = Array.from({ length: count }, (_, cookie) =>
      request({ type: READ, offset: cookie * 512, length: 16_384, cookie }),
    );
    client.send(...reads);
    for (let cookie = 0; cookie < count; cookie++) {
      const { data } = await client.reply(16_384);
      const from = cookie * 512;
      expect(data.equals(serving.device.storage.subarray(from, from + 16_384))).toBe(true);
    }
  });

  it('a connection that reads for long does not use up its share', async () => {
    await using serving = await serveFake({ arenaBytes: MIB });
    await using client = await serving.go();
    for (const length of [16_384, 65_536]) {
      for (let read = 0; read < 100; read++) {
        expect((await client.ask({ type: READ, length })).error).toBe(0);
        client.send(request({ type: READ, length }), request({ type: READ, length }));
        for (let reply = 0; reply < 2; reply++) await client.reply(length);
      }
    }
  });

  it('DISC waits for a client that reads its replies slowly', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    client.socket.pause();
    for (let read = 0; read < 10; read++) {
      client.send(request({ type: READ, length: MIB }));
      await settle(5);
    }
    client.send(request({ type: DISC }));
    await settle();
    client.socket.resume();
    expect(await client.rest()).toHaveLength(10 * (16 + MIB));
  });

  it('a waiter for memory is served when a client leaves that held it', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    await using holder = await serving.go();
    holder.send(request({ type: WRITE, length: 4 * MIB }), Buffer.alloc(FIRST_BYTES));
    await settle();
    await using waiter = await serving.go();
    waiter.send(request({ type: READ, length: MIB }));
    await settle();
    expect(serving.device.log).toEqual([]);
    holder.destroy();
    expect((await waiter.reply(MIB)).error).toBe(0);
  });

  it('clients that sit on all large buffers keep nobody from small ones', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    const sitters = await Promise.all(Array.from({ length: 24 }, () => serving.go()));
    for (const sitter of sitters) {
      sitter.send(request({ type: WRITE, length: 4 * MIB }), Buffer.alloc(FIRST_BYTES));
    }
    await settle();
    await using honest = await serving.go();
    for (let read = 0; read < 50; read++) {
      expect((await honest.ask({ type: READ, length: 32_768 })).error).toBe(0);
    }
    honest.send(request({ type: READ, length: MIB }));
    await until(() => serving.device.arena.contended);
    expect(serving.device.arena.contended).toBe(true);
    for (const sitter of sitters) sitter.destroy();
  });

  it('clients that announce large WRITEs and send nothing hold up nobody', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    const sitters = await Promise.all(Array.from({ length: 24 }, () => serving.go()));
    for (const sitter of sitters) {
      sitter.send(request({ type: WRITE, length: 2 * MIB }), Buffer.alloc(FIRST_BYTES - 1));
    }
    await settle();
    await using honest = await serving.go();
    for (let round = 0; round < 20; round++) {
      expect((await honest.ask({ type: READ, length: 2 * MIB })).error).toBe(0);
      expect((await honest.ask({ type: WRITE, data: pattern(2 * MIB) })).error).toBe(0);
    }
    expect(serving.device.arenaIsWhole).toBe(true);
    const [sitter] = sitters;
    sitter?.send(Buffer.alloc(2 * MIB - FIRST_BYTES + 1));
    expect((await sitter?.reply())?.error).toBe(0);
    for (const one of sitters) one.destroy();
  });

  it('clients that send their WRITEs slowly keep nobody waiting, and get them done', async () => {
    await using serving = await serveFake({ arenaBytes: 8 * MIB, sizeBytes: 4 * MIB });
    const slow = await Promise.all(Array.from({ length: 16 }, () => serving.go()));
    const data = pattern(2 * MIB);
    const half = data.length / 2;
    for (const [index, client] of slow.entries()) {
      const header = { type: WRITE, offset: (index % 2) * 2 * MIB, length: data.length };
      client.send(request(header), data.subarray(0, half));
    }
    await settle();
    await using honest = await serving.go();
    for (let round = 0; round < 20; round++) {
      expect((await honest.ask({ type: READ, length: MIB })).error).toBe(0);
      expect((await honest.ask({ type: WRITE, data: pattern(MIB) })).error).toBe(0);
    }
    serving.device.storage.fill(0);
    for (const client of slow) client.send(data.subarray(half));
    for (const client of slow) expect((await client.reply()).error).toBe(0);
    for (const offset of [0, 2 * MIB]) {
      expect(
        Buffer.compare(serving.device.storage.subarray(offset, offset + data.length), data),
      ).toBe(0);
    }
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('WRITEs that are half here when their clients leave are not executed', async () => {
    await using serving = await serveFake({ arenaBytes: 8 * MIB, sizeBytes: 4 * MIB });
    const slow = await Promise.all(Array.from({ length: 16 }, () => serving.go()));
    for (const client of slow) {
      client.send(request({ type: WRITE, length: 2 * MIB }), Buffer.alloc(MIB));
    }
    await settle();
    for (const client of slow) client.destroy();
    await until(() => serving.server.clients === 0);
    expect(serving.device.log).toEqual([]);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('a WRITE that came into the heap is executed though its client leaves', async () => {
    await using serving = await serveFake({
      arenaBytes: 8 * MIB,
      mode: 'held',
      sizeBytes: 8 * MIB,
    });
    const slow = await Promise.all(Array.from({ length: 2 }, () => serving.go()));
    for (const client of slow) {
      client.send(request({ type: WRITE, length: 2 * MIB }), Buffer.alloc(FIRST_BYTES));
    }
    await settle();
    await using holder = await serving.go();
    holder.send(request({ type: READ, length: 4 * MIB }));
    await until(() => serving.device.open === 1);
    await using late = await serving.go();
    const data = pattern(2 * MIB);
    late.send(request({ type: WRITE, offset: 2 * MIB, data }));
    await until(() => serving.device.arena.contended);
    late.destroy();
    await settle();
    serving.device.mode = 'inline';
    serving.device.release();
    await until(() => serving.device.ops().includes(OP_WRITE));
    expect(Buffer.compare(serving.device.storage.subarray(2 * MIB, 4 * MIB), data)).toBe(0);
    for (const client of slow) client.destroy();
  });

  it('clients that take no replies of small reads leave room for others', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    const deaf = await Promise.all(Array.from({ length: 50 }, () => serving.go()));
    for (const client of deaf) {
      client.socket.pause();
      for (let read = 0; read < 200; read++) client.send(request({ type: READ, length: 30_000 }));
    }
    await settle();
    await using honest = await serving.go();
    expect((await honest.ask({ type: READ, length: 4096 })).error).toBe(0);
    for (const client of deaf) client.destroy();
  });

  it('what a client asked for that waits for memory is executed though it leaves', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    await using holder = await serving.go();
    holder.send(request({ type: WRITE, length: 4 * MIB }), Buffer.alloc(FIRST_BYTES));
    await settle();
    await using waiter = await serving.go();
    waiter.send(request({ type: READ, length: MIB }));
    await until(() => serving.device.arena.contended);
    waiter.destroy();
    await settle();
    holder.send(Buffer.alloc(4 * MIB - FIRST_BYTES));
    expect((await holder.reply()).error).toBe(0);
    await until(() => serving.server.clients === 1);
    expect(serving.device.ops().filter((op) => op === OP_WRITE)).toHaveLength(1);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

// These wait for real limits, so they wait together.
describe.concurrent('clients that take their time', () => {
  it('one that sits on memory which others wait for is dropped', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    await using holder = await serving.go();
    holder.send(request({ type: WRITE, length: 4 * MIB }), Buffer.alloc(FIRST_BYTES));
    await settle();
    await using waiter = await serving.go();
    const began = performance.now();
    expect((await waiter.ask({ type: READ, length: MIB })).error).toBe(0);
    expect(performance.now() - began).toBeGreaterThan(STALL_MS - STALL_CHECK_MS);
    expect(await holder.rest()).toHaveLength(0);
    expect(serving.device.ops()).toEqual([OP_READ]);
  });

  it('one that takes no replies is dropped, and with it what it asks for', async () => {
    await using serving = await serveFake({ arenaBytes: 4 * MIB, sizeBytes: 4 * MIB });
    await using holder = await serving.go();
    holder.socket.pause();
    for (let read = 0; read < 3; read++) holder.send(request({ type: READ, length: 4 * MIB }));
    await until(() => serving.device.log.length === 1);
    await using waiter = await serving.go();
    const asked = { type: READ, offset: MIB, length: MIB };
    expect((await waiter.ask(asked)).error).toBe(0);
    await until(() => serving.server.clients === 1);
    expect((await waiter.ask(asked)).error).toBe(0);
    expect(serving.device.log.map(({ length }) => length)).toEqual([4 * MIB, MIB, MIB]);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('one that does not read is left alone while nobody waits', async () => {
    await using serving = await serveFake({ sizeBytes: 4 * MIB });
    await using slow = await serving.go();
    slow.socket.pause();
    for (let read = 0; read < 4; read++) slow.send(request({ type: READ, length: 4 * MIB }));
    await settle(STALL_MS + 2 * STALL_CHECK_MS);
    slow.socket.resume();
    for (let read = 0; read < 4; read++) expect((await slow.reply(4 * MIB)).error).toBe(0);
  });

  it('closing does not wait for a client that does not take its replies', async () => {
    await using serving = await serveFake({ sizeBytes: 4 * MIB });
    await using client = await serving.go();
    client.socket.pause();
    client.send(request({ type: READ, length: 4 * MIB }));
    await until(() => serving.device.log.length === 1);
    const began = performance.now();
    await serving.server.close();
    expect(performance.now() - began).toBeLessThan(CLOSE_TIMEOUT_MS + 2000);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describe('several connections', () => {
  it('share one flush: each sees what the others wrote', async () => {
    await using serving = await serveFake({ mode: 'later' });
    await using writer = await serving.go();
    await using flusher = await serving.go();
    const data = pattern(4096);
    expect((await writer.ask({ type: WRITE, offset: 8192, data })).error).toBe(0);
    expect((await flusher.ask({ type: FLUSH })).error).toBe(0);
    const reply = await flusher.ask({ type: READ, offset: 8192, length: 4096 });
    expect(reply.data).toEqual(data);
    expect(serving.device.ops()).toEqual([OP_WRITE, OP_FLUSH, OP_READ]);
  });

  it('are counted, and the server says who comes and goes', async () => {
    await using serving = await serveFake();
    const { server } = serving;
    const counts: number[] = [];
    server.on('connect', () => counts.push(server.clients));
    server.on('disconnect', () => counts.push(-server.clients));
    await using first = await serving.go();
    await using second = await serving.go();
    await using idle = await serving.connect();
    await idle.read(18);
    first.send(request({ type: DISC }));
    await first.rest();
    second.destroy();
    await until(() => counts.length === 4);
    expect(counts).toEqual([1, 2, -1, -0]);
  });

  it('beyond maxClients wait at GO for their turn', async () => {
    await using serving = await serveFake({}, { maxClients: 1 });
    await using first = await serving.go();
    await using second = await serving.connect();
    await second.hello();
    expect(await second.types(3)).toEqual([2, 1]);
    second.send(option(7, infoData()), request({ type: FLUSH }));
    await settle();
    expect(serving.server.clients).toBe(1);
    expect((await first.ask({ type: FLUSH })).error).toBe(0);
    first.destroy();
    const [info] = await second.replies();
    // CAN_MULTI_CONN makes no sense for one.
    expect(info?.data.readUInt16BE(10)).toBe(0x0c6d);
    expect((await second.reply()).error).toBe(0);
    expect((await second.ask({ type: READ, length: 512 })).error).toBe(0);
  });

  it('a waiting client that leaves gives its turn away, and too many are not kept', async () => {
    await using serving = await serveFake({}, { maxClients: 1 });
    await using first = await serving.go();
    const waiting: TestClient[] = [];
    for (let at = 0; at <= MAX_PARKED; at++) {
      const client = await serving.connect();
      await client.hello();
      client.send(option(7, infoData()));
      waiting.push(client);
      await settle(1);
    }
    expect(await waiting[MAX_PARKED]?.rest()).toHaveLength(0);
    waiting[0]?.destroy();
    await settle();
    first.destroy();
    await waiting[1]?.replies();
    expect(serving.server.clients).toBe(1);
    for (const client of waiting) client.destroy();
    await until(() => serving.server.clients === 0);
  });

  it('a client that waits for its turn waits no longer than the time limit', async () => {
    await using serving = await serveFake({}, { maxClients: 1, handshakeTimeoutMs: 100 });
    await using first = await serving.go();
    await using second = await serving.connect();
    await second.hello();
    second.send(option(7, infoData()));
    expect(await second.rest()).toHaveLength(0);
    expect((await first.ask({ type: FLUSH })).error).toBe(0);
    first.destroy();
    await until(() => serving.server.clients === 0);
    await using third = await serving.go();
    expect((await third.ask({ type: FLUSH })).error).toBe(0);
  });

  it('what was said in time counts, although this thread has not listened since', async () => {
    await using serving = await serveFake({}, { handshakeTimeoutMs: 300 });
    await using client = await serving.connect();
    await client.hello();
    await settle();
    client.send(option(7, infoData()));
    const blockedUntilMs = performance.now() + 600;
    while (performance.now() < blockedUntilMs);
    await until(() => serving.server.clients === 1);
    await settle(400);
    expect(serving.server.clients).toBe(1);
  });

  it('nobody waits for the disk of another client', async () => {
    await using serving = await serveFake();
    await using first = await serving.go();
    expect(mayWait()).toBe(true);
    const second = await serving.connect();
    await until(() => !mayWait());
    second.destroy();
    await until(mayWait);
    expect((await first.ask({ type: FLUSH })).error).toBe(0);
  });

  it('a slot is free when everything that its client asked for is executed', async () => {
    await using serving = await serveFake({ mode: 'held' }, { maxClients: 1 });
    const first = await serving.go();
    first.send(request({ type: WRITE, data: pattern(512) }), request({ type: READ, magic: 1 }));
    await until(() => serving.device.open === 1);
    await first.rest();
    const going = serving.go();
    await settle();
    expect(serving.server.clients).toBe(1);
    serving.device.release();
    await using second = await going;
    expect(serving.server.clients).toBe(1);
    second.destroy();
  });

  it('N26 a full house of clients that ask for nothing lets in those that wait', async () => {
    await using serving = await serveFake({}, { maxClients: 4, handshakeTimeoutMs: 1500 });
    await using busy = await serving.go();
    const work = setInterval(() => busy.send(request({ type: FLUSH })), 200);
    const idlers = await Promise.all(Array.from({ length: 3 }, () => serving.go()));
    await settle(1500);
    // Both come at once, and each gets a place.
    await using first = await serving.go();
    await using second = await serving.go();
    for (const client of [first, second]) expect((await client.ask({ type: FLUSH })).error).toBe(0);
    clearInterval(work);
    expect(idlers.filter(({ socket }) => socket.readableEnded)).toHaveLength(2);
    expect(busy.socket.readableEnded).toBe(false);
    for (const client of idlers) client.destroy();
  });

  it('one that has asked for something before stays, unless there is a limit for it', async () => {
    const limits = { maxClients: 1, handshakeTimeoutMs: 2500 };
    for (const [idleTimeoutMs, stays] of [
      [0, true],
      [600, false],
    ] as const) {
      await using serving = await serveFake({}, { ...limits, idleTimeoutMs });
      await using used = await serving.go();
      expect((await used.ask({ type: READ, length: 512 })).error).toBe(0);
      const going = serving.go().then(
        (client) => client,
        () => undefined,
      );
      await using second = await going;
      expect(second === undefined).toBe(stays);
      expect(used.socket.readableEnded).toBe(!stays);
    }
  });

  it('half a WRITE holds no place, and what is at the device holds it', async () => {
    await using serving = await serveFake(
      { mode: 'held' },
      { maxClients: 2, idleTimeoutMs: 600, handshakeTimeoutMs: 4000 },
    );
    await using working = await serving.go();
    working.send(request({ type: FLUSH }));
    await using half = await serving.go();
    half.send(request({ type: WRITE, data: pattern(4096) }).subarray(0, 1000));
    await until(() => serving.device.open === 1);
    await settle(700);
    await using third = await serving.go();
    expect(await half.rest()).toHaveLength(0);
    expect(working.socket.readableEnded).toBe(false);
    serving.device.release();
    expect((await working.reply()).error).toBe(0);
    expect(third.socket.readableEnded).toBe(false);
  });

  it('neither a byte of a request nor half of one is an answered one', async () => {
    const limits = { maxClients: 2, handshakeTimeoutMs: 4000 };
    await using serving = await serveFake({}, limits);
    await using byte = await serving.go();
    byte.send(Buffer.of(0x25));
    await using half = await serving.go();
    half.send(request({ type: WRITE, data: pattern(4096) }).subarray(0, 1000));
    // Those that wait have no more time than these, from when they come.
    await settle(2500);
    await using third = await serving.go();
    await using fourth = await serving.go();
    expect((await third.ask({ type: READ, length: 512 })).error).toBe(0);
    expect((await fourth.ask({ type: READ, length: 512 })).error).toBe(0);
    expect(await byte.rest()).toHaveLength(0);
    expect(await half.rest()).toHaveLength(0);
  });

  it('0 is no limit for the handshake', async () => {
    await using serving = await serveFake({}, { handshakeTimeoutMs: 0 });
    await using client = await serving.connect();
    await settle(100);
    await client.hello();
    expect(await client.types(7, infoData())).toEqual([3, 1]);
  });

  it('that come in a burst all get through their negotiation', async () => {
    await using serving = await serveFake();
    const clients = await Promise.all(
      Array.from({ length: 3 * MAX_HANDSHAKES }, () => serving.connect()),
    );
    for (const client of clients) {
      await client.hello();
      client.send(option(7, infoData()));
      expect((await client.replies()).at(-1)?.type).toBe(1);
    }
    expect(serving.server.clients).toBe(3 * MAX_HANDSHAKES);
    for (const client of clients) client.destroy();
  });
});

describe('the end', () => {
  it('a client that closes its half still gets its replies', async () => {
    await using serving = await serveFake({ mode: 'later' });
    await using client = await serving.go();
    for (let cookie = 0; cookie < 20; cookie++) {
      client.send(request({ type: WRITE, offset: cookie * 512, data: pattern(512), cookie }));
    }
    client.socket.end(request({ type: WRITE, data: pattern(512) }).subarray(0, 100));
    for (let cookie = 0; cookie < 20; cookie++) expect((await client.reply()).error).toBe(0);
    expect(await client.rest()).toHaveLength(0);
    expect(serving.device.log).toHaveLength(20);
  });

  it('what a vanished client asked for is executed, and its buffers come back', async () => {
    await using serving = await serveFake({ mode: 'held' });
    const client = await serving.go();
    client.send(
      request({ type: WRITE, data: pattern(4096) }),
      request({ type: READ, length: 512 }),
    );
    await until(() => serving.device.open === 2);
    client.destroy();
    await settle();
    expect(serving.server.clients).toBe(1);
    serving.device.release();
    await until(() => serving.server.clients === 0);
    expect(serving.device.arenaIsWhole).toBe(true);
    expect(serving.device.storage[1]).toBe(8);
  });

  it('what a vanished client only asked to be told is not looked up', async () => {
    await using serving = await serveFake({ mode: 'held', sizeBytes: 2 * MIB });
    const client = await serving.go();
    const reads = Array.from({ length: 200 }, () => request({ type: READ, length: MIB }));
    client.send(...reads, request({ type: WRITE, data: pattern(4096) }));
    await until(() => serving.device.open > 0);
    client.destroy();
    await settle();
    await until(() => {
      serving.device.release();
      return serving.server.clients === 0;
    });
    const ops = serving.device.ops();
    expect(ops.at(-1)).toBe(OP_WRITE);
    // Those that were under way.
    expect(ops.length).toBeLessThan(100);
    expect(serving.server.stats().exports[0]?.bytesSent).toBeLessThan(MIB);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('a wrong magic drops the client, and what came before it is executed', async () => {
    await using serving = await serveFake({ mode: 'later' });
    await using client = await serving.go();
    const write = request({ type: WRITE, data: pattern(512) });
    client.send(write, request({ type: READ, magic: 1 }), write);
    await client.rest();
    await until(() => serving.server.clients === 0);
    expect(serving.device.ops()).toEqual([OP_WRITE]);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('closing finishes what was received, answers it, and accepts nobody', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    await using idle = await serving.go();
    client.send(request({ type: TRIM, length: 512 }));
    client.send(request({ type: WRITE, length: 4096 }), Buffer.alloc(100));
    await until(() => serving.device.open === 1);
    const closing = serving.server.close();
    client.send(Buffer.alloc(3996));
    await expect(serving.connect()).rejects.toThrow();
    expect(await idle.rest()).toHaveLength(0);
    serving.device.release();
    expect((await client.reply()).error).toBe(0);
    expect(await client.rest()).toHaveLength(0);
    await closing;
    expect(serving.device.ops()).toEqual([OP_DISCARD]);
    await serving.server.closed;
    await serving.server.close();
    expect(serving.server.clients).toBe(0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('an aborted signal closes the server', async () => {
    const controller = new AbortController();
    await using serving = await serveFake({}, { signal: controller.signal });
    await using client = await serving.go();
    controller.abort();
    expect(await client.rest()).toHaveLength(0);
    await serving.server.closed;
    await expect(serveFake({}, { signal: controller.signal })).rejects.toThrow('aborted');
  });
});
