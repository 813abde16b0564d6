// Clients that a server must not mind: each connects, does its worst, and goes after a while.

import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const IHAVEOPT = 0x49484156454f5054n;
const OPT_EXPORT_NAME = 1;
const REQUEST_MAGIC = 0x25609513;
const CMD_READ = 0;
const CMD_WRITE = 1;
const MIB = 1 << 20;
/** Greeting, size and flags of the export. */
const HELLO_BYTES = 18 + 10;

/** The client's half of the shortest negotiation. */
function hello() {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt32BE(3, 0); // fixed newstyle, no zeroes
  bytes.writeBigUInt64BE(IHAVEOPT, 4);
  bytes.writeUInt32BE(OPT_EXPORT_NAME, 12);
  return bytes;
}

/** A request's header. */
function request(
  /** @type {number} */ type,
  /** @type {number} */ offset,
  /** @type {number} */ length,
) {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** Bytes that mean nothing. */
function noise(/** @type {() => number} */ random, /** @type {number} */ length) {
  return Uint8Array.from({ length }, () => Math.floor(random() * 256));
}

/**
 * A connected socket that reads nothing, and does not mind being dropped.
 * @param {string} path
 */
async function open(path) {
  const socket = connect(path);
  socket.on('error', () => socket.destroy());
  socket.pause();
  await once(socket, 'connect');
  return socket;
}

/** Resolves when the server has dropped it, or it has gone. */
function closed(/** @type {import('node:net').Socket} */ socket) {
  return new Promise((resolve) => socket.once('close', resolve));
}

/**
 * What a client does until `signal`, at a socket's path.
 * @typedef {(path: string, random: () => number, signal: AbortSignal) => Promise<void>} Deed
 */

/**
 * By name.
 * @type {Record<string, Deed>}
 */
export const RUDE = {
  /** Asks for 64 MiB and takes a few hundred bytes of it now and then. */
  async 'slow reader'(path, random, signal) {
    const socket = await open(path);
    socket.write(hello());
    for (let index = 0; index < 64; index++) socket.write(request(CMD_READ, index * MIB, MIB));
    const end = Date.now() + 2000 + random() * 4000;
    while (Date.now() < end && !signal.aborted && !socket.destroyed) {
      socket.read(Math.min(500 + HELLO_BYTES, socket.readableLength) || undefined);
      await sleep(50);
    }
    socket.destroy();
  },
  /** Stops in the middle of whatever comes first, and stays. */
  async 'half open'(path, random, signal) {
    const socket = await open(path);
    const whole = Buffer.concat([hello(), request(CMD_WRITE, 0, MIB), Buffer.alloc(MIB / 2)]);
    const header = hello().length + 28;
    const cut = random() < 0.5 ? random() * header : random() * whole.length;
    socket.write(whole.subarray(0, Math.floor(cut)));
    if (random() < 0.3) socket.end();
    await Promise.race([sleep(1000 + random() * 4000), once(signal, 'abort'), closed(socket)]);
    socket.destroy();
  },
  /** Says anything, from the start or after a negotiation. */
  async noise(path, random) {
    const socket = await open(path);
    if (random() < 0.5) socket.write(hello());
    // Not a request by chance: none of ours begins with a zero.
    socket.write(Buffer.concat([Buffer.alloc(1), noise(random, 4096)]));
    socket.resume();
    await Promise.race([sleep(500), closed(socket)]);
    socket.destroy();
  },
  /** Comes and goes. */
  async 'drive by'(path) {
    const sockets = await Promise.all(Array.from({ length: 20 }, () => open(path)));
    for (const socket of sockets) socket.destroy();
  },
};
