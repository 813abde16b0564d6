/** The interrupts of a device: the ISR, and the level of a line that follows it. */
import { type InterruptKind, ISR_CONFIG, ISR_USED } from './transport.ts';

/** Who is interrupted. */
export interface InterruptEvents {
  /** The driver wants to hear of it; `queue` is -1 for `config`. `isr` is up to date. */
  readonly onInterrupt?: ((kind: InterruptKind, queue: number) => void) | undefined;
  /** The level of a shared interrupt line has changed: true while `isr` is not 0. */
  readonly onInterruptLine?: ((level: boolean) => void) | undefined;
}

/** What `onInterrupt` gets for an interrupt that is of no queue. */
const NO_QUEUE = -1;

const BITS: Readonly<Record<InterruptKind, number>> = { used: ISR_USED, config: ISR_CONFIG };

export class Interrupts {
  readonly #events: InterruptEvents;
  #isr = 0;

  constructor(events: InterruptEvents) {
    this.#events = events;
  }

  /** What is not acknowledged: ISR_USED, ISR_CONFIG. */
  get isr(): number {
    return this.#isr;
  }

  set isr(isr: number) {
    const before = this.#isr;
    this.#isr = isr & (ISR_USED | ISR_CONFIG);
    const level = this.#isr !== 0;
    if (level !== (before !== 0)) this.#events.onInterruptLine?.(level);
  }

  raise(kind: InterruptKind, queue = NO_QUEUE): void {
    this.isr |= BITS[kind];
    this.#events.onInterrupt?.(kind, queue);
  }
}
