import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { describe, expect, it, vi } from 'vitest';
import { loadNative } from '../../src/backend/native.ts';
import {
  BusyPoll,
  busyPoll,
  MAX_POLLED_BURST,
  MAX_POLL_ROUNDS,
  MAX_SCORE,
  PROBE_INTERVAL,
} from '../../src/nbd/busy-poll.ts';
import { ByteSocket, type SocketOwner } from '../../src/nbd/socket.ts';
import { request } from './client.ts';
import { serveFake, settle, until } from './serving.ts';
import { READ, WRITE, pattern } from './wire.ts';

const BUDGET_MICROS = 50;
const LONG_BUDGET_MICROS = 20_000;
const EAGAIN = -1;
const target = new Uint8Array(100);

/** A poll over a socket that answers what it is told; each call takes 10 us by its clock. */
class Fake {
  answer = EAGAIN;
  calls = 0;
  nowMs = 0;
  readonly poll = new BusyPoll(
    {
      addressOf: () => 1,
      recv: () => {
        this.calls++;
        this.nowMs += 0.01;
        return this.answer;
      },
    },
    BUDGET_MICROS,
    () => this.nowMs,
  );

  /** System calls that some waits make with the same answer. */
  waits(count: number, answer: number): number {
    const before = this.calls;
    this.answer = answer;
    for (let wait = 0; wait < count; wait++) this.poll.wait(3, target);
    return this.calls - before;
  }
}

/** A poll whose last waits have all hit. */
function hitting(): Fake {
  const fake = new Fake();
  fake.waits(PROBE_INTERVAL + MAX_SCORE, 8);
  return fake;
}

describe('the busy poll', () => {
  it('only probes before anything came', () => {
    expect(new Fake().waits(PROBE_INTERVAL - 1, EAGAIN)).toBe(0);
    expect(new Fake().waits(PROBE_INTERVAL, 8)).toBe(1);
  });

  it('answers what came, with one call each time, once a probe has hit', () => {
    const fake = hitting();
    expect(fake.waits(10, 8)).toBe(10);
    expect(fake.poll.wait(3, target)).toBe(8);
  });

  it('spends its budget and no more when nothing comes', () => {
    const fake = hitting();
    const beforeMs = fake.nowMs;
    fake.answer = EAGAIN;
    expect(fake.poll.wait(3, target)).toBe(0);
    expect(fake.nowMs - beforeMs).toBeGreaterThanOrEqual(BUDGET_MICROS / 1000 - 1e-9);
    expect(fake.nowMs - beforeMs).toBeLessThan(BUDGET_MICROS / 1000 + 0.02);
  });

  it('gives up on a client that thinks for longer than the budget', () => {
    const fake = hitting();
    expect(fake.waits(MAX_SCORE, EAGAIN)).toBeGreaterThanOrEqual(MAX_SCORE * 5);
    expect(fake.waits(PROBE_INTERVAL - 1, EAGAIN)).toBe(0);
    expect(fake.waits(1, EAGAIN)).toBeGreaterThan(1);
    expect(fake.waits(PROBE_INTERVAL - 1, EAGAIN)).toBe(0);
  });

  it('comes back when a probe hits', () => {
    const fake = hitting();
    fake.waits(MAX_SCORE, EAGAIN);
    expect(fake.waits(PROBE_INTERVAL, 8)).toBe(1);
    expect(fake.waits(5, 8)).toBe(5);
  });

  it('answers 0 at once when the stream has ended', () => {
    const fake = hitting();
    expect(fake.waits(1, 0)).toBe(1);
    expect(fake.poll.wait(3, target)).toBe(0);
  });

  it('does not exist with a budget of 0', () => {
    expect(busyPoll(0)).toBeUndefined();
  });
});

/** Keeps what comes, and lets the test act in the middle of `received`. */
class Owner implements SocketOwner {
  idle = true;
  ends = 0;
  closes = 0;
  text = '';
  targets = 0;
  #target = new Uint8Array(0);
  during: () => void = () => undefined;

  target(): Uint8Array {
    this.targets++;
    this.#target = new Uint8Array(1000);
    return this.#target;
  }

