import { readFileSync } from 'node:fs';
import { App, CfnParameter, Stack } from 'aws-cdk-lib';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';
import { valuesOf as valuesOfAll } from './imds-enforcer.js';
import { Props, synthesize } from './stand.js';
import { isSwitch, Parameter, propertyOf, readTemplate, SamTemplate, settled, valueOf, Values } from './template.js';

const template = readTemplate(new Stack());
const parameters = Object.entries(template.Parameters);
const valuesOf = (template: SamTemplate, props: Props) => valuesOfAll(template, { enforceSince: 'all', ...props });

/** The properties as the interface declares them: their types, and their documented defaults. */
function properties() {
  const text = readFileSync(new URL('imds-enforcer.ts', import.meta.url), 'utf8');
  const source = ts.createSourceFile('imds-enforcer.ts', text, ts.ScriptTarget.ES2022, true);
  const interfaces = source.statements.filter(ts.isInterfaceDeclaration);
  const [declared] = interfaces.filter((it) => it.name.text === 'ImdsEnforcerParameters');
  return declared!.members.filter(ts.isPropertySignature).map((it) => {
    const [tag] = ts.getJSDocTags(it).filter((tag) => tag.tagName.text === 'default');
    const documented = tag && ts.getTextOfJSDocComment(tag.comment)!.split(', ')[0];
    return { name: it.name.getText(), optional: !!it.questionToken, type: typeOf(it.type!), documented };
  });
}

/** The literals of a union, or the name of another type. */
function typeOf(type: ts.TypeNode): string | (string | number)[] {
  if (!ts.isUnionTypeNode(type)) return type.getText();
  return type.types.map((it) => JSON.parse(it.getText().replaceAll("'", '"'))).sort();
}

function expected(name: string, parameter: Parameter) {
  const { Type, AllowedValues, Default } = parameter;
  const type = isSwitch(parameter) ? 'boolean' : AllowedValues ? [...AllowedValues].sort() : Type.toLowerCase();
  if (Default === undefined) return { name: propertyOf(name), optional: false, type, documented: undefined };
  const documented = isSwitch(parameter) ? `${Default === 'on'}` : `${Default}` || 'none';
  return { name: propertyOf(name), optional: true, type, documented };
}

test('the properties are the parameters, with their types and defaults, and required where there is none', () => {
  const byName = (a: { name: string }, b: { name: string }) => a.name.localeCompare(b.name);
  expect(properties().sort(byName)).toEqual(parameters.map(([name, it]) => expected(name, it)).sort(byName));
});

describe('a parameter allows', () => {
  const beyond = ({ Type, MinValue, MaxValue }: Parameter) =>
    Type === 'String' ? [0, null, 'aws:'.repeat(99)] : ['1', 0.5, NaN, (MinValue ?? 1) - 1, (MaxValue ?? 3653) + 1];
  test.each(parameters)('%s: its default and its allowed values, and nothing beyond', (_, parameter) => {
    // A parameter without a default is tried with a value of its own.
    const { AllowedValues = [], Default = 'all', MinValue = Default, MaxValue = Default } = parameter;
    for (const value of [Default, MinValue, MaxValue, ...AllowedValues]) expect(valueOf('it', parameter, value)).toBe(value);
    for (const value of beyond(parameter)) expect(() => valueOf('it', parameter, value)).toThrow(/^it is .*; it must be /);
  });

  test('a switch: true and false', () => {
    expect([true, false, undefined].map((it) => valueOf('sweep', template.Parameters.Sweep!, it))).toEqual(['on', 'off', 'on']);
  });
});

describe('a property is refused', () => {
  const stack = new Stack(new App(), 'Stack');
  test.each([
    [{ enforceSince: undefined }, 'enforceSince is missing; it must be all, or a day that there is, such as 2026-11-02'],
    [{ enforceSince: 'today' }, 'enforceSince is "today"; it must be all, or a day that there is, such as 2026-11-02'],
    [{ enforceSince: '2026-13-01' }, 'enforceSince is "2026-13-01"; it must be all, or a day that there is, such as 2026-11-02'],
    [{ enforceSince: '2026-11-31' }, 'enforceSince is "2026-11-31"; it must be all, or a day that there is, such as 2026-11-02'],
    [{ enforceSince: '2028-02-30' }, 'enforceSince is "2028-02-30"; it must be all, or a day that there is, such as 2026-11-02'],
    [{ enforceSince: '2026-02-29' }, 'enforceSince is "2026-02-29"; there is no such day'],
    [{ sweepAlarmHours: 1 }, 'sweepAlarmHours is 1; it must be a whole number from 3 to 168'],
    [{ reservedConcurrency: 1 }, 'reservedConcurrency is 1; it must be 0 or at least 3'],
    [{ reservedConcurrency: 2 }, 'reservedConcurrency is 2; it must be 0 or at least 3'],
    [{ graceDays: 91 }, 'graceDays is 91; it must be a whole number from 0 to 90'],
    [{ graceDays: 1.5 }, 'graceDays is 1.5; it must be a whole number from 0 to 90'],
    [{ sweepLimit: 100_001 }, 'sweepLimit is 100001; it must be a whole number from 0 to 100000'],
    [{ watchRefusals: '25' as '24' }, 'watchRefusals is "25"; it must be one of off, 1, 2, '],
    [{ mode: 'Observe' as 'observe' }, 'mode is "Observe"; it must be one of enforce, observe'],
    [{ exemptionTag: 'aws:name' }, 'exemptionTag is "aws:name"; it must be the key of a tag'],
    [{ resultBus: 'default' }, 'resultBus is "default"; it must be a name of letters'],
    [{ alarmEmail: 'nobody' }, 'alarmEmail is "nobody"; it must be an e-mail address or empty'],
    [{ sweepSchedule: 'hourly' }, 'sweepSchedule is "hourly"; it must be rate(...) or cron(...)'],
    [{ alarmEmail: new CfnParameter(stack, 'Email').valueAsString }, 'alarmEmail must be known at synthesis'],
  ])('%j', (props, message) => {
    expect(() => synthesize(() => props)).toThrow(message);
  });
});

