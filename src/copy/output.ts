/** Where the bytes of what is made go. */
export interface Output {
  /** Rejects when they could not be written; they must stay as they are until it resolves. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Writes bytes that nobody changes any more. */
  later(offset: number, bytes: Uint8Array): void;
  /** What `later` was given is written. Rejects with the first failure. */
  settled(): Promise<void>;
  /** All is written: it has as many bytes. */
  end(sizeBytes: number): Promise<void>;
}
