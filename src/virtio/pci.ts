/**
 * The register face of a device, virtio-pci, for modern drivers. VIRTIO 1.3, 4.1.
 *
 *     the only BAR, 256 bytes   0x00 common configuration   0x40 ISR
 *                               0x44 notification           0x80 device configuration
 *
 * The configuration space of PCI itself, which says so, is in pci-config-space.ts.
 *
 * P1  A field of the common configuration is accessed whole, one of 64 bits by halves (4.1.3.1).
 *     Every other access reads 0 and writes nothing.
 * P2  A field of a queue means the one that queue_select names; without such a queue it reads 0.
 * P3  Reading the ISR acknowledges what it shows (4.1.4.5).
 * P4  Whatever a driver writes, nothing throws. What makes the device unusable sets NEEDS_RESET.
 * P5  There is no MSI-X: interrupts go by the line, which is up while the ISR is not 0.
 */
import type { QueueArea } from './queue-registers.ts';
import {
  addressHalf,
  type Half,
  readConfig,
  setAddressHalf,
  writeConfig,
} from './register-access.ts';
import type { VirtioDevice } from './transport.ts';

/** Bytes of the BAR. */
export const PCI_BAR_BYTES = 0x100;
/** Where its parts begin. */
export const PCI_COMMON = 0x00;
export const PCI_ISR = 0x40;
export const PCI_NOTIFY = 0x44;
export const PCI_DEVICE = 0x80;

/** Vectors of MSI-X that there are not. */
const NO_VECTOR = 0xffff;

/** Offset of a field of the common configuration -> bytes of an access. VIRTIO 1.3, 4.1.4.3. */
const FIELDS: ReadonlyMap<number, number> = new Map([
  [0x00, 4],
  [0x04, 4],
  [0x08, 4],
  [0x0c, 4],
  [0x10, 2],
  [0x12, 2],
  [0x14, 1],
  [0x15, 1],
  [0x16, 2],
  [0x18, 2],
  [0x1a, 2],
  [0x1c, 2],
  [0x1e, 2],
  [0x20, 4],
  [0x24, 4],
  [0x28, 4],
  [0x2c, 4],
  [0x30, 4],
  [0x34, 4],
  [0x38, 2],
  [0x3a, 2],
]);

/** Which halves of which addresses lie where. */
const ADDRESSES: ReadonlyMap<number, readonly [QueueArea, Half]> = new Map([
  [0x20, ['desc', 'low']],
  [0x24, ['desc', 'high']],
  [0x28, ['driver', 'low']],
  [0x2c, ['driver', 'high']],
  [0x30, ['device', 'low']],
  [0x34, ['device', 'high']],
]);

/** What the BAR itself remembers; the device remembers the rest. */
export interface PciRegisters {
  readonly deviceFeatureSelect: number;
  readonly driverFeatureSelect: number;
  readonly queueSelect: number;
}

/** The BAR of a device. VIRTIO 1.3, 4.1.4. */
export class Pci {
  readonly #device: VirtioDevice;
  #own: PciRegisters = { deviceFeatureSelect: 0, driverFeatureSelect: 0, queueSelect: 0 };

  constructor(device: VirtioDevice) {
    this.#device = device;
  }

  /** For `save`. */
  get registers(): PciRegisters {
    return this.#own;
  }

  /** For `restore`. */
  set registers(registers: PciRegisters) {
    this.#own = registers;
  }

  /** Reads `size` bytes at `offset` into the BAR, as an unsigned number. `size` is 1, 2 or 4. */
  read(offset: number, size: number): number {
    if (offset >= PCI_DEVICE) return readConfig(this.#device, offset - PCI_DEVICE, size);
    if (offset === PCI_ISR) return this.#takeIsr();
    return FIELDS.get(offset) === size ? this.#readCommon(offset) >>> 0 : 0;
  }

  /** Writes `size` bytes at `offset` into the BAR (P1, P4). */
  write(offset: number, size: number, value: number): void {
    if (offset >= PCI_DEVICE) writeConfig(this.#device, offset - PCI_DEVICE, size, value);
    else if (offset === PCI_NOTIFY) this.#device.notify(value >>> 0);
    else if (FIELDS.get(offset) === size) this.#writeCommon(offset, value >>> 0);
  }

  /** P3. */
  #takeIsr(): number {
    const { isr } = this.#device;
    this.#device.acknowledge(isr);
    return isr;
  }

  #readCommon(offset: number): number {
    const device = this.#device;
    const { deviceFeatureSelect, driverFeatureSelect, queueSelect } = this.#own;
    const half = ADDRESSES.get(offset);
    if (half !== undefined) return addressHalf(device, queueSelect, half);
    switch (offset) {
      case 0x00:
        return deviceFeatureSelect;
      case 0x04:
        return device.deviceFeatures(deviceFeatureSelect);
      case 0x08:
        return driverFeatureSelect;
      case 0x0c:
        return device.driverFeatures(driverFeatureSelect);
      case 0x12:
        return device.registers.count;
      case 0x14:
        return device.status;
      case 0x15:
        return device.configGeneration & 0xff;
      case 0x16:
        return queueSelect;
      case 0x18:
        return device.registers.settings(queueSelect)?.size ?? 0;
      case 0x10:
      case 0x1a:
        return NO_VECTOR;
      case 0x1c:
        return Number(device.registers.isEnabled(queueSelect));
      case 0x3a:
        return Number(device.registers.isStopping(queueSelect));
      // queue_notify_off, and queue_notif_config_data, which is not offered: all queues notify at
      // one address.
      default:
        return 0;
    }
  }

  #writeCommon(offset: number, value: number): void {
    const device = this.#device;
    const { driverFeatureSelect, queueSelect } = this.#own;
    const half = ADDRESSES.get(offset);
    if (half !== undefined) return setAddressHalf(device, queueSelect, half, value);
    switch (offset) {
      case 0x00:
        return this.#remember({ deviceFeatureSelect: value });
      case 0x08:
        return this.#remember({ driverFeatureSelect: value });
      case 0x0c:
        return device.writeDriverFeatures(driverFeatureSelect, value);
      case 0x14:
        return device.writeStatus(value);
      case 0x16:
        return this.#remember({ queueSelect: value });
      case 0x18:
        return device.registers.setSize(queueSelect, value);
      case 0x1c:
        return value === 1 ? device.registers.enable(queueSelect) : undefined;
      case 0x3a:
        return value === 1 ? device.resetQueue(queueSelect) : undefined;
    }
  }

  #remember(registers: Partial<PciRegisters>): void {
    this.#own = { ...this.#own, ...registers };
  }
}
