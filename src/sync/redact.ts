/** Shorter ones would blacken half a sentence, and are no secrets. */
const SHORTEST = 6;

/**
 * Takes the credentials out of what providers and libraries say of a call, before it is kept: as they are, and as they look
 * in a URL, in base64 or in hex.
 */
export function makeRedact(credentials: unknown): (text: string) => string {
  const forms = secretsOf(credentials).flatMap((secret) => {
    const bytes = Buffer.from(secret, "utf8");
    return [
      secret,
      JSON.stringify(secret).slice(1, -1),
      encodeURIComponent(secret),
      new URLSearchParams({ s: secret }).toString().slice(2),
      bytes.toString("base64").replace(/=+$/, ""),
      bytes.toString("base64url"),
      bytes.toString("hex"),
    ];
  });
  // The longest first: one may be the beginning of another.
  const ordered = [...new Set(forms)].toSorted((one, other) => other.length - one.length);
  return (text) => ordered.reduce((rest, form) => rest.replaceAll(form, "***"), text);
}

function secretsOf(value: unknown): string[] {
  if (typeof value === "string") return value.length >= SHORTEST ? [value] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(secretsOf);
}
