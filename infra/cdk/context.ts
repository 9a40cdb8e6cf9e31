/**
 * The properties that the context gives, as by `-c mode=observe`.
 *
 * A name or a value that the template does not have is refused: a misspelt `Mode=observe` would
 * otherwise deploy a function that enforces.
 */
import { Stack } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { distance } from 'fastest-levenshtein';
import { codeAt } from './code.js';
import { ImdsEnforcerParameters, ImdsEnforcerProps } from './imds-enforcer.js';
import { isSwitch, Parameter, propertyOf, readTemplate, valueOf } from './template.js';

/** Whether the CDK's command line, feature flags or look-ups set this name. */
const isOfTheCdk = (name: string) => /[@:]|^aws-cdk|^acknowledged-issue-numbers$/.test(name);

/**
 * Reads the properties from the context: the template's parameters, and the path of the `code`.
 *
 * A command that deploys nothing, such as `cdk ls` or `cdk destroy`, needs no `enforceSince`.
 *
 * @throws if a name or a value of the context is not one of the template's, one is missing, or the
 * code does not fit
 */
export function propsFromContext(scope: Construct): ImdsEnforcerProps {
  const parameters = Object.entries(readTemplate(scope).Parameters);
  const known = new Map(parameters.map(([name, it]) => [propertyOf(name), it]));
  const { code, ...context } = scope.node.getAllContext();
  const given = Object.entries<unknown>(context).filter(([name]) => !isOfTheCdk(name));
  const props = given.map(([name, text]) => {
    const parameter = known.get(name);
    if (!parameter) throw new Error(unknown(name, [...known.keys(), 'code']));
    const value = typed(parameter, text);
    valueOf(`context ${name}`, parameter, value);
    return [name, value];
  });
  const { enforceSince = Stack.of(scope).bundlingRequired ? undefined : 'all', ...others } = Object.fromEntries(props);
  const since = valueOf('context enforceSince', known.get('enforceSince')!, enforceSince);
  const parameterProps: ImdsEnforcerParameters = { ...others, enforceSince: `${since}` };
  if (code === undefined) return parameterProps;
  return { ...parameterProps, code: codeAt(`${code}`, `${parameterProps.architecture ?? known.get('architecture')!.Default}`) };
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
