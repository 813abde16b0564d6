/** Images with compressed and encrypted clusters, made by QEMU, and where their clusters are. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import {
  ENTRY_COMPRESSED_BIT,
  HEADER_CLUSTER_BITS,
  HEADER_L1_TABLE_OFFSET,
  L2_ENTRY_BYTES,
} from '../../src/abi/qcow2.ts';

const run = promisify(execFile);

/** Bits 9 to 55. */
const OFFSET_MASK = 0x00fffffffffffe00n;
const COMPRESSED = 1n << BigInt(ENTRY_COMPRESSED_BIT);

/** The L2 entry of a guest offset in an image with standard entries. */
export function entryOf(image: Buffer, guestOffset: number): bigint {
  const clusterBytes = 2 ** image.readUInt32BE(HEADER_CLUSTER_BITS);
  const l2Entries = clusterBytes / L2_ENTRY_BYTES;
  const cluster = Math.floor(guestOffset / clusterBytes);
  const l1 = Number(image.readBigUInt64BE(HEADER_L1_TABLE_OFFSET));
  const l1Entry = image.readBigUInt64BE(l1 + Math.floor(cluster / l2Entries) * L2_ENTRY_BYTES);
  const l2 = Number(l1Entry & OFFSET_MASK);
  return l2 === 0 ? 0n : image.readBigUInt64BE(l2 + (cluster % l2Entries) * L2_ENTRY_BYTES);
}

/** The host offset of a cluster that is not compressed. */
export function hostOffset(image: Buffer, guestOffset: number): number {
  return Number(entryOf(image, guestOffset) & OFFSET_MASK);
}

/** The bytes that a compressed cluster's entry names; undefined for other clusters. */
export function streamOf(
  image: Buffer,
  guestOffset: number,
): { readonly offset: number; readonly length: number } | undefined {
  const entry = entryOf(image, guestOffset);
  if ((entry & COMPRESSED) === 0n) return undefined;
  const offsetBits = BigInt(62 - (image.readUInt32BE(HEADER_CLUSTER_BITS) - 8));
  const offset = Number(entry & ((1n << offsetBits) - 1n));
  const sectors = Number((entry & (COMPRESSED - 1n)) >> offsetBits);
  return { offset, length: (sectors + 1) * 512 - (offset % 512) };
}

/** QEMU times its key derivation, and gives up when the clock has not moved meanwhile. */
const CLOCK_TOO_COARSE = 'Unable to get accurate CPU usage';
const CREATE_TRIES = 50;

/** Creates an encrypted image; `options` are qemu-img's. */
export async function createEncrypted(
  path: string,
  passphrase: string,
  options: readonly string[],
  size: string,
): Promise<void> {
  const list = ['encrypt.key-secret=s', ...options].join(',');
  const secret = ['--object', `secret,id=s,data=${passphrase}`];
  const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', list, path, size];
  for (let tries = 1; ; tries++) {
    try {
      await run('qemu-img', args);
      return;
    } catch (error) {
      if (tries === CREATE_TRIES || !String(error).includes(CLOCK_TOO_COARSE)) throw error;
    }
  }
}

/** Runs commands of qemu-io on an encrypted image; rejects when one fails. */
export async function ioEncrypted(
  path: string,
  passphrase: string,
  ...commands: readonly string[]
): Promise<void> {
  const options = `driver=qcow2,file.filename=${path},encrypt.key-secret=s`;
  const secret = ['--object', `secret,id=s,data=${passphrase}`];
  const each = commands.flatMap((command) => ['-c', command]);
  const { stdout } = await run('qemu-io', [...secret, ...each, '--image-opts', options]);
  if (stdout.includes('Pattern verification failed')) throw new Error(stdout);
}

/** A compressed image of the raw one. */
export async function convertCompressed(
  raw: string,
  path: string,
  options: readonly string[],
): Promise<void> {
  const args = ['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options.join(','), raw, path];
  await run('qemu-img', args);
}
