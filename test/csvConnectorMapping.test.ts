import { describe, expect, it } from "@jest/globals";
import fc from "fast-check";
import { problemsOfColumns } from "../tasks/connectors/csv/columns.ts";
import { flawOfFormat } from "../tasks/connectors/csv/formats.ts";
import { makeMapper, sentenceOf } from "../tasks/connectors/csv/map.ts";
import { readDecimal } from "../tasks/connectors/csv/numbers.ts";
import { csvConfig } from "../tasks/connectors/csv/settings.ts";
import { makeTimeReader } from "../tasks/connectors/csv/times.ts";
import { readVocabulary, violations } from "./support/vocabulary.ts";

describe("numbers", () => {
  it.each([
    [",", "1.234,56", "1234.56"],
    [",", "12,5", "12.5"],
    [",", "1.234", "1234"],
    [",", "1 234 567,80", "1234567.80"],
    [",", "1\u202f234,5", "1234.5"],
    [",", "-1.234,56", "-1234.56"],
    [",", "1.234,56-", "-1234.56"],
    [",", "(12,00)", "-12.00"],
    [",", "\u221212", "-12"],
    [".", "1,234.56", "1234.56"],
    [".", "1'234.50", "1234.50"],
    [".", "12,34,567.89", "1234567.89"],
    [".", "+007.50", "7.50"],
    [".", ".5", "0.5"],
    [".", "-0.00", "0.00"],
    [".", "12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"],
  ] as const)("with %j, %j is %s", (separator, text, number) => {
    expect(readDecimal(text, separator)).toBe(number);
  });

  it.each([
    [",", "1.5"],
    [",", "1.23.456"],
    [",", "1.234 567"],
    [",", "1,2,3"],
    [",", "1,2E+05"],
    [".", "1,23"],
    [".", "1e5"],
    [".", "0x10"],
    [".", "5."],
    [".", "."],
    [".", ""],
    [".", "NaN"],
    [".", "--1"],
    [".", "-(1)"],
    [".", "12 EUR"],
    [".", "١٢"],
  ] as const)("with %j, %j is none", (separator, text) => {
    expect(readDecimal(text, separator)).toBeUndefined();
  });

  it("keeps every digit, however they are grouped", () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 10n ** 28n }),
        fc.integer({ min: 0, max: 99 }),
        (whole, cents) => {
          const groups = String(whole).replaceAll(/\B(?=(\d{3})+$)/g, ".");
          expect(readDecimal(`${groups},${cents}`, ",")).toBe(`${whole}.${cents}`);
        },
      ),
    );
  });
});

describe("times", () => {
  it.each([
    ["iso", "Europe/Berlin", "2026-03-05", "2026-03-04T23:00:00Z"],
    ["iso", undefined, "2026-03-05T10:00:00+05:30", "2026-03-05T04:30:00Z"],
    ["iso", "Europe/Berlin", "2026-03-05 10:00:00.1234567Z", "2026-03-05T10:00:00.123456Z"],
    ["dd.MM.yyyy HH:mm", "Europe/Berlin", "05.07.2026 10:30", "2026-07-05T08:30:00Z"],
    ["M/d/yyyy h:mm a", "America/New_York", "7/4/2026 12:05 AM", "2026-07-04T04:05:00Z"],
    ["M/d/yyyy h:mm a", "America/New_York", "7/4/2026 12:05 p.m.", "2026-07-04T16:05:00Z"],
    ["yyyyMMddTHHmmss", "UTC", "20260305T101112", "2026-03-05T10:11:12Z"],
    ["dd/MM/yy 'um' HH:mm", "UTC", "05/03/26 um 10:11", "2026-03-05T10:11:00Z"],
    ["yyyy-MM-dd HH:mm:ss.S X", undefined, "2026-03-05 10:00:00.250 -0330", "2026-03-05T13:30:00.25Z"],
    ["unix", undefined, "1772704800", "2026-03-05T10:00:00Z"],
    ["unixMs", undefined, "1772704800123", "2026-03-05T10:00:00.123Z"],
  ])("%s in %s: %s is %s", (format, zone, text, time) => {
    expect(makeTimeReader(format, zone)(text)).toEqual({ time });
  });

  it.each([
    ["a time that clocks leave out is as if they did not", "2026-03-29 02:30", "2026-03-29T01:30:00Z"],
    ["of an hour that comes twice, the first is meant", "2026-10-25 02:30", "2026-10-25T00:30:00Z"],
    ["before it", "2026-10-25 01:59", "2026-10-24T23:59:00Z"],
    ["after it", "2026-10-25 03:00", "2026-10-25T02:00:00Z"],
  ])("%s", (_case, text, time) => {
    expect(makeTimeReader("yyyy-MM-dd HH:mm", "Europe/Berlin")(text)).toEqual({ time });
  });

  it("knows clocks that go by half an hour", () => {
    const read = makeTimeReader("iso", "Australia/Lord_Howe");
    expect([read("2026-10-04T01:59"), read("2026-10-04T02:15"), read("2026-10-04T02:45")]).toEqual([
      { time: "2026-10-03T15:29:00Z" },
      { time: "2026-10-03T15:45:00Z" },
      { time: "2026-10-03T15:45:00Z" },
    ]);
  });

  it.each([
    ["dd.MM.yyyy", "31.02.2026"],
    ["dd.MM.yyyy", "5.3.2026"],
    ["dd.MM.yyyy", "05.03.2026 10:00"],
    ["yyyy-MM-dd HH:mm", "2026-03-05 24:00"],
    ["M/d/yyyy h:mm a", "7/4/2026 13:00 PM"],
    ["iso", "2026-13-01"],
    ["unix", "soon"],
  ])("%s: %s is none", (format, text) => {
    expect(makeTimeReader(format, "UTC")(text)).toEqual({ problem: expect.stringContaining(text) });
  });

  it("refuses a time that says no offset where no zone is named", () => {
    expect(makeTimeReader("iso", undefined)("2026-03-05 10:00")).toEqual({
      problem: expect.stringContaining("offset"),
    });
  });

  it.each(["dd.MM", "yyyy-MM-dd hh:mm", "yyyy-MM-dd HH:mm a", "yyyy-MM-dd Q", "yyyy yy-MM-dd", ""])(
    "%j is no pattern",
    (format) => {
      expect(flawOfFormat(format)).toEqual(expect.any(String));
    },
  );
});

