/** Commands of NBD by name. NBD proto, "Request types". */

/**
 * Names by the numbers of commands, as statistics have them. DISC (2) has no reply: its place is
 * that of unknown commands.
 */
export const COMMANDS = [
  'read',
  'write',
  'unknown',
  'flush',
  'trim',
  'cache',
  'write_zeroes',
  'block_status',
] as const;

/** A command of NBD, as statistics call it. */
export type NbdCommand = (typeof COMMANDS)[number];

export const UNKNOWN_COMMAND = COMMANDS.indexOf('unknown');

/** The name of a command. */
export function commandName(type: number): NbdCommand {
  return COMMANDS[type] ?? 'unknown';
}

/** What a text for people calls it. */
export function commandWords(type: number): string {
  const name = commandName(type);
  return name === 'unknown' ? 'request' : name.replace('_', ' ');
}
