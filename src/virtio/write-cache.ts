/**
 * The write cache of a virtio-blk device, as its driver turns it on and off. VIRTIO 1.3, 5.2.5.
 *
 * J1  What the driver has set is what it reads, at once.
 * J2  While the engine does not yet follow an "off", no request is taken: whatever is taken after
 *     the driver has read 0 is stable when it completes.
 * J3  Turning off flushes; `set` resolves after that.
 * J4  One change is on its way at a time, and the last wish wins, so that a driver which toggles
 *     for ever costs nothing but its own time. Wishes in between need no flush of their own: the
 *     engine has been writing through since the change before them.
 */

/** What changes the engine's mode: VirtQueues. */
export interface CacheSwitch {
  /** The mode of the engine now. */
  readonly wce: boolean;
  /** Notes what the driver wants: nobody else turns the cache on while that is off. */
  wishWce(on: boolean): void;
  /** Takes effect for requests that are taken later; off resolves after a flush. */
  setWce(on: boolean): Promise<void>;
}

/** What a write cache tells its device. */
export interface WriteCacheEvents {
  /** `holds` may have changed. */
  changed(): void;
  /** The flush of a change to off failed. */
  failed(error: unknown): void;
}

export class WriteCache {
  readonly #switch: CacheSwitch;
  readonly #events: WriteCacheEvents;
  #wanted: boolean;
  #change: Promise<boolean> = Promise.resolve(true);
  #changing = false;
  /** The last change to off was refused. */
  #stuck = false;

  constructor(cache: CacheSwitch, events: WriteCacheEvents) {
    this.#switch = cache;
    this.#events = events;
    this.#wanted = cache.wce;
  }

  /** On: writeback; off: writethrough. As wanted, whether or not the engine is there yet (J1). */
  get on(): boolean {
    return this.#wanted;
  }

  /** True while no request may be taken (J2). */
  get holds(): boolean {
    return !this.#wanted && this.#switch.wce && (this.#changing || this.#stuck);
  }

  /** Resolves when no change is on its way. */
  async settled(): Promise<void> {
    await this.#change;
  }

  /** Resolves when the change is made: true, or false when its flush failed (J3). */
  set(on: boolean): Promise<boolean> {
    this.#wanted = on;
    this.#switch.wishWce(on);
    // Off is asked for even where it is off: somebody else's "on" may be on its way.
    if (!this.#changing && (!on || !this.#switch.wce)) this.#change = this.#follow();
    this.#events.changed();
    return this.#changing ? this.#change : Promise.resolve(true);
  }

  /** Until the engine is as wanted (J4). */
  async #follow(): Promise<boolean> {
    this.#changing = true;
    this.#stuck = false;
    let good = true;
    try {
      for (let on = !this.#wanted; on !== this.#wanted;) {
        on = this.#wanted;
        await this.#switch.setWce(on);
      }
    } catch (error) {
      good = false;
      this.#stuck = this.#switch.wce;
      this.#events.failed(error);
    }
    this.#changing = false;
    this.#events.changed();
    return good;
  }
}
