/** The commands at a simulated host, in the order in which they came; cheap to copy. */
import { COMMAND_SYNC } from '../abi/command.ts';

/** Sectors of a command at most: those of the disk. */
export const COMMAND_SECTORS = 8;

/** A command at the host. */
export interface HostCommand {
  id: number;
  op: number;
  file: number;
  /** First sector, in the order in which files lie in the image. */
  from: number;
  /** Sectors; 0 for a sync. */
  count: number;
  stable: boolean;
  /** The request of each sector. */
  readonly owners: number[];
}

// Words of a command; behind them the request of each sector.
const ID = 0;
const OP = 1;
const FILE = 2;
const FROM = 3;
const COUNT = 4;
const STABLE = 5;
const OWNERS = 6;
const COMMAND = OWNERS + COMMAND_SECTORS;

/** A record to be filled. */
export function newCommand(): HostCommand {
  return { id: 0, op: 0, file: 0, from: 0, count: 0, stable: false, owners: [] };
}

/** See the head of the file. */
export class HostCommands {
  /** How many there are; then the commands. */
  readonly #words: Int32Array;

  constructor(most: number) {
    this.#words = new Int32Array(1 + most * COMMAND);
  }

  /** Becomes a copy of a table of the same size. */
  copyFrom(other: HostCommands): void {
    this.#words.set(other.#words);
  }

  /** Commands at the host. */
  get count(): number {
    return this.#get(0);
  }

  /** Those that are no syncs. */
  get dataCount(): number {
    let count = 0;
    for (let index = 0; index < this.count; index++)
      count += Number(this.opAt(index) !== COMMAND_SYNC);
    return count;
  }

  /** True when one of them has this id. */
  has(id: number): boolean {
    for (let index = 0; index < this.count; index++) {
      if (this.#get(at(index) + ID) === id) return true;
    }
    return false;
  }

  /** The operation of the command at this place. */
  opAt(index: number): number {
    return this.#get(at(index) + OP);
  }

  append({ id, op, file, from, count, stable, owners }: HostCommand): void {
    const words = this.#words;
    const start = at(this.count);
    words[start + ID] = id;
    words[start + OP] = op;
    words[start + FILE] = file;
    words[start + FROM] = from;
    words[start + COUNT] = count;
    words[start + STABLE] = Number(stable);
    for (const [index, owner] of owners.entries()) words[start + OWNERS + index] = owner;
    words[0] = this.count + 1;
  }

  /** Takes the command at this place away and puts it into `command`. */
  take(index: number, command: HostCommand): void {
    const start = at(index);
    command.id = this.#get(start + ID);
    command.op = this.#get(start + OP);
    command.file = this.#get(start + FILE);
    command.from = this.#get(start + FROM);
    command.count = this.#get(start + COUNT);
    command.stable = this.#get(start + STABLE) !== 0;
    command.owners.length = 0;
    for (let sector = 0; sector < command.count; sector++) {
      command.owners.push(this.#get(start + OWNERS + sector));
    }
    this.#words.copyWithin(start, at(index + 1), at(this.count));
    this.#words[0] = this.count - 1;
  }

  #get(word: number): number {
    return this.#words[word] ?? 0;
  }
}

function at(index: number): number {
  return 1 + index * COMMAND;
}
