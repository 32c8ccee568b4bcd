export const demoPassword = "Demo-password-1";
export const DEMO_LOCATION = "LDEMO0000001";
export const DEMO_ACCESS_TOKEN = "demo-square-access-token";
export const DEMO_META = {
  accessToken: "demo-meta-access-token",
  appId: "1234567890",
  appSecret: "demo-meta-app-secret",
};
/** Of acme's business in Europe; that of the United States is in the demo's events. */
export const DEMO_META_ACCOUNT = {
  ...{ id: "5520993", name: "Acme Outfitters Europe", timeZone: "Europe/Berlin", currency: "EUR" },
  ...{ campaigns: 6, adSets: 3, ads: 4 },
};

type DemoUser = { name: string; role: string; firstName: string; lastName: string };
type DemoIntegration = {
  key: string;
  name: string;
  provider: string;
  description: string;
  config: Record<string, unknown>;
  status: "PENDING" | "ACTIVE";
  enabled: boolean;
  /** For the simulator; of those without, the past is in the demo events. */
  credentials?: Record<string, string>;
};
export type DemoTenant = {
  slug: "acme" | "globex" | "initech" | "platform";
  name: string;
  status: "ACTIVE" | "TRIAL";
  plan: "trial" | "starter" | "business";
  settings: Record<string, unknown>;
  users: DemoUser[];
  integrations: DemoIntegration[];
};

const staff = (...[admin, user, viewer]: [string, string][]): DemoUser[] =>
  Object.entries({ admin, user, viewer }).map(([name, [firstName, lastName] = ["", ""]]) => ({
    name,
    role: name.toUpperCase(),
    firstName,
    lastName,
  }));

const imported = (key: string, provider: string, name: string, description: string): DemoIntegration => ({
  key,
  name,
  provider,
  description,
  config: {},
  status: "ACTIVE",
  enabled: false,
});

const pointOfSale = (name: string, description: string, locationId: string): DemoIntegration => ({
  key: "pos",
  name,
  provider: "square",
  description,
  config: { environment: "simulator", locationIds: [locationId], pageSize: 100, backfillDays: 60 },
  status: "PENDING",
  enabled: false,
  credentials: { accessToken: DEMO_ACCESS_TOKEN },
});

const advertising = (key: string, name: string, description: string, accountId: string): DemoIntegration => ({
  key,
  name,
  provider: "meta-ads",
  description,
  config: { environment: "simulator", accountIds: [`act_${accountId}`], backfillDays: 90 },
  status: "PENDING",
  enabled: false,
  credentials: DEMO_META,
});

export const demoTenants: DemoTenant[] = [
  {
    slug: "platform",
    name: "Platform operations",
    status: "ACTIVE",
    plan: "business",
    settings: { timeZone: "UTC", currency: "USD", weekStart: 1, fiscalYearStart: 1, retentionDays: 3650 },
    users: [{ name: "super", role: "SUPER_ADMIN", firstName: "Sam", lastName: "Operator" }],
    integrations: [],
  },
  {
    slug: "acme",
    name: "Acme Retail",
    status: "ACTIVE",
    plan: "business",
    settings: {
      timeZone: "America/New_York",
      currency: "USD",
      weekStart: 0,
      fiscalYearStart: 2,
      retentionDays: 1825,
    },
    users: staff(["Ada", "Marsh"], ["Uma", "Reyes"], ["Vic", "Stone"]),
    integrations: [
      pointOfSale("Downtown store", "Point of sale of the new store; not synced yet", DEMO_LOCATION),
      imported("onlineShop", "shopify", "Online shop", "Web orders"),
      imported("metaAds", "meta-ads", "Meta Ads", "Campaigns"),
      advertising(
        "metaAdsEurope",
        "Meta Ads Europe",
        "Campaigns in Europe; not synced yet",
        DEMO_META_ACCOUNT.id,
      ),
    ],
  },
  {
    slug: "globex",
    name: "Globex Foods",
    status: "ACTIVE",
    plan: "starter",
    settings: {
      timeZone: "Asia/Kolkata",
      currency: "INR",
      weekStart: 1,
      fiscalYearStart: 4,
      retentionDays: 1095,
    },
    users: staff(["Asha", "Rao"], ["Udit", "Sen"], ["Veda", "Nair"]),
    integrations: [
      imported("restaurants", "csv", "Restaurants", "Daily exports of the restaurants' tills"),
      imported("metaAds", "meta-ads", "Meta Ads", "Campaigns"),
    ],
  },
  {
    slug: "initech",
    name: "Initech",
    status: "TRIAL",
    plan: "trial",
    settings: {
      timeZone: "Europe/Berlin",
      currency: "EUR",
      weekStart: 1,
      fiscalYearStart: 1,
      retentionDays: 365,
    },
    users: staff(["Alma", "Berg"], ["Udo", "Klein"], ["Vera", "Lang"]),
    integrations: [],
  },
];
