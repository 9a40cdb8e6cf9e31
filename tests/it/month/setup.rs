//! How the function is deployed in a simulation: the template with its parameters, and the settings
//! that its variables mean, wired as the binary wires them.

use chrono::NaiveDate;
use imds_enforcer::config::{Config, Mode};
use imds_enforcer::enforce::{Answer, Grace, InvocationError, Options, Settings, Watch};
use local_ec2::model::Instance;
use serde_json::{Value, json};

use super::account::Maker;
use super::clock::first_day;
use super::fault::Fault;
use super::lanes::Message;
use super::ports::{Account, Bus, CloudWatch};
use super::template::{Deployment, Template};
use super::truth::Limits;
use crate::harness::REGION;

/// One deployment, and the seed of what happens to it.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) template: Template,
    pub(crate) limits: Limits,
    pub(crate) fault: Option<Fault>,
    pub(crate) seed: u64,
    /// After how many minutes a schedule has its first turn.
    pub(crate) first_sweep: u64,
}

/// The days for which the grace looks back.
const GRACE_DAYS: u16 = 14;

/// How many instances a sweep enforces at the most, where it has a pace.
const PACE: usize = 20;

impl Setup {
    /// Every violator is enforced, and results are published.
    pub(crate) fn enforcing() -> Self {
        let template = Template::read()
            .with("Mode", "enforce")
            .with("EnforceSince", "all")
            .with("ExemptionTag", "imds-exemption")
            .with("ResultBus", "results");
        Self {
            name: "enforce",
            mode: Mode::Enforce,
            template,
            limits: Limits::default(),
            fault: None,
            seed: 20_261_102,
            first_sweep: 5,
        }
    }

    /// Nothing is written.
    pub(crate) fn observing() -> Self {
        let all = Self::enforcing();
        Self { name: "observe", mode: Mode::Observe, template: all.template.with("Mode", "observe"), ..all }
    }

    /// What was there before the first day is left, and refused calls are watched.
    pub(crate) fn since_the_first_day() -> Self {
        let all = Self::enforcing();
        let since: NaiveDate = first_day().date_naive();
        let template = all.template.with("EnforceSince", since.to_string()).with("WatchRefusals", "1");
        let limits = Limits { since: Some(since), ..all.limits };
        Self { name: "enforce since the first day, with the watch", template, limits, ..all }
    }

    /// What is old and in use is left, and a sweep enforces a few.
    pub(crate) fn with_grace() -> Self {
        let all = Self::enforcing();
        let template = all.template.with("GraceDays", GRACE_DAYS).with("SweepLimit", PACE);
        let limits = Limits { grace_days: Some(GRACE_DAYS), pace: Some(PACE), ..all.limits };
        Self { name: "enforce with a grace and a pace", template, limits, ..all }
    }

    /// The same, whose first sweep comes after so many minutes.
    pub(crate) fn sweeping_first_after(self, minutes: u64) -> Self {
        Self { first_sweep: minutes, ..self }
    }

    /// A sweep each week.
    pub(crate) fn weekly() -> Self {
        let all = Self::enforcing();
        let template = all.template.with("SweepSchedule", "rate(7 days)").with("SweepAlarmHours", 168);
        Self { name: "enforce with a sweep each week", template, ..all }
    }

    /// The same with a fault that is put back.
    pub(crate) fn with_fault(self, fault: Fault) -> Self {
        let mut setup = Self { fault: Some(fault), ..self };
        change_template(&mut setup, fault);
        setup
    }
}

/// The settings that the function's variables mean.
pub(crate) fn settings(deployment: &Deployment, account: &Account, bus: &Bus) -> Settings {
    let function = &deployment.function;
    let config = Config::from_vars(|name| function.variables.get(name).cloned()).unwrap();
    let settings = Settings::new(function.name.clone(), REGION.to_owned(), config.mode);
    Settings { options: options(config, account, bus), ..settings }
}

/// What is configured beyond the default.
fn options(config: Config, account: &Account, bus: &Bus) -> Options {
    let grace = |days| Grace { days, metadata_use: Box::new(CloudWatch(account.clone())) };
    let watch = |hours| Watch { hours, refused_calls: Box::new(CloudWatch(account.clone())) };
    Options {
        exemptions: config.exemptions,
        enforce_since: config.enforce_since,
        grace: config.grace_days.map(grace),
        sweep_limit: config.sweep_limit,
        watch: config.watch_refusals.map(watch),
        result_bus: config.result_bus.map(|_| Box::new(bus.clone()) as Box<_>),
    }
}