const header = ["Belegnr", "Datum", "Betrag", "Art", "Filiale", "Kunde"];
const settings = {
  decimalSeparator: ",",
  eventType: { column: "Art", values: { Verkauf: "order", Erstattung: "refund" } },
  eventName: { column: "Art", values: { Verkauf: "order_completed", Erstattung: "refund_completed" } },
  timestamp: { column: "Datum", format: "dd.MM.yyyy HH:mm", timeZone: "Europe/Berlin" },
  value: { column: "Betrag" },
  currency: { constant: "EUR" },
  sourceId: { columns: ["Belegnr"] },
  properties: {
    locationId: { column: "Filiale" },
    customerId: { column: "Kunde" },
  },
};
const mapper = (more: object = {}, bounds = {}) =>
  makeMapper(csvConfig.parse({ ...settings, ...more }), header, bounds);
const row = (more: Record<string, string> = {}) => {
  const cells = {
    Belegnr: "17",
    Datum: "05.03.2026 10:30",
    Betrag: "1.234,56",
    Art: "Verkauf",
    Filiale: "Mitte",
    Kunde: "",
  };
  return Object.values({ ...cells, ...more });
};
const eventOf = (mapped: ReturnType<ReturnType<typeof mapper>>) =>
  "event" in mapped ? mapped.event : mapped;

