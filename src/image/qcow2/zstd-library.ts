/** The system's libzstd, by koffi. Both are optional: where one is missing there are other ways. */
import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';

const LIBRARY = 'libzstd.so.1';

/** The library; undefined where it or koffi is not installed, or koffi is not wanted. */
export function zstdLibrary(): ReturnType<typeof Koffi.load> | undefined {
  if (process.env['SLUICE_NO_KOFFI'] === '1') return undefined;
  try {
    return (createRequire(import.meta.url)('koffi') as typeof Koffi).load(LIBRARY);
  } catch {
    // There is another way.
    return undefined;
  }
}
