export const demoPassword = "Demo-password-1";
export const DEMO_LOCATION = "LDEMO0000001";
export const DEMO_ACCESS_TOKEN = "demo-square-access-token";

type DemoUser = { name: string; role: string; firstName: string; lastName: string };
type DemoIntegration = {
  key: string;
  name: string;
  provider: string;
  description: string;
  config: Record<string, unknown>;
  status: "PENDING" | "ACTIVE";
  enabled: boolean;
  /** Pulls from the simulator; the others' past is in the demo events. */
  syncs: boolean;
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
  syncs: false,
});

const pointOfSale = (name: string, description: string, locationId: string): DemoIntegration => ({
  key: "pos",
  name,
  provider: "square",
  description,
  config: { environment: "simulator", locationIds: [locationId], pageSize: 100, backfillDays: 60 },
  status: "PENDING",
  enabled: false,
  syncs: true,
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
