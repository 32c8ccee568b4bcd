import { setImmediate as turn } from "node:timers/promises";
import { expect, it } from "@jest/globals";
import { makeBounded, makeFair } from "../src/auth/bounded.ts";

const refused = { code: "RATE_LIMITED", message: "Later.", extensions: { retryAfterSeconds: 1 } };

it("runs so many at a time, keeps so many waiting, and has room again when one ends, however it ends", async () => {
  const inTurn = makeBounded({ concurrency: 2, waiting: 3 }, "Later.");
  const running: { end: (result: string) => void; fail: (reason: Error) => void }[] = [];
  const work = () =>
    inTurn(
      () =>
        new Promise<string>((end, fail) => {
          running.push({ end, fail });
        }),
    );
  const [first, second, ...waiting] = Array.from({ length: 5 }, work);
  await expect(work()).rejects.toMatchObject(refused);
  expect(running).toHaveLength(2);

  running[0]?.end("done");
  expect(await first).toBe("done");
  running[1]?.fail(new Error("broken"));
  await expect(second).rejects.toThrow("broken");
  expect(running).toHaveLength(4);
  const later = [work(), work()];
  await expect(work()).rejects.toMatchObject(refused);

  for (let index = 2; index < 7; index++) {
    running[index]?.end("done");
    expect(await [...waiting, ...later][index - 2]).toBe("done");
  }
  expect(running).toHaveLength(7);
});

/** Works that end when they are told to, in the order in which they started. */
function makeWorks(inTurn: ReturnType<typeof makeFair>) {
  const started: string[] = [];
  const ends: (() => void)[] = [];
  const add = (key: string) =>
    inTurn(key, () => {
      started.push(key);
      return new Promise<string>((end) => void ends.push(() => end(key)));
    });
  const endNext = async () => {
    ends.shift()?.();
    await turn();
  };
  return { started, add, endNext };
}
const FAIR = { concurrency: 3, waiting: 8, perKey: { concurrency: 2, waiting: 4 } };

it("serves the lines in turn, each with bounds of its own", async () => {
  const { started, add, endNext } = makeWorks(makeFair(FAIR, "Later."));
  const works = Array.from({ length: 6 }, () => add("a"));
  await expect(add("a")).rejects.toMatchObject(refused);
  expect(started).toEqual(["a", "a"]);
  works.push(add("b"), add("b"), add("c"));
  expect(started.join("")).toBe("aab");
  for (let index = 0; index < 9; index++) await endNext();
  // "a" has its next only after "b" and "c" had theirs.
  expect(started.join("")).toBe("aabbcaaaa");
  expect((await Promise.all(works)).join("")).toBe("aaaaaabbc");
});

it("bounds what waits in all lines together, and has room again afterwards, however works end", async () => {
  const inTurn = makeFair(FAIR, "Later.");
  const { started, add, endNext } = makeWorks(inTurn);
  const works = [..."aabccddeeff"].map(add);
  await expect(add("g")).rejects.toMatchObject(refused);
  while (started.length < works.length) await endNext();
  for (let index = 0; index < 3; index++) await endNext();
  await Promise.all(works);
  await expect(inTurn("a", () => Promise.reject(new Error("broken")))).rejects.toThrow("broken");
  expect(await Promise.all([..."abcdefgh"].map((key) => inTurn(key, async () => key)))).toHaveLength(8);
});
