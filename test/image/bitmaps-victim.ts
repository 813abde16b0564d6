/** A process that is killed: opens the image of its argument, writes, flushes, and waits. */
import process from 'node:process';

import { openDisk } from '../../src/node.ts';

const disk = await openDisk(process.argv[2] as string, { format: 'qcow2', writable: true });
await disk.write(0, new Uint8Array(100_000).fill(7));
await disk.flush();
process.stdout.write('written\n');
setInterval(() => undefined, 1000);
