/**
 * Puts a virtio-blk device on a disk: finds the memory, moves the disk's engine into it, shows it
 * the guest's RAM.
 *
 *     memory    | ...  guest RAM, anywhere ...  base: engine | queues | buffers ... |
 *     ramBytes  | engine | queues | buffers | guest RAM |
 *     guest     | engine | queues | buffers | mirror of the guest (copied-guest.ts) |
 */
import { CONFIG_BARRIER, CONFIG_FLAGS } from '../abi/region.ts';
import { checkDisk, invalid, toWhole } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import type { Disk } from '../disk.ts';
import { checkOptions } from '../options.ts';
import { layOut, WASM_PAGE_SIZE } from '../place.ts';
import { CopiedGuest } from './copied-guest.ts';
import { offeredFeatures } from './features.ts';
import { type GuestSide, WatchedGuest } from './landed.ts';
import { moveHome } from './move-home.ts';
import { requestSettings } from './negotiation.ts';
import { VirtioBlk } from './virtio-blk.ts';
import {
  toEvents,
  toFixed,
  toRegions,
  toValues,
  VIRTIO_BLK_OPTIONS,
  type VirtioBlkOptions,
} from './virtio-blk-options.ts';
import type { VirtioBlkParts } from './virtio-blk-types.ts';
import { toPolicies, toRegion } from './virtqueue-checks.ts';
import type { GuestRegion, QueueEvents } from './virtqueue-types.ts';
import { VirtQueues } from './virtqueues.ts';

/** Where everything lies. */
interface Ground {
  readonly memory: WebAssembly.Memory;
  readonly base: number;
  readonly arenaBytes: number | undefined;
  readonly virtqueues: number;
  readonly regions: readonly GuestRegion[];
  /** The guest's RAM, where it was made here. */
  readonly ram?: () => Uint8Array;
  /** The guest itself, where it has to be copied to and from `ram`. */
  readonly guest?: Uint8Array;
  readonly onWritten?: VirtioBlkOptions['onWritten'];
}

const LARGEST_MEMORY = 2 ** 32;

/**
 * Makes a virtio-blk device. The disk goes on as it is, in the new memory, until the device is
 * closed; then it goes back to a memory of its own. Closing the disk closes the device first.
 * Nothing may be in flight on the disk, and it can have one device at a time.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT; ERR_SLUICE_BUSY when requests are in flight, or
 *   the disk has a virtio device; ERR_SLUICE_VIRTQUEUE when guest RAM does not lie where it should
 */
export function createVirtioBlk(disk: Disk, options: VirtioBlkOptions): VirtioBlk {
  return makeVirtioBlk(disk, options, (blk) => blk.close());
}

/**
 * As createVirtioBlk, for an owner who has more to do when the disk is closed.
 * @param closeFor closes the device at last, too
 */
export function makeVirtioBlk(
  disk: Disk,
  options: VirtioBlkOptions,
  closeFor: (blk: VirtioBlk) => Promise<void>,
): VirtioBlk {
  checkDisk(disk, 'createVirtioBlk');
  if (typeof options !== 'object' || options === null) {
    throw invalid('a virtio-blk device needs options: at least where guest memory is');
  }
  checkOptions(options, VIRTIO_BLK_OPTIONS, 'createVirtioBlk');
  if (disk.closed) throw new SluiceError('ERR_SLUICE_CLOSED', 'the disk is closed; open it again');
  const parts = toParts(disk, options);
  const { mapBytes } = disk.device;
  const ground = findGround(options, { virtqueues: parts.values.queues, mapBytes });
  const { device } = disk;
  device.moveTo(ground);
  let isDiskClosing = false;
  const undo: (() => void)[] = [];
  const blk = new VirtioBlk({
    ...parts,
    makeQueues: (events) => queuesOn(disk, ground, events),
    ram: ground.guest === undefined ? ground.ram : undefined,
    onClosing: () => {
      device.leaving = true;
    },
    onClose: async () => {
      try {
        await moveHome(device, () => isDiskClosing);
      } finally {
        device.leaving = false;
        for (const step of undo) step();
        parts.events.onClosed?.();
      }
    },
  });
  const close = (): Promise<void> => {
    isDiskClosing = true;
    return closeFor(blk);
  };
  undo.push(disk.attach({ close, sharesBuffers: false }));
  undo.push(disk.onResize(() => blk.resized(disk.size)));
  return blk;
}

/** The queues, with the guest's memory in place; or the disk is back where it was. */
function queuesOn(disk: Disk, ground: Ground, events: QueueEvents): VirtQueues {
  const queues = new VirtQueues(disk.device, events, guestSideOf(disk, ground));
  try {
    for (const region of ground.regions) queues.addRegion(region);
  } catch (error) {
    queues.abandon();
    disk.device.leave();
    throw error;
  }
  return queues;
}

