//! What `infra/template.yaml` deploys: parameters, conditions and references resolved, as far as the
//! way of the events and the alarms depend on it.
//!
//! A reference to a resource, to its ARN and to its name is the resource's logical name here: what
//! sends where, and what is measured of what, is found by following references, whatever the
//! resources are called.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::expression::Expression;
use crate::harness::{REGION, root};
use crate::stand_in::python;

/// The template with values for its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    json: Value,
    parameters: BTreeMap<String, Value>,
}

/// What is deployed.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) function: Function,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) sources: BTreeMap<String, Source>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) alarms: Vec<Alarm>,
}

/// The function.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) time_out: Duration,
    pub(crate) retries: usize,
    /// The queue that keeps what its asynchronous invocations could not do.
    pub(crate) dead_letters: String,
    pub(crate) variables: BTreeMap<String, String>,
}

/// A queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) visibility: Duration,
    /// After how many receives a message goes to which queue.
    pub(crate) redrive: Option<(usize, String)>,
}

/// What has the function handle a queue's messages.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) batch_size: usize,
    pub(crate) window: Duration,
    pub(crate) concurrency: usize,
}

/// A rule of a bus, or a schedule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// The bus, if it is not the account's default one.
    pub(crate) bus: Option<String>,
    pub(crate) pattern: Option<Value>,
    pub(crate) rate: Option<Duration>,
    pub(crate) targets: Vec<String>,
}

/// A statistic of a metric, which an alarm looks at.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What an expression calls it.
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) metric: String,
    pub(crate) dimensions: BTreeMap<String, String>,
    pub(crate) statistic: String,
}

/// An alarm.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    pub(crate) name: String,
    pub(crate) series: Vec<Series>,
    /// What is made of several, or nothing for an alarm on one.
    pub(crate) expression: Option<Expression>,
    pub(crate) period: u64,
    pub(crate) evaluation_periods: usize,
    pub(crate) datapoints: usize,
    pub(crate) threshold: f64,
    pub(crate) comparison: String,
    pub(crate) missing: String,
}

