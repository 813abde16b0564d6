/**
 * The register face of a device, virtio-mmio. VIRTIO 1.3, 4.2.2 and 4.2.4 (legacy).
 *
 * A device that serves legacy drivers shows version 1 here, other devices show version 2; a driver
 * of the one cannot use the other.
 *
 * I1  Below 0x100 there are registers, of 32 bits, accessed whole and aligned. Every other access
 *     reads 0 and writes nothing. From 0x100 on there is the configuration space, of any width.
 * I2  A register of a queue means the one that QueueSel names; without such a queue it reads 0.
 * I3  Whatever a driver writes, nothing throws. What makes the device unusable sets NEEDS_RESET.
 * I4  The interrupt line is up while InterruptStatus is not 0 (`onInterruptLine`).
 */
import { RING_EXTRA_BYTES, DESC_SIZE, AVAIL_ENTRY_SIZE } from '../abi/virtio-ring.ts';
import type { QueueArea } from './queue-registers.ts';
import { type Half, readConfig, setAddressHalf, writeConfig } from './register-access.ts';
import type { VirtioDevice } from './transport.ts';

/** "virt", little-endian. */
const MAGIC = 0x7472_6976;
const VERSION_LEGACY = 1;
const VERSION_MODERN = 2;
/** Of nobody: drivers may not depend on it. */
const VENDOR = 0;
const CONFIG = 0x100;
/** Length of a shared memory region that does not exist, 4.2.2.1. */
const NO_REGION = 0xffff_ffff;
/** Until the driver says something else; it does so before it resets the device. */
const LEGACY_PAGE_SIZE = 4096;

/** Which halves of which addresses lie where, in version 2. */
const ADDRESSES: ReadonlyMap<number, readonly [area: QueueArea, half: Half]> = new Map([
  [0x080, ['desc', 'low']],
  [0x084, ['desc', 'high']],
  [0x090, ['driver', 'low']],
  [0x094, ['driver', 'high']],
  [0x0a0, ['device', 'low']],
  [0x0a4, ['device', 'high']],
]);

/** What the window itself remembers; the device remembers the rest. */
export interface MmioRegisters {
  readonly deviceFeaturesSel: number;
  readonly driverFeaturesSel: number;
  readonly queueSel: number;
  /** GuestPageSize, of legacy drivers. */
  readonly pageSize: number;
  /** QueueAlign of the queue that comes next, of legacy drivers; 0: a page. */
  readonly queueAlign: number;
}