describe("rows", () => {
  it("become events of the vocabulary", () => {
    const event = eventOf(mapper()(row()));
    expect(event).toEqual({
      eventType: "order",
      eventName: "order_completed",
      timestamp: "2026-03-05T09:30:00Z",
      value: "1234.56",
      currency: "EUR",
      sourceId: "order:17",
      properties: Object.assign(Object.create(null), { locationId: "Mitte" }),
    });
    if ("eventType" in event) expect(violations(readVocabulary(), event)).toEqual([]);
    const refund = mapper({
      value: { column: "Betrag", isNegated: true },
      properties: { orderSourceId: { column: "Belegnr", kind: "reference", eventType: "order" } },
    })(row({ Art: "Erstattung" }));
    expect(eventOf(refund)).toMatchObject({ value: "-1234.56", properties: { orderSourceId: "order:17" } });
  });

  it.each([
    ["Betrag", { Betrag: "zwölf" }, {}],
    ["Datum", { Datum: "2026-03-05" }, {}],
    ["Datum", { Datum: "" }, {}],
    ["Art", { Art: "Storno" }, {}],
    ["Art", { Art: "constructor" }, {}],
    ["Belegnr", { Belegnr: " " }, {}],
    ["Belegnr", { Belegnr: "x".repeat(500) }, {}],
    ["Kunde", { Kunde: "x" }, { currency: { column: "Kunde" } }],
    ["Kunde", { Kunde: "1.5" }, { sourceVersion: { column: "Kunde" } }],
    ["Filiale", { Filiale: "1,5" }, { properties: { n: { column: "Filiale", kind: "integer" } } }],
    ["Filiale", { Filiale: "perhaps" }, { properties: { n: { column: "Filiale", kind: "boolean" } } }],
  ])("that do not fit are refused at the column %s", (column, cells, more) => {
    const mapped = mapper(more)(row(cells));
    expect(mapped).toEqual({ problem: { column, detail: expect.any(String) } });
    if ("problem" in mapped) expect(sentenceOf(7, mapped.problem)).toMatch(`Line 7, column "${column}": `);
  });

  it("of a time or currency that the database does not take are refused here, with their line", () => {
    const bounds = {
      earliest: new Date("2026-01-01"),
      latest: new Date("2026-04-01"),
      currencies: new Set(["USD"]),
    };
    const map = mapper({}, bounds);
    expect(map(row({ Datum: "05.03.2025 10:30" }))).toMatchObject({ problem: { column: "Datum" } });
    expect(map(row({ Datum: "05.05.2026 10:30" }))).toMatchObject({ problem: { column: "Datum" } });
    expect(map(row())).toEqual({ problem: { detail: expect.stringContaining("EUR") } });
  });

  it("have ids that no other columns make", () => {
    const map = mapper({ sourceId: { columns: ["Filiale", "Kunde"] } });
    const ids = [
      ["a:b", "c"],
      ["a", "b:c"],
      ["a\\", "b:c"],
    ].map(([Filiale = "", Kunde = ""]) => eventOf(map(row({ Filiale, Kunde }))));
    expect(new Set(ids.map((event) => ("sourceId" in event ? event.sourceId : ""))).size).toBe(3);
  });

  it("without id columns are known by their cells, all of them", () => {
    const map = mapper({ sourceId: undefined });
    const [one, same, other] = [map(row()), map(row()), map(row({ Kunde: "x" }))].map(eventOf);
    expect(one).toEqual(same);
    expect(one).toMatchObject({ sourceId: expect.stringMatching(/^order:row-[\w-]{22}$/) });
    expect(other).not.toMatchObject({ sourceId: one && "sourceId" in one ? one.sourceId : "" });
  });

  it("are data: nothing in them is evaluated", () => {
    const nasty = [
      '=HYPERLINK("http://x")',
      "'; drop table users; --",
      "${process.exit()}",
      "<script>",
      "$1",
      "__proto__",
    ];
    for (const text of nasty)
      expect(eventOf(mapper()(row({ Kunde: text })))).toMatchObject({ properties: { customerId: text } });
    const map = mapper({ properties: { constructor: { column: "Kunde" } } });
    expect(JSON.stringify(eventOf(map(row({ Kunde: "x" }))))).toContain('"properties":{"constructor":"x"}');
  });
});

describe("a mapping", () => {
  it("is told which columns the file does not have, and which may be meant", () => {
    const config = csvConfig.parse({
      ...settings,
      value: { column: "betrag" },
      sourceId: { columns: ["Nummer"] },
    });
    expect(problemsOfColumns(config, header)).toEqual([
      {
        pointer: "/value/column",
        column: "betrag",
        detail: expect.stringContaining('Did you mean "Betrag"?'),
      },
      {
        pointer: "/sourceId/columns/0",
        column: "Nummer",
        detail: expect.stringContaining('It has "Belegnr", "Datum"'),
      },
    ]);
    expect(problemsOfColumns(csvConfig.parse(settings), [...header, "Betrag"])).toEqual([
      { pointer: "/value/column", column: "Betrag", detail: expect.stringContaining("2 times") },
    ]);
  });

  it.each([
    ["timestamp", { timestamp: { column: "Datum", format: "dd.MM.yyyy" } }],
    ["timestamp", { timestamp: { column: "Datum", format: "iso", timeZone: "Mars/Olympus" } }],
    ["timestamp", { timestamp: { column: "Datum", format: "dd.MM", timeZone: "UTC" } }],
    ["delimiter", { delimiter: "::" }],
    ["currency", { currency: { constant: "Euro" } }],
    ["properties", { properties: { a: { column: "Kunde", kind: "date" } } }],
    ["properties", { properties: { a: { column: "Kunde", kind: "reference" } } }],
    ["value", { value: { column: "Betrag", negate: true } }],
  ])("is refused at %s", (path, more) => {
    const { error } = csvConfig.safeParse({ ...settings, ...more });
    expect(error?.issues[0]?.path[0]).toBe(path);
  });
});
