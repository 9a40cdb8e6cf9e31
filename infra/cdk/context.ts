/**
 * The properties that the context gives, as by `-c mode=observe`.
 *
 * A name or a value that the template does not have is refused: a misspelt `Mode=observe` would
 * otherwise deploy a function that enforces.
 */
import { Construct } from 'constructs';
import { distance } from 'fastest-levenshtein';
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
  const far = (one: string) => distance(name.toLowerCase(), one.toLowerCase());
  const [nearest] = [...known].sort((a, b) => far(a) - far(b));
  return `context ${name} is unknown; did you mean ${nearest}? There are ${known.join(', ')}`;
}
