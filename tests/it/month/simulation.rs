//! The discrete-event simulation: what is due next happens, and the function's invocations go on
//! beside it, all on tokio's paused clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use imds_enforcer::enforce::{Answer, Enforcer, InvocationError};
use local_ec2::bucket::{Limit, documented};
use local_ec2::model::{Instance, Model};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::account::{Act, Broken, Launch, OWNER, Script};
use super::dice::Dice;
use super::fault::Fault;
use super::journal::Journal;
use super::lanes::{Event, Lane, Message};
use super::ports::{Account, Bus, CallCounts, Port};
use super::setup::Setup;
use super::template::{Deployment, Function, Rule};
use super::truth::{Fact, Truth};
use super::{clock, pattern, record, setup};
use crate::harness::{DESCRIBE, MODIFY, collect_log, error, fault};

/// How long an instance is `pending`, `stopping` or `shutting-down`.
const TRANSITION: Duration = Duration::from_secs(15);

/// What EC2 takes to answer.
const LATENCY: Duration = Duration::from_millis(150);

/// What Lambda takes to begin an invocation.
const BEGINS_AFTER: Duration = Duration::from_millis(50);

/// Something that happens at its time.
#[derive(Debug)]
enum Step {
    Act(Box<Act>),
    Arrive {
        event: Event,
        json: Rc<Value>,
    },
    WindowEnds {
        queue: String,
        number: u64,
    },
    Visible {
        queue: String,
        message: Message,
    },
    Invoke {
        event: Event,
        attempt: usize,
        throttled: u32,
    },
    Schedule {
        rule: usize,
    },
    Sample,
    /// The event sources have polled their queues meanwhile.
    Poll,
}

/// An execution environment of the function, which remembers what the function itself remembers.
#[derive(Debug)]
struct Environment {
    enforcer: Enforcer<Port>,
    calls: Arc<CallCounts>,
}

/// What an invocation was about.
#[derive(Debug)]
enum Trigger {
    Direct { event: Event, attempt: usize },
    Batch { queue: String, messages: Vec<Message> },
}

/// An invocation that ended.
struct Ended {
    environment: Rc<Environment>,
    trigger: Trigger,
    begin: Instant,
    /// Its requests of EC2: describes and writes.
    calls: (usize, usize),
    /// The answer, or nothing where the time-out ended it.
    answer: Option<Result<Answer, InvocationError>>,
}

/// The simulation.
pub(crate) struct Simulation {
    pub(crate) days: u64,
    pub(crate) quiet: (Instant, Instant),
    pub(crate) account: Account,
    pub(crate) deployment: Deployment,
    pub(crate) journal: Journal,
    pub(crate) lanes: BTreeMap<String, Lane>,
    setup: Setup,
    bus: Bus,
    agenda: BinaryHeap<Reverse<(Instant, u64)>>,
    steps: BTreeMap<u64, Step>,
    serial: u64,
    running: FuturesUnordered<LocalBoxFuture<'static, Ended>>,
    idle: Vec<Rc<Environment>>,
    delays: Dice,
    /// For what comes of the function's own changes, so that each mode lives through the same month.
    echoes: Dice,
    begin: Instant,
    end: Instant,
    samples: bool,
    /// What does not work.
    broken: BTreeSet<Broken>,
    /// When a queue was used last, by its name.
    used: BTreeMap<String, Instant>,
    /// When EC2 throttles or fails.
    faults: Vec<(Duration, Duration)>,
    /// The seconds that CloudTrail takes, from the least to the most.
    delay: (u64, u64),
    /// One event in so many is lost.
    lost: u64,
}

impl Simulation {
    /// Prepares what `setup` deploys, to go through `script`.
    pub(crate) fn new(setup: Setup, script: Script) -> Self {
        let begin = clock::begin();
        let deployment = setup.template.deployment();
        let queues = deployment.queues.iter();
        let lanes =
            queues.map(|(name, queue)| (name.clone(), Lane::new(queue.clone(), deployment.sources.get(name).cloned())));
        let mut simulation = Self {
            account: account(&setup, script.before, begin),
            journal: Journal::new(begin, setup.mode),
            lanes: lanes.collect(),
            deployment,
            bus: Bus::default(),
            agenda: BinaryHeap::new(),
            steps: BTreeMap::new(),
            serial: 0,
            running: FuturesUnordered::new(),
            idle: Vec::new(),
            delays: Dice::of(setup.seed, "delays"),
            echoes: Dice::of(setup.seed, "echoes"),
            begin,
            end: begin + clock::at(script.days, 0, 0, 0),
            days: script.days,
            quiet: (begin + script.quiet.0, begin + script.quiet.1),
            faults: script.faults,
            delay: script.delay,
            lost: if setup.fault == Some(Fault::NothingButCloudTrail) { 10 } else { script.lost },
            samples: false,
            broken: BTreeSet::new(),
            used: BTreeMap::new(),
            setup,
        };
        for (after, act) in script.acts {
            simulation.plan(begin + after, Step::Act(Box::new(act)));
        }
        simulation.plan(begin, Step::Poll);
        simulation.begin_schedules();
        simulation
    }

