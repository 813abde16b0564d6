/** Another backing file for an image, by name: what the disk reads as is not looked at. */
import { BACKING_FORMAT_BYTES_MAX, BACKING_NAME_BYTES_MAX } from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import type { ImageFile } from '../image-file.ts';
import { beginEdit, refusal } from './begin-edit.ts';
import type { NewBacking } from './header-content.ts';
import type { Qcow2Header } from './header.ts';
import { rewriteHeader } from './rewrite-header.ts';

/**
 * Lets the image name another backing file, or none; it is neither opened nor looked for. Answers
 * the header as it is then, and stable.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, ERR_SLUICE_UNSUPPORTED, ERR_SLUICE_CORRUPT
 */
export async function setBacking(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  backing: NewBacking | undefined,
): Promise<Qcow2Header> {
  checkBacking(header, path, backing);
  const begun = await beginEdit(file, header, path, 'rebase');
  return rewriteHeader(file, begun, path, { backing: backing ?? 'none' });
}

/** Refuses what cannot be named, or not by this image. */
export function checkBacking(
  header: Qcow2Header,
  path: string,
  backing: NewBacking | undefined,
  isRaw = header.dataFile?.raw === true,
): void {
  if (backing === undefined) return;
  checkText('the name of the backing file', backing.name, BACKING_NAME_BYTES_MAX);
  checkText('the format of the backing file', backing.format, BACKING_FORMAT_BYTES_MAX);
  if (!isRaw) return;
  const found = 'its data file is raw, which leaves nothing to a backing file';
  const advice = 'give up data_file_raw first';
  throw refusal('ERR_SLUICE_UNSUPPORTED', 'rebase', path, found, advice);
}

function checkText(what: string, text: string, maximumBytes: number): void {
  const bytes = new TextEncoder().encode(text).length;
  if (bytes === 0 || bytes > maximumBytes) {
    throw invalid(`${what} must have 1 to ${maximumBytes} bytes, not ${bytes}`);
  }
  if (/[\0\p{Cs}]/u.test(text)) {
    throw invalid(`${what} must be a text without NUL, not ${JSON.stringify(text)}`);
  }
}
