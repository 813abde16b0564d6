/** What a front-end says and asks of the device itself: its status, and its configuration space. */
import { BLK_CONFIG_SIZE, BLK_CONFIG_WRITEBACK } from '../abi/virtio-blk.ts';
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import { hasFeature } from '../virtio/features.ts';
import type { VirtioBlk } from '../virtio/virtio-blk.ts';
import type { KeptCache } from './inflight.ts';
import { broken, type Message } from './protocol.ts';

/** Offset, size and flags come before the bytes. */
const CONFIG_HEAD_BYTES = 12;
const CONFIG_BYTES_MAX = 256;
const UP_TO_DRIVER = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

/** The reply to GET_CONFIG. */
export function readConfig(blk: VirtioBlk, { payload }: Message): Uint8Array {
  const offset = payload.getUint32(0, true);
  const size = payload.getUint32(4, true);
  // An empty reply says that it cannot be.
  if (offset > CONFIG_BYTES_MAX || size > CONFIG_BYTES_MAX - offset) return new Uint8Array();
  const answer = new Uint8Array(CONFIG_HEAD_BYTES + size);
  answer.set(new Uint8Array(payload.buffer, 0, CONFIG_HEAD_BYTES));
  const known = Math.min(size, Math.max(0, BLK_CONFIG_SIZE - offset));
  blk.readConfig(offset, answer.subarray(CONFIG_HEAD_BYTES, CONFIG_HEAD_BYTES + known));
  return answer;
}

/** SET_CONFIG: resolves when it is done, with false when a flush has failed. */
export function writeConfig(blk: VirtioBlk, { payload }: Message): Promise<boolean> {
  const offset = payload.getUint32(0, true);
  const size = payload.getUint32(4, true);
  if (size > payload.byteLength - CONFIG_HEAD_BYTES) throw broken('less configuration than said');
  return blk.writeConfig(offset, new Uint8Array(payload.buffer, CONFIG_HEAD_BYTES, size));
}

/**
 * The bits of a status in the order in which a driver sets them.
 * @param cache what the guest had chosen when the last process ended
 * @throws SluiceError ERR_SLUICE_CONNECTION for features that cannot be
 */
export function raiseStatus(
  blk: VirtioBlk,
  status: number,
  features: bigint,
  cache: KeptCache | undefined,
): void {
  const fresh = status & ~blk.status;
  blk.writeDriverFeatures(0, Number(BigInt.asUintN(32, features)));
  blk.writeDriverFeatures(1, Number(features >> 32n));
  blk.writeStatus(blk.status | (status & ~VIRTIO_CONFIG_S_DRIVER_OK));
  if ((fresh & VIRTIO_CONFIG_S_DRIVER_OK) === 0) return;
  const refused = status & ~blk.status & VIRTIO_CONFIG_S_FEATURES_OK;
  if (refused !== 0) throw broken(`features that cannot be: ${blk.features.refusal}`);
  // No request is taken before the cache is as the guest has left it.
  if (cache === 'off') void blk.writeConfig(BLK_CONFIG_WRITEBACK, Uint8Array.of(0));
  blk.writeStatus(blk.status | VIRTIO_CONFIG_S_DRIVER_OK);
  if ((blk.status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) return;
  throw broken('DRIVER_OK, which cannot be');
}

/** DRIVER_OK for a front-end that does not say it. */
export async function goLive(
  blk: VirtioBlk,
  features: bigint,
  cache: KeptCache | undefined,
): Promise<void> {
  const isLive = (blk.status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  if (isLive && blk.features.negotiated === features) return;
  if (blk.status !== 0) await blk.reset();
  const isModern = hasFeature(features, VIRTIO_F_VERSION_1);
  const agreed = isModern ? VIRTIO_CONFIG_S_FEATURES_OK : 0;
  raiseStatus(blk, UP_TO_DRIVER | agreed | VIRTIO_CONFIG_S_DRIVER_OK, features, cache);
}
