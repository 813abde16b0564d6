/** The consistency of an image, and its repair, in the keys of `qemu-img check --output=json`. */
import { SluiceError } from '../errors.ts';
import type { ImageFile } from '../image/image-file.ts';
import { type CheckReport, checkImage } from '../image/qcow2/check.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import { canRepair, repairImage } from '../image/qcow2/repair.ts';
import { IMAGE_OPTIONS, type ImageOptions, openImageAt } from '../image/image-at.ts';
import { checkOptions, type Checks, isCallback, isOneOf, isText } from '../options.ts';

/** What was found. Counts that are 0 are absent, but for `check-errors`. */
export interface ImageCheck {
  readonly filename: string;
  readonly format: string;
  /** What could not be looked at. */
  readonly 'check-errors': number;
  /** What is wrong and can lose data. */
  readonly corruptions?: number;
  /** Clusters that are counted and not used: lost space only. */
  readonly leaks?: number;
  readonly 'corruptions-fixed'?: number;
  readonly 'leaks-fixed'?: number;
  /** Where the last cluster in use ends. */
  readonly 'image-end-offset'?: number;
  readonly 'total-clusters'?: number;
  readonly 'allocated-clusters'?: number;
  readonly 'fragmented-clusters'?: number;
  readonly 'compressed-clusters'?: number;
}

/** Options of `check`. */
export interface CheckImageOptions extends ImageOptions {
  /**
   * `leaks` gives back clusters that nothing uses, and puts flags right that do not fit refcounts,
   * where nothing else is wrong; `all` puts wrong refcounts and other flags right as well. Data and
   * mappings are never changed.
   */
  readonly repair?: 'leaks' | 'all' | undefined;
  /** Told each finding, at most a thousand of them. */
  readonly onFinding?: ((text: string) => unknown) | undefined;
}

const CHECK_OPTIONS: Checks<CheckImageOptions> = {
  ...IMAGE_OPTIONS,
  repair: isOneOf('leaks', 'all'),
  onFinding: isCallback,
};

/** Why images of other formats are refused. */
const NOT_CHECKED: { readonly [format: string]: string } = {
  vpc: 'is only read; qemu-img does not check it either',
  vmdk: 'is only read; qemu-img check looks at its tables',
};

/**
 * Checks a qcow2 image. With `repair` the counts are those after it.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED for images of other formats: raw ones have nothing to
 *   check, and those that are only read are not checked
 */
export async function check(path: string, options: CheckImageOptions = {}): Promise<ImageCheck> {
  isText(path, 'path');
  checkOptions(options, CHECK_OPTIONS, 'check');
  const { repair, signal, onFinding } = options;
  await using image = await openImageAt(path, options, repair !== undefined);
  const { file, header, format } = image;
  if (header === undefined) {
    const found = NOT_CHECKED[format] ?? 'has no metadata';
    const message = `cannot check ${JSON.stringify(path)}: a ${format} image ${found}`;
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'check', path });
  }
  const named = { filename: path, format };
  if (repair === undefined) {
    const report = await checkImage(file, header, signal === undefined ? {} : { signal });
    for (const text of report.findings) await onFinding?.(text);
    return { ...named, ...countsOf(report) };
  }
  const { before, after } = await repairAll(file, header, repair);
  for (const text of before.findings) await onFinding?.(text);
  return {
    ...named,
    ...countsOf(after),
    ...present('corruptions-fixed', before.corruptions - after.corruptions),
    ...present('leaks-fixed', before.leaks - after.leaks),
  };
}

/** What one repair sets right can be what another one waits for. */
const REPAIRS_MAX = 4;

/** Repairs until nothing more can be done. */
async function repairAll(file: ImageFile, header: Qcow2Header, repair: 'leaks' | 'all') {
  const first = await repairImage(file, header, repair);
  const most = repair === 'all' ? REPAIRS_MAX : 1;
  let last = first;
  for (let done = 1; done < most && isWorthAnother(last.after); done += 1) {
    last = await repairImage(file, last.header, repair);
  }
  return { before: first.before, after: last.after };
}

function isWorthAnother(report: CheckReport): boolean {
  return report.findings.length > 0 && canRepair(report);
}

function countsOf(report: CheckReport) {
  return {
    'check-errors': report.checkErrors,
    ...present('corruptions', report.corruptions),
    ...present('leaks', report.leaks),
    ...present('image-end-offset', report.imageEndOffset),
    ...present('total-clusters', report.totalClusters),
    ...present('allocated-clusters', report.allocatedClusters),
    ...present('fragmented-clusters', report.fragmentedClusters),
    ...present('compressed-clusters', report.compressedClusters),
  };
}

function present<K extends string>(key: K, count: number): { readonly [key in K]?: number } {
  return count > 0 ? ({ [key]: count } as { [key in K]: number }) : {};
}
