/** The server could not be reached, or went away. */
export function isConnectionFailure(error: Error): boolean {
  return (
    ("code" in error && /^(ECONN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|EAI_|08)/.test(String(error.code))) ||
    /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error)/.test(
      error.message,
    )
  );
}
