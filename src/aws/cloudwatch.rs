//! The way to CloudWatch: how often metadata services were lately used without a token, and how often
//! they refused that.
//!
//! The only file that names the SDK for CloudWatch. Its client is built only for a sweep that
//! spares instances in use, or that watches refused calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::timeout::TimeoutConfig;
use aws_sdk_cloudwatch::primitives::DateTime as SdkDateTime;
use aws_sdk_cloudwatch::types::{
    Dimension, MessageData, Metric, MetricDataQuery, MetricDataResult, MetricStat, StatusCode,
};
use chrono::{DateTime, Days, DurationRound, TimeDelta, Utc};
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

/// From when to when calls are counted: the first moment counts, the last does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub from: DateTime<Utc>,
    /// The moment after the last.
    pub until: DateTime<Utc>,
}

/// How long EC2's five minutes of a count may take until CloudWatch has them.
const DELAY: TimeDelta = TimeDelta::minutes(10);

/// The seconds that each of EC2's counts covers.
const PERIOD_SECONDS: i32 = 300;

impl Window {
    /// As many hours before `time` as a watch looks back on. It ends ten minutes earlier, at full five
    /// minutes, since the latest counts may not have arrived. Where `time` moves on by as many hours,
    /// the next window begins where this one ends, so that no call is in two of them.
    #[must_use]
    pub fn before(time: DateTime<Utc>, hours: u16) -> Self {
        let latest = time.checked_sub_signed(DELAY).unwrap_or(time);
        let until = latest.duration_trunc(TimeDelta::seconds(PERIOD_SECONDS.into())).unwrap_or(latest);
        Self { from: until.checked_sub_signed(TimeDelta::hours(hours.into())).unwrap_or(until), until }
    }
}

/// Which instances refused calls without a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many calls each refused: of at most 500 instances, those with the most calls.
    pub calls: Calls,
    /// Why there may be more, if CloudWatch says that it did not look at everything.
    pub incomplete: Option<Error>,
}

/// What the function needs of CloudWatch to watch refused calls.
pub trait RefusedCalls: fmt::Debug + Send + Sync {
    /// Which instances of the Region refused calls without a token in a window.
    ///
    /// # Errors
    ///
    /// Why nothing is known of it.
    fn refused_calls(&self, window: Window) -> BoxFuture<'_, Result<Refusals, Error>>;
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

/// The Region's instances by how many calls without a token they refused, as one query of Metrics
/// Insights. CloudWatch answers with 500 at most.
const REFUSED_CALLS: &str = r#"SELECT SUM(MetadataNoTokenRejected) FROM SCHEMA("AWS/EC2", InstanceId) GROUP BY InstanceId ORDER BY SUM() DESC LIMIT 500"#;

impl SdkCloudWatch {
    async fn ask_for_refusals(&self, window: Window) -> Result<Refusals, Error> {
        let query = MetricDataQuery::builder().id("refused").expression(REFUSED_CALLS).period(PERIOD_SECONDS).build();
        let mut refusals = Refusals::default();
        let mut next_token = None;
        loop {
            let call = self.client.get_metric_data().metric_data_queries(query.clone());
            let call = call.start_time(SdkDateTime::from_secs(window.from.timestamp()));
            let call = call.end_time(SdkDateTime::from_secs(window.until.timestamp())).set_next_token(next_token);
            let answer = Box::pin(call.send()).await.map_err(|error| Error::from_sdk(&error, class, IAM_ACTIONS[0]))?;
            next_token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if let Some(message) = answer.messages().first() {
                refusals.cut_short(message.code(), message.value());
            }
            for result in answer.metric_data_results() {
                refusals.add(result, next_token.is_none());
            }
            if next_token.is_none() {
                return Ok(refusals);
            }
        }
    }
}

impl RefusedCalls for SdkCloudWatch {
    fn refused_calls(&self, window: Window) -> BoxFuture<'_, Result<Refusals, Error>> {
        Box::pin(self.ask_for_refusals(window))
    }
}

impl Refusals {
    /// Adds one series, or a page of one. Its label is the instance's id; calls of metrics without one
    /// are in a series of another label.
    fn add(&mut self, result: &MetricDataResult, is_last_page: bool) {
        if let (count @ 1.., Some(Ok(id))) = (count(result), result.label().map(str::parse)) {
            *self.calls.entry(id).or_default() += count;
        }
        let status = result.status_code();
        let is_continued = !is_last_page && status == Some(&StatusCode::PartialData);
        let is_whole = is_continued || status == Some(&StatusCode::Complete);
        let message = result.messages().first();
        if !is_whole || message.is_some() {
            self.cut_short(message.and_then(MessageData::code), message.and_then(MessageData::value));
        }
    }

    fn cut_short(&mut self, code: Option<&str>, message: Option<&str>) {
        self.incomplete.get_or_insert_with(|| Error {
            class: Class::Retryable,
            code: code.unwrap_or("PartialData").to_owned(),
            message: message.unwrap_or("CloudWatch did not answer of all instances").to_owned(),
        });
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
    fn the_windows_of_hourly_sweeps_meet_and_end_where_all_counts_have_arrived() {
        let window = |time: &str, hours| Window::before(time.parse().unwrap(), hours);
        let time = |time: &str| time.parse::<DateTime<Utc>>().unwrap();
        let first = window("2026-11-02T09:14:07Z", 1);
        assert_eq!((first.from, first.until), (time("2026-11-02T08:00:00Z"), time("2026-11-02T09:00:00Z")));
        for later in ["2026-11-02T10:10:00Z", "2026-11-02T10:14:59.9Z"] {
            assert_eq!(window(later, 1).from, first.until, "{later}");
        }
        assert_eq!(window("2026-11-03T09:14:07Z", 24).from, first.until);
        assert_eq!(window("2026-11-02T09:39:59Z", 1).until, time("2026-11-02T09:25:00Z"));
        let end = DateTime::<Utc>::MIN_UTC;
        assert_eq!(Window::before(end, 24).from, end, "the beginning of time is no panic");
    }

    /// A series of a label, with calls of two times.
    fn series(label: &str, status: StatusCode) -> MetricDataResult {
        MetricDataResult::builder().id("refused").label(label).values(4.0).values(6.0).status_code(status).build()
    }

    #[test]
    fn a_series_without_an_instance_is_left_out_and_a_partial_one_makes_the_answer_incomplete() {
        let mut refusals = Refusals::default();
        refusals.add(&series("i-1a2b3c4d", StatusCode::Complete), true);
        refusals.add(&series("Other", StatusCode::Complete), true);
        refusals.add(&series("i-1a2b3c4e", StatusCode::PartialData), false);
        assert_eq!(refusals.calls.values().collect::<Vec<_>>(), [&10, &10]);
        assert_eq!(refusals.incomplete, None, "a page that others follow is no partial answer");
        refusals.add(&series("i-1a2b3c4e", StatusCode::PartialData), true);
        assert_eq!((refusals.calls.len(), refusals.incomplete.map(|it| it.code)), (2, Some("PartialData".to_owned())));
    }

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
