/** Recognises by its first bytes what a file is that was given in place of another: downloads that went wrong, and formats of other libraries. */

const SIGNATURES: readonly { readonly start: string; readonly what: string }[] = [
  {
    start: 'version https://git-lfs',
    what: 'a Git LFS pointer in place of the file; git lfs pull fetches the file itself',
  },
  { start: 'PAR1', what: 'a Parquet file' },
  { start: 'PARE', what: 'an encrypted Parquet file' },
  { start: 'PK\x03\x04', what: 'a zip archive, which files of torch.save are too' },
  { start: '\x1f\x8b', what: 'a gzip archive; unpack it first' },
  { start: '\x28\xb5\x2f\xfd', what: 'a Zstandard archive; unpack it first' },
  { start: '\x89HDF\r\n', what: 'an HDF5 file' },
  { start: '\x93NUMPY', what: 'a file of numpy.save' },
  { start: 'GGUF', what: 'a GGUF file' },
  { start: 'ARROW1', what: 'an Arrow file' },
  { start: '\x80\x02', what: 'a pickle' },
  { start: '\x80\x04', what: 'a pickle' },
];

/** Bytes from the start of a file that {@link foreignFormat} looks at. */
export const FOREIGN_BYTES = 64;

/** What a file is that starts with these bytes; undefined where that is not known. */
export function foreignFormat(bytes: Uint8Array): string | undefined {
  const start = Buffer.from(bytes.subarray(0, FOREIGN_BYTES)).toString('latin1');
  const found = SIGNATURES.find((signature) => start.startsWith(signature.start));
  if (found !== undefined) return found.what;
  if (/^(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)/i.test(start)) {
    return 'an HTML or XML page, as servers send it in place of a file that is missing or needs a login';
  }
  if (/^(?:\xef\xbb\xbf)?\s*[{[]\s*["\]}]/.test(start)) return 'JSON';
  return undefined;
}