impl Template {
    /// `infra/template.yaml` with the defaults of its parameters.
    pub(crate) fn read() -> Self {
        static JSON: OnceLock<Value> = OnceLock::new();
        let json = JSON.get_or_init(|| {
            let script = root().join("tests/it/month/template.py");
            let output = Command::new(python()).arg(script).arg(root().join("infra/template.yaml")).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).unwrap()
        });
        let declared = json["Parameters"].as_object().unwrap();
        let defaults = declared.iter().filter_map(|(name, it)| Some((name.clone(), it.get("Default")?.clone())));
        Self { json: json.clone(), parameters: defaults.collect() }
    }

    /// The template with a value for a parameter.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        assert!(self.json["Parameters"].get(name).is_some(), "the template has no parameter {name}");
        self.parameters.insert(name.to_owned(), value.into());
        self
    }

    /// The properties of a resource, to be changed.
    pub(crate) fn properties(&mut self, resource: &str) -> &mut Value {
        &mut self.json["Resources"][resource]["Properties"]
    }

    /// Has every source gather its batches for so many seconds.
    pub(crate) fn set_windows(&mut self, seconds: u64) {
        let resources = self.json["Resources"].as_object_mut().unwrap().values_mut();
        for source in resources.filter(|it| it["Type"] == "AWS::Lambda::EventSourceMapping") {
            source["Properties"]["MaximumBatchingWindowInSeconds"] = seconds.into();
        }
    }

    /// What the template deploys.
    pub(crate) fn deployment(&self) -> Deployment {
        let resources = self.resources();
        let named = |kind: &'static str| {
            let of_kind = resources.iter().filter(move |(_, resource)| resource["Type"] == kind);
            of_kind.map(|(name, resource)| (name.as_str(), &resource["Properties"]))
        };
        let (name, function) = named("AWS::Serverless::Function").next().unwrap();
        Deployment {
            function: Function::read(name, function),
            queues: named("AWS::SQS::Queue").map(|(name, it)| (name.to_owned(), Queue::read(it))).collect(),
            sources: named("AWS::Lambda::EventSourceMapping").filter(|(_, it)| is_on(it)).map(Source::read).collect(),
            rules: named("AWS::Events::Rule").filter(|(_, it)| it["State"] != "DISABLED").map(Rule::read).collect(),
            alarms: named("AWS::CloudWatch::Alarm").map(Alarm::read).collect(),
        }
    }

    /// The resources whose conditions hold, resolved.
    fn resources(&self) -> Map<String, Value> {
        let resources = self.json["Resources"].as_object().unwrap().iter();
        let exists = |resource: &Value| resource["Condition"].as_str().is_none_or(|name| self.holds(name));
        let existing = resources.filter(|(_, resource)| exists(resource));
        existing.map(|(name, resource)| (name.clone(), self.resolve(resource).unwrap_or_default())).collect()
    }

    /// Whether a named condition holds.
    fn holds(&self, name: &str) -> bool {
        self.truth(&self.json["Conditions"][name])
    }

    fn truth(&self, condition: &Value) -> bool {
        let (word, arguments) = condition.as_object().unwrap().iter().next().unwrap();
        if word == "Condition" {
            return self.holds(arguments.as_str().unwrap());
        }
        let arguments = arguments.as_array().unwrap();
        match word.as_str() {
            "Fn::Equals" => text(&self.resolve(&arguments[0]).unwrap()) == text(&self.resolve(&arguments[1]).unwrap()),
            "Fn::Not" => !self.truth(&arguments[0]),
            "Fn::And" => arguments.iter().all(|it| self.truth(it)),
            "Fn::Or" => arguments.iter().any(|it| self.truth(it)),
            other => panic!("{other} is not known here"),
        }
    }

    /// A value without functions of CloudFormation, or nothing for `AWS::NoValue`.
    fn resolve(&self, value: &Value) -> Option<Value> {
        if let Some(items) = value.as_array() {
            return Some(items.iter().filter_map(|it| self.resolve(it)).collect());
        }
        let Some(members) = value.as_object() else { return Some(value.clone()) };
        if let Some((word, argument)) = members.iter().next().filter(|(word, _)| is_function(word)) {
            return self.call(word, argument);
        }
        let resolved = members.iter().filter_map(|(key, it)| Some((key.clone(), self.resolve(it)?)));
        Some(Value::Object(resolved.collect()))
    }

    fn call(&self, word: &str, argument: &Value) -> Option<Value> {
        match (word, argument) {
            ("Ref", Value::String(name)) if name == "AWS::NoValue" => None,
            ("Ref", Value::String(name)) if name == "AWS::Region" => Some(REGION.into()),
            ("Ref", Value::String(name)) => {
                Some(self.parameters.get(name).cloned().unwrap_or_else(|| self.named(name)))
            }
            ("Fn::GetAtt", Value::Array(path)) => Some(path[0].clone()),
            ("Fn::GetAtt", Value::String(path)) => Some(path.split('.').next().unwrap().into()),
            ("Fn::If", Value::Array(branches)) => {
                let holds = self.holds(branches[0].as_str().unwrap());
                self.resolve(&branches[if holds { 1 } else { 2 }])
            }
            ("Fn::Sub", text) => Some(text.clone()),
            // The one use of it is to take a rule's name from its ARN.
            ("Fn::Select", Value::Array(of)) => self.resolve(&of[1]["Fn::Split"][1]),
            other => panic!("{other:?} is not known here"),
        }
    }

    /// A resource's or a pseudo parameter's name. A parameter without a value is a mistake.
    fn named(&self, name: &str) -> Value {
        assert!(self.json["Parameters"].get(name).is_none(), "the parameter {name} has no value");
        name.into()
    }
}

fn is_function(word: &str) -> bool {
    word == "Ref" || word.starts_with("Fn::")
}

fn is_on(properties: &Value) -> bool {
    properties["Enabled"] != false
}

/// A number or a text, as text.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number, which a parameter may give as text.
fn number(value: &Value) -> Option<u64> {
    text(value).parse().ok()
}

fn seconds(value: &Value) -> Option<Duration> {
    number(value).map(Duration::from_secs)
}

impl Function {
    fn read(name: &str, properties: &Value) -> Self {
        let variables = properties["Environment"]["Variables"].as_object().unwrap();
        let retries = &properties["EventInvokeConfig"]["MaximumRetryAttempts"];
        Self {
            name: name.to_owned(),
            time_out: seconds(&properties["Timeout"]).unwrap(),
            retries: number(retries).map_or(2, |retries| usize::try_from(retries).unwrap()),
            dead_letters: text(&properties["DeadLetterQueue"]["TargetArn"]),
            variables: variables.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        }
    }
}

