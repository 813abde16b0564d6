/**
 * An emulator with its disks: what happens to all of them at once.
 *
 * E1  A state is taken and restored while the processor stands and nothing is in flight, so that
 *     memory, processor and devices are of one moment, and no request is lost or done twice.
 * E2  A state that does not fit the machine or its disks is refused before anything has changed.
 * E3  A reset of the machine resets the disks. While the host still has guest memory in its hands
 *     the machine waits: the next system must not find somebody else's data written into it.
 * E4  A disk that is closed during a restore is gone as if it had been closed after it; during a
 *     save, there is no state. One that is attached meanwhile waits for the end.
 */
import { invalid, show } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import { parseState } from '../virtio/state.ts';
import type { VirtioBlk } from '../virtio/virtio-blk.ts';
import { cpuOf, type V86Cpu, type V86Emulator } from './cpu.ts';
import { pciIdOf } from './pci-slot.ts';

/** A disk in a state. */
interface SavedMember {
  readonly slot: number;
  readonly state: unknown;
}

/** Where in v86's state the size of guest RAM is, and the configuration spaces by PCI id. */
const RAM_INDEX = 0;
const PCI_INDEX = 48;
/** Where in v86's state, a list, ours is: a string of JSON. v86's own parts come before it. */
const STATE_INDEX = 256;

const machines = new WeakMap<V86Cpu, Machine>();

/** See the head of the file. */
export class Machine {
  readonly cpu: V86Cpu;
  readonly #emulator: V86Emulator;
  readonly #members = new Map<number, VirtioBlk>();
  /** The end of what stops the processor; one thing at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Our part of the state that is being taken. */
  #taken: string | undefined;
  /** Keeps what `set_state` is called with. */
  #capture: ((state: unknown[]) => void) | undefined;
  #isRebooting = false;

  /** The machine of an emulator that is loaded, or will be. */
  static async of(emulator: V86Emulator): Promise<Machine> {
    const cpu = await cpuOf(emulator);
    const machine = machines.get(cpu) ?? new Machine(emulator, cpu);
    machines.set(cpu, machine);
    return machine;
  }

