/** What a destination must hold. */
export type TrueEvent = {
  sourceId: string;
  eventType: string;
  eventName: string;
  timestamp: string;
  value: string;
  currency: string;
};

/** One provider with one account, and an integration of it. */
export type Simulated = {
  url: string;
  /** By these in address, headers or body a request is known to be this account's; the first names it. */
  marks: [string, ...string[]];
  config: object;
  credentials: object;
  /** The names of its limits, as the connector gives them. */
  limits: string[];
  truth(): TrueEvent[];
  close(): Promise<void>;
};

/** Where a provider posts to: `url` is what it was told and signs, `to` the same behind the proxy. */
export type WebhookAddress = { url: string; to: string };

export type Fault<Account extends Simulated = Simulated> = {
  /** The row in docs/faults.md; the same for every provider that can have it. */
  name: string;
  /** Switches it on before the first sync. */
  during?(account: Account): void;
  /** Happens after a first sync; another one follows. Rejects when a webhook is not answered as it should be. */
  after?(account: Account, webhooks: WebhookAddress): void | Promise<void>;
  /** Of that other sync; "none": what the webhooks brought is all there will be. */
  trigger?: "manual" | "full_refresh" | "none";
  /** What a person does about a sync that has stopped; new credentials are set anyway, if those were refused. */
  mend?(account: Account): void;
  /** Proves that it happened. */
  happened(account: Account): boolean;
};

export type FaultyProvider<Account extends Simulated = Simulated> = {
  provider: string;
  name: string;
  /** An account that nobody else has. */
  start(number: number, fault: Fault<Account>): Promise<Account>;
  faults: readonly Fault<Account>[];
};

/** Keeps the type of the account between `start` and `faults`. */
export const defineFaults = <Account extends Simulated>(
  provider: FaultyProvider<Account>,
): FaultyProvider<Account> => provider;