impl Queue {
    fn read(properties: &Value) -> Self {
        let redrive = &properties["RedrivePolicy"];
        let receives = number(&redrive["maxReceiveCount"]).map(|count| usize::try_from(count).unwrap());
        Self {
            visibility: seconds(&properties["VisibilityTimeout"]).unwrap_or(Duration::from_secs(30)),
            redrive: receives.map(|receives| (receives, text(&redrive["deadLetterTargetArn"]))),
        }
    }
}

impl Source {
    fn read((_, properties): (&str, &Value)) -> (String, Self) {
        let reports = &properties["FunctionResponseTypes"];
        assert_eq!(reports, &json!(["ReportBatchItemFailures"]), "batches answer message by message");
        let count = |value: &Value| number(value).map(|count| usize::try_from(count).unwrap());
        let source = Self {
            batch_size: count(&properties["BatchSize"]).unwrap_or(10),
            window: seconds(&properties["MaximumBatchingWindowInSeconds"]).unwrap_or_default(),
            concurrency: count(&properties["ScalingConfig"]["MaximumConcurrency"]).unwrap_or(1000),
        };
        (text(&properties["EventSourceArn"]), source)
    }
}

impl Rule {
    fn read((name, properties): (&str, &Value)) -> Self {
        let targets = properties["Targets"].as_array().unwrap().iter();
        Self {
            name: name.to_owned(),
            bus: properties.get("EventBusName").map(text),
            pattern: properties.get("EventPattern").cloned(),
            rate: properties["ScheduleExpression"].as_str().map(rate),
            targets: targets.map(|target| text(&target["Arn"])).collect(),
        }
    }
}

/// The period of `rate(1 hour)`.
fn rate(expression: &str) -> Duration {
    let inside = expression.strip_prefix("rate(").and_then(|it| it.strip_suffix(')'));
    let (count, unit) = inside.and_then(|it| it.split_once(' ')).unwrap_or_else(|| panic!("{expression}"));
    let unit = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        other => panic!("{other} is no unit of a rate"),
    };
    Duration::from_secs(count.parse::<u64>().unwrap() * unit)
}

impl Series {
    fn read(id: &str, metric: &Value, statistic: &Value) -> Self {
        let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
        Self {
            id: id.to_owned(),
            namespace: text(&metric["Namespace"]),
            metric: text(&metric["MetricName"]),
            dimensions: dimensions.map(|it| (text(&it["Name"]), text(&it["Value"]))).collect(),
            statistic: text(statistic),
        }
    }
}

impl Alarm {
    fn read((name, properties): (&str, &Value)) -> Self {
        let count = |name: &str| number(&properties[name]).map(|count| usize::try_from(count).unwrap());
        let metrics = properties["Metrics"].as_array().cloned().unwrap_or_default();
        let (stats, expressions): (Vec<_>, Vec<_>) = metrics.iter().partition(|it| it.get("MetricStat").is_some());
        let period = stats.first().map_or(&properties["Period"], |it| &it["MetricStat"]["Period"]);
        assert!(stats.iter().all(|it| &it["MetricStat"]["Period"] == period), "{name} has several periods");
        let series = match &stats[..] {
            [] => vec![Series::read("", properties, &properties["Statistic"])],
            stats => {
                let read = |it: &&Value| {
                    let stat = &it["MetricStat"];
                    Series::read(&text(&it["Id"]), &stat["Metric"], &stat["Stat"])
                };
                stats.iter().map(read).collect()
            }
        };
        Self {
            name: name.to_owned(),
            series,
            expression: expressions.first().map(|it| Expression::parse(&text(&it["Expression"]))),
            period: number(period).unwrap(),
            evaluation_periods: count("EvaluationPeriods").unwrap(),
            datapoints: count("DatapointsToAlarm").or_else(|| count("EvaluationPeriods")).unwrap(),
            threshold: text(&properties["Threshold"]).parse().unwrap(),
            comparison: text(&properties["ComparisonOperator"]),
            missing: properties["TreatMissingData"].as_str().unwrap_or("missing").to_owned(),
        }
    }
}
