// What users of QEMU meet first: as many queues as processors, memory that is not shared, and a
// second machine at the socket of the first.

import { expect, it } from 'vitest';

import { Folder } from '../cli/sluice.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';
import { bootCloud, vhostUserDisk } from './cloud.ts';
import { patiently } from './front-end.ts';

const SIZE_BYTES = 16 << 20;
const JOB = 'echo "queues: $(ls /sys/block/vda/mq | wc -l)"; dd if=/dev/vda of=/dev/null bs=1M';
const LONG_MS = 60_000;

describeWithGuest('cloud', ['qemu-system-x86_64'], 'QEMU', () => {
  async function backEnd(folder: Folder): Promise<BackEnd> {
    const image = await folder.image('disk.img', SIZE_BYTES);
    return BackEnd.serve(folder, ['-f', 'raw', image]);
  }

  it('finds a queue for each of its processors', { timeout: LONG_MS }, async () => {
    await using folder = await Folder.make();
    await using server = await backEnd(folder);
    const disk = vhostUserDisk(server.socket);
    await using guest = await bootCloud(folder, { disk, processors: 3, job: JOB });
    const { stdout } = await guest.outcome;
    expect(stdout).toContain('queues: 3');
    expect(stdout).toContain('job ended with 0');
    expect(server.complaints).toBe('');
  });

  it.each([
    ['private', 'holds nothing but zeroes'],
    ['no file', 'lies in none of the 0 regions of memory that were shown'],
  ] as const)(
    'without shared memory (%s) makes the server say so',
    { timeout: LONG_MS },
    async (memory, why) => {
      await using folder = await Folder.make();
      await using server = await backEnd(folder);
      const disk = vhostUserDisk(server.socket);
      await using _guest = await bootCloud(folder, { disk, processors: 1, job: JOB, memory });
      await patiently(() => (server.complaints.includes('\n') ? true : undefined), 20_000);
      expect(server.complaints).toMatch(/^sluice: warning: ring 0 .*,share=on .*\n$/);
      expect(server.complaints).toContain(why);
    },
  );

  it('that waits for another one makes the server say so', { timeout: LONG_MS }, async () => {
    await using folder = await Folder.make();
    await using server = await backEnd(folder);
    const options = { disk: vhostUserDisk(server.socket), processors: 1, job: 'echo up; sleep 60' };
    await using first = await bootCloud(folder, options);
    await first.shows(/up/);
    await using _second = await bootCloud(folder, options);
    await patiently(() => (server.complaints === '' ? undefined : true), 20_000);
    expect(server.complaints).toBe(
      'sluice: warning: another front-end waits: one is served at a time\n',
    );
  });
});
