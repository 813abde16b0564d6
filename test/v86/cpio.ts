/** A cpio archive in the newc format, as the Linux kernel unpacks it at boot. */

/** A file of an archive; folders come before what is in them. */
export type CpioEntry =
  | { readonly path: string; readonly kind: 'folder' }
  | { readonly path: string; readonly kind: 'link'; readonly target: string }
  | { readonly path: string; readonly kind: 'file'; readonly bytes: Uint8Array };

const MODES = { folder: 0o040755, link: 0o120777, file: 0o100755 };
const ALIGN = 4;

export function cpio(entries: readonly CpioEntry[]): Uint8Array<ArrayBuffer> {
  const trailer: CpioEntry = { path: 'TRAILER!!!', kind: 'file', bytes: new Uint8Array() };
  const parts = [...entries, trailer].flatMap((entry, index) => {
    const path = Buffer.from(`${entry.path}\0`);
    const bytes = bytesOf(entry);
    const fields = [index + 1, MODES[entry.kind], 0, 0, 1, 0, bytes.length, 0, 0, 0, 0];
    const words = [...fields, path.length, 0].map((word) => word.toString(16).padStart(8, '0'));
    const header = Buffer.concat([Buffer.from(`070701${words.join('')}`), path]);
    return [padded(header), padded(bytes)];
  });
  return Uint8Array.from(Buffer.concat(parts));
}

function bytesOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.bytes;
  return entry.kind === 'link' ? Buffer.from(entry.target) : new Uint8Array();
}

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & (ALIGN - 1))]);
}
