import type pg from "pg";
import {
  makeWithPgClientViaPgClientAlreadyInTransaction,
  type NodePostgresPgClient,
} from "postgraphile/adaptors/pg";
import { beginRequest, DEADLINE_MS, type Identity, SIGN_IN_FIRST } from "../auth/requests.ts";
import { destroyConnection } from "../db/pools.ts";
import { ApiError } from "./errors.ts";

type Callback<Result> = (client: NodePostgresPgClient) => Result | Promise<Result>;
export type OperationKind = "query" | "mutation";
const ATTEMPTS = 3;

/**
 * The one transaction of a GraphQL operation, on one connection, opened when the first SQL needs it.
 *
 * A query reads one snapshot (`repeatable read read only`). Each step has a savepoint, so that a field that fails takes
 * back its own work and disturbs no other; a mutation's payload is read in the same transaction.
 * `begin`, the live check of the claims, the savepoint and the first statement go out together, in one round trip.
 */
export class OperationTransaction {
  readonly #pool: pg.Pool;
  readonly #kind: OperationKind;
  readonly #identity: Identity;
  readonly #deadlineMs: number;
  #client: Promise<pg.PoolClient> | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #openError: Error | undefined;
  #hasRead = false;
  #deadline: NodeJS.Timeout | undefined;

  constructor(pool: pg.Pool, kind: OperationKind, identity: Identity, deadlineMs = DEADLINE_MS) {
    this.#pool = pool;
    this.#kind = kind;
    this.#identity = identity;
    this.#deadlineMs = deadlineMs;
  }

  /** For Grafast's context. Ignores the settings that PostGraphile would set: begin_request sets them all. */
  readonly withPgClient = <Result>(_settings: unknown, callback: Callback<Result>): Promise<Result> => {
    const step = this.#queue.then(() => this.#run(callback));
    this.#queue = step.catch(() => {});
    return step;
  };

  /** Whether the claims were checked, and hold. */
  get isAuthorized(): boolean {
    return this.#client !== undefined && this.#openError === undefined;
  }

  async #run<Result>(callback: Callback<Result>): Promise<Result> {
    this.#client ??= this.#open();
    const client = await this.#client;
    for (let attempt = 1; ; attempt++)
      try {
        this.#send(client, "savepoint step");
        const result = await makeWithPgClientViaPgClientAlreadyInTransaction(client, true)(null, callback);
        this.#send(client, "release savepoint step");
        this.#hasRead = true;
        return result;
      } catch (error) {
        if (attempt < ATTEMPTS && this.#needsSnapshot(error)) {
          this.#send(client, "rollback");
          this.#begin(client);
          continue;
        }
        await client.query("rollback to savepoint step").catch(() => {});
        throw this.#cause(error);
      }
  }

  /** A partition came or went since the snapshot was taken, and nothing was read from it yet. */
  #needsSnapshot(error: unknown): boolean {
    return (
      this.#kind === "query" &&
      !this.#hasRead &&
      error instanceof Error &&
      "code" in error &&
      error.code === "40001"
    );
  }

  async #open(): Promise<pg.PoolClient> {
    const client = await this.#pool.connect();
    this.#deadline = setTimeout(
      () => destroyConnection(client, new ApiError("TIMEOUT", "The database did not answer in time.")),
      this.#deadlineMs,
    ).unref();
    this.#begin(client);
    return client;
  }

  #begin(client: pg.PoolClient) {
    this.#send(
      client,
      this.#kind === "query" ? "begin isolation level repeatable read read only" : "begin",
      true,
    );
    this.#send(client, beginRequest(this.#identity), true);
  }

  /** Not awaited. Should opening fail, the statements behind it fail too, and its error is the one to report. */
  #send(client: pg.PoolClient, query: string | pg.QueryConfig, opening = false) {
    client.query(query).catch((error: Error) => {
      if (opening) this.#openError ??= error;
    });
  }

  /** In a transaction that never opened, every statement says only "current transaction is aborted" (25P02). */
  #cause(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const cause = "code" in error && error.code === "25P02" ? (this.#openError ?? error) : error;
    if (!this.#identity.claims && "code" in cause && cause.code === "42501")
      return new ApiError("UNAUTHENTICATED", SIGN_IN_FIRST);
    return cause;
  }

  /** Commits. Rejects when a mutation could not be committed: then nothing was done. */
  finish = (): Promise<void> => this.#end("commit");

  /** Takes everything back. */
  abort = (): Promise<void> => this.#end("rollback");

  async #end(command: "commit" | "rollback"): Promise<void> {
    await this.#queue;
    const client = await this.#client?.catch(() => undefined);
    if (!client) return;
    const end = client.query(command).then(
      (result) => {
        client.release();
        // A transaction that failed answers COMMIT with ROLLBACK, and no error.
        if (command === "commit" && result.command !== "COMMIT" && this.#kind === "mutation")
          throw this.#openError ?? new Error("The commit was refused.");
      },
      (error: Error) => {
        // Whatever state it is in, nobody else may get this connection.
        client.release(error);
        throw error;
      },
    );
    const settled = end.finally(() => clearTimeout(this.#deadline));
    // A query has its answer; the connection returns to the pool behind its back.
    if (this.#kind === "query") settled.catch(() => {});
    else await settled;
  }
}
