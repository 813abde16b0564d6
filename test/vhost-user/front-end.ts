/** A front-end by hand: it says what it is told to, right or wrong. */
import { once } from 'node:events';
import { closeSync, readSync, writeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

import type * as koffiModule from 'koffi';

import { BlkDriver, createDriverQueue, GuestMemory as Ram } from '../../src/testing/guest/index.ts';
import { handleOf } from '../../src/vhost-user/front-end.ts';
import { GuestMemory } from '../../src/vhost-user/guest-memory.ts';
import { loadVhostNative } from '../../src/vhost-user/native.ts';
import { HEADER_BYTES, REQUEST, type RequestName } from '../../src/vhost-user/protocol.ts';

export const RAM_BYTES = 1 << 20;
/** Neither address is an offset: nothing may be taken for another. */
export const RAM_START = 0x7f59_7f22_0000n;
export const USER_START = 0x5500_0000_0000n;
const NEED_REPLY = 8;
const VERSION = 1;
const PAGES = 65_536;
const PATIENCE_MS = 3000;

const native = loadVhostNative();

/** An eventfd that nobody waits in. */
export function eventfd(): number {
  const koffi = createRequire(import.meta.url)('koffi') as typeof koffiModule;
  const make = koffi.load(null).func('eventfd', 'int', ['uint', 'int']);
  return make(0, 0o4000) as number;
}

/** Numbers of the sizes that messages are made of. */
export function bytesOf(
  ...fields: readonly (readonly [bits: 16 | 32 | 64, value: number | bigint])[]
) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [bits]) => sum + bits / 8, 0)));
  let at = 0;
  for (const [bits, value] of fields) {
    if (bits === 64) view.setBigUint64(at, BigInt(value), true);
    else if (bits === 32) view.setUint32(at, Number(value), true);
    else view.setUint16(at, Number(value), true);
    at += bits / 8;
  }
  return new Uint8Array(view.buffer);
}

/** Guest memory in a file, which outlives back-ends. */
export class GuestFile {
  readonly fd = native.createFile('ram', RAM_BYTES);
  readonly #memory = new WebAssembly.Memory({ initial: 1, maximum: PAGES, shared: true });
  readonly ram: Ram;

  constructor() {
    const { address } = new GuestMemory(this.#memory, 0, native).map(
      this.fd,
      0n,
      BigInt(RAM_BYTES),
    );
    const region = { guestAddress: RAM_START, sizeBytes: RAM_BYTES, address };
    this.ram = new Ram(this.#memory, [region]);
  }

  /** A region of SET_MEM_TABLE. */
  region(): Uint8Array {
    return bytesOf([64, RAM_START], [64, RAM_BYTES], [64, USER_START], [64, 0]);
  }
}

/** What came back. */
interface Reply {
  readonly payload: DataView;
  readonly fds: readonly number[];
}

export class TestFrontEnd {
  readonly guest: GuestFile;
  readonly kick = eventfd();
  readonly call = eventfd();
  readonly error = eventfd();
  readonly #socket: Socket;

  private constructor(socket: Socket, guest: GuestFile) {
    this.#socket = socket;
    this.guest = guest;
    socket.on('error', () => undefined);
  }

  static async connect(path: string, guest = new GuestFile()): Promise<TestFrontEnd> {
    const socket = connect({ path });
    // What comes is read by hand.
    socket.pause();
    await once(socket, 'connect');
    return new TestFrontEnd(socket, guest);
  }

