/** What every payload has that hands out the tokens of a session. */
export const tokenFields = /* GraphQL */ `
  """Goes into the header Authorization: Bearer."""
  accessToken: String!
  """When to refresh the session."""
  accessTokenExpiresAt: Datetime!
  """Goes into refreshSession, once."""
  refreshToken: String!
`;
