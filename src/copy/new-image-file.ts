/** A new file as an image that is made: written, cut, and room set aside in it. */
import { getSystemErrorMap } from 'node:util';

import { loadNative } from '../backend/native.ts';
import { SluiceError } from '../errors.ts';
import type { FillFile } from '../image/fill.ts';
import { FileWrites, notWritten } from './file-writes.ts';
import type { NewFile } from './new-file.ts';

/** "Not here": the file system or the libc cannot do it. */
const CANNOT: ReadonlySet<string> = new Set(['ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'ENODEV']);
const INTERRUPTED = 'EINTR';

/**
 * Bytes of a NewFile. It is synced before it takes its name, so that syncs on the way matter to a
 * block device alone, which has its name all the time.
 */
export class NewImageFile implements FillFile {
  readonly keepsBytes: boolean;
  readonly #file: NewFile;
  readonly #path: string;
  readonly #writes: FileWrites;
  #sizeBytes: number;

  constructor(file: NewFile, path: string) {
    this.#file = file;
    this.#path = path;
    this.#writes = new FileWrites(file, path);
    this.keepsBytes = file.isBlockDevice;
    this.#sizeBytes = file.deviceBytes ?? 0;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#file.handle.read(bytes, 0, length, offset);
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#writes.write(offset, bytes);
  }

  /** Rejects where a block device is too small. */
  async truncate(sizeBytes: number): Promise<void> {
    const { deviceBytes } = this.#file;
    if (deviceBytes !== undefined) return refuseSmall(this.#path, deviceBytes, sizeBytes);
    await this.#writes.end(sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  async sync(): Promise<void> {
    if (this.keepsBytes) await this.#file.handle.sync();
  }

  async allocate(offset: number, length: number): Promise<boolean> {
    const native = loadNative();
    if (native === null || this.keepsBytes) return false;
    for (;;) {
      const errno = await new Promise<number>((resolve) => {
        native.fallocatePooled(this.#file.handle.fd, 0, offset, length, resolve);
      });
      if (errno === 0) return true;
      const code = getSystemErrorMap().get(-errno)?.[0] ?? `errno ${errno}`;
      if (CANNOT.has(code)) return false;
      if (code !== INTERRUPTED) throw notWritten(this.#path, offset, length, { code });
    }
  }
}

function refuseSmall(path: string, deviceBytes: number, sizeBytes: number): void {
  if (sizeBytes <= deviceBytes) return;
  const found = `the device has ${deviceBytes} bytes, and the image takes ${sizeBytes}`;
  const message = `cannot create ${JSON.stringify(path)}: ${found}; use a larger device`;
  throw new SluiceError('ERR_SLUICE_NO_SPACE', message, { operation: 'create', path });
}
