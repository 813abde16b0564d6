/**
 * `sluice/v86`: disks for v86, the PC emulator in JavaScript. Runs in browsers.
 */
import { checkDisk, toWhole } from './arguments.ts';
import type { Disk } from './disk.ts';
import { footprintBytes } from './place.ts';
import type { V86Emulator } from './v86/cpu.ts';
import { InterruptLines } from './v86/interrupt-lines.ts';
import { Machine } from './v86/machine.ts';
import { freePlace, plug } from './v86/pci-slot.ts';
import { roomIn } from './v86/room.ts';
import { createVirtioBlk } from './virtio/create-virtio-blk.ts';
import type { VirtioBlk } from './virtio/virtio-blk.ts';
import type { VirtioBlkOptions } from './virtio/virtio-blk-options.ts';

export type * from './webassembly.ts';
export type { V86Emulator } from './v86/cpu.ts';
export type { VirtioBlk } from './virtio/virtio-blk.ts';

/** What the adapter does by itself. */
type Ours =
  | 'memory'
  | 'base'
  | 'ram'
  | 'ramBytes'
  | 'guest'
  | 'legacy'
  | 'onInterrupt'
  | 'onInterruptLine'
  | 'onWritten';

/** How a disk is attached: the options of `createVirtioBlk` that have a meaning here. */
export interface V86VirtioBlkOptions extends Omit<VirtioBlkOptions, Ours> {
  /** Slot of the PCI bus, 1 to 31. Default: the first that is free from 13 on. */
  readonly slot?: number | undefined;
}

/**
 * Attaches a disk to an emulator as a virtio-blk PCI device; waits until the emulator is loaded.
 * Attach before the guest starts (`autostart: false`, then `run()`), since its firmware looks for
 * devices once; a guest that runs has to look again by itself. Linux names disks in the order of
 * their slots, so in the order of the calls.
 *
 * The disk moves into the emulator's memory, which grows for it, and goes on as it is. Closing the
 * device, or the disk, unplugs it: let the guest unmount before.
 *
 * The emulator's `save_state` and `restore_state` then include the device. Both stop the processor
 * meanwhile. `save_state` first lets requests in flight end. `restore_state` comes after the disks
 * are attached: those that were, in the same slots, of the same capacity, block size and serial,
 * and read-only or not as before. What does not fit is refused before anything has changed.
 * Contents of disks are not in a state, and are the caller's affair: a guest that is restored goes
 * on with what it had in memory, so the disk must hold what it held when the state was taken. A
 * state in the option `initial_state` of V86 cannot be used.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED when this v86 lacks something that is needed, or has
 *   no room left; ERR_SLUICE_INVALID_ARGUMENT; ERR_SLUICE_BUSY, ERR_SLUICE_CLOSED for a disk that
 *   cannot move
 */
export async function attachVirtioBlk(
  emulator: V86Emulator,
  disk: Disk,
  options: V86VirtioBlkOptions = {},
): Promise<VirtioBlk> {
  checkDisk(disk, 'attachVirtioBlk');
  const machine = await Machine.of(emulator);
  return machine.inTurn(() => attach(machine, disk, options));
}

function attach(machine: Machine, disk: Disk, options: V86VirtioBlkOptions): VirtioBlk {
  const { cpu } = machine;
  const { slot: wanted, onClosed, ...rest } = options;
  const { queues: virtqueues = 1, arenaBytes } = rest;
  toWhole(virtqueues, 'queues', 1, Number.MAX_SAFE_INTEGER);
  const place = freePlace(cpu, wanted);
  const lines = InterruptLines.of(cpu.devices.pci);
  const { mapBytes } = disk.device;
  const { byteOffset: ramAt, length: ramBytes } = cpu.mem8;
  const blk = createVirtioBlk(disk, {
    ...rest,
    memory: cpu.wasm_memory,
    base: roomIn(cpu.wasm_memory, footprintBytes({ virtqueues, arenaBytes, mapBytes })),
    ram: { address: ramAt, sizeBytes: ramBytes },
    onInterruptLine: (level) => lines.set(place.pciId, level),
    onWritten: (address, lengthBytes) =>
      cpu.jit_dirty_cache(address - ramAt, address - ramAt + lengthBytes),
    onClosed: () => {
      unplug();
      machine.remove(place.slot);
      onClosed?.();
    },
  });
  const unplug = plug(cpu, place, blk.pci);
  machine.add(place.slot, blk);
  return blk;
}
