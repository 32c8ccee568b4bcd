import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { z } from "zod";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { byHand, fixture } from "./questions/byHand.ts";
import { seedThatDay, signInViewers, tenantIds } from "./questions/demo.ts";
import { DOCUMENT, printAnswer, type Question, readQuestions, UPDATE_COMMAND } from "./questions/document.ts";
import { cellsOf, makePlainReader, type PlainReader } from "./questions/plainReader.ts";
import type { PlainAnswers } from "./questions/sql.ts";
import { calendarSql } from "./questions/sqlCalendar.ts";
import { moneySql } from "./questions/sqlMoney.ts";
import { otherSql } from "./questions/sqlOther.ts";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant } from "./support/tenants.ts";

const HAND = "byhand";
const questions = readQuestions(await readFile(DOCUMENT, "utf8"));
const plain: PlainAnswers = { ...calendarSql, ...moneySql, ...otherSql };
const found = z.object({ eventSeries: z.looseObject({}) });

let database: TestDatabase;
let api: TestApi;
let reader: PlainReader;
let tokens: Record<string, string>;
let ids: Record<string, string>;

beforeAll(async () => {
  database = await createTestDatabase();
  await seedThatDay(database.owner, testKeyRing);
  const { id } = await createTenant(database.owner, HAND, {
    settings: { timeZone: "America/New_York", currency: "USD", weekStart: 0, fiscalYearStart: 2 },
    events: fixture,
  });
  // Brings the metrics of advertising.
  await database.owner.query(
    "insert into integrations (tenant_id, name, provider) values ($1, 'Ads', 'meta-ads')",
    [id],
  );
  ids = { ...tenantIds, [HAND]: id };
  api = await startApi(database);
  tokens = { ...(await signInViewers(api)), [HAND]: await api.signIn(HAND, "viewer") };
  reader = await makePlainReader(database);
}, 120_000);
afterAll(async () => {
  await reader.close();
  await api.close();
  await database.drop();
});

async function ask(request: string, tenant: string): Promise<{ [field: string]: unknown }> {
  const { data, errors } = await api.query(request, { token: tokens[tenant] });
  if (errors) throw new Error(`${request}\n${JSON.stringify(errors)}`);
  return found.parse(data).eventSeries;
}
/** As the page has it, which was written when everything had been rolled up. */
const printed = (series: { [field: string]: unknown }) =>
  printAnswer({
    data: {
      eventSeries:
        "freshness" in series
          ? { ...series, freshness: { source: "ROLLUPS", pendingQuarterHours: 0 } }
          : series,
    },
  });

async function assertAsOnThePage({ number, request, tenant, answer }: Question) {
  try {
    expect(printed(await ask(request, tenant))).toBe(answer);
  } catch (difference) {
    const sentence = `The answer to question ${number} is not the one in docs/questions.md. If that is intended: ${UPDATE_COMMAND}, and commit the difference.`;
    throw new Error(`${sentence}\n\n${difference instanceof Error ? difference.message : difference}`);
  }
}

async function assertAsByHand({ title, from, to, rows, rest }: (typeof byHand)[number]) {
  const request = questions.find((question) => question.title === title)?.request ?? "";
  const adapted = request
    .replace(/(?<=from: ")[^"]+/, (given) => from ?? given)
    .replace(/(?<=to: ")[^"]+/, (given) => to ?? given);
  expect(cellsOf(await ask(adapted, HAND))).toEqual({ rows, rest });
}

/** How many of the questions are answered from where. */
async function sources(): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { request, tenant } of questions) {
    const { read } = await ask(
      request.replace(/(?=\n {2}}\n}$)/, "\n    read: freshness { source }"),
      tenant,
    );
    const { source } = z.object({ source: z.string() }).parse(read);
    counts[source] = (counts[source] ?? 0) + 1;
  }
  return counts;
}

const named = questions.map((question) => ({ ...question, name: `${question.number}. ${question.title}` }));

describe("docs/questions.md", () => {
  it("has forty questions in a row, and there is plain SQL for each, and for no other", () => {
    expect(questions.map(({ number }) => number)).toEqual(
      Array.from({ length: 40 }, (_, index) => index + 1),
    );
    expect(Object.keys(plain).sort()).toEqual(questions.map(({ title }) => title).sort());
  });
  it("has the ten questions that were worked out by hand, on thirty events", async () => {
    expect(fixture).toHaveLength(30);
    expect(new Set(byHand.map(({ title }) => title)).size).toBe(10);
    expect(Object.keys(plain)).toEqual(expect.arrayContaining(byHand.map(({ title }) => title)));
    const [[count] = []] = await reader.read(
      "select count(*) from analytics_events where tenant_id = $1",
      ids[HAND] ?? "",
    );
    expect(count).toBe("30");
  });
});

describe("plain SQL", () => {
  it("can call no function of ours, and read nothing of ours but events, which are there", async () => {
    const acme = ids.acme ?? "";
    await expect(
      reader.read(
        "select app_hidden.bucket_of(now(), now()::timestamp, 'UTC', 'day', '0') where $1 <> ''",
        acme,
      ),
    ).rejects.toMatchObject({ code: "42501" });
    await expect(reader.read("select from public.metrics where tenant_id = $1", acme)).rejects.toMatchObject({
      code: "42501",
    });
    expect(await reader.read("select from analytics_events where tenant_id = $1 limit 1", acme)).toHaveLength(
      1,
    );
  });
  it.each(named)("answers as the page does: $name", async ({ title, tenant, answer }) => {
    const { rows, rest } = plain[title] ?? { rows: "" };
    const id = ids[tenant] ?? "";
    const { data } = z.object({ data: found }).parse(JSON.parse(answer));
    expect({
      rows: await reader.read(rows, id),
      rest: rest === undefined ? [] : (await reader.read(rest, id)).flat(),
    }).toEqual(cellsOf(data.eventSeries));
  });
});

describe("before rollups are built", () => {
  it("all is read from the events", async () => {
    expect(await sources()).toEqual({ EVENTS: 40 });
  });
  it.each(named)("$name", assertAsOnThePage);
  it.each(byHand)("by hand: $title", assertAsByHand);
});

describe("while rollups are built", () => {
  beforeAll(async () => {
    for (const id of Object.values(ids)) await rollUpTenant(database.worker, id, { maxSteps: 1 });
  });
  it("some is read from either, and some from both", async () => {
    expect(Object.keys(await sources()).sort()).toEqual(["BOTH", "EVENTS", "ROLLUPS"]);
  });
  it.each(named)("$name", assertAsOnThePage);
  it.each(byHand)("by hand: $title", assertAsByHand);
  it("they are the same in the very moment", async () => {
    const building = Promise.all(Object.values(ids).map((id) => rollUpTenant(database.worker, id)));
    try {
      for (const question of questions) await assertAsOnThePage(question);
      for (const hand of byHand) await assertAsByHand(hand);
    } finally {
      await building;
    }
    expect(await building).toEqual([true, true, true, true]);
  });
});

describe("once rollups are built", () => {
  it("what they can answer is read from them", async () => {
    expect(await sources()).toEqual({ EVENTS: 18, ROLLUPS: 22 });
  });
  it.each(named)("$name", assertAsOnThePage);
  it.each(byHand)("by hand: $title", assertAsByHand);
});
