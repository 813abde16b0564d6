/** What the system reports, for people. */
import { getSystemErrorMap } from 'node:util';

/** The system's words for an error: Node's message has its code, the call and the path, too. */
export function systemWords(cause: unknown): string {
  const { errno = 0, message } = cause as NodeJS.ErrnoException;
  return getSystemErrorMap().get(errno)?.[1] ?? message;
}
