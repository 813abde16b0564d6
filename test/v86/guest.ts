/**
 * A Debian guest in v86: boots from an initramfs into a shell on the serial line.
 *
 * Its files are fetched by scripts/guests.mjs; what needs it is skipped where they are not.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { V86 } from 'v86';
import { guestFolder, GUESTS } from '../../scripts/guests.mjs';
import type { V86Cpu } from '../../src/v86/cpu.ts';
import { cpio, type CpioEntry } from './cpio.ts';

const GUEST = guestFolder('i386');
const RAM_BYTES = 128 << 20;
/** So long the guest may boot, or be at a command. */
const PATIENCE_MS = 100_000;
const PROMPT = 'the-shell-is-ready';
const COMMAND_LINE = [
  'console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on',
  // By the chipset: the kernel finds no other way here, and v86 does not survive a triple fault.
  'noisapnp isapnp=0 cryptomgr.notests reboot=p',
].join(' ');
const INIT = `#!/bin/busybox sh
export PATH=/sbin:/bin
/bin/busybox mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
for module in ${GUESTS.i386.modules.join(' ')}; do insmod /modules/$module.ko; done
export PS1= PS2=
echo ${PROMPT}
exec setsid cttyhack sh
`;

/** An emulator that has not started. */
export function createEmulator(options: { readonly boots?: boolean } = {}): V86 {
  const { boots = true } = options;
  const wasm = join(createRequire(import.meta.url).resolve('v86'), '../v86.wasm');
  const emulator = new V86({
    wasm_path: wasm,
    memory_size: boots ? RAM_BYTES : 16 << 20,
    vga_memory_size: 1 << 20,
    autostart: false,
    disable_speaker: true,
    ...(boots ? system() : {}),
  });
  if (boots) emulator.add_listener('emulator-loaded', () => keepKernel(emulator));
  return emulator;
}

/** v86 puts the kernel into RAM when it is made, and never again: at a reset we do. */
function keepKernel(emulator: V86): void {
  const { cpu } = (emulator as unknown as { v86: { cpu: V86Cpu & { load_bios(): void } } }).v86;
  const ram = cpu.mem8.slice();
  const load = cpu.load_bios.bind(cpu);
  cpu.load_bios = () => {
    load();
    emulator.write_memory(ram, 0);
  };
}

function system() {
  return {
    bios: { buffer: file('bios.bin') },
    vga_bios: { buffer: file('vgabios-stdvga.bin') },
    bzimage: { buffer: file('vmlinuz') },
    initrd: { buffer: initramfs() },
    cmdline: COMMAND_LINE,
  };
}

function initramfs(): ArrayBuffer {
  const folders = ['bin', 'sbin', 'lib', 'modules', 'proc', 'sys', 'dev', 'etc', 'tmp', 'mnt'];
  const files = ['bin', 'sbin', 'lib', 'modules'].flatMap((folder) =>
    readdirSync(join(GUEST, folder)).map((name) => `${folder}/${name}`),
  );
  const entries: CpioEntry[] = [
    ...folders.map((path) => ({ path, kind: 'folder' as const })),
    ...files.map((path) => ({
      path,
      kind: 'file' as const,
      bytes: readFileSync(join(GUEST, path)),
    })),
    { path: 'etc/mtab', kind: 'link', target: '/proc/mounts' },
    { path: 'init', kind: 'file', bytes: Buffer.from(INIT) },
  ];
  return cpio(entries).buffer;
}

function file(name: string): ArrayBuffer {
  return Uint8Array.from(readFileSync(join(GUEST, name))).buffer;
}

/** The serial line of a guest. */
export class Shell {
  readonly #emulator: V86;
  #output = '';
  #waiting: (() => void) | undefined;
  #commands = 0;

  constructor(emulator: V86) {
    this.#emulator = emulator;
    emulator.add_listener('serial0-output-byte', (byte) => {
      this.#output += String.fromCharCode(byte);
      this.#waiting?.();
    });
  }

  /** Waits until the guest has booted. */
  async ready(): Promise<void> {
    await this.#until(PROMPT);
  }

  /** Runs a command; what it printed. Rejects when it fails. */
  async run(command: string): Promise<string> {
    const { output, status } = await this.try(command);
    if (status !== 0) throw new Error(`${command}: exit ${status}\n${output}`);
    return output;
  }

  /** The same for a command that may fail. */
  async try(command: string): Promise<{ output: string; status: number }> {
    const end = `end-${(this.#commands += 1)}:`;
    // In parts, so that what is typed is not what is waited for.
    this.#emulator.serial0_send(`${command}\necho "en""d-${this.#commands}:$?."\n`);
    const output = await this.#until(end);
    return { output, status: Number.parseInt(await this.#until('.'), 10) };
  }

  /** Types a line and waits for nothing. */
  send(line: string): void {
    this.#emulator.serial0_send(`${line}\n`);
  }

  /** What came before a text, with carriage returns taken out; both are taken. */
  async #until(text: string): Promise<string> {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const at = this.#output.indexOf(text);
      if (at >= 0) {
        const before = this.#output.slice(0, at);
        this.#output = this.#output.slice(at + text.length);
        return before.replaceAll('\r', '').trim();
      }
      if (Date.now() > deadline) throw new Error(`the guest does not say ${text}: ${this.#output}`);
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
        setTimeout(resolve, PATIENCE_MS).unref();
      });
    }
  }
}
