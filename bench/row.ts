/**
 * One of those that a row compares. All contenders of a row do the same work on the same inputs.
 */
export interface Contender {
  readonly name: string;
  /**
   * Puts inputs in place; not timed.
   * @param sample counts the runs of a turn: the same number means the same inputs for all
   */
  prepare?(sample: number): void;
  /** All operations of one sample; timed. */
  run(): void;
  /** A hash of the results of the last `run`: equal for all contenders. */
  hash(): number;
}

export interface Contest {
  /** Operations that one `run` does. */
  readonly operations: number;
  readonly ours: Contender;
  readonly peers: readonly Contender[];
}

export interface Row {
  readonly name: string;
  /** What an operation is: key, request, query, block. */
  readonly unit: string;
  /**
   * Makes the inputs: rotating ones, because a branch predictor learns what is repeated.
   * @param size about how many operations a sample should have
   */
  setup(size: number): Promise<Contest>;
}