/** What keeps the mirror of a copied guest, or tells what is written. */
function guestSideOf({ device }: Disk, ground: Ground): GuestSide | undefined {
  const { guest, regions, onWritten } = ground;
  if (onWritten !== undefined) return new WatchedGuest(device, onWritten);
  const mirror = regions[0]?.address;
  if (guest === undefined || mirror === undefined) return undefined;
  return new CopiedGuest(device, guest, mirror);
}

/** Everything that can be wrong with the options is found here, before the disk moves. */
function toParts(disk: Disk, options: VirtioBlkOptions): Omit<VirtioBlkParts, 'makeQueues'> {
  const { engine, blockSizeBytes: granuleBytes, unmaps: mayUnmap } = disk.device;
  const { legacy = false } = options;
  const values = toValues(options, { capacityBytes: disk.size, granuleBytes, mayUnmap });
  const settings = toFixed(options);
  toPolicies(requestSettings(0n, values, settings));
  const offered = offeredFeatures(options.features ?? {}, {
    readOnly: disk.readOnly,
    legacy,
    barriers: (engine.load(CONFIG_FLAGS) & CONFIG_BARRIER) !== 0,
    queues: values.queues,
    sizeMax: values.sizeMaxBytes > 0,
  });
  const { wce } = disk;
  return { values, settings, offered, legacy, wce, events: toEvents(options) };
}

/** What of a footprint the disk and its queues decide. */
interface Needs {
  readonly virtqueues: number;
  readonly mapBytes: number;
}

function findGround(options: VirtioBlkOptions, needs: Needs): Ground {
  const { memory, ramBytes, guest, onWritten } = options;
  const given = [memory, ramBytes, guest].filter((place) => place !== undefined);
  if (given.length !== 1) {
    throw invalid(
      "a virtio-blk device needs the guest's memory: give one of memory, ramBytes and guest",
    );
  }
  if (onWritten !== undefined && memory === undefined) throw invalid('onWritten goes with memory');
  if (guest !== undefined) return copiedGround(options, needs);
  return memory === undefined ? ownGround(options, needs) : givenGround(options, needs);
}

function givenGround(options: VirtioBlkOptions, { virtqueues }: Needs): Ground {
  const { memory, base, arenaBytes, onWritten, features } = options;
  if (onWritten !== undefined && features?.inOrder === true)
    throw invalid('onWritten and IN_ORDER exclude each other; leave one out');
  if (!(memory instanceof WebAssembly.Memory)) throw invalid('memory must be a WebAssembly.Memory');
  if (base === undefined) {
    throw invalid('base must say where in this memory the engine may live; nothing else uses it');
  }
  const regions = toRegions(options.ram).map((region) => toRegion(region));
  return { memory, base, arenaBytes, virtqueues, regions, onWritten };
}

function ownGround(options: VirtioBlkOptions, { virtqueues, mapBytes }: Needs): Ground {
  const { base, ram, ramBytes = 0, arenaBytes } = options;
  if (base !== undefined || ram !== undefined) throw invalid('base and ram go with memory');
  const { end } = layOut({ base: 0, virtqueues, arenaBytes, mapBytes });
  const address = Math.ceil(end / WASM_PAGE_SIZE) * WASM_PAGE_SIZE;
  toWhole(ramBytes, 'ramBytes', 1, LARGEST_MEMORY - address);
  const pages = Math.ceil((address + ramBytes) / WASM_PAGE_SIZE);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const bytes = new Uint8Array(memory.buffer, address, ramBytes);
  return {
    memory,
    base: 0,
    arenaBytes,
    virtqueues,
    regions: [{ guestAddress: 0n, address, sizeBytes: ramBytes }],
    ram: () => bytes,
  };
}

/** A guest outside of any WebAssembly memory: a mirror as large as it, in a memory of ours. */
function copiedGround(options: VirtioBlkOptions, needs: Needs): Ground {
  const { guest, features, ...rest } = options;
  const bytes = guest instanceof ArrayBuffer ? new Uint8Array(guest) : guest;
  if (!(bytes instanceof Uint8Array) || bytes.length === 0) {
    throw invalid('guest must be an ArrayBuffer or Uint8Array with the bytes of guest RAM');
  }
  if (!(bytes.buffer instanceof ArrayBuffer)) {
    throw invalid(
      'a guest that runs on another thread cannot be copied: let its RAM be a ' +
        'WebAssembly.Memory, and give that as memory',
    );
  }
  if (features?.inOrder === true)
    throw invalid('a copied guest has no IN_ORDER; leave inOrder out');
  return { ...ownGround({ ...rest, ramBytes: bytes.length }, needs), guest: bytes };
}
