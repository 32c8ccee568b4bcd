import type { TestApi } from "./api.ts";
import { PASSWORD } from "./tenants.ts";

export type Input = { tenant?: string; domain?: string; email: string; password: string };
const LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { user { email } } }";

export async function loginAt(api: TestApi, input: Input, headers: object = {}) {
  const response = await fetch(`${api.url}/graphql`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ query: LOGIN, variables: { input } }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of any shape
  const { data, errors } = (await response.json()) as any;
  return { user: data?.login?.user, error: errors?.[0]?.extensions, message: errors?.[0]?.message };
}

export const right = { tenant: "acme", email: "viewer@acme.test", password: PASSWORD };
export const wrong = { ...right, password: "wrong" };

/** How many answers there are of each code. */
export function codes(answers: { error: { code: string } | undefined }[]): Record<string, number> {
  const counted: Record<string, number> = {};
  for (const { error } of answers) {
    const code = error?.code ?? "signed in";
    counted[code] = (counted[code] ?? 0) + 1;
  }
  return counted;
}

export const times = <Result>(count: number, work: (index: number) => Promise<Result>) =>
  Promise.all(Array.from({ length: count }, (_, index) => work(index)));
