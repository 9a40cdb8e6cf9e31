//! The way to CloudWatch: how often an instance's metadata service was lately used without a token.
//!
//! The only file that names the SDK for CloudWatch. Its client is built only for a sweep that
//! spares instances in use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::primitives::DateTime as SdkDateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricDataResult, MetricStat, StatusCode};
use chrono::{DateTime, Days, Utc};
use futures_util::future::BoxFuture;

use super::error::{Class, Error};
use crate::instance::InstanceId;

/// The IAM actions that the calls in this file need. The templates grant them for such a sweep alone.
pub const IAM_ACTIONS: [&str; 1] = ["cloudwatch:GetMetricData"];

/// Most instances that one call asks about: CloudWatch's limit of queries.
pub const INSTANCES_PER_CALL: usize = 500;

/// How often instances were used without a token.
pub type Calls = BTreeMap<InstanceId, u64>;

/// What the function needs of CloudWatch.
pub trait MetadataUse: fmt::Debug + Send + Sync {
    /// How often the metadata service of each instance answered without a token, in the days before
    /// `now`. An instance without a count is in no answer. At most [`INSTANCES_PER_CALL`] ids.
    ///
    /// # Errors
    ///
    /// Why the counts are not known, of any of the instances.
    fn calls_without_token<'a>(
        &'a self,
        ids: &'a [InstanceId],
        days: u16,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Calls, Error>>;
}

/// The port's implementation by the SDK.
#[derive(Debug)]
pub struct SdkCloudWatch {
    client: Client,
}

impl SdkCloudWatch {
    /// A client for the Region, credentials and endpoint of `config`.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(5));
        let timeouts = timeouts.operation_timeout(Duration::from_secs(15)).build();
        let config = aws_sdk_cloudwatch::config::Builder::from(config).timeout_config(timeouts).build();
        Self { client: Client::from_conf(config) }
    }

    async fn ask(&self, ids: &[InstanceId], days: u16, now: DateTime<Utc>) -> Result<Calls, Error> {
        let since = now.checked_sub_days(Days::new(days.into())).unwrap_or_default();
        let mut calls = Calls::new();
        let mut incomplete: BTreeSet<&str> = ids.iter().map(InstanceId::as_str).collect();
        let mut next_token = None;
        loop {
            let call = self.client.get_metric_data().set_metric_data_queries(Some(queries(ids)));
            let call = call.start_time(SdkDateTime::from_secs(since.timestamp()));
            let call = call.end_time(SdkDateTime::from_secs(now.timestamp())).set_next_token(next_token);
            let answer = Box::pin(call.send()).await.map_err(|error| Error::from_sdk(&error, class, IAM_ACTIONS[0]))?;
            for result in answer.metric_data_results() {
                let Some(id) = result.label() else { continue };
                if result.status_code() == Some(&StatusCode::Complete) {
                    incomplete.remove(id);
                }
                if let (count @ 1.., Ok(id)) = (count(result), id.parse()) {
                    *calls.entry(id).or_default() += count;
                }
            }
            next_token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if next_token.is_none() {
                return if incomplete.is_empty() { Ok(calls) } else { Err(partial(incomplete.len())) };
            }
        }
    }
}

impl MetadataUse for SdkCloudWatch {
    fn calls_without_token<'a>(
        &'a self,
        ids: &'a [InstanceId],
        days: u16,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Calls, Error>> {
        Box::pin(self.ask(ids, days, now))
    }
}

/// One query an instance: the daily sums of EC2's `MetadataNoToken`, labelled with the id.
fn queries(ids: &[InstanceId]) -> Vec<MetricDataQuery> {
    let query = |(n, id): (usize, &InstanceId)| {
        let dimension = Dimension::builder().name("InstanceId").value(id.as_str()).build();
        let metric = Metric::builder().namespace("AWS/EC2").metric_name("MetadataNoToken").dimensions(dimension);
        let stat = MetricStat::builder().metric(metric.build()).period(86_400).stat("Sum").build();
        MetricDataQuery::builder().id(format!("m{n}")).label(id.as_str()).metric_stat(stat).build()
    };
    ids.iter().enumerate().map(query).collect()
}

/// The sum of a result's values, at least 1 if any of them is above zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, above zero and far below 2^52")]
fn count(result: &MetricDataResult) -> u64 {
    result.values().iter().sum::<f64>().ceil().max(0.0) as u64
}

/// The class of CloudWatch's own codes.
fn class(code: &str) -> Option<Class> {
    match code {
        "InternalServiceError" | "InternalServiceFault" => Some(Class::Retryable),
        _ => None,
    }
}

fn partial(count: usize) -> Error {
    Error {
        class: Class::Retryable,
        code: "PartialData".to_owned(),
        message: format!("CloudWatch did not answer for {count} instances whether they are used without tokens"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::tests::answered;
    use super::*;

    #[test]
    fn what_cloudwatch_answers_is_classed_by_its_own_codes() {
        for (code, expected) in [
            ("Throttling", Class::Throttled),
            ("InternalServiceFault", Class::Retryable),
            ("InternalServiceError", Class::Retryable),
            ("InvalidParameterValue", Class::Refused),
            ("InvalidNextToken", Class::Refused),
            ("AccessDenied", Class::Refused),
            ("InvalidInstanceID.NotFound", Class::Refused),
        ] {
            assert_eq!(answered(class, code, 400).class, expected, "{code}");
        }
    }
}
