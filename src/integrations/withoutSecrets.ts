/** Shorter ones are no secrets, and occur in any sentence. */
const SHORTEST = 6;

/** Every text in credentials, the longest first. */
export function secretsOf(credentials: unknown): string[] {
  const found: string[] = [];
  const collect = (value: unknown) => {
    if (typeof value === "string") found.push(value);
    else if (typeof value === "object" && value !== null) Object.values(value).forEach(collect);
  };
  collect(credentials);
  return found.filter((text) => text.length >= SHORTEST).sort((a, b) => b.length - a.length);
}

/** A sentence for people with `***` where it quotes one of the credentials, as such or as part of a URL. */
export function withoutSecrets(sentence: string, credentials: unknown): string {
  let clean = sentence;
  for (const secret of secretsOf(credentials))
    for (const form of new Set([secret, encodeURIComponent(secret), Buffer.from(secret).toString("base64")]))
      clean = clean.replaceAll(form, "***");
  return clean;
}
