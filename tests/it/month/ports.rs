//! The function's ways to its services in a simulation: EC2 in process behind the real SDK, with an
//! account of every call; a bus that keeps what it takes; and CloudWatch's count of calls without a
//! token. The last two are stand-ins for the ports themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_types::body::SdkBody;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use imds_enforcer::aws::cloudwatch::{Calls, MetadataUse, Refusals, RefusedCalls, Window};
use imds_enforcer::aws::ec2::{Ec2, Page, SdkEc2, Which};
use imds_enforcer::aws::eventbridge::ResultBus;
use imds_enforcer::aws::{Class, Error};
use imds_enforcer::instance::{Instance, InstanceId, MetadataOptions};
use imds_enforcer::report::result_event::ResultEvent;
use local_ec2::exchange::reply;
use local_ec2::model::Model;
use local_ec2::query::Parameters;
use tokio::time::Instant;

use super::clock::{self, SimulatedTime};
use super::fault::Fault;
use super::truth::Truth;
use crate::harness::{DESCRIBE, MODIFY, sdk_config};

/// The account's EC2, as all environments of the function reach it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    model: Arc<Mutex<Model>>,
    truth: Arc<Mutex<Truth>>,
    fault: Option<Fault>,
    /// What is described again as it was, where that is the fault, and since when.
    stale: Arc<Mutex<BTreeMap<InstanceId, (Instant, Instance)>>>,
}

impl Account {
    /// An account without instances.
    pub(crate) fn new(model: Model, truth: Truth, fault: Option<Fault>) -> Self {
        Self { model: Arc::new(Mutex::new(model)), truth: Arc::new(Mutex::new(truth)), fault, stale: Arc::default() }
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    /// An instance as it was when it was described first within a minute.
    fn as_it_was(&self, instance: &Instance) -> Instance {
        let mut stale = self.stale.lock().unwrap();
        let (since, was) = stale.entry(instance.id.clone()).or_insert_with(|| (Instant::now(), instance.clone()));
        if since.elapsed() > Duration::from_mins(1) {
            (*since, *was) = (Instant::now(), instance.clone());
        }
        was.clone()
    }

    /// Does what a request asks for, and keeps account of it.
    fn handle(&self, form: &[u8]) -> (Duration, u16, String) {
        let parameters = Parameters::parse(form);
        let action = parameters.get("Action").unwrap_or_default();
        let id = parameters.get("InstanceId").unwrap_or_default();
        let mut model = self.model();
        let reply = reply(form, true, &mut model, Instant::now().into_std());
        model.calls.clear();
        let (status, body) = reply.answer.unwrap();
        drop(model);
        let mut truth = self.truth();
        truth.called(action, status == 503 && body.contains("RequestLimitExceeded"));
        if action == MODIFY && status == 200 {
            truth.judge(id);
            truth.wrote(id);
        }
        (reply.delay, status, body)
    }
}

/// The requests of one environment since they were taken last.
#[derive(Debug, Default)]
pub(crate) struct CallCounts {
    describes: AtomicUsize,
    writes: AtomicUsize,
}

impl CallCounts {
    /// How many describes and writes there were since, in this order.
    pub(crate) fn take(&self) -> (usize, usize) {
        (self.describes.swap(0, Ordering::Relaxed), self.writes.swap(0, Ordering::Relaxed))
    }

    fn add(&self, form: &str) {
        let counter = if form.contains(DESCRIBE) { &self.describes } else { &self.writes };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One environment's connection to EC2.
#[derive(Debug, Clone)]
struct Connection {
    account: Account,
    calls: Arc<CallCounts>,
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut form = String::from_utf8(request.body().bytes().unwrap().to_vec()).unwrap();
        if self.account.fault == Some(Fault::ListsHideManaged) {
            form = form.replace("&IncludeManagedResources=true", "");
        }
        self.calls.add(&form);
        let (delay, status, body) = self.account.handle(form.as_bytes());
        HttpConnectorFuture::new(async move {
            tokio::time::sleep(delay).await;
            Ok(HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body)))
        })
    }
}

/// One environment's port to EC2: the real SDK, but for a fault that is to be shown.
#[derive(Debug)]
pub(crate) struct Port {
    sdk: SdkEc2,
    account: Account,
    calls: Arc<CallCounts>,
}

