/**
 * Whom this thread serves. A call that waits for a disk keeps everybody of its thread waiting, also
 * those whose disk is another one, or who have not yet said which. So such calls are made on the
 * thread only while it serves no more than one client.
 */
let clients = 0;

/** A client has come: a connection, whatever it does. */
export function clientCame(): void {
  clients += 1;
}

/** A client that came has gone. */
export function clientWent(): void {
  clients -= 1;
}

/** Nobody is kept waiting by a call that waits for a disk, but who has asked for it. */
export function mayWait(): boolean {
  return clients <= 1;
}
