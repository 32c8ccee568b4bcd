/** What an export may take of an instance. Tests shorten it. */
export const exportLimits = {
  /** Of the pool's connections, each holds one, and for a moment another. */
  perInstance: 4,
  perTenant: 2,
  /** From the first statement to the last byte. */
  durationMs: 600_000,
  /** For what finds the next rows; a filter that hardly anything passes reads far for them. */
  statementMs: 120_000,
  /** For a client that reads nothing. */
  stallMs: 60_000,
  /** How often it is asked whether the caller still may. */
  recheckMs: 10_000,
  /** For the statement under way when the client hangs up. */
  graceMs: 1_000,
};
export type ExportLimits = typeof exportLimits;
