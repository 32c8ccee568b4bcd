import { describe, expect, it } from "@jest/globals";
import fc from "fast-check";
import { canonical, canonicalMembers } from "../src/audit/canonical.ts";

it("is RFC 8785's own example, but for its numbers", () => {
  const source = String.raw`{ "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false] }`;
  expect(canonical(source)).toBe(
    String.raw`{"literals":[null,true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
  );
});

it("orders names by UTF-16 code units", () => {
  const source = String.raw`{"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7}`;
  expect(Object.values(JSON.parse(canonical(source).replaceAll(/"[^"]*":/g, (name) => name)))).toHaveLength(
    7,
  );
  expect([...canonical(source).matchAll(/:(\d)/g)].map(([, digit]) => digit)).toEqual([
    "2",
    "4",
    "6",
    "7",
    "1",
    "5",
    "3",
  ]);
});

it("leaves numbers as they are", () => {
  const numbers = "[1.10,0.1,-0,1E400,123456789012345678901234567890.000000000000000001]";
  expect(canonical(` ${numbers.replaceAll(",", " , ")} `)).toBe(numbers);
});

it("is what JSON.stringify makes of sorted objects, whatever spaces there were", () => {
  const sorted = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(sorted)
      : value !== null && typeof value === "object"
        ? Object.fromEntries(
            Object.entries(value)
              .sort(([one], [other]) => (one < other ? -1 : 1))
              .map(([key, of]) => [` ${key}`, sorted(of)]),
          )
        : value;
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), fc.constantFrom(undefined, 1, "\t"), (value, space) => {
      // A space before each name: objects sort names like "1" by themselves.
      const named = sorted(value);
      expect(canonical(JSON.stringify(named, null, space))).toBe(JSON.stringify(named));
    }),
  );
});

it("gives members in their order", () => {
  expect([...canonicalMembers('{"b": {"y": 1, "x": 2.50}, "a": "\\u0041"}')]).toEqual([
    ["a", '"A"'],
    ["b", '{"x":2.50,"y":1}'],
  ]);
});

describe("refuses", () => {
  it.each([
    '{"a":1,"a":2}',
    '{"a":1,"b":2,"a":3}',
    '{"a":1,"\\u0061":2}',
    '{"a":1',
    "{a:1}",
    "[1,]",
    "[1 2]",
    "01",
    "+1",
    ".5",
    "1 2",
    '"a',
    "nul",
    "",
    '{"a" 1}',
    '{"a":1,}',
    '"\\x"',
  ])("%s", (source) => {
    expect(() => canonical(source)).toThrow(/JSON|Unexpected|Bad/);
  });
  it("what is nested too deeply", () => {
    expect(() => canonical("[".repeat(2_000) + "]".repeat(2_000))).toThrow("nested too deeply");
  });
});