    /// A schedule's first turn comes minutes after the deployment.
    fn begin_schedules(&mut self) {
        for rule in 0..self.deployment.rules.len() {
            if self.deployment.rules[rule].rate.is_some() {
                self.plan(self.begin + Duration::from_mins(self.setup.first_sweep), Step::Schedule { rule });
            }
        }
    }

    fn plan(&mut self, when: Instant, step: Step) {
        self.serial += 1;
        self.agenda.push(Reverse((when, self.serial)));
        self.steps.insert(self.serial, step);
    }

    fn plan_in(&mut self, wait: Duration, step: Step) {
        self.plan(Instant::now() + wait, step);
    }

    /// Lives through the time that it was prepared for.
    pub(crate) async fn run(&mut self) {
        collect_log();
        loop {
            let next = self.agenda.peek().map(|Reverse((when, _))| *when).filter(|when| *when < self.end);
            tokio::select! {
                biased;
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.end_invocation(ended),
                () = sleep_until(next.unwrap_or(self.end)), if next.is_some() => self.step(),
                else => break,
            }
        }
        let now = Instant::now();
        if now < self.end {
            sleep_until(self.end).await;
        }
        self.account.model().settle(self.end.into_std());
    }

    fn step(&mut self) {
        let Some(Reverse((_, serial))) = self.agenda.pop() else { return };
        match self.steps.remove(&serial).unwrap() {
            Step::Act(act) => self.act(*act),
            Step::Arrive { event, json } => self.arrive(&event, &json),
            Step::WindowEnds { queue, number } => {
                let batch = self.lanes.get_mut(&queue).unwrap().end_window(number);
                self.handle_batch(&queue, batch);
            }
            Step::Visible { queue, message } => self.add_message(&queue, message),
            Step::Invoke { event, attempt, throttled } => self.invoke_directly(event, attempt, throttled),
            Step::Schedule { rule } => self.schedule(rule),
            Step::Sample => self.sample(),
            Step::Poll => self.poll(),
        }
    }

    fn act(&mut self, act: Act) {
        let now = Instant::now();
        match act {
            Act::Launch(launch) => self.launch(&launch, now),
            Act::Terminate(ids) => ids.iter().for_each(|id| self.change_state(id, "shutting-down", now)),
            Act::Stop(id) => self.change_state(&id, "stopping", now),
            Act::Start(id) => self.change_state(&id, "pending", now),
            Act::Close(id) => self.change_options(&id, &[("HttpEndpoint", "disabled")], OWNER, now),
            Act::Loosen { id, by, opens: true } => self.change_options(&id, &[("HttpEndpoint", "enabled")], by, now),
            Act::Loosen { id, by, opens: false } => {
                self.change_options(&id, &[("HttpTokens", "optional"), ("HttpEndpoint", "enabled")], by, now);
            }
            Act::Throttle(on) => {
                for action in [DESCRIBE, MODIFY] {
                    let scarce = Limit { capacity: 1.0, refill_per_second: 0.02 };
                    self.account.model().buckets.set(action, if on { scarce } else { documented(action) });
                }
            }
            Act::Fail(true) => {
                for action in [DESCRIBE, MODIFY] {
                    self.account.model().faults.add(fault(action, None, None, error("InternalError", 500)));
                }
            }
            Act::Fail(false) => self.account.model().faults.clear(),
            Act::Break(broken, true) => self.break_down(broken),
            Act::Break(broken, false) => self.mend(broken),
        }
    }

    fn break_down(&mut self, broken: Broken) {
        self.broken.insert(broken);
        self.bus.refuse(self.broken.contains(&Broken::Bus));
        for lane in self.lanes.values_mut() {
            lane.is_off = self.broken.contains(&Broken::Source);
        }
    }

