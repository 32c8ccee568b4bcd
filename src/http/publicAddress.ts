import ipaddr from "ipaddr.js";

const globalUnicast = ipaddr.parseCIDR("2000::/3");

/**
 * Whether anybody on the internet could have this address. Of IPv6 only 2000::/3 counts: what lies outside maps, translates
 * or embeds an IPv4 address (::ffff:127.0.0.1, 64:ff9b::7f00:1), or belongs to a site.
 */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.isValid(text)) return false;
  const address = ipaddr.parse(text);
  return (
    address.range() === "unicast" &&
    (address instanceof ipaddr.IPv4 || (address instanceof ipaddr.IPv6 && address.match(globalUnicast)))
  );
}

/** `host:port` of a URL in the form in which `PRIVATE_PROVIDER_ADDRESSES` lists them. */
export function hostAndPort({ hostname, port, protocol }: URL): string {
  return `${hostname.toLowerCase()}:${port || (protocol === "http:" ? 80 : 443)}`;
}
