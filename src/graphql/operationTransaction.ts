import type pg from "pg";
import {
  makeWithPgClientViaPgClientAlreadyInTransaction,
  type NodePostgresPgClient,
} from "postgraphile/adaptors/pg";
import { beginRequest, type Identity } from "../auth/requests.ts";
import { ApiError } from "./errors.ts";

type Callback<Result> = (client: NodePostgresPgClient) => Result | Promise<Result>;
export type OperationKind = "query" | "mutation";

/**
 * The one transaction of a GraphQL operation, on one connection, opened when the first SQL needs it.
 *
 * A query reads one snapshot (`repeatable read read only`). A mutation has a savepoint per step, so that a field that
 * fails takes back its own work and nothing else; its payload is read in the same transaction.
 * `begin`, the live check of the claims and the first statement go out together, in one round trip.
 */
export class OperationTransaction {
  readonly #pool: pg.Pool;
  readonly #kind: OperationKind;
  readonly #identity: Identity;
  #client: Promise<pg.PoolClient> | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #firstError: Error | undefined;

  constructor(pool: pg.Pool, kind: OperationKind, identity: Identity) {
    this.#pool = pool;
    this.#kind = kind;
    this.#identity = identity;
  }

  /** For Grafast's context. Ignores the settings that PostGraphile would set: begin_request sets them all. */
  readonly withPgClient = <Result>(_settings: unknown, callback: Callback<Result>): Promise<Result> => {
    const step = this.#queue.then(() => this.#run(callback));
    this.#queue = step.catch(() => {});
    return step;
  };

  async #run<Result>(callback: Callback<Result>): Promise<Result> {
    this.#client ??= this.#open();
    const client = await this.#client;
    const savepoint = this.#kind === "mutation";
    try {
      if (savepoint) this.#send(client, "savepoint step");
      const result = await makeWithPgClientViaPgClientAlreadyInTransaction(client, true)(null, callback);
      if (savepoint) await client.query("release savepoint step");
      return result;
    } catch (error) {
      if (savepoint) await client.query("rollback to savepoint step").catch(() => {});
      throw this.#cause(error);
    }
  }

  async #open(): Promise<pg.PoolClient> {
    const client = await this.#pool.connect();
    this.#send(client, this.#kind === "query" ? "begin isolation level repeatable read read only" : "begin");
    this.#send(client, beginRequest(this.#identity));
    return client;
  }

  /** Not awaited: should it fail, the statements behind it fail too, and its error is the one to report. */
  #send(client: pg.PoolClient, query: string | pg.QueryConfig) {
    client.query(query).catch((error: Error) => {
      this.#firstError ??= error;
    });
  }

  /** Behind a failed statement every other one says only "current transaction is aborted" (25P02). */
  #cause(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const first = "code" in error && error.code === "25P02" ? (this.#firstError ?? error) : error;
    this.#firstError ??= first;
    if (!this.#identity.claims && "code" in first && first.code === "42501")
      return new ApiError("UNAUTHENTICATED", "Sign in first: send an access token.");
    return first;
  }

  /** Ends the transaction. Rejects when a mutation could not be committed: then nothing was done. */
  async finish(): Promise<void> {
    await this.#queue;
    const opening = this.#client;
    if (!opening) return;
    const client = await opening.catch(() => undefined);
    if (!client) return;
    const end = this.#commit(client).then(
      () => client.release(),
      (error: Error) => {
        // Whatever state it is in, nobody else may get this connection.
        client.release(error);
        throw error;
      },
    );
    // A query has its answer; the connection returns to the pool behind its back.
    if (this.#kind === "query") end.catch(() => {});
    else await end;
  }

  async #commit(client: pg.PoolClient) {
    const { command } = await client.query("commit");
    // A transaction that failed answers COMMIT with ROLLBACK, and no error.
    if (command !== "COMMIT" && this.#kind === "mutation")
      throw this.#firstError ?? new Error("The commit was refused.");
  }
}
