/**
 * The parts of v86 that the adapter uses. v86 has no public interface for devices: these are its
 * own names, which its builds keep. Each is looked for, and a version without one is refused.
 */
import { SluiceError } from '../errors.ts';

/** What is used of the public face of an emulator, `V86` of the package v86. */
export interface V86Emulator {
  add_listener(event: 'emulator-loaded', listener: () => void): void;
  remove_listener(event: 'emulator-loaded', listener: () => void): void;
  is_running(): boolean;
  run(): Promise<void>;
  stop(): Promise<void>;
  save_state(): Promise<ArrayBuffer>;
  restore_state(state: ArrayBuffer): Promise<void>;
}

/** The processor, and all that hangs off it. */
export interface V86Cpu {
  readonly wasm_memory: WebAssembly.Memory;
  /** Guest RAM; finds itself again when the memory has grown. */
  readonly mem8: Uint8Array;
  readonly io: V86Io;
  readonly devices: { readonly pci: V86PciBus };
  /** One flag: the processor has halted and waits for an interrupt. */
  readonly in_hlt: { [index: number]: number };
  /** Guest RAM has changed: forgets what was compiled from it. */
  jit_dirty_cache(start: number, end: number): void;
  /** Every reset of the machine: by the guest, or by `restart`. */
  reboot_internal(): void;
  get_state(): unknown[];
  set_state(state: unknown[]): void;
}

/** The I/O ports. */
export interface V86Io {
  readonly ports: V86Port[];
  create_empty_entry(): V86Port;
  register_read(port: number, device: object, ...reads: (() => number)[]): void;
  register_write(port: number, device: object, ...writes: ((value: number) => void)[]): void;
}

/** What is behind a port. */
export interface V86Port {
  /** Undefined: nobody is. */
  readonly device: object | undefined;
}

/** The PCI bus, by id: the number of the slot times 8. */
export interface V86PciBus {
  readonly devices: (V86PciDevice | undefined)[];
  readonly device_spaces: (Int32Array | undefined)[];
  register_device(device: V86PciDevice): Int32Array;
  raise_irq(pciId: number): void;
  lower_irq(pciId: number): void;
}

/** A device in a slot. */
export interface V86PciDevice {
  readonly name: string;
  readonly pci_id: number;
  /** Its configuration space at first. */
  readonly pci_space: Uint8Array;
  /** v86 adds the ports that move with the BAR. */
  readonly pci_bars: readonly { readonly size: number; readonly entries?: V86Port[] }[];
}

const OF_EMULATOR = [
  'add_listener',
  'remove_listener',
  'is_running',
  'run',
  'stop',
  'save_state',
  'restore_state',
];
const OF_CPU = [
  'wasm_memory.grow',
  'mem8.byteOffset',
  'in_hlt',
  'io.ports.length',
  'io.create_empty_entry',
  'io.register_read',
  'io.register_write',
  'devices.pci.devices.length',
  'devices.pci.device_spaces.length',
  'devices.pci.register_device',
  'devices.pci.raise_irq',
  'devices.pci.lower_irq',
  'jit_dirty_cache',
  'reboot_internal',
  'get_state',
  'set_state',
];

/**
 * The processor of an emulator, when everything is there: after `emulator-loaded`.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED, with the names that this v86 lacks
 */
export async function cpuOf(emulator: V86Emulator): Promise<V86Cpu> {
  refuseWithout(emulator, OF_EMULATOR, 'emulator');
  if (at(emulator, 'v86.cpu.io') === undefined) await loaded(emulator);
  const cpu = at(emulator, 'v86.cpu');
  refuseWithout(cpu, OF_CPU, 'emulator.v86.cpu');
  return cpu as V86Cpu;
}

function loaded(emulator: V86Emulator): Promise<void> {
  return new Promise((resolve) => {
    const listener = (): void => {
      emulator.remove_listener('emulator-loaded', listener);
      resolve();
    };
    emulator.add_listener('emulator-loaded', listener);
  });
}

function refuseWithout(owner: unknown, paths: readonly string[], name: string): void {
  const missing = paths.filter((path) => at(owner, path) === undefined);
  if (missing.length === 0) return;
  throw new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `this v86 cannot have a virtio-blk device: ${name} lacks ${missing.join(', ')}; ` +
      'use a version of v86 that this release supports',
  );
}

/** What a path of names leads to; undefined: it leads nowhere. */
function at(owner: unknown, path: string): unknown {
  let value = owner;
  for (const name of path.split('.'))
    value = (value as Record<string, unknown> | undefined)?.[name];
  return value;
}
