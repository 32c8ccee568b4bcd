import { expect, it } from "@jest/globals";
import { makeBounded } from "../src/auth/bounded.ts";

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
