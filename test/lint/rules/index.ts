import { auditIsGuarded } from "./auditIsGuarded.ts";
import { definersAreListed } from "./definersAreListed.ts";
import { grantsMatchContract } from "./grantsMatchContract.ts";
import { noRestrictivePolicy } from "./noRestrictivePolicy.ts";
import { nothingForPublic } from "./nothingForPublic.ts";
import { onePolicyPerCommand } from "./onePolicyPerCommand.ts";
import { policiesNameTheTenant } from "./policiesNameTheTenant.ts";
import { referencesStayInTenant } from "./referencesStayInTenant.ts";
import { requestsHaveFewRights } from "./requestsHaveFewRights.ts";
import { rolesStaySmall } from "./rolesStaySmall.ts";
import { rowSecurityForced } from "./rowSecurityForced.ts";
import { settingsAreNotConstant } from "./settingsAreNotConstant.ts";
import { tenantTablesAreAudited } from "./tenantTablesAreAudited.ts";
import { viewsAskAsCaller } from "./viewsAskAsCaller.ts";
import { volatilityIsStated } from "./volatilityIsStated.ts";

export const rules = {
  // Row security
  rowSecurityForced,
  policiesNameTheTenant,
  onePolicyPerCommand,
  noRestrictivePolicy,
  viewsAskAsCaller,
  settingsAreNotConstant,
  referencesStayInTenant,
  // Rights
  grantsMatchContract,
  nothingForPublic,
  requestsHaveFewRights,
  rolesStaySmall,
  // Audit
  tenantTablesAreAudited,
  auditIsGuarded,
  // Functions
  definersAreListed,
  volatilityIsStated,
};
