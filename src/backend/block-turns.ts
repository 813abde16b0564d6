/**
 * Turns of commands that change blocks in part, for a file whose blocks move as a whole.
 *
 * Such a command reads a block, changes its part and writes the block back; beside another one on
 * the same block it would undo what that one has written. Commands that write whole blocks need no
 * turn: they share bytes with whatever they share a block with, and those are kept apart.
 */

/** A command that has its turn or waits for it. */
interface Turn {
  readonly first: number;
  readonly end: number;
  readonly ended: Promise<unknown>;
}

/** See the head of the file. */
export class BlockTurns {
  readonly #turns = new Set<Turn>();

  /** Runs the work when every earlier one that touches a block of this range has ended. */
  async run<T>(
    offset: number,
    length: number,
    blockBytes: number,
    work: () => Promise<T>,
  ): Promise<T> {
    const first = Math.floor(offset / blockBytes);
    const end = Math.ceil((offset + length) / blockBytes);
    const earlier = [...this.#turns].filter((turn) => turn.first < end && first < turn.end);
    const working = Promise.all(earlier.map(({ ended }) => ended)).then(work);
    const turn = { first, end, ended: working };
    this.#turns.add(turn);
    try {
      return await working;
    } finally {
      this.#turns.delete(turn);
    }
  }
}
