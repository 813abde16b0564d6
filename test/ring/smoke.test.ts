import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import { GuestRig } from './rig.ts';

for (const build of BUILDS) {
  for (const packed of [false, true]) {
    for (const features of [{}, { indirect: true, eventIdx: true }, { inOrder: true }]) {
      describe(`${build.name} ${packed ? 'packed' : 'split'} ${JSON.stringify(features)}`, () => {
        it('reads, writes, flushes', () => {
          const rig = new GuestRig(build);
          const disk = rig.addQueue(0, { packed, features, size: packed ? 33 : 32 });
          for (let i = 0; i < 200; i++) {
            const write = disk.write(8 + i, new Uint8Array(512).fill(i + 1));
            const read = disk.read(9 + i, 1024);
            const flush = disk.flush();
            const id = disk.getId();
            expect(disk.publish()).toBeTypeOf('boolean');
            rig.run();
            expect(disk.poll().length).toBe(4);
            expect([write.status, read.status, flush.status, id.status]).toEqual([0, 0, 0, 0]);
            expect(rig.disk.subarray((8 + i) * 512, (9 + i) * 512)).toEqual(
              new Uint8Array(512).fill(i + 1),
            );
            expect(read.data()[0]).toBe((9 + i) & 255);
            expect(read.damage()).toEqual([]);
            expect(new TextDecoder().decode(id.data())).toMatch(/^sluice-test-serial\0\0$/);
            disk.release(write);
            disk.release(read);
            disk.release(flush);
            disk.release(id);
          }
          expect(rig.takeBroken()).toBe(0n);
        });
      });
    }
  }
}
