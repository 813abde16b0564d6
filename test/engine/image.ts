/**
 * What a simulated disk holds: for each cell the contents that reads see and the contents that
 * survive a power cut. As little as possible survives: only what the durability rules promise.
 */

/** A cell at the moment when a sync was handed to the disk. */
interface DirtyCell {
  readonly cell: number;
  readonly value: number;
  readonly version: number;
}

/** The dirty cells that a running sync writes out. */
export type SyncedCells = readonly DirtyCell[];

/** A disk of cells, each a number; 0 at first. */
export class Image {
  /** What reads see. */
  readonly now: Uint32Array;
  /** What a power cut leaves. */
  readonly stable: Uint32Array;
  /** When each was written: a count that never falls, 0 for what was there at first. */
  readonly nowVersion: Uint32Array;
  readonly stableVersion: Uint32Array;
  readonly #dirty: Uint8Array;
  #clock = 0;

  constructor(cells: number) {
    this.now = new Uint32Array(cells);
    this.stable = new Uint32Array(cells);
    this.nowVersion = new Uint32Array(cells);
    this.stableVersion = new Uint32Array(cells);
    this.#dirty = new Uint8Array(cells);
  }

  /** A write reaches the volatile contents; when it is lost, no sync will write them out. */
  write(cell: number, value: number, isLost = false): void {
    this.now[cell] = value;
    this.nowVersion[cell] = ++this.#clock;
    this.#dirty[cell] = isLost ? 0 : 1;
  }

  /** True when a sync would write the cell out. */
  isDirty(cell: number): boolean {
    return this.#dirty[cell] === 1;
  }

  /** What reads see becomes what survives (a write to the O_DSYNC descriptor). */
  makeStable(cell: number): void {
    this.stable[cell] = this.now[cell]!;
    this.stableVersion[cell] = this.nowVersion[cell]!;
    this.#dirty[cell] = 0;
  }

  /** A sync of some cells is handed to the disk: it proves what was written to them until now. */
  startSync(isInFile: (cell: number) => boolean): SyncedCells {
    const cells: DirtyCell[] = [];
    for (const [cell, dirty] of this.#dirty.entries()) {
      if (dirty === 0 || !isInFile(cell)) continue;
      cells.push({ cell, value: this.now[cell]!, version: this.nowVersion[cell]! });
    }
    return cells;
  }

  /**
   * The sync ends. When it failed, some cells got through and the others are clean all the same:
   * no later sync writes them (durability, section 6).
   */
  endSync(cells: SyncedCells, survives: (cell: number) => boolean): void {
    for (const { cell, value, version } of cells) {
      if (survives(cell) && version > this.stableVersion[cell]!) {
        this.stable[cell] = value;
        this.stableVersion[cell] = version;
      }
      if (this.nowVersion[cell] === version) this.#dirty[cell] = 0;
    }
  }
}
