import { Client } from "pg";
import { UserError } from "../config.ts";
import { errorCode, sameFolder } from "./dataDir.ts";

/**
 * Asks the server on this port which folder it serves. False while it is not there, or starting or stopping;
 * the password proves us to it, and the answer proves that it is no other server.
 */
export async function answersFor(folder: string, port: number, password: string): Promise<boolean> {
  const client = new Client({
    ...{ host: "127.0.0.1", port, user: "postgres", password, database: "postgres" },
    ...{ ssl: false, connectionTimeoutMillis: 10_000, application_name: "erp-analytics start" },
  });
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ data_directory: string }>("show data_directory");
    if (await sameFolder(rows[0]?.data_directory ?? "", folder)) return true;
  } catch (error) {
    const code = errorCode(error) ?? "";
    if (["57P03", "57P01", "ECONNREFUSED", "ECONNRESET"].includes(code)) return false;
    if (code === "28P01")
      throw new UserError(
        `PostgreSQL in ${folder} refuses the superuser password of this DATA_DIR: restore the secrets that were made with it, or move the folder away to start anew.`,
      );
    throw error;
  } finally {
    await client.end().catch(() => {});
  }
  throw new UserError(
    `Port ${port} is answered by a PostgreSQL of another folder than ${folder}: stop that one first.`,
  );
}
