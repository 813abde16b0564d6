/** Which bytes of a read have come: every one once. NBD proto, "Structured reply types". */
import { Breach } from './failures.ts';

interface Run {
  from: number;
  to: number;
}

/** Runs out of order that a reply may have; neighbours are one. */
const MAX_RUNS = 1024;

/** The runs that have come, in order. */
export class Coverage {
  readonly #runs: Run[] = [];
  #coveredBytes = 0;

  get coveredBytes(): number {
    return this.#coveredBytes;
  }

  /** Takes a run that must not have come before. */
  add(from: number, to: number): void {
    const runs = this.#runs;
    let index = runs.length;
    while (index > 0 && (runs[index - 1] as Run).from >= to) index--;
    const before = runs[index - 1];
    const after = runs[index];
    if (before !== undefined && before.to > from)
      throw new Breach('it sends bytes of a read twice');
    this.#coveredBytes += to - from;
    const joinsBefore = before?.to === from;
    const joinsAfter = after?.from === to;
    if (joinsBefore && joinsAfter) {
      before.to = after.to;
      runs.splice(index, 1);
    } else if (joinsBefore) before.to = to;
    else if (joinsAfter) after.from = from;
    else runs.splice(index, 0, { from, to });
    if (runs.length > MAX_RUNS) throw new Breach('it sends a read in too many parts out of order');
  }
}
