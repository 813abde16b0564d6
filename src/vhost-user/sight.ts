/**
 * Whether what the guest writes is to be seen here. A driver rings when it has put something into
 * its ring. Where no ring has anything then, the guest's memory is not shared: nothing would ever
 * happen, so the owner is told, once. QEMU shows no memory at all when it has no file, and one that
 * stays empty when the file is mapped without share=on.
 */
import { SluiceError } from '../errors.ts';
import type { Regions } from './regions.ts';
import type { VhostRing } from './ring.ts';

export class Sight {
  readonly #rings: readonly VhostRing[];
  readonly #regions: Regions;
  readonly #report: (error: unknown) => void;
  #isKnown = false;

  constructor(rings: readonly VhostRing[], regions: Regions, report: (error: unknown) => void) {
    this.#rings = rings;
    this.#regions = regions;
    this.#report = report;
  }

  /** Looks when a ring was rung that runs, or lacks only memory; after an answer never again. */
  look(index: number): void {
    const rung = this.#rings[index];
    if (this.#isKnown || rung === undefined || !(rung.isAttached || rung.isReady)) return;
    this.#isKnown = true;
    if (this.#rings.some(({ hasContents }) => hasContents)) return;
    this.#report(notShared(this.#found(rung, index)));
  }

  #found({ isAttached }: VhostRing, index: number): string {
    const what = `ring ${index} of the vhost-user front-end was rung, and`;
    if (isAttached) return `${what} holds nothing but zeroes`;
    return `${what} lies in none of the ${this.#regions.count} regions of memory that were shown`;
  }
}

function notShared(found: string): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_CONNECTION',
    `${found}: the virtual machine does not share its memory; start QEMU with ` +
      '-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem ' +
      '(SIZE as in -m)',
  );
}
