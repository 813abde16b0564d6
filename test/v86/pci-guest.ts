/** A guest without a processor: does by hand on the ports of v86 what a driver does. */
import type { V86 } from 'v86';
import { cpuOf, type V86Cpu } from '../../src/v86/cpu.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';

const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const ENABLE = 0x8000_0000;
const SLOTS = 32;
export const VIRTIO_BLK = 0x1042_1af4;
/** Guest RAM that drivers use. */
const RAM_FROM = 1 << 20;
const RAM_BYTES = 4 << 20;
/** Entries of a queue, where the device has so many. */
const QUEUE_SIZE = 64;

interface Ports {
  port_read8(port: number): number;
  port_read16(port: number): number;
  port_read32(port: number): number;
  port_write8(port: number, value: number): void;
  port_write16(port: number, value: number): void;
  port_write32(port: number, value: number): void;
}

export class PciGuest {
  readonly cpu: V86Cpu;
  readonly memory: GuestMemory;
  readonly #ports: Ports;

  static async of(emulator: V86): Promise<PciGuest> {
    const cpu = await cpuOf(emulator);
    const { devices, device_spaces: spaces } = cpu.devices.pci;
    // As firmware leaves them: v86 restores no state in which a BAR that there is not is not zero.
    devices.forEach((device, pciId) => {
      if (device === undefined) return;
      for (let bar = 0; bar < 6; bar++) {
        if (device.pci_bars[bar] === undefined) spaces[pciId]?.fill(0, 4 + bar, 5 + bar);
      }
    });
    return new PciGuest(cpu);
  }

  private constructor(cpu: V86Cpu) {
    this.cpu = cpu;
    this.#ports = cpu.io as unknown as Ports;
    const address = cpu.mem8.byteOffset + RAM_FROM;
    const region = { guestAddress: BigInt(RAM_FROM), address, sizeBytes: RAM_BYTES };
    this.memory = new GuestMemory(cpu.wasm_memory, [region]);
  }

  /** Slots with a virtio-blk device. */
  get slots(): number[] {
    const all = Array.from({ length: SLOTS }, (_, slot) => slot);
    return all.filter((slot) => this.config(slot, 0) === VIRTIO_BLK);
  }

  config(slot: number, at: number): number {
    this.#ports.port_write32(CONFIG_ADDRESS, ENABLE | (slot << 11) | at | 0);
    return this.#ports.port_read32(CONFIG_DATA) >>> 0;
  }

  writeConfig(slot: number, at: number, value: number): void {
    this.#ports.port_write32(CONFIG_ADDRESS, ENABLE | (slot << 11) | at | 0);
    this.#ports.port_write32(CONFIG_DATA, value | 0);
  }

  /** Where the BAR of a device is. */
  bar(slot: number): number {
    return this.config(slot, 0x10) & 0xfffe;
  }

  read(slot: number, offset: number, size: number): number {
    const port = this.bar(slot) + offset;
    if (size === 1) return this.#ports.port_read8(port);
    return size === 2 ? this.#ports.port_read16(port) : this.#ports.port_read32(port) >>> 0;
  }

  write(slot: number, offset: number, size: number, value: number): void {
    const port = this.bar(slot) + offset;
    if (size === 1) this.#ports.port_write8(port, value & 0xff);
    else if (size === 2) this.#ports.port_write16(port, value & 0xffff);
    else this.#ports.port_write32(port, value | 0);
  }

  /** A driver from reset to DRIVER_OK, on queue 0. */
  boot(slot: number, packed = false): BlkDriver {
    this.write(slot, 0x16, 2, 0);
    const size = Math.min(QUEUE_SIZE, this.read(slot, 0x18, 2));
    const queue = createDriverQueue(packed, { memory: this.memory, size });
    const status = (value: number): void => this.write(slot, 0x14, 1, value);
    for (const value of [0, 1, 3]) status(value);
    // VERSION_1, and what the ring is; FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES, where offered.
    const features = [(1 << 9) | (1 << 11) | (1 << 13) | (1 << 14), 1 | (packed ? 4 : 0)];
    features.forEach((bits, word) => {
      this.write(slot, 0x00, 4, word);
      this.write(slot, 0x08, 4, word);
      this.write(slot, 0x0c, 4, bits & this.read(slot, 0x04, 4));
    });
    status(11);
    this.write(slot, 0x18, 2, size);
    [queue.desc, queue.driver, queue.device].forEach((address, index) => {
      this.write(slot, 0x20 + index * 8, 4, Number(address));
      this.write(slot, 0x24 + index * 8, 4, 0);
    });
    this.write(slot, 0x1c, 2, 1);
    status(15);
    return new BlkDriver({ queue });
  }

  kick(slot: number, driver: BlkDriver): void {
    if (driver.publish()) this.write(slot, 0x44, 2, 0);
  }

  /** Kicks and waits until nothing is in flight; takes the interrupts. */
  async finish(slot: number, driver: BlkDriver): Promise<void> {
    this.kick(slot, driver);
    for (let turns = 0; driver.queue.inFlight > 0 && turns < 1000; turns++) {
      await new Promise(setImmediate);
      this.memory.refresh();
      driver.poll();
    }
    this.read(slot, 0x40, 1);
  }
}
