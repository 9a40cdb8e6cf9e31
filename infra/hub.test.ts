/**
 * Who may send to the hub's bus, and what a member's role may send: the policies of `hub.yaml` and
 * `template.yaml`, evaluated by a simulator of IAM. It knows no delivery: `tests/infra/test_hub.py` has that.
 */
import { describe, expect, test } from 'vitest';
import { allows, EVERYTHING, resources } from './simulator.js';

const SECURITY = '444455556666';
const MEMBER = '111122223333';
const ORGANIZATION = 'o-a1b2c3d4e5';
const BUS = `arn:aws:events:eu-west-1:${SECURITY}:event-bus/imds-enforcer-hub`;
const RULE = `arn:aws:events:eu-west-1:${SECURITY}:rule/imds-enforcer-hub/RecordRule`;
const ROLE = `arn:aws:iam::${MEMBER}:role/imds-enforcer-AlarmStateRole-EXAMPLE`;

const { BusPolicy } = resources('hub.yaml', { OrganizationId: ORGANIZATION });
const statement = { ...BusPolicy!.Properties.Statement, Resource: BUS };
const { AlarmStateRole } = resources('template.yaml', { EnforceSince: 'all', HubBusArn: BUS });
const [{ PolicyDocument: ofRule }] = AlarmStateRole!.Properties.Policies;

interface Call {
  readonly action?: string;
  readonly resource?: string;
  readonly organization?: string;
  readonly own?: unknown;
  readonly policy?: unknown;
}

/** Whether a role of another account may call this, by its own policy and that of the bus. */
async function may({ action = 'events:PutEvents', resource = BUS, organization, own = EVERYTHING, policy = statement }: Call) {
  return allows({
    request: {
      principal: ROLE,
      action,
      resource: { resource, accountId: SECURITY },
      contextVariables: { 'aws:PrincipalArn': ROLE, ...(organization ? { 'aws:PrincipalOrgID': organization } : {}) },
    },
    identityPolicies: [{ name: 'own', policy: own }],
    resourcePolicy: { Version: '2012-10-17', Statement: [policy] },
    serviceControlPolicies: [],
    resourceControlPolicies: [],
  });
}

describe("the hub's bus", () => {
  test('takes events of the organization', async () => {
    expect(await may({ organization: ORGANIZATION })).toBe(true);
  });

  test('takes none of another organization, nor of an account without one', async () => {
    expect(await may({ organization: 'o-zzzzzzzzzz' })).toBe(false);
    expect(await may({})).toBe(false);
  });

  test.each(['events:PutRule', 'events:PutTargets', 'events:DeleteRule', 'events:DisableRule', 'events:ListTargetsByRule'])(
    'lets no member call %s',
    async (action) => {
      expect(await may({ action, resource: RULE, organization: ORGANIZATION })).toBe(false);
    },
  );

  test('that is open to everybody is found', async () => {
    const { Condition: _, ...open } = statement;
    expect(await may({ organization: 'o-zzzzzzzzzz', policy: open })).toBe(true);
  });
});

describe('the role that sends the states of alarms', () => {
  const own = ofRule;

  test('may send to the hub, and to no other bus', async () => {
    expect(await may({ own, organization: ORGANIZATION })).toBe(true);
    const other = `${BUS}-2`;
    expect(await may({ own, resource: other, organization: ORGANIZATION, policy: { ...statement, Resource: other } })).toBe(false);
  });

  test('may do nothing else', async () => {
    const policy = { ...statement, Action: 'events:*', Resource: '*' };
    expect(await may({ action: 'events:DisableRule', resource: RULE, organization: ORGANIZATION, policy })).toBe(true);
    expect(await may({ own, action: 'events:DisableRule', resource: RULE, organization: ORGANIZATION, policy })).toBe(false);
  });
});
