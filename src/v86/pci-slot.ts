/**
 * A virtio-pci device in a slot of v86's bus: its configuration space, and its BAR in I/O ports.
 *
 * The firmware or the guest moves the BAR as it likes; v86 moves the ports with it.
 */
import { VIRTIO_ID_BLOCK } from '../abi/virtio-blk.ts';
import { invalid, toWhole } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import { PCI_BAR_BYTES, type Pci } from '../virtio/pci.ts';
import { PCI_CONFIG_BYTES, pciConfigSpace } from '../virtio/pci-config-space.ts';
import type { V86Cpu, V86PciBus, V86PciDevice } from './cpu.ts';

/** Above those that v86 gives to its own devices; two more of them are met on the way. */
const FIRST_SLOT = 13;
const LAST_SLOT = 31;
/** Where BARs are at first. Firmware puts them elsewhere, so none is moved onto another one. */
const FIRST_PORT = 0x2000;
const LAST_PORT = 0x9f00;
const BAR_WORD = 4;
const PORT_MASK = 0xfffe;
/** What is read where no device is. */
const NOTHING = -1;
const EMPTY = 'empty slot';

/** Where a device can be plugged in. */
export interface PciPlace {
  readonly pciId: number;
  readonly slot: number;
  /** Where its BAR is at first. */
  readonly port: number;
}

/** A place that is free: in the slot that is asked for, or the first. */
export function freePlace({ devices, io }: V86Cpu, wanted: number | undefined): PciPlace {
  const slot = freeSlot(devices.pci, wanted);
  return { slot, pciId: pciIdOf(slot), port: freePort(io) };
}

function freeSlot(bus: V86PciBus, wanted: number | undefined): number {
  if (wanted !== undefined) {
    toWhole(wanted, 'slot', 1, LAST_SLOT);
    if (isFree(bus, wanted)) return wanted;
    throw invalid(`slot ${wanted} of the PCI bus has a device; leave slot out or choose another`);
  }
  for (let slot = FIRST_SLOT; slot <= LAST_SLOT; slot++) if (isFree(bus, slot)) return slot;
  throw full('slots of the PCI bus');
}

/** The id of a slot on v86's bus. */
export function pciIdOf(slot: number): number {
  return slot << 3;
}

/** Plugs a device in; returns what takes it out again. */
export function plug({ devices, io }: V86Cpu, { pciId, port }: PciPlace, face: Pci): () => void {
  const { pci: bus } = devices;
  const device: V86PciDevice = {
    name: 'sluice virtio-blk',
    pci_id: pciId,
    pci_space: pciConfigSpace(VIRTIO_ID_BLOCK, port),
    pci_bars: [{ size: PCI_BAR_BYTES }],
  };
  for (let offset = 0; offset < PCI_BAR_BYTES; offset++) {
    const read = (size: number) => () => face.read(offset, size) | 0;
    const write = (size: number) => (value: number) => face.write(offset, size, value);
    io.register_read(port + offset, device, read(1), read(2), read(4));
    io.register_write(port + offset, device, write(1), write(2), write(4));
  }
  const space = bus.register_device(device);
  return () => {
    const moved = (space[BAR_WORD] ?? 0) & PORT_MASK;
    device.pci_bars[0]?.entries?.forEach((entry, offset) => {
      if (io.ports[moved + offset] === entry) io.ports[moved + offset] = io.create_empty_entry();
    });
    empty(bus, pciId);
  };
}

/** A slot that was used reads as one that never was; v86 does not survive a write to none. */
function empty(bus: V86PciBus, pciId: number): void {
  const pci_space = new Uint8Array(PCI_CONFIG_BYTES);
  bus.register_device({ name: EMPTY, pci_id: pciId, pci_space, pci_bars: [] });
  bus.device_spaces[pciId]?.fill(NOTHING);
}

function isFree(bus: V86PciBus, slot: number): boolean {
  const device = bus.devices[pciIdOf(slot)];
  return device === undefined || device.name === EMPTY;
}

function freePort({ ports }: V86Cpu['io']): number {
  for (let port = FIRST_PORT; port <= LAST_PORT; port += PCI_BAR_BYTES) {
    const range = ports.slice(port, port + PCI_BAR_BYTES);
    if (range.every(({ device }) => device === undefined)) return port;
  }
  throw full('I/O ports');
}

function full(what: string): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `this emulator has no free ${what} for another disk; close one first`,
  );
}
