// Memories that grow, that threads share, or that are other ones than before, under the commands of
// the file backend.

import { expect, it } from 'vitest';

import { DATA, Driver, expectSame, pattern } from './driver.ts';
import { backendOpener, describeWays, scratchFile, scratchFolder } from './scratch.ts';

const MIB = 1024 * 1024;
const PAGES = 144;
const folder = scratchFolder();
const open = backendOpener();

/** Bytes of the memory as it is now. */
function bytesOf(driver: Driver, address: number, length: number): Uint8Array {
  return new Uint8Array(driver.memory.buffer, address, length).slice();
}

describeWays('a memory that grows', folder, ({ direct, koffi }) => {
  for (const shared of [false, true]) {
    const kind = shared ? 'shared' : 'unshared';
    const memory = (): WebAssembly.Memory =>
      new WebAssembly.Memory({ initial: PAGES, maximum: 4 * PAGES, shared });

    it(`gets what was read and gives what is written meanwhile, ${kind}`, async () => {
      const contents = pattern(4 * MIB);
      const path = scratchFile(folder, contents);
      // Everything through the pool.
      const { backend } = await open(path, { direct, writable: true, inlineBytes: 0 }, koffi);
      const driver = new Driver(backend, memory());
      const reading = driver.tryRead(0, 4 * MIB);
      driver.memory.grow(PAGES);
      expect(await reading).toEqual({ errno: 0, value: 0 });
      expectSame(bytesOf(driver, DATA, 4 * MIB), contents);

      const segments = driver.table.bind(new Driver(backend, driver.memory));
      const table = segments([
        [DATA, MIB],
        [DATA + 2 * MIB, MIB],
      ]);
      const again = new Driver(backend, driver.memory);
      const writing = again.run((id) => backend.write(id, 2 * MIB, 2 * MIB, 2, table, true));
      driver.memory.grow(1);
      expect(await writing).toEqual({ errno: 0, value: 0 });
      const back = await new Driver(backend, memory()).read(2 * MIB, 2 * MIB);
      expectSame(back.subarray(0, MIB), contents.subarray(0, MIB));
      expectSame(back.subarray(MIB), contents.subarray(2 * MIB, 3 * MIB));
    });

    it(`takes commands for what it has grown by, ${kind}`, async () => {
      const contents = pattern(MIB, 2);
      const path = scratchFile(folder, contents);
      const { backend } = await open(path, { direct, writable: true }, koffi);
      const driver = new Driver(backend, memory());
      const end = driver.memory.buffer.byteLength;
      expect(await driver.tryRead(0, 4096, end)).toMatchObject({ errno: 14 });
      driver.memory.grow(1);
      expect(await driver.tryRead(0, 4096, end)).toEqual({ errno: 0, value: 0 });
      expectSame(bytesOf(driver, end, 4096), contents.subarray(0, 4096));
      driver.memory.grow(1);
      const write = driver.run((id) => backend.write(id, 8192, 4096, 1, end, false));
      expect(await write).toEqual({ errno: 0, value: 0 });
      const status = driver.run((id) => backend.blockStatus(id, 0, MIB, DATA));
      driver.memory.grow(1);
      expect(await status).toMatchObject({ errno: 0 });
      const back = await new Driver(backend, memory()).read(8192, 4096);
      expectSame(back, contents.subarray(0, 4096));
    });

    it(`may be odd to O_DIRECT, ${kind}`, async () => {
      const contents = pattern(MIB, 3);
      const path = scratchFile(folder, contents);
      const { backend } = await open(path, { direct, writable: true }, koffi);
      const driver = new Driver(backend, memory());
      const reading = driver.tryRead(300, 600_001, DATA + 5);
      driver.memory.grow(1);
      expect(await reading).toEqual({ errno: 0, value: 0 });
      expectSame(bytesOf(driver, DATA + 5, 600_001), contents.subarray(300, 600_301));
      const writing = driver.run((id) => backend.write(id, 77, 300_001, 1, DATA + 5, false));
      driver.memory.grow(1);
      expect(await writing).toEqual({ errno: 0, value: 0 });
      const back = await new Driver(backend, memory()).read(77, 300_001);
      expectSame(back, contents.subarray(300, 300_301));
    });
  }
});
