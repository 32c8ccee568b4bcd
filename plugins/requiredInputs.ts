import { changeNullability } from "postgraphile/utils";

/** A function of SQL is strict in all of its arguments or in none: which of several must be there is said here. */
export const RequiredInputsPlugin = changeNullability({
  SyncIntegrationInput: { integrationId: false },
  CancelSyncInput: { integrationId: false },
  BackfillIntegrationInput: { integrationId: false, stream: false, since: false },
});
