/**
 * A new capacity for a disk that is in use.
 *
 *   gate shut ─▶ nothing in flight ─▶ the backend's size ─▶ the engine's capacity ─▶ gate open
 *
 * Over a mapping there is more to do, and a cut at any moment leaves one size or the other:
 *
 *   tables to the file ─▶ room in them ─▶ zeroes where something would show ─▶ the size
 *
 * The engine does not know that a size has to be synced. Its files are made dirty, as they are when
 * a disk is opened, so that the next flush is none that finds nothing to do (F3, F7, F9).
 */
import { CAPACITY_BITS } from './abi/limits.ts';
import { MAP_CLOSING, MAP_FLAGS, MAP_READ_ONLY } from './abi/map.ts';
import { STATE_LATCHED } from './abi/region.ts';
import {
  OP_CLEAR_LATCH,
  OP_FLUSH,
  OP_WRITE_ZEROES,
  REQUEST_MAY_UNMAP,
  STATUS_OK,
} from './abi/request.ts';
import { invalid } from './arguments.ts';
import type { Backend } from './backend/backend.ts';
import { corruptionOf, corruptionText } from './corruption.ts';
import type { EngineDevice } from './engine-device.ts';
import { SluiceError } from './errors.ts';
import { isFailedSync } from './image/image-file.ts';
import type { Mapping, MappingResizing } from './mapping.ts';
import { requestError } from './request-error.ts';
import { notResizable } from './resize-error.ts';
import { settle } from './settle-mapping.ts';

/** Options of Disk.resize. */
export interface ResizeOptions {
  /** The disk may become smaller: what lies behind its new end is lost. Default false. */
  readonly shrink?: boolean | undefined;
}

/** How the files of a disk get another size. */
type Resizer = (sizeBytes: number) => Promise<void>;

const SECTOR_BYTES = 512;
/** Zeroes of one request. */
const ZEROES_BYTES = 2 ** 30;
const RESIZE = { operation: 'resize' };

/** Resizes the only file of a disk, or the disk of a mapping. Requests that come meanwhile wait. */
export async function resizeDevice(
  device: EngineDevice,
  backends: readonly (Backend | undefined)[],
  mapping: Mapping | undefined,
  sizeBytes: number,
  mayShrink: boolean,
): Promise<void> {
  if (sizeBytes >= 2 ** CAPACITY_BITS) throw invalid(`${sizeBytes} bytes are too many for a disk`);
  const resize = resizerOf(device, backends, mapping?.resizing, sizeBytes);
  if (device.held > 0) {
    const reason = `${device.held} requests are stopped by an error; resume or reset them first`;
    throw new SluiceError('ERR_SLUICE_BUSY', `cannot resize the disk: ${reason}`, RESIZE);
  }
  await device.quiesced(async () => {
    const { sizeBytes: found } = device;
    if (sizeBytes < found && !mayShrink) {
      throw invalid(
        `${sizeBytes} bytes are less than the disk has (${found}): ` +
          'pass shrink: true to give up what lies behind them',
      );
    }
    await resize(sizeBytes);
    if (!device.readOnly && !device.engine.latched) await makeDirty(device);
  });
}

function resizerOf(
  device: EngineDevice,
  backends: readonly (Backend | undefined)[],
  resizing: MappingResizing | undefined,
  sizeBytes: number,
): Resizer {
  if (device.engine.mapAt !== 0) {
    if (device.readOnly) {
      const reason = 'it is open read-only; open it with writable: true';
      throw new SluiceError('ERR_SLUICE_READ_ONLY', `cannot resize the disk: ${reason}`, RESIZE);
    }
    if (resizing === undefined) {
      const found = 'its bitmaps are kept up to date while it is open';
      throw notResizable(`${found}; close it, and resize the image`);
    }
    refuseParts(sizeBytes, Math.max(device.blockSizeBytes, SECTOR_BYTES));
    resizing.check(sizeBytes);
    return (bytes) => resizeMapped(device, resizing, bytes);
  }
  const [backend, ...others] = backends;
  if (others.length > 0) throw notResizable('it is striped over several files');
  if (backend?.resize === undefined) throw notResizable('its backend has a fixed size');
  return async (bytes) => {
    await backend.resize?.(bytes);
    device.sizeBytes = bytes;
  };
}

