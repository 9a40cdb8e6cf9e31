//! CloudWatch without sockets: a stand-in that answers a query of Metrics Insights over the calls that
//! EC2's metadata services refused, to the real SDK. It knows the one query that counts them by
//! instance, and refuses any other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_smithy_cbor::data::Type;
use aws_smithy_cbor::{Decoder, Encoder};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use imds_enforcer::aws::cloudwatch::SdkCloudWatch;
use imds_enforcer::enforce::{Options, Settings, Watch};
use serde_json::{Value, json};

use crate::harness::sdk_config;

/// The calls that metadata services refused, and what is wrong with CloudWatch.
#[derive(Debug, Clone, Default)]
pub(crate) struct MetricsInsights {
    /// An instance, the second of EC2's five minutes, and how many calls it refused in them.
    pub(crate) refused: Arc<Mutex<Vec<(String, i64, f64)>>>,
    /// The requests that arrived.
    pub(crate) asked: Arc<Mutex<Vec<Value>>>,
    pub(crate) fault: Option<Fault>,
    /// How many series a page has; all, where it is not given.
    pub(crate) page: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Denies,
    Hangs,
    Drops,
    /// It looked at as many metrics as it may, of more.
    IsPartial,
}

/// What a request asks for, as far as it is a query that this stand-in knows.
struct Query {
    start: i64,
    end: i64,
    period: i64,
    most: usize,
}

/// What CloudWatch answers with status 400.
type Refusal = (&'static str, String);

impl MetricsInsights {
    /// A CloudWatch of these instances, each with calls refused in the five minutes from a time on.
    pub(crate) fn new<'a>(refused: impl IntoIterator<Item = (String, &'a str, u32)>) -> Self {
        let seconds = |time: &str| time.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
        let refused = refused.into_iter().map(|(id, time, count)| (id, seconds(time), f64::from(count))).collect();
        Self { refused: Arc::new(Mutex::new(refused)), ..Self::default() }
    }

    pub(crate) fn with(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    pub(crate) async fn sdk(&self) -> SdkCloudWatch {
        let connector = SharedHttpConnector::new(self.clone());
        SdkCloudWatch::new(&sdk_config().http_client(http_client_fn(move |_, _| connector.clone())).load().await)
    }

    /// These settings, with sweeps that watch refused calls of so many hours.
    pub(crate) async fn settings(&self, settings: Settings, hours: u16) -> Settings {
        let watch = Some(Watch { hours, refused_calls: Box::new(self.sdk().await) });
        Settings { options: Options { watch, ..settings.options }, ..settings }
    }

    /// The answer to a request: its status and body.
    fn reply(&self, request: &Value) -> (u16, Vec<u8>) {
        self.asked.lock().unwrap().push(request.clone());
        if let Some(Fault::Denies) = self.fault {
            return (400, refusal("AccessDenied", "User is not authorized to perform: cloudwatch:GetMetricData"));
        }
        match query(request) {
            Ok(query) => (200, self.page(&self.series(&query), request["NextToken"].as_str())),
            Err((code, message)) => (400, refusal(code, &message)),
        }
    }

    /// The sums of each instance, by period, the instance with the most calls first. The first period
    /// begins at a multiple of it, so that a period that does not fit the times counts too much.
    fn series(&self, query: &Query) -> Vec<(String, Vec<f64>)> {
        let start = query.start - query.start % query.period;
        let mut sums: BTreeMap<String, BTreeMap<i64, f64>> = BTreeMap::new();
        for (id, time, count) in &*self.refused.lock().unwrap() {
            if (start..query.end).contains(time) {
                *sums.entry(id.clone()).or_default().entry(time / query.period).or_default() += count;
            }
        }
        let mut series: Vec<_> = sums.into_iter().map(|(id, sums)| (id, sums.into_values().collect())).collect();
        series.sort_by(|(_, a): &(_, Vec<f64>), (_, b)| b.iter().sum::<f64>().total_cmp(&a.iter().sum::<f64>()));
        series.truncate(query.most);
        series
    }

    /// One page of the answer.
    fn page(&self, series: &[(String, Vec<f64>)], next_token: Option<&str>) -> Vec<u8> {
        let size = self.page.unwrap_or(usize::MAX);
        let from: usize = next_token.map_or(0, |token| token.parse().unwrap());
        let until = from.saturating_add(size).min(series.len());
        let is_partial = matches!(self.fault, Some(Fault::IsPartial));
        let mut encoder = Encoder::new(Vec::new());
        encoder.begin_map().str("MetricDataResults").array(until - from);
        for (id, values) in &series[from..until] {
            encoder.begin_map().str("Id").str("refused").str("Label").str(id);
            encoder.str("StatusCode").str(if is_partial { "PartialData" } else { "Complete" });
            encoder.str("Values").array(values.len());
            for value in values {
                encoder.double(*value);
            }
            encoder.end();
        }
        encoder.str("Messages").array(usize::from(is_partial));
        if is_partial {
            encoder.begin_map().str("Code").str("MaxMetricsExceeded").str("Value").str("only 10000 were used").end();
        }
        if until < series.len() {
            encoder.str("NextToken").str(&until.to_string());
        }
        encoder.end();
        encoder.into_writer()
    }
}

