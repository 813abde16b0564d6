/**
 * One front-end, from its first message to its last: what it says is done message by message.
 *
 * S1  A request is done when it is answered: what it stops has stopped, and what it maps is there.
 * S2  What cannot be done is answered so where the front-end wants an answer (REPLY_ACK); else the
 *     connection ends, with the reason told to the owner.
 * S3  At the end nothing of the front-end's memory is touched any more, and the device is as new.
 *     What was in flight is returned first: a guest that is still there goes on with the next
 *     back-end.
 * S4  A front-end without STATUS does not say DRIVER_OK: its first ring that may run does.
 */
import { closeSync, fstatSync } from 'node:fs';

import { GUEST_REGIONS } from '../abi/virtio-device.ts';
import type { RawQueues } from '../virtio/raw-queues.ts';
import type { VirtioBlk } from '../virtio/virtio-blk.ts';
import { goLive, raiseStatus, readConfig, writeConfig } from './device-face.ts';
import { Call, Kick } from './doorbells.ts';
import { closeAll, type FrontEnd } from './front-end.ts';
import type { Inflight } from './inflight.ts';
import { InflightKeeper, type KeeperParts } from './inflight-keeper.ts';
import { sentRecord } from './inflight-messages.ts';
import {
  BACKEND_CONFIG_CHANGE_MSG,
  broken,
  F_PROTOCOL_FEATURES,
  type Message,
  OFFERED_PROTOCOL,
  PROTOCOL,
  regionOf,
  regionsOf,
  replyBytes,
  type RequestName,
  requestBytes,
  u64,
  vringState,
} from './protocol.ts';
import { Regions } from './regions.ts';
import { type RingAddresses, type RingOwner, VhostRing } from './ring.ts';
import { Sight } from './sight.ts';

/** What a session works with. */
export interface SessionParts extends KeeperParts {
  readonly frontEnd: FrontEnd;
  readonly blk: VirtioBlk;
}

/** A payload, with a descriptor or without; nothing: the request has no reply of its own. */
type Answer = Uint8Array | FileAnswer | undefined;
type FileAnswer = { readonly payload: Uint8Array; readonly fd: number };
type Handler = (message: Message) => Answer | void | Promise<Answer | void>;

const RING_INDEX_MASK = 0xffn;
/** SET_VRING_KICK and the like: there is no descriptor. */
const NO_FD = 0x100n;

export class Session implements RingOwner {
  readonly queues: RawQueues;
  features = 0n;
  readonly #parts: SessionParts;
  readonly #rings: readonly VhostRing[];
  readonly #regions: Regions;
  readonly #keeper: InflightKeeper;
  readonly #sight: Sight;
  readonly #handlers: Readonly<Record<RequestName, Handler>>;
  #protocol = 0n;
  #backendRequests: number | undefined;