impl Port {
    pub(crate) async fn new(account: &Account) -> Self {
        let calls = Arc::new(CallCounts::default());
        let connection = Connection { account: account.clone(), calls: Arc::clone(&calls) };
        let connector = SharedHttpConnector::new(connection);
        let client = http_client_fn(move |_, _| connector.clone());
        let config = sdk_config().time_source(SimulatedTime).http_client(client).load().await;
        Self { sdk: SdkEc2::new(&config), account: account.clone(), calls }
    }

    /// What counts the requests.
    pub(crate) fn calls(&self) -> Arc<CallCounts> {
        Arc::clone(&self.calls)
    }
}

impl Ec2 for Port {
    async fn describe_instances(&self, which: Which<'_>, next_token: Option<&str>) -> Result<Page, Error> {
        let mut page = self.sdk.describe_instances(which, next_token).await?;
        for instance in &mut page.instances {
            if self.account.fault == Some(Fault::LaunchTimeAlone) {
                let model = self.account.model();
                let launched = model.instances.get(instance.id.as_str());
                instance.created = launched.and_then(|it| it.launch_time.parse().ok());
            }
            if self.account.fault == Some(Fault::ManagedUnmarked) {
                instance.managed_by = None;
            }
            if self.account.fault == Some(Fault::StaleDescriptions) {
                *instance = self.account.as_it_was(instance);
            }
            if self.account.fault == Some(Fault::TagsUnread) {
                instance.tags.clear();
            }
        }
        Ok(page)
    }

    async fn require_tokens(&self, id: &InstanceId) -> Result<MetadataOptions, Error> {
        self.sdk.require_tokens(id).await
    }

    fn requests(&self) -> usize {
        self.sdk.requests()
    }
}

/// A bus: the detail-type and the detail of what it took, and whether it refuses what comes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bus(Arc<Mutex<Vec<(String, String)>>>, Arc<AtomicBool>);

impl Bus {
    /// What it took since it was asked last.
    pub(crate) fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Has it refuse what comes, or take it.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.1.store(refuses, Ordering::Relaxed);
    }
}

impl ResultBus for Bus {
    fn put<'a>(&'a self, events: &'a [ResultEvent]) -> BoxFuture<'a, Result<Vec<Option<Error>>, Error>> {
        if self.1.load(Ordering::Relaxed) {
            let denied = Error {
                class: Class::Refused,
                code: "AccessDeniedException".to_owned(),
                message: "no policy of the bus allows it".to_owned(),
            };
            return Box::pin(async move { Err(denied) });
        }
        let taken = events.iter().map(|event| (event.detail_type.to_owned(), event.detail.clone()));
        self.0.lock().unwrap().extend(taken);
        Box::pin(async move { Ok(vec![None; events.len()]) })
    }
}

/// CloudWatch's counts: a hundred calls a day of what asks without a token, while it is answered.
#[derive(Debug, Clone)]
pub(crate) struct CloudWatch(pub(crate) Account);

impl MetadataUse for CloudWatch {
    fn calls_without_token<'a>(
        &'a self,
        ids: &'a [InstanceId],
        days: u16,
        _now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Calls, Error>> {
        let truth = self.0.truth();
        let span = Duration::from_hours(24 * u64::from(days));
        let used = ids.iter().filter(|id| {
            let fact = truth.facts.get(id.as_str());
            fact.is_some_and(|it| it.uses_no_token && it.required_since.is_none_or(|since| since.elapsed() < span))
        });
        let calls: BTreeMap<_, _> = used.map(|id| (id.clone(), 100 * u64::from(days))).collect();
        Box::pin(async move { Ok(calls) })
    }
}

/// What an attacker goes on asking for after a downgrade was mended: sixty calls within five minutes.
impl RefusedCalls for CloudWatch {
    fn refused_calls(&self, window: Window) -> BoxFuture<'_, Result<Refusals, Error>> {
        let is_within = |since: Instant| {
            let asked = clock::time_of(since + Duration::from_mins(2));
            window.from <= asked && asked < window.until
        };
        let truth = self.0.truth();
        let attacked =
            truth.facts.iter().filter(|(_, fact)| fact.attacked && fact.required_since.is_some_and(is_within));
        let calls = attacked.map(|(id, _)| (id.parse().unwrap(), 60)).collect();
        Box::pin(async move { Ok(Refusals { calls, incomplete: None }) })
    }
}
