// examples/v86.mjs as its users run it: SeaBIOS, whose driver knows no flush, boots from the disk.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { guestFolder } from '../../scripts/guests.mjs';
import { ROOT } from '../../bench/root.ts';
import { describeWithGuest } from '../support/guests.ts';

const SIGNATURE = 510;
/** Writes the text behind it to the first serial port, then halts; loaded at 0x7c00. */
const BOOT_SECTOR = [
  [0xbe, 0x11, 0x7c], // mov si, text
  [0xac, 0x84, 0xc0, 0x74, 0x06], // lodsb; test al, al; jz halt
  [0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5], // mov dx, 0x3f8; out dx, al; jmp lodsb
  [0xf4, 0xeb, 0xfd], // hlt; jmp hlt
].flat();

describeWithGuest('i386', [], 'examples/v86.mjs', () => {
  it('boots the disk image, and closes it on SIGINT', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-v86-'));
    const image = join(folder, 'disk.img');
    const sector = Buffer.alloc(1 << 20);
    sector.set([...BOOT_SECTOR, ...Buffer.from('hello from the disk\n')]);
    sector.set([0x55, 0xaa], SIGNATURE);
    writeFileSync(image, sector);
    const child = spawn(process.execPath, ['examples/v86.mjs', image, 'raw', guestFolder('i386')], {
      cwd: ROOT,
    });
    let output = '';
    let errors = '';
    child.stderr.on('data', (bytes: Buffer) => (errors += bytes.toString()));
    for await (const bytes of child.stdout) {
      output += (bytes as Buffer).toString();
      if (output.includes('disk\n')) break;
    }
    const exited = once(child, 'exit');
    if (child.exitCode === null) child.kill('SIGINT');
    expect([...(await exited), errors]).toEqual([0, null, '']);
    expect(output).toContain('hello from the disk');
    rmSync(folder, { recursive: true });
  });
});
