import { isIPv6 } from "node:net";

/** Whose address it is, as far as limits are concerned: as app_private.network_of, a /64 of IPv6 is one. */
export function networkOf(address: string | undefined): string {
  if (address === undefined) return "unknown";
  if (!isIPv6(address)) return address;
  // Written in one way only: lower case, no zeros before, "::" for the longest run of zeros.
  const written = new URL(`http://[${address}]`).hostname.slice(1, -1);
  if (written.startsWith("::ffff:")) return written;
  const [head = "", tail] = written.split("::");
  const groups = head.split(":").filter(Boolean);
  const last = tail?.split(":").filter(Boolean) ?? [];
  const zeros = Array<string>(8 - groups.length - last.length).fill("0");
  return `${[...groups, ...zeros, ...last].slice(0, 4).join(":")}::/64`;
}
