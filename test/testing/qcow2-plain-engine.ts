/**
 * The plainest engine for qcow2 that is right: one request at a time, one command at a time, a sync
 * wherever an order matters. It can be made wrong, one sync or one step at a time. It knows version
 * 3, standard entries, and clusters that are the disk's alone.
 */
import {
  COMMAND_EXTEND,
  COMMAND_READ,
  COMMAND_SYNC,
  COMMAND_WRITE,
} from '../../src/abi/command.ts';
import { FILE_BACKING, FILE_IMAGE } from '../../src/abi/map.ts';
import {
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_SET_WCE,
  OP_WRITE,
  REQUEST_BARRIER,
  REQUEST_FUA,
  STATUS_IO_ERROR,
  STATUS_OK,
} from '../../src/abi/request.ts';
import type { CommandRecord, CompletionRecord } from '../../src/engine.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import type { BuiltImage } from '../../src/testing/qcow2/image-builder.ts';
import type { Qcow2Setup, Subject } from '../../src/testing/qcow2/subject.ts';

/** What it may get wrong. */
export type Mistake =
  | 'no refcount'
  | 'no sync before an entry'
  | 'no sync after the data'
  | 'no sync after the table'
  | 'no sync before the refcount drops'
  | 'no sync in a flush'
  | 'no rest of the cluster'
  | 'no sync for FUA'
  | 'completes early';

interface Request {
  readonly tag: number;
  readonly op: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data: number;
}

type Order = Pick<CommandRecord, 'op' | 'file' | 'offset' | 'length' | 'data'>;
type Work<T = void> = Generator<Order, T, number>;

class HostError extends Error {}

const PAGE = 65_536;
const COPIED = 1n << 63n;
const ZERO = 1n;
const OFFSET = 0xff_ffff_ffff_fe00n;

export class PlainEngine implements Subject {
  readonly memory: WebAssembly.Memory;
  readonly dataAddress = PAGE;
  readonly waitMicros = Infinity;
  readonly #header: Qcow2Header;
  readonly #mistake: Mistake | undefined;
  readonly #backingBytes: number;
  readonly #scratch: Uint8Array;
  readonly #requests: Request[] = [];
  readonly #orders: Order[] = [];
  readonly #completions: { tag: number; status: number }[] = [];
  #image: Uint8Array;
  #wce: boolean;
  #failed = false;
  #work: Work | undefined;
  #current: Request | undefined;
  #answer: number | undefined;

  constructor(first: BuiltImage, setup: Qcow2Setup, dataBytes: number, mistake?: Mistake) {
    this.memory = new WebAssembly.Memory({ initial: 1 + Math.ceil(dataBytes / PAGE) });
    this.#scratch = new Uint8Array(this.memory.buffer, 0, PAGE);
    this.#header = parseHeader(first.image, 'image');
    this.#image = first.image.slice();
    this.#backingBytes = first.backing?.length ?? 0;
    this.#wce = setup.wce;
    this.#mistake = mistake;
  }

  submit(
    tag: number,
    op: number,
    flags: number,
    offset: number,
    length: number,
    _segments: number,
    data: number,
  ): void {
    this.#requests.push({ tag, op, flags, offset, length, data });
  }

  readonly isSettled = true;

  /** It reserves nothing, but never gives back what failed. */
  close(): boolean {
    return false;
  }

  placeOf(): 'other' {
    return 'other';
  }

  result(_id: number, errno: number): void {
    this.#answer = errno;
  }

