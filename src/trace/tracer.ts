/** Who is told of every request and completion of a device. */
export interface Tracer {
  /** The device exists. */
  opened(sizeBytes: number, blockSizeBytes: number, readOnly: boolean): void;
  /** A request was accepted; `tag` is in use until its completion. */
  submitted(tag: number, op: number, flags: number, offset: number, length: number): void;
  /** It has completed with a STATUS_* of abi/request.ts. */
  completed(tag: number, status: number, errno: number): void;
  /** Nothing more will come. Rejects when something could not be recorded. */
  close(): Promise<void>;
}