    /// Mends something, and moves the dead letters back, as the manual says.
    fn mend(&mut self, broken: Broken) {
        self.broken.remove(&broken);
        self.bus.refuse(self.broken.contains(&Broken::Bus));
        for lane in self.lanes.values_mut() {
            lane.is_off = self.broken.contains(&Broken::Source);
        }
        let launches = self.deployment.function.dead_letters.clone();
        let dead_letters: Vec<_> = self.lanes.values_mut().flat_map(Lane::take_dead_letters).collect();
        for message in dead_letters {
            self.send_message(&launches, message.event);
        }
        self.look(&launches);
    }

    fn launch(&mut self, launch: &Launch, now: Instant) {
        let number = self.journal.begin_launch(launch, now);
        let maker = launch.maker;
        for id in &launch.ids {
            let mut instance = setup::instance(id, maker);
            instance.refuses_while_pending = self.journal.launches[number].is_slow;
            let (mut model, mut truth) = (self.account.model(), self.account.truth());
            model.launch(instance, now.into_std());
            if launch.refused {
                model.deny(MODIFY, Some(id));
            }
            let fact = Fact {
                launch: Some(number),
                started: Some(now),
                managed: maker.managed_by.is_some(),
                refused: launch.refused,
                uses_no_token: launch.uses_no_token,
                required_since: (maker.http_tokens == "required").then_some(now),
                ..Fact::new(clock::time_of(now))
            };
            truth.facts.insert(id.clone(), fact);
        }
        if maker.managed_by.is_none() {
            launch.ids.iter().for_each(|id| self.send_start(id, Some(number), now));
        }
        let mut event = record::run_instances(launch, now);
        setup::put_faults_into(&mut event, self.setup.fault);
        let wait = self.recording();
        let is_delivered = self.send(event, wait, Some(number));
        self.journal.recorded(number, is_delivered);
    }

    fn change_state(&mut self, id: &str, to: &str, now: Instant) {
        self.account.model().change_state(id, to, now.into_std());
        let launch = {
            let mut truth = self.account.truth();
            let Some(fact) = truth.facts.get_mut(id) else { return };
            match to {
                "pending" => fact.started = Some(now),
                "shutting-down" => fact.gone = Some(now),
                _ => {}
            }
            fact.launch.filter(|_| !fact.managed)
        };
        if to == "pending" {
            self.send_start(id, launch, now);
        } else {
            self.send_state_change(id, to, launch, now, Duration::ZERO);
        }
    }

    /// The state changes of an instance that starts.
    fn send_start(&mut self, id: &str, launch: Option<usize>, now: Instant) {
        self.send_state_change(id, "pending", launch, now, Duration::ZERO);
        self.send_state_change(id, "running", launch, now + TRANSITION, TRANSITION);
    }

    fn send_state_change(&mut self, id: &str, state: &str, launch: Option<usize>, at: Instant, after: Duration) {
        let event = record::state_change(id, state, at);
        let wait = after + Duration::from_millis(self.delays.between(1000, 5000));
        self.send(event, wait, launch);
    }

    /// Somebody changes the options of an instance, and CloudTrail records it.
    fn change_options(&mut self, id: &str, named: &[(&str, &str)], by: &str, now: Instant) {
        let (tokens, endpoint) = {
            let mut model = self.account.model();
            let Some(instance) = model.instances.get_mut(id).filter(|it| it.state != "terminated") else { return };
            for (option, value) in named {
                let field = match *option {
                    "HttpTokens" => &mut instance.metadata_options.http_tokens,
                    _ => &mut instance.metadata_options.http_endpoint,
                };
                (*value).clone_into(field);
            }
            (instance.metadata_options.http_tokens.clone(), instance.metadata_options.http_endpoint.clone())
        };
        self.account.truth().changed(id, &tokens, &endpoint, by, now);
        let event = record::modification(id, named, (&tokens, &endpoint), by, now);
        let wait = self.recording();
        self.send(event, wait, None);
    }

    /// What CloudTrail takes to record a call.
    fn recording(&mut self) -> Duration {
        let late = (45 * 60, 50 * 60);
        let (least, most) = if self.broken.contains(&Broken::CloudTrail) { late } else { self.delay };
        Duration::from_secs(self.delays.between(least, most))
    }

