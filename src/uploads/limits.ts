/** Of a file in the database; app_private.upload_chunks has the same number. */
export const CHUNK_BYTES = 524_288;

/** What uploads may take of an instance. Tests shorten it. */
export const uploadLimits = {
  perInstance: 20,
  perTenant: 2,
  /** From the first byte to the last; a little less than Node's own patience with a request. */
  durationMs: 280_000,
  /** For a client that sends nothing. */
  stallMs: 30_000,
  /** Of a file that is only looked at. */
  previewBytes: 1024 * 1024,
  previewRows: 20,
};
export type UploadLimits = typeof uploadLimits;
