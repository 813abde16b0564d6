/**
 * The messages of vhost-user, as numbers and as bytes. QEMU, "Vhost-user Protocol".
 *
 * A message is a header of three u32 (request, flags, bytes of payload) and a payload, in the byte
 * order of the machine, which is little-endian here. File descriptors travel beside it.
 */
import { SluiceError } from '../errors.ts';

export const HEADER_BYTES = 12;
/** Larger payloads are no messages of this protocol. */
export const MAX_PAYLOAD_BYTES = 4096;
/** Descriptors of one message: VHOST_MEMORY_BASELINE_NREGIONS. */
export const MAX_FDS = 8;

const VERSION = 1;
const VERSION_MASK = 3;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;

/** Requests of a front-end. */
export const REQUEST = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;

export type RequestName = keyof typeof REQUEST;

const NAMES = new Map<number, RequestName>(
  Object.entries(REQUEST).map(([name, number]) => [number, name as RequestName]),
);

/** A request of the back-end: the configuration space has changed. */
export const BACKEND_CONFIG_CHANGE_MSG = 2;

/** Bit of the virtio features: there are protocol features. */
export const F_PROTOCOL_FEATURES = 1n << 30n;

/** Protocol features, as bits. */
export const PROTOCOL = {
  MQ: 1n << 0n,
  REPLY_ACK: 1n << 3n,
  BACKEND_REQ: 1n << 5n,
  CONFIG: 1n << 9n,
  INFLIGHT_SHMFD: 1n << 12n,
  RESET_DEVICE: 1n << 13n,
  CONFIGURE_MEM_SLOTS: 1n << 15n,
  STATUS: 1n << 16n,
} as const;

/** Everything that is offered. */
export const OFFERED_PROTOCOL = Object.values(PROTOCOL).reduce((all, bit) => all | bit, 0n);

/** A message of the front-end. */
export interface Message {
  /** Undefined: a request that this back-end does not have. */
  readonly name: RequestName | undefined;
  readonly request: number;
  /** REPLY_ACK: an answer is wanted where there is none otherwise. */
  readonly needsReply: boolean;
  readonly payload: DataView;
  /** Descriptors that came with it; whoever takes one removes it. */
  readonly fds: number[];
}

/** What a header says. */
export interface Header {
  readonly request: number;
  readonly needsReply: boolean;
  readonly payloadBytes: number;
}

/** @throws SluiceError ERR_SLUICE_CONNECTION for what is no header of a request */
export function parseHeader(view: DataView): Header {
  const request = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const payloadBytes = view.getUint32(8, true);
  if ((flags & VERSION_MASK) !== VERSION) throw broken(`version ${flags & VERSION_MASK} of it`);
  if ((flags & FLAG_REPLY) !== 0) throw broken(`a reply (${request}) that nobody asked for`);
  if (payloadBytes > MAX_PAYLOAD_BYTES) {
    throw broken(`request ${request} with ${payloadBytes} bytes of payload`);
  }
  return { request, needsReply: (flags & FLAG_NEED_REPLY) !== 0, payloadBytes };
}

/** The name of a request, where this back-end has it. */
export function nameOf(request: number): RequestName | undefined {
  return NAMES.get(request);
}

/** A reply to `request`. */
export function replyBytes(request: number, payload: Uint8Array): Uint8Array {
  return messageBytes(request, VERSION | FLAG_REPLY, payload);
}

/** A request of the back-end that wants no reply. */
export function requestBytes(request: number): Uint8Array {
  return messageBytes(request, VERSION, new Uint8Array());
}

function messageBytes(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** The payload that most replies have. */
export function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

/** A ring and a number: "vring state description". */
export function vringState(index: number, value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, index, true);
  view.setUint32(4, value, true);
  return bytes;
}

/** A region of the front-end's memory. */
export interface MemoryRegion {
  readonly guestAddress: bigint;
  readonly sizeBytes: bigint;
  /** The address that the front-end knows it by. */
  readonly userAddress: bigint;
  /** Where it begins in the file. */
  readonly fileOffset: bigint;
}

const REGION_BYTES = 32;
const TABLE_HEAD_BYTES = 8;

/** The regions of SET_MEM_TABLE. */
export function regionsOf({ payload }: Message): MemoryRegion[] {
  const count = payload.getUint32(0, true);
  if (count > MAX_FDS || payload.byteLength < TABLE_HEAD_BYTES + count * REGION_BYTES) {
    throw broken(`a memory table of ${count} regions in ${payload.byteLength} bytes`);
  }
  return Array.from({ length: count }, (_, index) =>
    regionAt(payload, TABLE_HEAD_BYTES + index * REGION_BYTES),
  );
}

/** The region of ADD_MEM_REG and REM_MEM_REG. */
export function regionOf({ payload }: Message): MemoryRegion {
  return regionAt(payload, TABLE_HEAD_BYTES);
}

function regionAt(payload: DataView, at: number): MemoryRegion {
  return {
    guestAddress: payload.getBigUint64(at, true),
    sizeBytes: payload.getBigUint64(at + 8, true),
    userAddress: payload.getBigUint64(at + 16, true),
    fileOffset: payload.getBigUint64(at + 24, true),
  };
}

/** Least bytes of payload that a request has; where none is said, it has none. */
export const LEAST_PAYLOAD: Readonly<Partial<Record<RequestName, number>>> = {
  SET_FEATURES: 8,
  SET_MEM_TABLE: TABLE_HEAD_BYTES,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 40,
  SET_VRING_BASE: 8,
  GET_VRING_BASE: 8,
  SET_VRING_KICK: 8,
  SET_VRING_CALL: 8,
  SET_VRING_ERR: 8,
  SET_PROTOCOL_FEATURES: 8,
  SET_VRING_ENABLE: 8,
  GET_CONFIG: 12,
  SET_CONFIG: 12,
  GET_INFLIGHT_FD: 20,
  SET_INFLIGHT_FD: 20,
  ADD_MEM_REG: TABLE_HEAD_BYTES + REGION_BYTES,
  REM_MEM_REG: TABLE_HEAD_BYTES + REGION_BYTES,
  SET_STATUS: 8,
};

/** What a front-end has done that the protocol does not have. */
export function broken(what: string): SluiceError {
  return new SluiceError('ERR_SLUICE_CONNECTION', `the vhost-user front-end sends ${what}`);
}
