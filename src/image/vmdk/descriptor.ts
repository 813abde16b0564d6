/**
 * The descriptor of a VMDK image (VMware, Virtual Disk Format 5.0, The Descriptor File): lines of
 * `key=value`, and a line for each extent of the disk.
 *
 * T1 Every kind but one sparse extent without a parent is refused by the name that it has here.
 */
import { SluiceError } from '../../errors.ts';
import type { FileRange } from '../entry-table.ts';
import type { ImageFile } from '../image-file.ts';

/** What is used of it. */
export interface VmdkDescriptor {
  /** Content ID. */
  readonly cid: number;
  /** 0xffffffff: there is no parent. */
  readonly parentCid: number;
}

/** Ours: descriptors have a few KiB. */
const DESCRIPTOR_BYTES_MAX = 65_536;
const NO_PARENT = 0xffffffff;
/** Single files; `streamOptimized` is compressed. */
const READABLE: ReadonlySet<string> = new Set(['monolithicSparse', 'streamOptimized']);
/** Kinds whose data are in files as they are. */
const FLAT = /flat$|^vmfs$/i;

/** Reads the descriptor inside an image, and refuses what cannot be read. */
export async function readDescriptor(
  file: ImageFile,
  { offset, length }: FileRange,
  path: string,
): Promise<VmdkDescriptor> {
  // QEMU leaves room in such files, and nothing in it.
  const text = offset === 0 ? [''] : await readText(file, offset, length);
  if (text.join('') === '') {
    const found = 'it has no descriptor, so it is one of several files of a disk';
    throw refusal(path, `${found}; ${MANY_FILES}`);
  }
  const type = valueOf(text, 'createType');
  const parentCid = hexOf(text, 'parentCID');
  if (parentCid === undefined) {
    throw damaged(path, offset, 'its descriptor does not say whether it has a parent (parentCID)');
  }
  if (parentCid !== NO_PARENT || valueOf(text, 'parentFileNameHint') !== undefined) {
    const found = `it is a delta, whose parent is ${valueOf(text, 'parentFileNameHint')}`;
    throw refusal(path, `${found}; consolidate its snapshots first`);
  }
  if (type === undefined) throw damaged(path, offset, 'its descriptor has no createType');
  if (!READABLE.has(type)) throw unreadable(path, type);
  const extents = text.filter((line) => /^(RW|RDONLY|NOACCESS)\s/.test(line));
  const isSingle = extents.length === 1 && /^RW\s+\d+\s+SPARSE\s/.test(extents[0] ?? '');
  if (!isSingle) {
    const found = `its descriptor has ${extents.length} extents, and not one RW SPARSE`;
    throw damaged(path, offset, found);
  }
  return { cid: hexOf(text, 'CID') ?? 0, parentCid };
}

/** The error for an image that begins with a descriptor, or as no hosted sparse extent does. */
export async function otherKindOf(file: ImageFile, path: string): Promise<SluiceError> {
  const text = await readText(file, 0, file.sizeBytes);
  if (text[0]?.startsWith('COWD') === true) return unreadable(path, 'an ESX sparse extent');
  const type = valueOf(text, 'createType');
  if (type !== undefined) return unreadable(path, type);
  const found = 'this is not a VMDK image: it has no "KDMV" and no descriptor; name its format';
  const message = `cannot use ${JSON.stringify(path)}: ${found}`;
  return new SluiceError('ERR_SLUICE_IMAGE', message, { operation: 'open', path, offset: 0 });
}

const MANY_FILES = 'make one file of it (vmware-vdiskmanager -r FILE.vmdk -t 0 NEW.vmdk)';

function unreadable(path: string, type: string): SluiceError {
  const advice = FLAT.test(type)
    ? 'the files that it names are raw: pass them, in order, with -f raw'
    : `${MANY_FILES}, or export it as OVF`;
  const kinds = [...READABLE].join(' and ');
  return refusal(path, `its kind is ${JSON.stringify(type)}, and ${kinds} are read; ${advice}`);
}

/** The lines, up to the first NUL. */
async function readText(file: ImageFile, offset: number, length: number): Promise<string[]> {
  const bytes = await file.read(offset, Math.min(length, DESCRIPTOR_BYTES_MAX));
  const end = bytes.indexOf(0);
  const text = new TextDecoder('latin1').decode(end < 0 ? bytes : bytes.subarray(0, end));
  return text.split('\n').map((line) => line.trim());
}

/** The value of a key, without quotes. */
function valueOf(lines: readonly string[], key: string): string | undefined {
  for (const line of lines) {
    const at = line.indexOf('=');
    if (at < 0 || line.slice(0, at).trim() !== key) continue;
    return line
      .slice(at + 1)
      .trim()
      .replace(/^"(.*)"$/, '$1');
  }
  return undefined;
}

function hexOf(lines: readonly string[], key: string): number | undefined {
  const value = valueOf(lines, key);
  return value !== undefined && /^[\da-f]{1,8}$/i.test(value) ? parseInt(value, 16) : undefined;
}

function damaged(path: string, offset: number, found: string): SluiceError {
  const message = `cannot use ${JSON.stringify(path)}: ${found} (at offset ${offset})`;
  return new SluiceError('ERR_SLUICE_IMAGE', message, { operation: 'open', path, offset });
}

function refusal(path: string, found: string): SluiceError {
  const message = `cannot read ${JSON.stringify(path)}: ${found}`;
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path });
}
