//! The handler with the real SDK on an EC2 without sockets, on tokio's clock: paused, it jumps to
//! whatever is waited for next, so that minutes of buckets, time-outs and back-offs pass at once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::enforce::{Enforcer, Settings};
use local_ec2::exchange::{Reply, reply};
use local_ec2::model::{Instance, Model};
use tokio::time::Instant;

use crate::harness::{MODIFY, clock, sdk_config};

/// What EC2 takes to answer, about.
const LATENCY: Duration = Duration::from_millis(150);

/// An EC2 that the SDK's HTTP client asks by a call of a function.
#[derive(Debug, Clone)]
pub(crate) struct InProcess(Arc<Mutex<Model>>);

impl InProcess {
    pub(crate) fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let mut model = Model::with_transition(Duration::from_secs(1));
        model.latency = LATENCY;
        for instance in instances {
            model.put(instance);
        }
        Self(Arc::new(Mutex::new(model)))
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap()
    }

    /// The function with these settings.
    pub(crate) async fn enforcer(&self, settings: Settings) -> Enforcer<SdkEc2> {
        let connector = SharedHttpConnector::new(self.clone());
        let config = sdk_config()
            .time_source(Clock::default())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .load()
            .await;
        Enforcer::new(SdkEc2::new(&config), clock, settings)
    }

    /// How many calls of an action there were, and how many of these EC2 throttled.
    pub(crate) fn calls(&self, action: &str) -> (usize, usize) {
        let model = self.model();
        let calls = model.calls.iter().filter(|call| call.action == action);
        let throttled = calls.clone().filter(|call| call.error.as_deref() == Some("RequestLimitExceeded"));
        (calls.clone().count(), throttled.count())
    }

    /// How often each instance was written to with success, most often first.
    pub(crate) fn writes(&self) -> Vec<(String, usize)> {
        let mut writes = std::collections::BTreeMap::<String, usize>::new();
        for call in self.model().calls.iter().filter(|call| call.action == MODIFY && call.error.is_none()) {
            *writes.entry(call.parameters.get("InstanceId").unwrap().to_owned()).or_default() += 1;
        }
        let mut writes: Vec<_> = writes.into_iter().collect();
        writes.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        writes
    }

    /// The instances whose tokens are not required although their endpoint is enabled.
    pub(crate) fn violators(&self) -> Vec<String> {
        let is_violator = |instance: &&Instance| {
            let options = &instance.metadata_options;
            options.http_tokens == "optional" && options.http_endpoint == "enabled" && instance.state != "terminated"
        };
        self.model().instances.values().filter(is_violator).map(|it| it.instance_id.clone()).collect()
    }
}

/// The time of day by tokio's clock.
#[derive(Debug)]
struct Clock {
    begin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { begin: Instant::now() }
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(490_000) + self.begin.elapsed()
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let signed = request.headers().get("authorization").is_some_and(|it| it.starts_with("AWS4-HMAC-SHA256 "));
        let form = request.body().bytes().unwrap_or_default();
        let Reply { delay, answer } = reply(form, signed, &mut self.model(), Instant::now().into_std());
        HttpConnectorFuture::new(async move {
            tokio::time::sleep(delay).await;
            let (status, body) = answer.ok_or_else(|| ConnectorError::io("connection closed".into()))?;
            Ok(HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body)))
        })
    }
}