  pump(): void {
    for (;;) {
      if (this.#work === undefined) {
        this.#current = this.#requests.shift();
        if (this.#current === undefined) return;
        this.#work = this.#serve(this.#current);
        this.#answer = 0;
      }
      if (this.#answer === undefined) return;
      const answer = this.#answer;
      this.#answer = undefined;
      if (!this.#goOn(answer)) return;
    }
  }

  takeCommand(command: CommandRecord): boolean {
    const order = this.#orders.shift();
    if (order === undefined) return false;
    Object.assign(command, order, { id: 1, flags: 0, segments: 1 });
    return true;
  }

  takeCompletion(completion: CompletionRecord): boolean {
    const next = this.#completions.shift();
    if (next === undefined) return false;
    Object.assign(completion, next);
    return true;
  }

  /** True when the request has ended. */
  #goOn(answer: number): boolean {
    const tag = this.#current?.tag ?? 0;
    let status = STATUS_OK;
    try {
      const { done, value } = this.#work?.next(answer) ?? { done: true };
      if (done !== true) {
        if (value !== undefined) this.#orders.push(value);
        return false;
      }
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      // What is on the disk is not known any more: nothing is done from now on.
      this.#failed = true;
      status = STATUS_IO_ERROR;
    }
    this.#work = undefined;
    if (this.#isEarly(tag)) return true;
    this.#completions.push({ tag, status });
    return true;
  }

  #isEarly(tag: number): boolean {
    const isWrite = this.#current?.op === OP_WRITE;
    return this.#mistake === 'completes early' && isWrite && !this.#failed && tag > 0;
  }

  *#serve(request: Request): Work {
    const { tag, op, offset, length, data, flags } = request;
    if (this.#failed) throw new HostError();
    if (this.#isEarly(tag)) this.#completions.push({ tag, status: STATUS_OK });
    if (op === OP_FLUSH || op === OP_SET_WCE) {
      if (this.#mistake !== 'no sync in a flush') yield* this.#sync();
      if (op === OP_SET_WCE) this.#wce = length !== 0;
      return;
    }
    const isBarrier = (flags & REQUEST_BARRIER) !== 0;
    if (isBarrier) yield* this.#sync();
    const { clusterBytes } = this.#header;
    for (let at = offset; at < offset + length;) {
      const count = Math.min(clusterBytes - (at % clusterBytes), offset + length - at);
      if (op === OP_READ) yield* this.#read(at, count, data + at - offset);
      else if (op === OP_WRITE) yield* this.#write(at, count, data + at - offset);
      else if (count === clusterBytes) yield* this.#zero(at);
      else if (op !== OP_DISCARD) yield* this.#writeZeroes(at, count);
      at += count;
    }
    const isStable = !this.#wce || isBarrier || (flags & REQUEST_FUA) !== 0;
    if (op !== OP_READ && isStable && this.#mistake !== 'no sync for FUA') yield* this.#sync();
  }

  *#read(guest: number, length: number, data: number): Work {
    const entry = this.#entryOf(guest);
    const offset = Number(entry & OFFSET);
    if ((entry & ZERO) === 0n && offset !== 0) {
      const from = offset + (guest % this.#header.clusterBytes);
      yield* this.#order(COMMAND_READ, FILE_IMAGE, from, length, data);
    } else yield* this.#readBacking(guest, (entry & ZERO) === 0n ? length : 0, length, data);
  }

  *#readBacking(guest: number, wanted: number, length: number, data: number): Work {
    const there = Math.max(0, Math.min(wanted, this.#backingBytes - guest));
    new Uint8Array(this.memory.buffer, data + there, length - there).fill(0);
    if (there > 0) yield* this.#order(COMMAND_READ, FILE_BACKING, guest, there, data);
  }

  *#writeZeroes(guest: number, length: number): Work {
    const zeroes = PAGE - length;
    this.#scratch.fill(0, zeroes);
    yield* this.#write(guest, length, zeroes);
  }

  *#write(guest: number, length: number, data: number): Work {
    const { clusterBytes } = this.#header;
    const entry = this.#entryOf(guest);
    const place = Number(entry & OFFSET);
    const inside = guest % clusterBytes;
    if (place !== 0 && (entry & ZERO) === 0n) {
      yield* this.#order(COMMAND_WRITE, FILE_IMAGE, place + inside, length, data);
      return;
    }
    const table = yield* this.#tableOf(guest);
    const offset = place === 0 ? yield* this.#allocate() : place;
    const wanted = (entry & ZERO) === 0n ? clusterBytes : 0;
    yield* this.#readBacking(guest - inside, wanted, clusterBytes, 0);
    const bytes = new Uint8Array(this.memory.buffer, data, length);
    this.#scratch.set(bytes, inside);
    const whole = this.#mistake !== 'no rest of the cluster';
    if (whole) yield* this.#order(COMMAND_WRITE, FILE_IMAGE, offset, clusterBytes, 0);
    else yield* this.#order(COMMAND_WRITE, FILE_IMAGE, offset + inside, length, inside);
    const unsynced = ['no sync after the data', 'no sync before an entry'];
    if (!unsynced.includes(this.#mistake ?? '')) yield* this.#sync();
    yield* this.#setEntry(table + 8 * this.#indexOf(guest), BigInt(offset) | COPIED);
  }

  /** The cluster is zeroes, and has no place any more. */
  *#zero(guest: number): Work {
    const place = Number(this.#entryOf(guest) & OFFSET);
    const table = yield* this.#tableOf(guest);
    yield* this.#setEntry(table + 8 * this.#indexOf(guest), ZERO);
    if (place === 0) return;
    if (this.#mistake !== 'no sync before the refcount drops') yield* this.#sync();
    yield* this.#setRefcount(place, 0);
    yield* this.#sync();
  }

  *#tableOf(guest: number): Work<number> {
    const at = this.#l1EntryOf(guest);
    const found = Number(this.#u64(at) & OFFSET);
    if (found !== 0) return found;
    const table = yield* this.#allocate();
    this.#scratch.fill(0, 0, this.#header.clusterBytes);
    yield* this.#order(COMMAND_WRITE, FILE_IMAGE, table, this.#header.clusterBytes, 0);
    this.#image.fill(0, table, table + this.#header.clusterBytes);
    if (this.#mistake !== 'no sync after the table') yield* this.#sync();
    yield* this.#setEntry(at, BigInt(table) | COPIED);
    return table;
  }

  /** A free cluster, or one behind the end. */
  *#allocate(): Work<number> {
    const { clusterBytes } = this.#header;
    const end = this.#image.length;
    let offset = 0;
    while (offset < end && this.#refcountOf(offset) > 0) offset += clusterBytes;
    if (offset === end) {
      yield* this.#order(COMMAND_EXTEND, FILE_IMAGE, 0, end + clusterBytes, 0);
      const longer = new Uint8Array(end + clusterBytes);
      longer.set(this.#image);
      this.#image = longer;
    }
    if (this.#mistake !== 'no refcount') yield* this.#setRefcount(offset, 1);
    if (this.#mistake !== 'no sync before an entry') yield* this.#sync();
    return offset;
  }

  #refcountOf(offset: number): number {
    const at = this.#refcountAt(offset);
    return ((this.#image[at] ?? 0) << 8) | (this.#image[at + 1] ?? 0);
  }

  *#setRefcount(offset: number, count: number): Work {
    const at = this.#refcountAt(offset);
    this.#image.set([0, count], at);
    yield* this.#writeSector(at);
  }

  *#setEntry(at: number, entry: bigint): Work {
    new DataView(this.#image.buffer).setBigUint64(at, entry);
    yield* this.#writeSector(at);
  }

  *#writeSector(at: number): Work {
    const from = at - (at % 512);
    this.#scratch.set(this.#image.subarray(from, from + 512), PAGE / 2);
    yield* this.#order(COMMAND_WRITE, FILE_IMAGE, from, 512, PAGE / 2);
  }

  *#sync(): Work {
    yield* this.#order(COMMAND_SYNC, FILE_IMAGE, 0, 0, 0);
  }

  *#order(op: number, file: number, offset: number, length: number, data: number): Work {
    const errno = yield { op, file, offset, length, data };
    if (errno !== 0) throw new HostError();
  }

  #refcountAt(offset: number): number {
    const { refcountTableOffset, clusterBytes } = this.#header;
    return Number(this.#u64(refcountTableOffset)) + (offset / clusterBytes) * 2;
  }

  #entryOf(guest: number): bigint {
    const table = Number(this.#u64(this.#l1EntryOf(guest)) & OFFSET);
    return table === 0 ? 0n : this.#u64(table + 8 * this.#indexOf(guest));
  }

  #l1EntryOf(guest: number): number {
    const { clusterBytes, l2Entries, l1Offset } = this.#header;
    return l1Offset + 8 * Math.floor(guest / clusterBytes / l2Entries);
  }

  #indexOf(guest: number): number {
    const { clusterBytes, l2Entries } = this.#header;
    return Math.floor(guest / clusterBytes) % l2Entries;
  }

  #u64(at: number): bigint {
    return new DataView(this.#image.buffer).getBigUint64(at);
  }
}
