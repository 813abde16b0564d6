/** Requests that are under way at once, no more than so many. */
export class Flights {
  readonly #most: number;
  readonly #under = new Set<Promise<void>>();
  #failed: { readonly error: unknown } | undefined;

  constructor(most: number) {
    this.#most = most;
  }

  /** Begins work when there is room; rejects with the first failure, and begins nothing then. */
  async add(work: () => Promise<void>): Promise<void> {
    while (this.#under.size >= this.#most) await Promise.race(this.#under);
    this.#refuseFailed();
    const flight = work()
      .catch((error: unknown) => {
        this.#failed ??= { error };
      })
      .finally(() => this.#under.delete(flight));
    this.#under.add(flight);
  }

  /** Resolves when all of it has ended well; rejects with the first failure when all has ended. */
  async landed(): Promise<void> {
    await Promise.all(this.#under);
    this.#refuseFailed();
  }

  #refuseFailed(): void {
    if (this.#failed !== undefined) throw this.#failed.error;
  }
}