/** See the head of the file. Whatever fails, the disk goes on with what is there then. */
async function resizeMapped(
  device: EngineDevice,
  resizing: MappingResizing,
  sizeBytes: number,
): Promise<void> {
  const { sizeBytes: found } = device;
  const { shownBytes } = resizing;
  try {
    await rest(device);
    if (sizeBytes > found) {
      remap(device, await resizing.makeRoom(sizeBytes));
      // Nobody is told of the new size yet.
      device.engine.capacityBytes = sizeBytes;
      await makeDirty(device);
      await zero(device, found, Math.min(sizeBytes, shownBytes));
    } else {
      remap(device, await resizing.makeRoom(sizeBytes));
      await zero(device, sizeBytes, found);
    }
    await rest(device);
    remap(device, await resizing.setSize(sizeBytes));
    device.sizeBytes = sizeBytes;
  } catch (error) {
    device.sizeBytes = found;
    if (isAtRest(device)) await goOn(device, resizing);
    // A step's sync has failed, of which the engine does not know: none is believed any more.
    if (isFailedSync(error)) device.engine.store(STATE_LATCHED, 1);
    throw error;
  }
}

/** With what is in the files; when that cannot be read, nothing is written any more. */
async function goOn(device: EngineDevice, resizing: MappingResizing): Promise<void> {
  try {
    const asFound = await resizing.reload();
    remap(device, asFound);
    device.sizeBytes = asFound.geometry.sizeBytes;
  } catch {
    const { engine } = device;
    engine.storeMap(MAP_FLAGS, engine.loadMap(MAP_FLAGS) | MAP_READ_ONLY);
    engine.storeMap(MAP_CLOSING, 0);
  }
}

/** Nothing of the mapping is in memory alone, and all of it is stable; or it goes on as before. */
async function rest(device: EngineDevice): Promise<void> {
  try {
    const isSettled = await settle(device, () => run(device, OP_FLUSH, 0, 0, 0));
    refuseCorrupt(device);
    if (isSettled) return;
    const message = 'cannot resize the disk: its tables could not be written';
    throw new SluiceError('ERR_SLUICE_IO', message, RESIZE);
  } catch (error) {
    device.engine.storeMap(MAP_CLOSING, 0);
    throw error;
  }
}

/** An image that was found corrupt takes no writes, and stays so. */
function refuseCorrupt({ engine }: EngineDevice): void {
  const corruption = corruptionOf(engine);
  if (corruption === undefined) return;
  const message = `cannot resize the disk: ${corruptionText(corruption)}`;
  throw new SluiceError('ERR_SLUICE_CORRUPT', message, RESIZE);
}

/** The device begins anew with a mapping. Nothing is in flight. */
function remap(device: EngineDevice, mapping: Mapping): void {
  if (mapping.regionBytes > device.mapBytes) throw notResizable('its tables have grown too large');
  device.engine.startMapping(mapping);
  device.attachBackends();
}

function isAtRest(device: EngineDevice): boolean {
  return device.engine.loadMap(MAP_CLOSING) !== 0;
}

/** A write of zeroes is no discard: that may be ignored. */
async function zero(device: EngineDevice, from: number, to: number): Promise<void> {
  for (let at = from; at < to; at += ZEROES_BYTES) {
    const length = Math.min(ZEROES_BYTES, to - at);
    await run(device, OP_WRITE_ZEROES, REQUEST_MAY_UNMAP, at, length);
  }
}

/** Opening a latch that is open changes nothing but this. */
function makeDirty(device: EngineDevice): Promise<void> {
  return run(device, OP_CLEAR_LATCH, 0, 0, 0);
}

/** A request of the resizing itself, while the gate is shut. */
async function run(
  device: EngineDevice,
  op: number,
  flags: number,
  offset: number,
  length: number,
): Promise<void> {
  const answer = await new Promise<{ status: number; errno: number }>((resolve) => {
    const completed = (_token: number, status: number, _value: number, errno: number): void =>
      resolve({ status, errno });
    device.submit(op, flags, offset, length, 0, 0, { completed, passesGate: true }, 0);
    device.kick();
  });
  if (answer.status === STATUS_OK) return;
  throw requestError(answer.status, answer.errno, {
    operation: 'resize',
    offset,
    length,
    sizeBytes: device.sizeBytes,
  });
}

function refuseParts(sizeBytes: number, blockSizeBytes: number): void {
  if (sizeBytes % blockSizeBytes === 0) return;
  const message = `a disk of ${sizeBytes} bytes does not end with a block of ${blockSizeBytes}`;
  throw new SluiceError('ERR_SLUICE_ALIGNMENT', `cannot resize the disk: ${message}`, RESIZE);
}