  received(lengthBytes: number): boolean {
    this.text += Buffer.from(this.#target.subarray(0, lengthBytes)).toString();
    this.during();
    return true;
  }

  ended(): void {
    this.ends++;
  }

  closed(): void {
    this.closes++;
  }
}

/** A socket that polls, its owner, and its client; both ends live in this thread. */
interface Polled extends AsyncDisposable {
  readonly owner: Owner;
  readonly socket: ByteSocket;
  readonly client: Socket;
  /** What each wait answered. */
  readonly waits: number[];
}

async function polled(): Promise<Polled | undefined> {
  const native = loadNative();
  if (native === null) return undefined;
  // Longer than the owner takes, also on a machine that is busy.
  const poll = new BusyPoll(native, LONG_BUDGET_MICROS);
  const waits: number[] = [];
  const wait = poll.wait.bind(poll);
  for (let probe = 1; probe < PROBE_INTERVAL; probe++) poll.wait(-1, target);
  vi.spyOn(poll, 'wait').mockImplementation((fd, into) => {
    const length = wait(fd, into);
    waits.push(length);
    return length;
  });
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const accepted = await new Promise<Socket>((resolve) => server.once('connection', resolve));
  const owner = new Owner();
  const socket = new ByteSocket(accepted, owner, poll);
  await settle(5);
  return {
    owner,
    socket,
    client,
    waits,
    async [Symbol.asyncDispose]() {
      client.destroy();
      socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const NO_KOFFI = 'koffi is not installed: there is no busy poll';

describe('a socket that polls', () => {
  it('hands over in order what libuv and the poll read', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    const { owner, client, waits } = all;
    let next = 1;
    owner.during = () => void (next < 10 && client.write(String(next++)));
    client.write('0');
    await until(() => owner.text.length === 10);
    expect(owner.text).toBe('0123456789');
    expect(waits.filter((length) => length > 0).length).toBeGreaterThan(0);
    owner.during = () => undefined;
    client.write('after');
    await until(() => owner.text.length === 15);
    expect(owner.text).toBe('0123456789after');
  });

  it('returns to the event loop now and then, however much comes', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    const { owner, client, waits } = all;
    let longest = 0;
    let row = 0;
    let on = true;
    owner.during = () => {
      longest = Math.max(longest, ++row);
      if (on) client.write('x');
    };
    client.write('x');
    for (let turn = 0; turn < 50; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      row = 0;
    }
    on = false;
    expect(waits.length).toBeGreaterThan(0);
    expect(longest).toBeLessThanOrEqual(MAX_POLL_ROUNDS + 1);
  });

  it('does not poll for an owner that is not idle', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    all.owner.idle = false;
    all.client.write('a');
    await until(() => all.owner.text === 'a');
    expect(all.waits).toEqual([]);
  });

  it('does not poll after requests that took longer than its budget', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    const { owner, client, waits } = all;
    let nowMs = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
    const budgetMs = LONG_BUDGET_MICROS / 1000;
    owner.during = () => (nowMs += budgetMs + 1);
    client.write('a');
    await until(() => owner.text === 'a');
    clock.mockRestore();
    expect(waits).toEqual([]);
  });

  it('leaves the end of the stream to libuv', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    const { owner, client, waits } = all;
    owner.during = () => client.destroy();
    client.write('a');
    await until(() => owner.ends === 1);
    expect(owner.text).toBe('a');
    expect(waits).toEqual([0]);
  });

  it('leaves a reset to libuv', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    const { owner, client, waits } = all;
    owner.during = () => client.resetAndDestroy();
    client.write('a');
    await until(() => owner.ends + owner.closes > 0);
    expect(owner.text).toBe('a');
    expect(waits).toEqual([0]);
  });

  it('does not read from a socket that its owner has destroyed', async (context) => {
    await using all = await polled();
    if (all === undefined) return context.skip(NO_KOFFI);
    all.owner.during = () => all.socket.destroy();
    all.client.write('a');
    await until(() => all.owner.closes === 1);
    expect(all.waits).toEqual([]);
  });
});

describe('a server that polls', () => {
  it('sleeps when the last request is answered', async () => {
    const wait = vi.spyOn(BusyPoll.prototype, 'wait');
    await using serving = await serveFake({}, { busyPollMicros: 1000 });
    await using client = await serving.go();
    for (let read = 0; read < 2 * PROBE_INTERVAL; read++)
      await client.ask({ type: READ, length: 8 });
    const waits = wait.mock.calls.length;
    await settle();
    expect(wait.mock.calls).toHaveLength(waits);
    // One for each read, and one for the negotiation's last message.
    expect(waits).toBeLessThanOrEqual(2 * PROBE_INTERVAL + 1);
    wait.mockRestore();
  });

  it('does not poll for one of two clients, nor while negotiating', async () => {
    const wait = vi.spyOn(BusyPoll.prototype, 'wait');
    await using serving = await serveFake({}, { busyPollMicros: 1000 });
    await using first = await serving.go();
    await using second = await serving.go();
    await until(() => serving.server.clients === 2);
    wait.mockClear();
    for (const client of [first, second]) await client.ask({ type: READ, length: 8 });
    expect(wait).not.toHaveBeenCalled();
    wait.mockRestore();
  });

  it('does not poll while a request is open or comes in', async () => {
    const wait = vi.spyOn(BusyPoll.prototype, 'wait');
    await using serving = await serveFake({ mode: 'held' }, { busyPollMicros: 1000 });
    await using client = await serving.go();
    await until(() => serving.server.clients === 1);
    wait.mockClear();
    client.send(request({ type: READ, length: 8 }));
    await until(() => serving.device.open === 1);
    const write = request({ type: WRITE, data: pattern(1000) });
    client.send(write.subarray(0, 500));
    await settle(5);
    expect(wait).not.toHaveBeenCalled();
    serving.device.release();
    wait.mockRestore();
  });

  it('polls after a small burst, and not after a large one', async (context) => {
    if (busyPoll(1) === undefined) return context.skip('no koffi, or one CPU: there is no poll');
    const wait = vi.spyOn(BusyPoll.prototype, 'wait');
    await using serving = await serveFake({}, { busyPollMicros: 1000 });
    await using client = await serving.go();
    await until(() => serving.server.clients === 1);
    for (const burst of [MAX_POLLED_BURST, MAX_POLLED_BURST + 1]) {
      wait.mockClear();
      const one = request({ type: READ, length: 8 });
      client.send(Buffer.concat(Array.from({ length: burst }, () => one)));
      for (let reply = 0; reply < burst; reply++) await client.reply(8);
      expect(wait.mock.calls.length > 0, `a burst of ${burst}`).toBe(burst <= MAX_POLLED_BURST);
    }
    wait.mockRestore();
  });

  it.each([-1, 0.5, 1001, Number.NaN])('refuses a budget of %s', async (busyPollMicros) => {
    await expect(serveFake({}, { busyPollMicros })).rejects.toMatchObject({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
    });
  });
});