    /// Has an event arrive after a while, or twice, or not at all. Whether it does.
    fn send(&mut self, json: Value, wait: Duration, launch: Option<usize>) -> bool {
        let is_lost = self.delays.one_in(self.lost);
        let is_sent_twice = self.delays.one_in(200);
        let again = Duration::from_secs(self.delays.between(1, 60));
        if is_lost {
            return false;
        }
        let event = Event { body: json.to_string().into(), launch };
        let json = Rc::new(json);
        if is_sent_twice {
            if let Some(launch) = launch {
                self.journal.launches[launch].is_shared = true;
            }
            self.plan_in(wait + again, Step::Arrive { event: event.clone(), json: Rc::clone(&json) });
        }
        self.plan_in(wait, Step::Arrive { event, json });
        true
    }

    /// An event reaches the default bus: each rule that matches sends it to its targets.
    fn arrive(&mut self, event: &Event, json: &Value) {
        let matches = |pattern: &Value| pattern::matches(pattern, json);
        let rules = self.deployment.rules.iter().filter(|rule| rule.bus.is_none());
        let rules: Vec<_> = rules.filter(|rule| rule.pattern.as_ref().is_some_and(matches)).cloned().collect();
        for rule in &rules {
            self.deliver(rule, event);
        }
    }

    fn schedule(&mut self, number: usize) {
        let now = Instant::now();
        let rule = self.deployment.rules[number].clone();
        self.plan_in(rule.rate.unwrap(), Step::Schedule { rule: number });
        if self.broken.contains(&Broken::SweepRule) {
            return;
        }
        let body = record::scheduled(now).to_string().into();
        let event = Event { body, launch: None };
        self.deliver(&rule, &event);
    }

    /// A rule sends an event to its targets. What a target's policy refuses goes to the dead-letter queue
    /// at once, and what that refuses too is lost.
    fn deliver(&mut self, rule: &Rule, event: &Event) {
        let now = seconds(Instant::now());
        for target in &rule.targets {
            self.journal.metrics.add("AWS/Events", "Invocations", &[("RuleName", &rule.name)], now, 1.0);
            if target == &self.deployment.function.name {
                self.plan_in(BEGINS_AFTER, Step::Invoke { event: event.clone(), attempt: 0, throttled: 0 });
            } else if !self.broken.contains(&Broken::QueuePolicy) {
                self.send_message(target, event.clone());
            } else if self.broken.contains(&Broken::DeadLetterPolicy) {
                let metric = "InvocationsFailedToBeSentToDlq";
                self.journal.metrics.add("AWS/Events", metric, &[("RuleName", &rule.name)], now, 1.0);
            } else {
                let queue = self.deployment.queues[target].redrive.clone().unwrap().1;
                self.send_message(&queue, event.clone());
            }
        }
    }

    fn send_message(&mut self, queue: &str, event: Event) {
        self.serial += 1;
        let now = Instant::now();
        let message = Message { id: self.serial, event, sent: now, receives: 0, visible: now };
        self.used.insert(queue.to_owned(), now);
        self.add_message(queue, message);
    }

    fn add_message(&mut self, queue: &str, message: Message) {
        if !self.samples {
            self.samples = true;
            let into_minute = Duration::from_secs(u64::try_from(seconds(Instant::now()).rem_euclid(60)).unwrap());
            self.plan_in(Duration::from_mins(1).saturating_sub(into_minute), Step::Sample);
        }
        self.lanes.get_mut(queue).unwrap().add(message);
        self.look(queue);
    }

    fn look(&mut self, queue: &str) {
        let lane = self.lanes.get_mut(queue).unwrap();
        let looked = lane.look();
        let dead_letters = lane.queue.redrive.as_ref().map(|(_, queue)| queue.clone());
        let window = lane.source.as_ref().map(|source| source.window).unwrap_or_default();
        for message in looked.dead {
            let to = dead_letters.clone().unwrap();
            self.lanes.get_mut(&to).unwrap().add(message);
        }
        if let Some(number) = looked.begun {
            self.plan_in(window, Step::WindowEnds { queue: queue.to_owned(), number });
        }
        self.handle_batch(queue, looked.batch);
    }

    fn handle_batch(&mut self, queue: &str, batch: Option<Vec<Message>>) {
        let Some(messages) = batch else { return };
        if self.is_throttled() {
            for message in messages {
                self.plan(message.visible, Step::Visible { queue: queue.to_owned(), message });
            }
            return;
        }
        self.lanes.get_mut(queue).unwrap().busy += 1;
        self.invoke(Trigger::Batch { queue: queue.to_owned(), messages });
        self.look(queue);
    }

