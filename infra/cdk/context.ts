/**
 * The properties that the context gives, as by `-c mode=observe`.
 *
 * A name or a value that the template does not have is refused: a misspelt `Mode=observe` would
 * otherwise deploy a function that enforces.
 */
import { Construct } from 'constructs';
import { ImdsEnforcerParameters } from './imds-enforcer.js';
import { isSwitch, Parameter, propertyOf, readTemplate, valueOf } from './template.js';

/** Whether the CDK's command line, feature flags or look-ups set this name. */
const isOfTheCdk = (name: string) => /[@:]|^aws-cdk|^acknowledged-issue-numbers$/.test(name);

/**
 * Reads the properties from the context.
 *
 * @throws if a name or a value of the context is not one of the template's
 */
export function propsFromContext(scope: Construct): ImdsEnforcerParameters {
  const parameters = Object.entries(readTemplate(scope).Parameters);
  const known = new Map(parameters.map(([name, it]) => [propertyOf(name), it]));
  const given = Object.entries<unknown>(scope.node.getAllContext()).filter(([name]) => !isOfTheCdk(name));
  const props = given.map(([name, text]) => {
    const parameter = known.get(name);
    if (!parameter) throw new Error(unknown(name, [...known.keys()]));
    const value = typed(parameter, text);
    valueOf(`context ${name}`, parameter, value);
    return [name, value];
  });
  return Object.fromEntries(props);
}

/** A text of the command line as the property's type; one that does not fit stays a text, to be refused. */
function typed(parameter: Parameter, text: unknown): unknown {
  if (isSwitch(parameter) && (text === 'on' || text === 'off')) return text === 'on';
  return parameter.Type === 'Number' && typeof text === 'string' && /^\d+$/.test(text) ? Number(text) : text;
}

function unknown(name: string, known: string[]): string {
  const [nearest] = [...known].sort((a, b) => distance(name, a) - distance(name, b));
  return `context ${name} is unknown; did you mean ${nearest}? There are ${known.join(', ')}`;
}

/** How many letters to insert, remove or replace to get from one name to the other, whatever their case. */
function distance(from: string, to: string): number {
  const [a, b] = [from.toLowerCase(), to.toLowerCase()];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, replaced);
    }
    row = next;
  }
  return row[b.length]!;
}
