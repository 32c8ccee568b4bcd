/** The server could not be reached or went away, or this process is about to. */
export function isConnectionFailure(error: Error): boolean {
  return (
    ("code" in error &&
      /^(ECONN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_|08)/.test(String(error.code))) ||
    /^(Connection terminated|timeout exceeded when trying to connect|Cannot use a pool after calling end|Client has encountered a connection error)/.test(
      error.message,
    )
  );
}
