/**
 * The INTx lines of our devices. On a bus several devices share a line, which is up while one of
 * them holds it; v86 takes it down when any of them lets go. So whenever one does, those of ours
 * that hold theirs raise it again.
 */
import type { V86PciBus } from './cpu.ts';

const linesOf = new WeakMap<V86PciBus, InterruptLines>();

/** See the head of the file. */
export class InterruptLines {
  readonly #bus: V86PciBus;
  /** Ids of devices whose line is to be up. */
  readonly #up = new Set<number>();

  static of(bus: V86PciBus): InterruptLines {
    const lines = linesOf.get(bus) ?? new InterruptLines(bus);
    linesOf.set(bus, lines);
    return lines;
  }

  private constructor(bus: V86PciBus) {
    this.#bus = bus;
    const lower = bus.lower_irq.bind(bus);
    bus.lower_irq = (pciId) => {
      lower(pciId);
      for (const up of this.#up) bus.raise_irq(up);
    };
  }

  set(pciId: number, level: boolean): void {
    if (level) {
      this.#up.add(pciId);
      this.#bus.raise_irq(pciId);
    } else if (this.#up.delete(pciId)) this.#bus.lower_irq(pciId);
  }
}
