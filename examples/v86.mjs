// Boots a disk image in v86, as its only disk; the terminal is the serial line.
//
//   node examples/v86.mjs IMAGE [raw|qcow2] [FOLDER OF SEABIOS]
//
// v86 comes without firmware: Debian's package seabios has it. Ctrl-C stops the machine and closes
// the image; what the guest has not flushed is in the image then, but not in its file system.

import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openDisk } from 'sluice/node';
import { attachVirtioBlk } from 'sluice/v86';
import { V86 } from 'v86';

const [image = 'disk.img', format, seabios = '/usr/share/seabios'] = process.argv.slice(2);
const firmware = (name) => ({ buffer: new Uint8Array(readFileSync(`${seabios}/${name}`)).buffer });

const emulator = new V86({
  wasm_path: fileURLToPath(import.meta.resolve('v86/build/v86.wasm')),
  bios: firmware('bios.bin'),
  vga_bios: firmware('vgabios-stdvga.bin'),
  memory_size: 256 * 1024 * 1024,
  autostart: false,
});
emulator.add_listener('serial0-output-byte', (byte) => process.stdout.write(Uint8Array.of(byte)));
process.stdin.on('data', (bytes) => emulator.serial_send_bytes(0, bytes));

const chain = format === 'qcow2' && { backing: { folders: [dirname(image)] } };
const disk = await openDisk(image, { format, writable: true, ...chain });
await attachVirtioBlk(emulator, disk, { serial: 'my-disk' });
await emulator.run();

process.once('SIGINT', async () => {
  await emulator.stop();
  await disk.close();
  process.exit();
});