/** The register window of a device. VIRTIO 1.3, 4.2. */
export class Mmio {
  readonly #device: VirtioDevice;
  #own: MmioRegisters = {
    deviceFeaturesSel: 0,
    driverFeaturesSel: 0,
    queueSel: 0,
    pageSize: LEGACY_PAGE_SIZE,
    queueAlign: 0,
  };

  constructor(device: VirtioDevice) {
    this.#device = device;
  }

  /** For `save`. */
  get registers(): MmioRegisters {
    return this.#own;
  }

  /** For `restore`. */
  set registers(registers: MmioRegisters) {
    this.#own = registers;
  }

  /**
   * Reads `size` bytes at `offset` into the register window, as an unsigned number. `size` is 1, 2
   * or 4 (I1).
   */
  read(offset: number, size: number): number {
    if (offset >= CONFIG) return readConfig(this.#device, offset - CONFIG, size);
    if (!isRegister(offset, size)) return 0;
    const value = this.#device.legacy ? this.#readLegacy(offset) : this.#readModern(offset);
    return value >>> 0;
  }

  /** Writes `size` bytes at `offset` into the register window (I1, I3). */
  write(offset: number, size: number, value: number): void {
    if (offset >= CONFIG) writeConfig(this.#device, offset - CONFIG, size, value);
    else if (isRegister(offset, size)) {
      if (this.#device.legacy) this.#writeLegacy(offset, value >>> 0);
      else this.#writeModern(offset, value >>> 0);
    }
  }

  #readCommon(offset: number, version: number): number {
    const device = this.#device;
    switch (offset) {
      case 0x000:
        return MAGIC;
      case 0x004:
        return version;
      case 0x008:
        return device.deviceId;
      case 0x00c:
        return VENDOR;
      case 0x034:
        return device.registers.sizeMaxOf(this.#own.queueSel);
      case 0x060:
        return device.isr;
      case 0x070:
        return device.status;
      default:
        return 0;
    }
  }

  #readModern(offset: number): number {
    const device = this.#device;
    switch (offset) {
      case 0x010:
        return device.deviceFeatures(this.#own.deviceFeaturesSel);
      case 0x044:
        return Number(device.registers.isEnabled(this.#own.queueSel));
      case 0x0b0:
      case 0x0b4:
      case 0x0b8:
      case 0x0bc:
        return NO_REGION;
      case 0x0c0:
        return Number(device.registers.isStopping(this.#own.queueSel));
      case 0x0fc:
        return device.configGeneration;
      default:
        return this.#readCommon(offset, VERSION_MODERN);
    }
  }

  /** Legacy drivers see 32 bits of features. */
  #readLegacy(offset: number): number {
    switch (offset) {
      case 0x010:
        return this.#own.deviceFeaturesSel === 0 ? this.#device.deviceFeatures(0) : 0;
      case 0x040:
        return this.#queuePfn();
      default:
        return this.#readCommon(offset, VERSION_LEGACY);
    }
  }

  #writeCommon(offset: number, value: number): void {
    const device = this.#device;
    switch (offset) {
      case 0x014:
        return this.#remember({ deviceFeaturesSel: value });
      case 0x020:
        return device.writeDriverFeatures(this.#own.driverFeaturesSel, value);
      case 0x024:
        return this.#remember({ driverFeaturesSel: value });
      case 0x030:
        return this.#remember({ queueSel: value, queueAlign: 0 });
      case 0x038:
        return device.registers.setSize(this.#own.queueSel, value);
      case 0x050:
        return device.notify(value);
      case 0x064:
        return device.acknowledge(value);
      case 0x070:
        return device.writeStatus(value);
    }
  }

  #writeModern(offset: number, value: number): void {
    const { registers } = this.#device;
    const half = ADDRESSES.get(offset);
    if (half !== undefined) return setAddressHalf(this.#device, this.#own.queueSel, half, value);
    switch (offset) {
      case 0x044:
        if (value === 0) return registers.stop(this.#own.queueSel);
        return value === 1 ? registers.enable(this.#own.queueSel) : undefined;
      case 0x0c0:
        return value === 1 ? this.#device.resetQueue(this.#own.queueSel) : undefined;
      default:
        return this.#writeCommon(offset, value);
    }
  }

  #writeLegacy(offset: number, value: number): void {
    switch (offset) {
      case 0x028:
        return isPowerOfTwo(value) ? this.#remember({ pageSize: value }) : undefined;
      case 0x03c:
        return isPowerOfTwo(value) ? this.#remember({ queueAlign: value }) : undefined;
      case 0x040:
        return this.#setQueuePfn(value);
      default:
        return this.#writeCommon(offset, value);
    }
  }

  #remember(registers: Partial<MmioRegisters>): void {
    this.#own = { ...this.#own, ...registers };
  }

  /** Legacy: the number of the page where a queue begins; 0: it is off. */
  #queuePfn(): number {
    const settings = this.#device.registers.settings(this.#own.queueSel);
    if (settings?.enabled !== true) return 0;
    return Number(settings.desc / BigInt(this.#own.pageSize));
  }

  /** Legacy: places all parts of a queue and enables it, or stops it. VIRTIO 1.3, 2.7.2. */
  #setQueuePfn(pfn: number): void {
    const { registers } = this.#device;
    const { queueSel: queue, queueAlign, pageSize } = this.#own;
    if (pfn === 0) return registers.stop(queue);
    const { size = 0, enabled = true } = registers.settings(queue) ?? {};
    if (enabled) return;
    const desc = BigInt(pfn) * BigInt(pageSize);
    const driver = desc + BigInt(size * DESC_SIZE);
    const end = driver + BigInt(RING_EXTRA_BYTES + size * AVAIL_ENTRY_SIZE);
    const align = BigInt(queueAlign === 0 ? pageSize : queueAlign);
    registers.setAddress(queue, 'desc', desc);
    registers.setAddress(queue, 'driver', driver);
    registers.setAddress(queue, 'device', ((end + align - 1n) / align) * align);
    registers.enable(queue);
  }
}

function isRegister(offset: number, size: number): boolean {
  return size === 4 && offset >= 0 && offset % 4 === 0;
}

function isPowerOfTwo(value: number): boolean {
  return value !== 0 && (value & (value - 1)) === 0;
}
