/** The SQLSTATE with which a statement was refused, or "no error". */
export const refusal = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: { code: string }) => error.code,
  );
