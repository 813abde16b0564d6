/**
 * Chains that land: where DEVICE_LANDS says so, those that are decided wait after a pump until the
 * host has looked at what they have written. Then they are returned, and the driver is told.
 */
import { REGION_SIZE } from '../abi/region.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../abi/request.ts';
import * as abi from '../abi/virtio-device.ts';
import type { Engine } from '../engine.ts';
import type { EngineDevice } from '../engine-device.ts';

/** The end of the line of chains that wait to be landed. */
const NO_CHAIN = 0xffff_ffff;

/** A part of the host's that looks at guest memory around pumps. */
export interface GuestSide {
  /** Before a pump. */
  copyIn?(): void;
  /** A queue was attached. */
  attached?(queue: number): void;
  /** After a pump: lands what has been decided. */
  land(): void;
}

/** Called with a place in the engine's memory. */
export type EachRange = (address: number, lengthBytes: number) => void;

/** Adds flags (DEVICE_*) to a device with virtqueues, before any of them is attached. */
export function setDeviceFlags({ engine }: EngineDevice, flags: number): void {
  const at = REGION_SIZE + abi.DEVICE_FLAGS;
  engine.store(at, engine.load(at) | flags);
}

/** Whether chains wait to be landed. */
export function hasLanded(engine: Engine): boolean {
  return engine.load(REGION_SIZE + abi.DEVICE_LANDED) !== NO_CHAIN;
}

/** Calls back for each range of the list that the engine has made. */
export function eachListed(engine: Engine, entries: number, each: EachRange): void {
  for (let entry = 0; entry < entries; entry++) {
    const at = REGION_SIZE + abi.DEVICE_LIST + entry * SEGMENT_SIZE;
    each(engine.load(at + SEGMENT_ADDRESS), engine.load(at + SEGMENT_LENGTH));
  }
}

/** Tells where chains have written: data and status, not the rings. */
export class WatchedGuest implements GuestSide {
  readonly #device: EngineDevice;
  readonly #onWritten: EachRange;

  constructor(device: EngineDevice, onWritten: EachRange) {
    this.#device = device;
    this.#onWritten = onWritten;
    setDeviceFlags(device, abi.DEVICE_WATCHED);
  }

  /** Every chain is returned, also when the callback throws; then that comes out. */
  land(): void {
    const { engine } = this.#device;
    const { exports, base } = engine;
    if (!hasLanded(engine)) return;
    const failures: unknown[] = [];
    for (; hasLanded(engine); exports.landChain(base)) {
      try {
        eachListed(engine, exports.listLanded(base) >>> 0, this.#onWritten);
      } catch (error) {
        failures.push(error);
      }
    }
    exports.publishLanded(base);
    if (failures.length > 0) throw failures[0];
  }
}