    /// Whether Lambda has no concurrency left, which it counts each time.
    fn is_throttled(&mut self) -> bool {
        let is_throttled = self.broken.contains(&Broken::Concurrency);
        if is_throttled {
            self.measure_function("Throttles", Instant::now(), 1.0);
        }
        is_throttled
    }

    fn measure_function(&mut self, metric: &str, at: Instant, value: f64) {
        let dimensions = [("FunctionName", self.deployment.function.name.as_str())];
        self.journal.metrics.add("AWS/Lambda", metric, &dimensions, seconds(at), value);
    }

    /// Begins an asynchronous invocation, or tries it again later, after at most five minutes.
    fn invoke_directly(&mut self, event: Event, attempt: usize, throttled: u32) {
        if self.is_throttled() {
            let wait = Duration::from_secs(1 << throttled.min(9)).min(Duration::from_mins(5));
            self.plan_in(wait, Step::Invoke { event, attempt, throttled: throttled + 1 });
        } else {
            self.invoke(Trigger::Direct { event, attempt });
        }
    }

    /// Begins an invocation in an environment that is idle, or in a new one.
    fn invoke(&mut self, trigger: Trigger) {
        let begin = Instant::now();
        self.measure_function("Invocations", begin, 1.0);
        let end = begin + self.deployment.function.time_out;
        let payload = payload(&trigger, self.setup.fault);
        let environment = self.idle.pop();
        let account = self.account.clone();
        let settings = setup::settings(&self.deployment, &self.account, &self.bus);
        self.running.push(Box::pin(async move {
            let environment = if let Some(environment) = environment {
                environment
            } else {
                let port = Port::new(&account).await;
                let calls = port.calls();
                Rc::new(Environment { enforcer: Enforcer::new(port, clock::now, settings), calls })
            };
            environment.calls.take();
            let answer = timeout_at(end, environment.enforcer.handle(&payload, end)).await.ok();
            let calls = environment.calls.take();
            Ended { environment, trigger, begin, calls, answer }
        }));
    }

    fn end_invocation(&mut self, ended: Ended) {
        let Ended { environment, trigger, begin, calls, answer } = ended;
        self.idle.push(environment);
        self.read_log();
        let messages = match &trigger {
            Trigger::Batch { messages, .. } => &messages[..],
            Trigger::Direct { .. } => &[],
        };
        let answer = answer.map(|answer| setup::put_faults_into_answer(answer, messages, self.setup.fault));
        let failed = !matches!(answer, Some(Ok(_)));
        let is_calm = self.is_calm(begin);
        self.journal.swept(answer.as_ref());
        let function = self.deployment.function.clone();
        self.measure_function("Errors", begin, f64::from(u8::from(failed)));
        match trigger {
            Trigger::Direct { event, attempt } => {
                self.journal.invoked(std::iter::once(event.launch), calls, false, is_calm);
                if failed {
                    self.retry(event, attempt, &function);
                }
            }
            Trigger::Batch { queue, messages } => {
                let launches = messages.iter().map(|message| message.event.launch);
                self.journal.invoked(launches, calls, true, is_calm);
                self.end_batch(&queue, messages, answer);
            }
        }
    }

    /// Whether EC2 is well at an instant, and was for a while.
    fn is_calm(&self, when: Instant) -> bool {
        let since = when - self.begin;
        self.faults.iter().all(|(from, to)| since < *from || since > *to + Duration::from_mins(30))
    }

    /// What the function could not do is tried again after one minute, and after two more.
    fn retry(&mut self, event: Event, attempt: usize, function: &Function) {
        if attempt < function.retries {
            let wait = Duration::from_mins(1 + u64::try_from(attempt).unwrap());
            self.plan_in(wait, Step::Invoke { event, attempt: attempt + 1, throttled: 0 });
        } else {
            self.send_message(&function.dead_letters, event);
        }
    }