  constructor(parts: SessionParts) {
    const { blk, memory } = parts;
    this.#parts = parts;
    this.queues = blk.queues;
    this.#rings = Array.from(
      { length: blk.queues.count },
      (_, index) => new VhostRing(index, this),
    );
    this.#regions = new Regions(memory, blk.queues);
    this.#keeper = new InflightKeeper(parts);
    this.#sight = new Sight(this.#rings, this.#regions, parts.report);
    this.#handlers = this.#table();
  }

  /** Until the front-end has gone, or has broken the protocol (S3). */
  async run(): Promise<void> {
    const { frontEnd, report } = this.#parts;
    try {
      for (let next = await frontEnd.next(); next !== undefined; next = await frontEnd.next()) {
        await this.#handle(next);
      }
    } catch (error) {
      report(error);
    } finally {
      await this.#end();
      frontEnd.close();
    }
  }

  get inflight(): Inflight | undefined {
    return this.#keeper.inflight;
  }

  /** The device wants to be heard. */
  interrupt(kind: 'used' | 'config', queue: number): void {
    if (kind === 'used') return this.#rings[queue]?.call?.ring();
    if (this.#backendRequests === undefined) return;
    try {
      this.#parts.native.send(this.#backendRequests, requestBytes(BACKEND_CONFIG_CHANGE_MSG));
    } catch (error) {
      this.#parts.report(error);
    }
  }

  /** The driver, or the front-end, has broken a ring. */
  failed(): void {
    for (const ring of this.#rings) ring.error?.ring();
  }

  view(guestAddress: bigint, length: number): DataView {
    return this.#regions.view(guestAddress, length);
  }

  /** S1, S2. */
  async #handle(message: Message): Promise<void> {
    const { frontEnd, report } = this.#parts;
    const { request, name, needsReply, fds } = message;
    // Looked at when the request is done: it may be the one that agrees on it.
    const acknowledges = (): boolean => needsReply && (this.#protocol & PROTOCOL.REPLY_ACK) !== 0n;
    try {
      if (name === undefined) throw broken(`request ${request}, which was not offered`);
      const answer = await this.#handlers[name](message);
      if (answer instanceof Uint8Array) frontEnd.send(replyBytes(request, answer));
      else if (answer) frontEnd.send(replyBytes(request, answer.payload), answer.fd);
      else if (acknowledges()) frontEnd.send(replyBytes(request, u64(0n)));
    } catch (error) {
      if (!acknowledges()) throw error;
      report(error);
      frontEnd.send(replyBytes(request, u64(1n)));
    } finally {
      closeAll(fds);
    }
  }

  #table(): Record<RequestName, Handler> {
    const { blk } = this.#parts;
    return {
      GET_FEATURES: () => u64(blk.features.offered | F_PROTOCOL_FEATURES),
      SET_FEATURES: (message) => this.#setFeatures(message.payload.getBigUint64(0, true)),
      GET_PROTOCOL_FEATURES: () => u64(OFFERED_PROTOCOL),
      SET_PROTOCOL_FEATURES: ({ payload }) => {
        this.#protocol = payload.getBigUint64(0, true) & OFFERED_PROTOCOL;
      },
      SET_OWNER: () => undefined,
      RESET_OWNER: () => this.#reset(),
      RESET_DEVICE: () => this.#reset(),
      GET_QUEUE_NUM: () => u64(BigInt(blk.queues.count)),
      GET_MAX_MEM_SLOTS: () => u64(BigInt(GUEST_REGIONS - 1)),
      SET_MEM_TABLE: (message) => this.#setMemory(message),
      ADD_MEM_REG: (message) => this.#addRegion(message),
      REM_MEM_REG: (message) => this.#regions.remove(regionOf(message)),
      SET_VRING_NUM: (message) => {
        this.#resting(message).size = message.payload.getUint32(4, true);
      },
      SET_VRING_ADDR: (message) => this.#setAddresses(message),
      SET_VRING_BASE: (message) => {
        this.#resting(message).base = message.payload.getUint32(4, true);
      },
      GET_VRING_BASE: (message) => this.#getBase(message),
      SET_VRING_KICK: (message) => this.#setKick(message),
      SET_VRING_CALL: (message) => this.#setCall(message),
      SET_VRING_ERR: (message) => this.#setError(message),
      SET_VRING_ENABLE: (message) => this.#enable(message),
      SET_BACKEND_REQ_FD: (message) => this.#setBackendRequests(message),
      GET_CONFIG: (message) => readConfig(blk, message),
      SET_CONFIG: (message) => this.#setConfig(message),
      GET_INFLIGHT_FD: (message) => this.#newRecord(message),
      SET_INFLIGHT_FD: (message) => this.#atRest(() => this.#keeper.use(sentRecord(message))),
      SET_STATUS: (message) => this.#setStatus(message),
      GET_STATUS: () => u64(BigInt(blk.status)),
    };
  }

  #setFeatures(features: bigint): void {
    this.features = features & ~F_PROTOCOL_FEATURES;
    // Without them rings need not be enabled one by one.
    if ((features & F_PROTOCOL_FEATURES) === 0n)
      for (const ring of this.#rings) ring.enabled = true;
  }

  async #setMemory(message: Message): Promise<void> {
    const regions = regionsOf(message);
    if (message.fds.length !== regions.length) {
      throw broken(`${regions.length} regions with ${message.fds.length} descriptors`);
    }
    await this.#atRest(async () => {
      await this.#regions.removeAll();
      for (const [index, region] of regions.entries()) {
        this.#regions.add(region, message.fds[index] as number);
      }
    });
  }

  async #addRegion(message: Message): Promise<void> {
    const [fd] = message.fds;
    if (fd === undefined) throw broken('a region without a descriptor');
    this.#regions.add(regionOf(message), fd);
    await this.#startRings();
  }

  #setAddresses(message: Message): void {
    const { payload } = message;
    this.#resting(message).userAddresses = {
      desc: payload.getBigUint64(8, true),
      device: payload.getBigUint64(16, true),
      driver: payload.getBigUint64(24, true),
    };
  }

  async #getBase(message: Message): Promise<Uint8Array> {
    const ring = this.#ring(message);
    await ring.leave();
    ring.close();
    return vringState(message.payload.getUint32(0, true), ring.base);
  }

  async #setKick(message: Message): Promise<void> {
    const { ring, index, fd } = this.#bell(message);
    if (fd === undefined) throw broken(`ring ${index} to be polled, which was not offered`);
    const { frontEnd, native } = this.#parts;
    const rung = (): void => {
      this.#sight.look(index);
      this.queues.notify(index);
    };
    ring.kick = new Kick(fd, () => frontEnd.newHandle(), native, rung);
    message.fds.shift();
    this.queues.notify(index);
    ring.hasKick = true;
    await this.#startRings();
  }

  #setCall(message: Message): void {
    const { ring } = this.#bell(message);
    const call = this.#newCall(message);
    ring.call?.close();
    ring.call = call;
    // What was used while nobody listened.
    if (ring.isAttached) call?.ring();
  }

  #setError(message: Message): void {
    const { ring } = this.#bell(message);
    const error = this.#newCall(message);
    ring.error?.close();
    ring.error = error;
  }

  /** Undefined where the front-end wants to hear nothing. */
  #newCall(message: Message): Call | undefined {
    const { fd } = this.#bell(message);
    if (fd === undefined) return undefined;
    const call = new Call(fd, this.#parts.native);
    message.fds.shift();
    return call;
  }

  async #enable(message: Message): Promise<void> {
    const ring = this.#ring(message);
    ring.enabled = message.payload.getUint32(4, true) !== 0;
    if (!ring.enabled) return ring.leave();
    await this.#startRings();
  }

  #setBackendRequests({ fds }: Message): void {
    const [fd] = fds;
    if (fd === undefined || !fstatSync(fd).isSocket()) throw broken('no socket for requests');
    if (this.#backendRequests !== undefined) closeSync(this.#backendRequests);
    this.#backendRequests = fds.shift();
  }

  async #setConfig(message: Message): Promise<void> {
    const { blk } = this.#parts;
    const before = blk.wce;
    const done = writeConfig(blk, message);
    if (this.inflight !== undefined && blk.wce !== before) {
      this.inflight.cache = blk.wce ? 'on' : 'off';
    }
    if (!(await done)) throw broken('a change of the write cache, whose flush failed');
  }

  /** Its file is closed with the message, whether it was sent or not. */
  #newRecord({ payload, fds }: Message): Promise<Answer> {
    return this.#atRest(() => {
      const answer = this.#keeper.create(payload, this.features);
      if ('fd' in answer) fds.push(answer.fd);
      return answer;
    });
  }

  /** Changes what rings rely on while none of them runs. */
  async #atRest<T>(change: () => T | Promise<T>): Promise<T> {
    for (const ring of this.#rings) await ring.leave();
    const answer = await change();
    await this.#startRings();
    return answer;
  }

  async #setStatus({ payload }: Message): Promise<void> {
    const status = Number(payload.getBigUint64(0, true));
    if (status === 0) return this.#reset();
    raiseStatus(this.#parts.blk, status, this.features, this.inflight?.cache);
    await this.#startRings();
  }

  /** S4. */
  async #goLive(): Promise<void> {
    if ((this.#protocol & PROTOCOL.STATUS) !== 0n) return;
    await goLive(this.#parts.blk, this.features, this.inflight?.cache);
  }

  /** Attaches the rings that may run now. */
  async #startRings(): Promise<void> {
    for (const ring of this.#rings) {
      const addresses = ring.isReady ? this.#translated(ring) : undefined;
      if (addresses === undefined) continue;
      if (!this.#rings.some(({ isAttached }) => isAttached)) await this.#goLive();
      ring.attach(addresses);
    }
  }

  /** Undefined: the memory that a part lies in has not come yet. */
  #translated({ userAddresses }: VhostRing): RingAddresses | undefined {
    const desc = userAddresses && this.#regions.guestAddressOf(userAddresses.desc);
    const driver = userAddresses && this.#regions.guestAddressOf(userAddresses.driver);
    const device = userAddresses && this.#regions.guestAddressOf(userAddresses.device);
    if (desc === undefined || driver === undefined || device === undefined) return undefined;
    return { desc, driver, device };
  }

  async #reset(): Promise<void> {
    await Promise.all(this.#rings.map((ring) => ring.kill()));
    await this.#parts.blk.reset();
    this.inflight?.clear();
  }

  /** S3. What goes wrong keeps nothing else from its end. */
  async #end(): Promise<void> {
    const { blk, report } = this.#parts;
    const rings = this.#rings.map((ring) => async () => {
      await ring.leave();
      ring.close();
    });
    const steps: (() => unknown)[] = [
      ...rings,
      () => this.#regions.removeAll(),
      () => this.#keeper.end(),
      () => blk.reset(),
      () => this.#backendRequests !== undefined && closeSync(this.#backendRequests),
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        report(error);
      }
    }
  }

  #ring({ name, payload }: Message): VhostRing {
    const index = payload.getUint32(0, true);
    const ring = this.#rings[index];
    if (ring === undefined)
      throw broken(`${name} of ring ${index}; there are ${this.#rings.length}`);
    return ring;
  }

  /** A ring whose place may be changed. */
  #resting(message: Message): VhostRing {
    const ring = this.#ring(message);
    if (ring.isAttached) throw broken(`${message.name} of a ring that runs`);
    return ring;
  }

  /** The ring of SET_VRING_KICK and the like, and the descriptor, which is still the message's. */
  #bell({ name, payload, fds }: Message) {
    const word = payload.getBigUint64(0, true);
    const index = Number(word & RING_INDEX_MASK);
    const ring = this.#rings[index];
    if (ring === undefined)
      throw broken(`${name} of ring ${index}; there are ${this.#rings.length}`);
    const fd = (word & NO_FD) === 0n ? fds[0] : undefined;
    if (fd === undefined && (word & NO_FD) === 0n) throw broken(`${name} without a descriptor`);
    return { ring, index, fd };
  }
}
