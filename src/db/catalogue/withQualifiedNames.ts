import type pg from "pg";

/** PostgreSQL leaves out the schema of what is on the search path: here nothing is. */
export async function withQualifiedNames<Result>(
  client: pg.ClientBase,
  work: () => Promise<Result>,
): Promise<Result> {
  const { rows } = await client.query("select current_setting('search_path') as path");
  await client.query("select set_config('search_path', '', false)");
  try {
    return await work();
  } finally {
    // Fails only with the transaction that it is in, which takes the change back.
    await client.query("select set_config('search_path', $1, false)", [rows[0]?.path]).catch(() => {});
  }
}