    fn end_batch(&mut self, queue: &str, messages: Vec<Message>, answer: Option<Result<Answer, InvocationError>>) {
        let back: Option<Vec<String>> = match answer {
            Some(Ok(Answer::Batch { response, .. })) => {
                Some(response.batch_item_failures.into_iter().map(|it| it.item_identifier).collect())
            }
            _ => None,
        };
        for message in messages {
            let id = message.id.to_string();
            if back.as_ref().is_none_or(|back| back.contains(&id)) {
                let when = message.visible.max(Instant::now());
                self.plan(when, Step::Visible { queue: queue.to_owned(), message });
            } else {
                self.lanes.get_mut(queue).unwrap().delete(message.id);
            }
        }
        self.lanes.get_mut(queue).unwrap().busy -= 1;
        self.look(queue);
    }

    /// Reads what the function logged and published since, and has its own changes come back.
    fn read_log(&mut self) {
        let mut truth = self.account.truth();
        self.journal.read_log(&mut truth);
        let written = std::mem::take(&mut truth.written);
        drop(truth);
        collect_log();
        self.journal.published(self.bus.take(), &self.deployment);
        for (id, at) in written {
            let named = [("HttpTokens", "required"), ("HttpEndpoint", "enabled")];
            let by = "arn:aws:sts::111122223333:assumed-role/imds-enforcer/imds-enforcer";
            let json = record::modification(&id, &named, ("required", "enabled"), by, at);
            let event = Event { body: json.to_string().into(), launch: None };
            let wait = Duration::from_secs(self.echoes.between(self.delay.0, self.delay.1));
            self.plan_in(wait, Step::Arrive { event, json: Rc::new(json) });
        }
    }

    /// Measures the queues that were used within six hours, as their sources do all the time: SQS has no
    /// data of others.
    fn poll(&mut self) {
        let now = Instant::now();
        for (name, lane) in &self.lanes {
            if lane.source.is_some() && !lane.is_off {
                self.used.insert(name.clone(), now);
            }
            if self.used.get(name).is_some_and(|used| now - *used < Duration::from_hours(6)) {
                let visible = f64::from(u32::try_from(lane.visible()).unwrap());
                let dimensions = [("QueueName", name.as_str())];
                let metric = "ApproximateNumberOfMessagesVisible";
                self.journal.metrics.add("AWS/SQS", metric, &dimensions, seconds(now), visible);
            }
        }
        self.plan_in(Duration::from_mins(15), Step::Poll);
    }

    /// Measures the queues, each minute while one holds anything.
    fn sample(&mut self) {
        let now = Instant::now();
        for (name, lane) in &self.lanes {
            let visible = f64::from(u32::try_from(lane.visible()).unwrap());
            let age = lane.oldest().map_or(0.0, |sent| (now - sent).as_secs_f64());
            for (metric, value) in
                [("ApproximateNumberOfMessagesVisible", visible), ("ApproximateAgeOfOldestMessage", age)]
            {
                self.journal.metrics.add("AWS/SQS", metric, &[("QueueName", name)], seconds(now), value);
            }
        }
        self.samples = self.lanes.values().any(|lane| !lane.is_empty());
        if self.samples {
            self.plan_in(Duration::from_mins(1), Step::Sample);
        }
    }
}

/// The account as it is before anything happens in it.
fn account(setup: &Setup, before: Vec<(Instance, Fact)>, begin: Instant) -> Account {
    let mut model = Model::with_transition(TRANSITION);
    model.latency = LATENCY;
    model.clock = Some((begin.into_std(), clock::first_day()));
    let mut truth = Truth { limits: setup.limits, ..Truth::default() };
    for (instance, fact) in before {
        if fact.refused {
            model.deny(MODIFY, Some(&instance.instance_id));
        }
        truth.facts.insert(instance.instance_id.clone(), fact);
        model.put(instance);
    }
    Account::new(model, truth, setup.fault)
}

/// What Lambda hands the function.
fn payload(trigger: &Trigger, fault: Option<Fault>) -> String {
    match trigger {
        Trigger::Direct { event, .. } => setup::body(&event.body, fault),
        Trigger::Batch { messages, .. } => {
            let record = |message: &Message| {
                let (id, body) = (message.id.to_string(), setup::body(&message.event.body, fault));
                let attributes = json!({"ApproximateReceiveCount": message.receives.to_string()});
                json!({"messageId": id, "body": body, "attributes": attributes, "eventSource": "aws:sqs"})
            };
            json!({"Records": messages.iter().map(record).collect::<Vec<_>>()}).to_string()
        }
    }
}

/// An instant in seconds since 1970.
pub(crate) fn seconds(instant: Instant) -> i64 {
    clock::time_of(instant).timestamp()
}