/// What a maker launches.
pub(crate) fn instance(id: &str, maker: &Maker) -> Instance {
    let mut instance = Instance::new(id);
    instance.tags = maker.tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    maker.http_tokens.clone_into(&mut instance.metadata_options.http_tokens);
    instance.managed_by = maker.managed_by.map(str::to_owned);
    instance.hidden_by_default = maker.managed_by.is_some();
    instance
}

/// Faults of the template.
fn change_template(setup: &mut Setup, fault: Fault) {
    let deployment = setup.template.deployment();
    let template = &mut setup.template;
    match fault {
        Fault::DirectLaunches => send_launches_to_the_function(template, &deployment),
        Fault::FewReceives => {
            for queue in deployment.sources.keys() {
                let properties = template.properties(queue);
                properties["VisibilityTimeout"] = 360.into();
                properties["RedrivePolicy"]["maxReceiveCount"] = 5.into();
            }
        }
        Fault::LongWindow => template.set_windows(60),
        Fault::AlarmOnEveryRefusal => {
            for alarm in deployment.alarms.iter().filter(|alarm| alarm.series[0].metric == "InstancesRefused") {
                template.properties(&alarm.name)["MetricName"] = "SweepInstancesRefused".into();
            }
        }
        Fault::EveryResultIsAMessage => {
            for rule in deployment.rules.iter().filter(|rule| rule.bus.is_some()) {
                template.properties(&rule.name)["EventPattern"] = json!({"source": ["imds-enforcer"]});
            }
        }
        Fault::NothingButCloudTrail => {
            *template = template.clone().with("StateChangeEvents", "off").with("Sweep", "off");
        }
        Fault::NoPace => *template = template.clone().with("SweepLimit", 0),
        Fault::CutLaunchesSweep => {
            *template = template.clone().with("Sweep", "off");
            setup.limits.no_sweep = true;
        }
        Fault::LaunchTimeAlone
        | Fault::ManagedUnmarked
        | Fault::TagsUnread
        | Fault::ListsHideManaged
        | Fault::StaleDescriptions
        | Fault::RecordsWithoutOptions
        | Fault::EventsNeverOld
        | Fault::RefusedComeBack
        | Fault::SweepsFailForRefusals => {}
    }
}

fn send_launches_to_the_function(template: &mut Template, deployment: &Deployment) {
    for rule in deployment.rules.iter().filter(|rule| receives_launches(rule.pattern.as_ref())) {
        let function = json!([{"Id": "Function", "Arn": {"Fn::GetAtt": [deployment.function.name, "Arn"]}}]);
        template.properties(&rule.name)["Targets"] = function;
    }
}

/// Whether a rule's pattern has launches, alone or among others.
fn receives_launches(pattern: Option<&Value>) -> bool {
    pattern.is_some_and(|pattern| pattern.to_string().contains("\"RunInstances\""))
}

/// Faults of what CloudTrail records.
pub(crate) fn put_faults_into(event: &mut Value, fault: Option<Fault>) {
    let items = event["detail"]["responseElements"]["instancesSet"]["items"].as_array_mut();
    if fault == Some(Fault::RecordsWithoutOptions) {
        for item in items.into_iter().flatten() {
            item.as_object_mut().unwrap().remove("metadataOptions");
        }
    }
}

/// Faults of what the function reads.
pub(crate) fn body(body: &str, fault: Option<Fault>) -> String {
    if fault == Some(Fault::CutLaunchesSweep) && body.contains("\"omitted\":true") {
        return super::record::scheduled(tokio::time::Instant::now()).to_string();
    }
    if fault == Some(Fault::EventsNeverOld) {
        let mut event: Value = serde_json::from_str(body).unwrap();
        event["time"] = super::clock::now().format("%FT%TZ").to_string().into();
        return event.to_string();
    }
    body.to_owned()
}

/// Faults of what the function answers to a batch, or to a bare event.
pub(crate) fn put_faults_into_answer(
    answer: Result<Answer, InvocationError>,
    messages: &[Message],
    fault: Option<Fault>,
) -> Result<Answer, InvocationError> {
    match (fault, answer) {
        (Some(Fault::RefusedComeBack), Ok(Answer::Batch { mut response, report })) => {
            let failed: Vec<_> = report.instances.iter().filter(|it| it.failure().is_some()).collect();
            let names_one = |message: &&Message| failed.iter().any(|it| message.event.body.contains(&it.instance_id));
            for message in messages.iter().filter(names_one) {
                response.add_failure(message.id.to_string());
            }
            Ok(Answer::Batch { response, report })
        }
        (Some(Fault::SweepsFailForRefusals), Ok(Answer::Report(report))) if report.counts.failed > 0 => {
            Err(InvocationError::Incomplete(report))
        }
        (_, answer) => answer,
    }
}