/// What a request asks for, or why CloudWatch refuses it.
fn query(request: &Value) -> Result<Query, Refusal> {
    let refuse = |why: &str| Err(("ValidationError", format!("{why}: {request}")));
    let [query] = request["MetricDataQueries"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return refuse("one query is known");
    };
    let (Some(start), Some(end)) = (request["StartTime"].as_i64(), request["EndTime"].as_i64()) else {
        return refuse("without a time");
    };
    let Some(period) = query["Period"].as_i64().filter(|it| *it > 0 && *it % 60 == 0) else {
        return refuse("the period is a multiple of 60");
    };
    let expression = query["Expression"].as_str().unwrap_or_default();
    let known = r#"SELECT SUM(MetadataNoTokenRejected) FROM SCHEMA("AWS/EC2", InstanceId) GROUP BY InstanceId ORDER BY SUM() DESC LIMIT "#;
    let Some(most) = expression.strip_prefix(known).and_then(|most| most.parse().ok()) else {
        return refuse("the query does not count refused calls by instance");
    };
    if !(1..=500).contains(&most) || start >= end {
        return refuse("at most 500 series, of a time that is not empty");
    }
    Ok(Query { start, end, period, most })
}

fn refusal(code: &str, message: &str) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.begin_map().str("__type").str(code).str("message").str(message).end();
    encoder.into_writer()
}

/// CBOR as JSON; a time is its seconds.
fn read(decoder: &mut Decoder) -> Value {
    let datatype = decoder.datatype().unwrap();
    if datatype == Type::MapIndef {
        decoder.map().unwrap();
        json!(std::iter::from_fn(|| (!is_end(decoder)).then(|| entry(decoder))).collect::<BTreeMap<_, _>>())
    } else if datatype == Type::Array {
        json!((0..decoder.list().unwrap().unwrap()).map(|_| read(decoder)).collect::<Vec<_>>())
    } else if datatype == Type::String {
        json!(decoder.string().unwrap())
    } else if datatype == Type::Tag {
        json!(decoder.timestamp().unwrap().secs())
    } else {
        json!(decoder.long().unwrap())
    }
}

fn entry(decoder: &mut Decoder) -> (String, Value) {
    (decoder.string().unwrap(), read(decoder))
}

/// Whether an open map ends here; its end is then read.
fn is_end(decoder: &mut Decoder) -> bool {
    let is_end = decoder.datatype().unwrap() == Type::Break;
    if is_end {
        decoder.skip().unwrap();
    }
    is_end
}

impl HttpConnector for MetricsInsights {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        assert!(request.uri().ends_with("/operation/GetMetricData"), "{}", request.uri());
        match self.fault {
            Some(Fault::Drops) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("connection closed".into())));
            }
            Some(Fault::Hangs) => return HttpConnectorFuture::new(std::future::pending()),
            Some(Fault::Denies | Fault::IsPartial) | None => {}
        }
        let (status, body) = self.reply(&read(&mut Decoder::new(request.body().bytes().unwrap())));
        let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        response.headers_mut().insert("smithy-protocol", "rpc-v2-cbor");
        HttpConnectorFuture::ready(Ok(response))
    }
}

#[test]
fn any_other_query_is_refused() {
    let right = json!({
        "StartTime": 0, "EndTime": 3600,
        "MetricDataQueries": [{"Period": 300, "Expression": r#"SELECT SUM(MetadataNoTokenRejected) FROM SCHEMA("AWS/EC2", InstanceId) GROUP BY InstanceId ORDER BY SUM() DESC LIMIT 500"#}],
    });
    let cloudwatch = MetricsInsights::default();
    assert_eq!(cloudwatch.reply(&right).0, 200);
    let changed = |pointer: &str, value: Value| {
        let mut request = right.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        cloudwatch.reply(&request).0
    };
    let expression = right["MetricDataQueries"][0]["Expression"].as_str().unwrap();
    for (from, to) in [("SUM(", "AVG("), ("AWS/EC2", "AWS/Lambda"), ("TokenRejected", "Token"), ("500", "501")] {
        let wrong = expression.replacen(from, to, 1);
        assert_eq!(changed("/MetricDataQueries/0/Expression", wrong.into()), 400, "{from}");
    }
    assert_eq!(changed("/MetricDataQueries/0/Period", 90.into()), 400);
    assert_eq!(changed("/EndTime", 0.into()), 400);
}
