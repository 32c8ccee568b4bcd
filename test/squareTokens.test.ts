import { afterEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { ProviderError } from "../tasks/connectors/connector.ts";
import { square } from "../tasks/connectors/square/index.ts";
import type { SquareOAuth } from "./simulators/squareTokens.ts";
import { secret } from "./support/secrets.ts";
import {
  accessToken,
  callOf,
  closeSimulators,
  fetchPage,
  noon,
  refusal,
  simulate,
} from "./support/squareRun.ts";

afterEach(closeSimulators);

const dayMs = 86_400_000;
const inDays = (days: number) => new Date(noon.getTime() + days * dayMs);
const application: SquareOAuth = {
  clientId: "sq0idp-1",
  clientSecret: secret("a client secret"),
  refreshToken: secret("a refresh token"),
};
const credentials = { ...application, expiresAt: inDays(30).toISOString() };
const { clientSecret: _, ...publicApplication } = application;
const refresh = async (...[simulator, settings]: Parameters<typeof callOf>) =>
  square.refresh?.(callOf(simulator, settings));

describe("renewal", () => {
  test("a personal token has none, and a token of a week has time", async () => {
    const simulator = await simulate({ oauth: application });
    expect(await refresh(simulator)).toBeUndefined();
    expect(await refresh(simulator, { credentials, now: inDays(6) })).toBeUndefined();
    expect(simulator.requests).toEqual([]);
  });

  test.each([
    ["after a week", 8, credentials],
    ["when it has ended", 31, credentials],
    ["when nobody knows its end", 0, application],
  ])("a token is renewed %s", async (_title, days, given) => {
    const now = inDays(days);
    const simulator = await simulate({ oauth: application, now });
    simulator.tokens.expire();
    const renewed = await refresh(simulator, { credentials: given, now });
    expect(renewed).toMatchObject({
      ...application,
      expiresAt: expect.stringContaining(new Date(now.getTime() + 30 * dayMs).toISOString().slice(0, 19)),
      merchantId: "MLSIMULATED01",
    });
    await expect(fetchPage(simulator, "orders", undefined, { now })).rejects.toMatchObject({
      kind: "reauth",
    });
    await fetchPage(simulator, "orders", undefined, {
      now,
      credentials: z.object({}).loose().parse(renewed),
    });
  });

  test("a token that has ended before its time is renewed; one that was taken back is not", async () => {
    const simulator = await simulate({ oauth: application });
    const refuse = async (code: string) => {
      const refused = new ProviderError("reauth", "Refused.", { code });
      return square.refresh?.({ ...callOf(simulator, { credentials }), refused });
    };
    for (const code of ["ACCESS_TOKEN_REVOKED", "INSUFFICIENT_SCOPES"])
      expect(await refuse(code)).toBeUndefined();
    expect(simulator.requests).toEqual([]);
    expect((await refuse("ACCESS_TOKEN_EXPIRED"))?.accessToken).not.toBe(accessToken);
  });

  test("the PKCE flow's refresh token is good once, and its successor is kept", async () => {
    const simulator = await simulate({ oauth: publicApplication });
    const first = await refresh(simulator, { credentials: publicApplication });
    expect(first?.refreshToken).not.toBe(application.refreshToken);
    expect(await refusal(refresh(simulator, { credentials: publicApplication }))).toMatchObject({
      kind: "reauth",
    });
    const { expiresAt: _, ...due } = first ?? {};
    expect(await refresh(simulator, { credentials: due })).toMatchObject({ accessToken: expect.any(String) });
  });

  test("an outage stops nothing while the token lasts, and is an outage afterwards", async () => {
    const simulator = await simulate({ oauth: application, faults: { kind: "unavailable", times: 3 } });
    expect(await refresh(simulator, { credentials, now: inDays(20) })).toBeUndefined();
    const late = refresh(simulator, { credentials, now: inDays(29.5) });
    expect(await refusal(late)).toMatchObject({ kind: "transient" });
  });

  test.each([
    ["a wrong secret", { clientSecret: "guess" }],
    ["another application", { clientId: "sq0idp-2" }],
    ["a wrong refresh token", { refreshToken: "guess" }],
  ])("%s needs a person, and is not quoted", async (_title, wrong) => {
    const simulator = await simulate({ oauth: application });
    const error = await refusal(refresh(simulator, { credentials: { ...application, ...wrong } }));
    expect(error).toMatchObject({ kind: "reauth", code: "UNAUTHORIZED" });
    for (const secret of Object.values({ ...application, ...wrong }))
      expect(`${error.message}${error.stack}`).not.toContain(secret);
  });

  test("a merchant who took the permission back is asked to give it again", async () => {
    const simulator = await simulate({ oauth: application });
    simulator.tokens.setRevoked(true);
    expect(await refusal(fetchPage(simulator, "orders"))).toMatchObject({ code: "ACCESS_TOKEN_REVOKED" });
    expect(await refusal(refresh(simulator, { credentials: application }))).toMatchObject({ kind: "reauth" });
  });
});

describe("forms", () => {
  const formOf = (schema: z.ZodType) => z.toJSONSchema(schema, { io: "input" });

  test.each([
    ["config", square.config],
    ["credentials", square.credentials],
  ] as const)("every field of the %s has a title and a description", (_name, schema) => {
    const fields = Object.entries(formOf(schema).properties ?? {});
    expect(fields.length).toBeGreaterThan(4);
    for (const [, field] of fields)
      expect(field).toMatchObject({ title: expect.any(String), description: expect.stringMatching(/\.$/) });
  });

  test("secrets are written and never read", () => {
    const fields = Object.entries(formOf(square.credentials).properties ?? {});
    const secret = fields.filter(([, field]) => typeof field === "object" && "writeOnly" in field);
    expect(secret.map(([name]) => name).sort()).toEqual([
      "accessToken",
      "clientSecret",
      "refreshToken",
      "webhookSignatureKey",
    ]);
  });

  test("a refresh token without its application is refused at that field", () => {
    const { error } = square.credentials.safeParse({ accessToken: "a", refreshToken: "r" });
    expect(error?.issues.map(({ path }) => path.join("."))).toEqual(["clientId"]);
  });
});