  /** Any bytes. */
  sendBytes(bytes: Uint8Array, fd?: number): void {
    native.send(handleOf(this.#socket).fd, bytes, fd);
  }

  send(
    name: RequestName | number,
    payload: Uint8Array = new Uint8Array(),
    fd?: number,
    flags = VERSION,
  ): void {
    const request = typeof name === 'number' ? name : REQUEST[name];
    const head = bytesOf([32, request], [32, flags], [32, payload.length]);
    this.sendBytes(Buffer.concat([head, payload]), fd);
  }

  /** Sends, and waits for the answer. */
  async ask(name: RequestName | number, payload?: Uint8Array, fd?: number, flags = VERSION) {
    this.send(name, payload, fd, flags);
    return this.receive();
  }

  /** The answer to a request that has none of its own: 0 when it was done. */
  async acknowledged(name: RequestName | number, payload?: Uint8Array, fd?: number) {
    const { payload: view } = await this.ask(name, payload, fd, VERSION | NEED_REPLY);
    return view.getBigUint64(0, true);
  }

  async u64(name: RequestName, payload?: Uint8Array): Promise<bigint> {
    return (await this.ask(name, payload)).payload.getBigUint64(0, true);
  }

  /** Up to the point where rings can be set up. */
  async introduce(
    protocol: bigint,
    features = (1n << 32n) | (1n << 9n) | (1n << 11n) | (1n << 28n) | (1n << 29n),
  ) {
    const offered = await this.u64('GET_FEATURES');
    const offeredProtocol = await this.u64('GET_PROTOCOL_FEATURES');
    this.send('SET_PROTOCOL_FEATURES', bytesOf([64, protocol & offeredProtocol]));
    this.send('SET_OWNER');
    this.send('SET_FEATURES', bytesOf([64, (features & offered) | (1n << 30n)]));
    return { offered, offeredProtocol };
  }

  /** Shows the memory. */
  showMemory(): void {
    const table = Buffer.concat([bytesOf([32, 1], [32, 0]), this.guest.region()]);
    this.send('SET_MEM_TABLE', table, this.guest.fd);
  }

  /** A driver with a ring of its own, and the ring as the back-end is to see it. */
  newDriver(size = 16): BlkDriver {
    const options = { memory: this.guest.ram, size, features: { eventIdx: true, indirect: true } };
    return new BlkDriver({ queue: createDriverQueue(false, options) });
  }

  /** Sets a ring up and starts it. */
  start(driver: BlkDriver, index = 0, base = 0): void {
    const { size, desc, driver: avail, device: used } = driver.queue.config();
    this.send('SET_VRING_NUM', bytesOf([32, index], [32, size]));
    this.send('SET_VRING_BASE', bytesOf([32, index], [32, base]));
    const [d, u, a] = [desc, used, avail].map((address) => address - RAM_START + USER_START);
    this.send(
      'SET_VRING_ADDR',
      bytesOf([32, index], [32, 0], [64, d ?? 0], [64, u ?? 0], [64, a ?? 0], [64, 0]),
    );
    this.send('SET_VRING_CALL', bytesOf([64, index]), this.call);
    this.send('SET_VRING_ERR', bytesOf([64, index]), this.error);
    this.send('SET_VRING_KICK', bytesOf([64, index]), this.kick);
    this.send('SET_VRING_ENABLE', bytesOf([32, index], [32, 1]));
  }

  ring(): void {
    writeSync(this.kick, bytesOf([64, 1]));
  }

  /** Until the back-end has rung; what it rang is gone. */
  async rung(fd = this.call): Promise<void> {
    await patiently(() => {
      try {
        readSync(fd, new Uint8Array(8));
        return true;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
        throw error;
      }
    });
  }

  async receive(): Promise<Reply> {
    const fds: number[] = [];
    const head = new Uint8Array(HEADER_BYTES);
    await this.#fill(head, fds);
    const payload = new Uint8Array(new DataView(head.buffer).getUint32(8, true));
    await this.#fill(payload, fds);
    return { payload: new DataView(payload.buffer), fds };
  }

  /** True when the back-end has closed the connection. */
  async isClosed(): Promise<boolean> {
    return this.receive().then(
      () => false,
      (error: Error) => {
        if (error.message === 'closed') return true;
        throw error;
      },
    );
  }

  /** Leaves without a word. */
  leave(): void {
    this.#socket.destroy();
    for (const fd of [this.kick, this.call, this.error]) closeSync(fd);
  }

  async #fill(into: Uint8Array, fds: number[]): Promise<void> {
    for (let at = 0; at < into.length;) {
      const got = await patiently(() => {
        const got = native.receive(handleOf(this.#socket).fd, into.subarray(at));
        return got === 'later' ? undefined : got;
      });
      if (got === 'ended') throw new Error('closed');
      fds.push(...got.fds);
      at += got.length;
    }
  }
}

/** Asks again until there is an answer. */
export async function patiently<T>(ask: () => T | undefined, patienceMs = PATIENCE_MS): Promise<T> {
  const end = performance.now() + patienceMs;
  for (;;) {
    const answer = ask();
    if (answer !== undefined) return answer;
    if (performance.now() > end) throw new Error(`no answer for ${patienceMs} ms`);
    await sleep(1);
  }
}