  private constructor(emulator: V86Emulator, cpu: V86Cpu) {
    this.#emulator = emulator;
    this.cpu = cpu;
    const save = emulator.save_state.bind(emulator);
    const restore = emulator.restore_state.bind(emulator);
    emulator.save_state = () => this.inTurn(() => this.#save(save));
    emulator.restore_state = (state) => this.inTurn(() => this.#restore(() => restore(state)));
    this.#hookCpu(cpu);
  }

  /** A disk was plugged into a slot. */
  add(slot: number, blk: VirtioBlk): void {
    this.#members.set(slot, blk);
  }

  /** It is closed. */
  remove(slot: number): void {
    this.#members.delete(slot);
  }

  /** What changes the whole, one thing after another. */
  inTurn<T>(work: () => T | Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** v86's own calls. Those that come past ours are refused: no disk is at rest then. */
  #hookCpu(cpu: V86Cpu): void {
    const reboot = cpu.reboot_internal.bind(cpu);
    const getState = cpu.get_state.bind(cpu);
    const setState = cpu.set_state.bind(cpu);
    this.#setState = setState;
    cpu.reboot_internal = () => this.#reboot(reboot);
    cpu.get_state = () => {
      const state = getState();
      if (this.#members.size === 0) return state;
      if (this.#taken === undefined) throw direct('save_state');
      state[STATE_INDEX] = this.#taken;
      return state;
    };
    cpu.set_state = (state) => {
      if (this.#capture !== undefined) this.#capture(state);
      else if (this.#members.size === 0) setState(state);
      else throw direct('restore_state');
    };
  }

  #setState: (state: unknown[]) => void = () => undefined;

  /** E1. */
  async #save(save: () => Promise<ArrayBuffer>): Promise<ArrayBuffer> {
    const wasRunning = await this.#stop();
    const members = [...this.#members];
    const saved = await Promise.allSettled(members.map(([, blk]) => blk.save()));
    try {
      const parts = saved.map((result, index): SavedMember => {
        if (result.status === 'rejected') throw result.reason as Error;
        const [slot] = members[index] ?? missing();
        if (this.#open(slot) === undefined) throw closedMeanwhile(slot);
        return { slot, state: result.value };
      });
      this.#taken = JSON.stringify(parts);
      return await save();
    } finally {
      this.#taken = undefined;
      members.forEach(([slot], index) => {
        if (saved[index]?.status === 'fulfilled') this.#open(slot)?.resume();
      });
      if (wasRunning) await this.#emulator.run();
    }
  }

  /** E1, E2, E4. When it fails later on, the processor stays stopped, for another try. */
  async #restore(restore: () => Promise<void>): Promise<void> {
    const state = await this.#decoded(restore);
    const parts = this.#fitting(state);
    const slots = [...this.#members.keys()];
    const wasRunning = await this.#stop();
    await Promise.all([...this.#members.values()].map((blk) => blk.reset()));
    // v86 would show in every slot what was there when the state was taken.
    const shown = parts.map(({ slot }) => slot).filter((slot) => this.#members.has(slot));
    const others = slots.filter((slot) => !shown.includes(slot));
    keepSpaces(state, others);
    this.#setState(state);
    await Promise.all(parts.map(async ({ slot, state }) => this.#open(slot)?.restore(state)));
    for (const { slot } of parts) this.#open(slot)?.resume();
    if (wasRunning) await this.#emulator.run();
  }

  /** The device in a slot, unless its owner closes it. */
  #open(slot: number): VirtioBlk | undefined {
    const blk = this.#members.get(slot);
    return blk?.closed === false ? blk : undefined;
  }

  /** What v86 reads out of a state, which is not put into effect yet. */
  async #decoded(restore: () => Promise<void>): Promise<unknown[]> {
    let found: unknown[] | undefined;
    this.#capture = (state) => (found = state);
    try {
      await restore();
    } finally {
      this.#capture = undefined;
    }
    if (found !== undefined) return found;
    throw new SluiceError(
      'ERR_SLUICE_UNSUPPORTED',
      'this v86 restores states in a way of its own; use a version that this release supports',
    );
  }

  /** Our part of a state; none: it was taken without disks, and the guest knows of none. */
  #fitting(state: readonly unknown[]): readonly SavedMember[] {
    if (this.#members.size > 0) refuseOtherRam(state[RAM_INDEX], this.cpu.mem8.length);
    const part = state[STATE_INDEX];
    if (part === undefined || part === null) return [];
    const saved = toSaved(part);
    saved.forEach((one, index) => {
      if (saved.findIndex(({ slot }) => slot === one.slot) !== index)
        throw invalid(`the state has two disks in slot ${show(one.slot)}`);
      refuseMisfit(one, this.#open(one.slot));
    });
    return saved;
  }

  /** E3. */
  #reboot(reboot: () => void): void {
    const blks = [...this.#members.values()];
    const resets = blks.map((blk) => blk.reset());
    if (blks.every(({ status }) => status === 0)) return reboot();
    if (this.#isRebooting) return;
    this.#isRebooting = true;
    // The system that asked does not go on: one that finds itself alive tries a triple fault next.
    this.cpu.in_hlt[0] = 1;
    void this.inTurn(async () => {
      const wasRunning = await this.#stop();
      await Promise.all(resets);
      this.#isRebooting = false;
      reboot();
      if (wasRunning) await this.#emulator.run();
    });
  }

  /** Stops the processor; whether it ran. */
  async #stop(): Promise<boolean> {
    const wasRunning = this.#emulator.is_running();
    await this.#emulator.stop();
    return wasRunning;
  }
}

/** The configuration spaces of some slots stay as they are. */
function keepSpaces(state: readonly unknown[], slots: readonly number[]): void {
  const spaces = state[PCI_INDEX];
  if (Array.isArray(spaces)) for (const slot of slots) spaces[pciIdOf(slot)] = undefined;
}

/** The processor would reach what is behind guest RAM: the engines of the disks. */
function refuseOtherRam(was: unknown, is: number): void {
  if (was === is) return;
  throw invalid(
    `the state is of a machine with ${show(was)} bytes of memory, and this one has ${is}; ` +
      'make the emulator with the same memory_size',
  );
}

/** Refuses what the disk in its slot cannot take over. */
function refuseMisfit({ slot, state }: SavedMember, blk: VirtioBlk | undefined): void {
  if (blk === undefined) {
    throw invalid(
      `the state has a disk in slot ${show(slot)}, and none is attached there; ` +
        'attach the disks that were there, in the same order, and restore again',
    );
  }
  try {
    parseState(state, blk);
  } catch (cause) {
    if (!(cause instanceof SluiceError)) throw cause;
    throw new SluiceError(cause.code, `the disk in slot ${slot}: ${cause.message}`, { cause });
  }
}

function toSaved(part: unknown): readonly SavedMember[] {
  const saved = typeof part === 'string' ? parsed(part) : undefined;
  const isList = Array.isArray(saved) && saved.every((one) => typeof one === 'object' && one);
  if (isList) return saved as readonly SavedMember[];
  throw invalid(NOT_OURS);
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (cause) {
    throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', NOT_OURS, { cause });
  }
}

const NOT_OURS = 'the disks in the state are not as save_state() has left them';

function direct(call: string): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_BUSY',
    `a virtio-blk device may be at work: call ${call}() of the emulator itself, which waits`,
  );
}

function closedMeanwhile(slot: number): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_BUSY',
    `the disk in slot ${slot} was closed meanwhile; call save_state() again`,
  );
}

function missing(): never {
  throw new Error('there are as many states as devices');
}
