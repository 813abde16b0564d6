/** The payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD: size, offset, rings, entries of each. */
import { inflightBytes, type InflightFile, type InflightShape } from './inflight.ts';
import { broken, type Message } from './protocol.ts';

/** What a front-end asks for, or has. */
export function shapeOf(payload: DataView): InflightShape {
  return { queues: payload.getUint16(16, true), queueSize: payload.getUint16(18, true) };
}

/** The answer to what was asked: so many bytes from the start of a file; 0: there is none. */
export function recordReply(asked: DataView, size: number): Uint8Array {
  const reply = new Uint8Array(asked.buffer.slice(0, asked.byteLength));
  const view = new DataView(reply.buffer);
  view.setBigUint64(0, BigInt(size), true);
  view.setBigUint64(8, 0n, true);
  return reply;
}

/** @throws SluiceError ERR_SLUICE_CONNECTION where it is too small, or is not there */
export function sentRecord({ payload, fds }: Message): InflightFile {
  const [fd] = fds;
  const shape = shapeOf(payload);
  const size = payload.getBigUint64(0, true);
  if (fd === undefined || size < BigInt(inflightBytes(shape))) {
    throw broken(`a record of ${size} bytes for ${shape.queues} rings of ${shape.queueSize}`);
  }
  return { fd, at: payload.getBigUint64(8, true), size, shape };
}