test('a leap day and the least reservation are taken', () => {
  const values = valuesOf(template, { enforceSince: '2028-02-29', reservedConcurrency: 3, sweepAlarmHours: 3 });
  expect(values).toMatchObject({ EnforceSince: '2028-02-29', ReservedConcurrency: 3, SweepAlarmHours: 3 });
});

describe('conditions decide which resources there are', () => {
  const always = Object.keys(template.Resources).filter((it) => !template.Resources[it]!.Condition);
  const results = ['ResultEventBus', 'ResultRule', 'ResultTopic', 'ResultTopicPolicy', 'UnpublishedAlarm'];
  const byDefault = ['AlarmTopic', 'AlarmTopicPolicy', 'NoSweepAlarm'];
  test.each<[Props, string[]]>([
    [{}, byDefault],
    [
      { resultEmail: 'security@example.com', resultBusArn: 'arn:aws:events:us-east-1:444455556666:event-bus/all' },
      [...byDefault, 'UnpublishedAlarm'],
    ],
    [{ hubBusArn: 'arn:aws:events:eu-west-1:444455556666:event-bus/hub' }, [...byDefault, 'AlarmStateRole', 'AlarmStateRule', 'UnpublishedAlarm']],
    [{ watchRefusals: '1' }, [...byDefault, 'RefusingCallsAlarm']],
    [{ resultBus: 'security' }, [...byDefault, ...results]],
    [{ resultBus: 'security', resultEmail: 'security@example.com' }, [...byDefault, ...results, 'ResultSubscription']],
    [{ alarmEmail: 'security@example.com' }, [...byDefault, 'AlarmSubscription']],
    [{ dashboard: true }, [...byDefault, 'Board']],
    [{ sweep: false, alarmTopicArn: 'arn:aws:sns:us-east-1:111122223333:security' }, []],
  ])('with %j', (props, conditional) => {
    const { Resources } = settled(template, valuesOf(template, props));
    expect(Object.keys(Resources).sort()).toEqual([...always, ...conditional].sort());
  });

  test('and what stands in these', () => {
    const names = (props: Props) => {
      const { FunctionRole } = settled(template, valuesOf(template, props)).Resources;
      return (FunctionRole!.Properties.Policies as { PolicyName: string }[]).map((it) => it.PolicyName);
    };
    expect(names({})).toEqual(['Describe', 'RequireTokens', 'Log', 'Queues']);
    expect(names({ mode: 'observe', xRay: true })).toEqual(['Describe', 'Log', 'Queues', 'Trace']);
    expect(names({ graceDays: 1, resultBus: 'security' })).toEqual(['Describe', 'RequireTokens', 'Log', 'Queues', 'ReadMetrics', 'PublishResults']);
    expect(names({ watchRefusals: '24' })).toEqual(['Describe', 'RequireTokens', 'Log', 'Queues', 'ReadMetrics']);
  });
});

describe('the template is included as it is', () => {
  /** A template's part with values in place of parameters. */
  function substituted(node: any, values: Values): any {
    if (node === null || typeof node !== 'object') return node;
    if (Array.isArray(node)) return node.map((it) => substituted(it, values));
    if (node.Ref in values) return values[node.Ref];
    if (node['Fn::Sub']) return { 'Fn::Sub': node['Fn::Sub'].replace(/\$\{(\w+)\}/g, (all: string, name: string) => values[name] ?? all) };
    return Object.fromEntries(Object.entries(node).map(([key, it]) => [key, substituted(it, values)]));
  }

  /** Without the construct's part of logical ids, the code, and the difference between 1 and "1". */
  function comparable(resources: any) {
    const text = JSON.stringify(resources).replace(/\bImdsEnforcerTemplate(\w+?)[0-9A-F]{8}\b/g, '$1');
    const parsed = JSON.parse(text, (key, value) => {
      if (key === 'DependsOn' && value.length === 0) return undefined;
      return typeof value === 'number' ? `${value}` : value;
    });
    delete parsed.Function.Properties.CodeUri;
    return parsed;
  }

  test.each<Props>([
    {},
    { exemptionTag: '', enforceSince: '2026-11-02', graceDays: 14, sweepLimit: 100, watchRefusals: '1', resultBus: 'security', resultEmail: 'security@example.com' },
    { mode: 'observe', dashboard: true, sweep: false, xRay: true, reservedConcurrency: 5, alarmEmail: 'security@example.com' },
    { kmsKeyArn: 'arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab', resultBusArn: 'arn:aws:events:us-east-1:444455556666:event-bus/all' },
    { hubBusArn: 'arn:aws:events:eu-west-1:444455556666:event-bus/hub' },
  ])('with %j', (props) => {
    const values = valuesOf(template, props);
    const expected = substituted(settled(template, values).Resources, values);
    expect(comparable(synthesize(() => props).toJSON().Resources)).toEqual(comparable(expected));
  });
});
