/**
 * `infra/template.yaml` as the construct includes it: what its parameters allow, and what is left
 * of it for given values.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Token } from 'aws-cdk-lib';
import { CfnRule } from 'aws-cdk-lib/aws-events';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';
import { Construct } from 'constructs';

const FILE = fileURLToPath(new URL('../template.yaml', import.meta.url));

/** A parameter, as the template states it. */
export interface Parameter {
  readonly Type: 'String' | 'Number';
  readonly Description: string;
  readonly Default?: string | number;
  readonly AllowedValues?: (string | number)[];
  readonly AllowedPattern?: string;
  readonly ConstraintDescription?: string;
  readonly MinValue?: number;
  readonly MaxValue?: number;
}

/** The template as JSON. */
export interface SamTemplate {
  readonly Transform: string;
  readonly Parameters: Record<string, Parameter>;
  readonly Conditions: Record<string, unknown>;
  readonly Resources: Record<string, { Condition?: string; Properties: Record<string, unknown> }>;
  readonly Outputs: Record<string, { Condition?: string }>;
}

/** The values of the parameters, by their names. */
export type Values = Record<string, string | number>;

/**
 * Reads the template by the CDK's own reader, which knows the short forms of CloudFormation's
 * functions. What it has read is a private field, as the version of the CDK in the lock file has it.
 */
export function readTemplate(scope: Construct): SamTemplate {
  const read = new CfnInclude(scope, 'Read', { templateFile: FILE });
  scope.node.tryRemoveChild('Read');
  return read['template'];
}

/** Includes what is left of the template for these values. */
export function include(scope: Construct, template: SamTemplate, values: Values): CfnInclude {
  const folder = mkdtempSync(join(tmpdir(), 'imds-enforcer-'));
  const templateFile = join(folder, 'template.json');
  const remaining = settled(template, values);
  try {
    writeFileSync(templateFile, JSON.stringify(remaining));
    const included = new CfnInclude(scope, 'Template', { templateFile, preserveLogicalIds: false, parameters: values });
    for (const [name, { Properties: { EventPattern } }] of Object.entries(remaining.Resources)) {
      // CfnInclude drops null, which a pattern names as a value.
      if (EventPattern) (included.getResource(name) as CfnRule).eventPattern = EventPattern;
    }
    return included;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * The template without conditions, each branch decided by the values.
 *
 * CloudFormation lets no condition refer to a resource, as the ARN of the app's own key does, and
 * cdk-nag looks into no `Fn::If`, nor into a `Fn::GetAtt` in one word. What is for those who deploy
 * the template itself is left out, since a stack can have each section but once.
 */
export function settled(template: SamTemplate, values: Values) {
  const { Transform, Parameters, Resources, Outputs } = template;
  const isNothing = (node: any) => node?.Ref === 'AWS::NoValue';
  const decide = (node: any): any => {
    if (node === null || typeof node !== 'object') return node;
    if (Array.isArray(node)) return node.map(decide).filter((it) => !isNothing(it));
    if (node['Fn::If']) {
      const [condition, yes, no] = node['Fn::If'];
      return decide(holds(template, values, condition) ? yes : no);
    }
    if (typeof node['Fn::GetAtt'] === 'string') return { 'Fn::GetAtt': node['Fn::GetAtt'].split('.') };
    const entries = Object.entries(node).map(([key, it]) => [key, decide(it)] as const);
    return Object.fromEntries(entries.filter(([, it]) => !isNothing(it)));
  };
  const kept = <T extends { Condition?: string }>(section: Record<string, T>): Record<string, T> => {
    const found = Object.entries<any>(section).filter(([, it]) => !it.Condition || holds(template, values, it.Condition));
    return Object.fromEntries(found.map(([name, { Condition: _, Metadata: __, ...it }]) => [name, decide(it)]));
  };
  return { Transform, Parameters, Resources: kept(Resources), Outputs: kept(Outputs) };
}

/** Whether a condition of the template holds for these values. */
function holds(template: SamTemplate, values: Values, name: string): boolean {
  const value = (node: any) => String(node?.Ref ? values[node.Ref] : node);
  const evaluate = (condition: any): boolean => {
    const [[operator, operand]] = Object.entries<any>(condition) as [[string, any]];
    if (operator === 'Condition') return holds(template, values, operand);
    if (operator === 'Fn::Equals') return value(operand[0]) === value(operand[1]);
    if (operator === 'Fn::Not') return !evaluate(operand[0]);
    if (operator === 'Fn::And') return operand.every(evaluate);
    if (operator === 'Fn::Or') return operand.some(evaluate);
    throw new Error(`the condition ${name} uses ${operator}; Condition, Fn::Equals, Fn::Not, Fn::And and Fn::Or are understood`);
  };
  return evaluate(template.Conditions[name]);
}

/** The property's name for a parameter's: `exemptionTag` for `ExemptionTag`. */
export const propertyOf = (parameter: string) => parameter[0]!.toLowerCase() + parameter.slice(1);

/** Whether a parameter is a switch, which is a boolean as a property. */
export const isSwitch = (parameter: Parameter) => parameter.AllowedValues?.join() === 'on,off';

/**
 * The value of a parameter for a property's value; the default for none.
 *
 * @throws if there is no value, or the template does not allow it, with the name and what is allowed
 */
export function valueOf(name: string, parameter: Parameter, given: unknown): string | number {
  if (given === undefined) {
    if (parameter.Default !== undefined) return parameter.Default;
    throw new Error(`${name} is missing; it ${requirement(parameter)}`);
  }
  if (Token.isUnresolved(given)) throw new Error(`${name} must be known at synthesis; the resource itself may be given where it stands for an ARN`);
  const value = isSwitch(parameter) && typeof given === 'boolean' ? (given ? 'on' : 'off') : given;
  if (!isAllowed(parameter, value)) throw new Error(`${name} is ${JSON.stringify(given)}; it ${requirement(parameter)}`);
  return value;
}

function isAllowed(parameter: Parameter, value: unknown): value is string | number {
  const { Type, AllowedValues, AllowedPattern, MinValue = -Infinity, MaxValue = Infinity } = parameter;
  if (Type === 'Number' ? !Number.isInteger(value) : typeof value !== 'string') return false;
  if (AllowedValues) return AllowedValues.includes(value as string | number);
  if (typeof value === 'number') return MinValue <= value && value <= MaxValue;
  return new RegExp(`^(?:${AllowedPattern})$`).test(value as string);
}

/** Whether a text is a day that there is, as the pattern of a parameter can't tell of 29 February. */
export function isDay(text: string): boolean {
  const date = new Date(`${text}T00:00:00Z`);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(text);
}

function requirement(parameter: Parameter): string {
  const { AllowedValues, ConstraintDescription, MinValue, MaxValue } = parameter;
  if (AllowedValues) return `must be one of ${AllowedValues.join(', ')}`;
  return ConstraintDescription ?? `must be a whole number from ${MinValue} to ${MaxValue}`;
}
