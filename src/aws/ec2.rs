//! The way to EC2: a narrow port, and its implementation by the SDK.
//!
//! The only file that names the EC2 SDK. It holds every call the function can make, and so the
//! list of IAM actions its role needs. There is no call here that could loosen an instance.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_ec2::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types;
use aws_smithy_types::body::SdkBody;
use chrono::{DateTime, Utc};

use super::error::{Class, Error, chain};
use crate::instance::{Instance, InstanceId, InstanceState, MetadataOptions};

/// The IAM actions that the calls in this file need. The templates grant these and no others.
pub const IAM_ACTIONS: [&str; 2] = ["ec2:DescribeInstances", "ec2:ModifyInstanceMetadataOptions"];

/// Most ids that one look-up names: EC2's limit of values for a filter.
pub const IDS_PER_DESCRIBE: usize = 200;

/// Most instances on one page of an answer: EC2's limit for `MaxResults`.
const INSTANCES_PER_PAGE: i32 = 1000;

/// What the function needs of EC2.
pub trait Ec2 {
    /// Describes one page of the instances that match; `next_token` is `None` for the first page.
    ///
    /// # Errors
    ///
    /// [`Error`], of the one attempt that is made.
    fn describe_instances(
        &self,
        which: Which<'_>,
        next_token: Option<&str>,
    ) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Requires tokens on an instance whose endpoint is not disabled, and changes nothing else.
    /// Answers the options as EC2 now has them. Doing it twice is as good as once.
    ///
    /// # Errors
    ///
    /// [`Error`], of the one attempt that is made.
    fn require_tokens(&self, id: &InstanceId) -> impl Future<Output = Result<MetadataOptions, Error>> + Send;

    /// How many requests were sent to EC2 so far, each attempt of a call counted.
    fn requests(&self) -> usize;
}

/// Which instances to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Those of at most [`IDS_PER_DESCRIBE`] ids that EC2 knows.
    Named(&'a [InstanceId]),
    /// Those of the Region that are not terminated, whose tokens are optional and whose endpoint is enabled.
    Violators,
}

/// One page of described instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The instances, in EC2's order.
    pub instances: Vec<Instance>,
    /// How to ask for the next page; `None` on the last.
    pub next_token: Option<String>,
}

/// The port's implementation by the SDK.
#[derive(Debug, Clone)]
pub struct SdkEc2 {
    client: Client,
    requests: Requests,
}

impl SdkEc2 {
    /// A client for the Region, credentials and endpoint of `config`. It sends a call once: whoever calls
    /// again waits for a turn first, and knows how old what the call rests on is then.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let requests = Requests::default();
        let config = aws_sdk_ec2::config::Builder::from(config)
            .interceptor(requests.clone())
            .retry_config(RetryConfig::disabled())
            .interceptor(WholeAnswer)
            .timeout_config(timeouts())
            .build();
        Self { client: Client::from_conf(config), requests }
    }

    /// Opens the connection that the first event will use, resolves the endpoint and the
    /// credentials, by a request that names no action: EC2 refuses it, and no action's share of
    /// the account's request rate is used.
    ///
    /// # Errors
    ///
    /// Why no answer came within two seconds. The first event will then open the connection.
    pub async fn warm_up(&self) -> Result<(), String> {
        let name_no_action = |request: &mut HttpRequest| {
            *request.body_mut() = SdkBody::empty();
            request.headers_mut().remove("content-length");
        };
        let call = self.client.describe_instances().customize().mutate_request(name_no_action);
        match tokio::time::timeout(WARM_UP, Box::pin(call.send())).await {
            Ok(Ok(_) | Err(SdkError::ServiceError(_) | SdkError::ResponseError(_))) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} ms", WARM_UP.as_millis())),
        }
    }
}

/// How long INIT may wait for the connection; Lambda allows INIT 10 s in all.
const WARM_UP: Duration = Duration::from_secs(2);

/// Both actions answer within a second when EC2 is well; the templates give the function a minute.
fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(5))
        .build()
}

/// Counts what is sent.
#[derive(Debug, Clone, Default)]
struct Requests(Arc<AtomicUsize>);

impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Refuses an answer that ends before its end: the SDK reads what there is of it, and would take
/// instances that it does not hold for instances that do not exist.
#[derive(Debug)]
struct WholeAnswer;

impl Intercept for WholeAnswer {
    fn name(&self) -> &'static str {
        "whole answer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default().trim_ascii_end();
        if context.response().status().is_success() && !body.ends_with(b"Response>") {
            return Err(format!("EC2's answer of {} bytes has no end: it was cut off", body.len()).into());
        }
        Ok(())
    }
}

/// The SDK's futures are boxed: nested in one another they are too deep for the compiler to lay out.
impl Ec2 for SdkEc2 {
    async fn describe_instances(&self, which: Which<'_>, next_token: Option<&str>) -> Result<Page, Error> {
        let filters = match which {
            Which::Named(ids) => vec![filter("instance-id", ids.iter().map(InstanceId::as_str))],
            Which::Violators => vec![
                filter("metadata-options.http-tokens", ["optional"]),
                filter("metadata-options.http-endpoint", ["enabled"]),
                filter("instance-state-name", ["pending", "running", "stopping", "stopped"]),
            ],
        };
        // EC2 leaves instances that a service manages out of lists unless it is asked for them.
        let call = self.client.describe_instances().include_managed_resources(true);
        let call = call.set_filters(Some(filters)).max_results(INSTANCES_PER_PAGE);
        let answer = Box::pin(call.set_next_token(next_token.map(str::to_owned)).send())
            .await
            .map_err(|error| failed(&error, IAM_ACTIONS[0]))?;

        let next_token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
        let instances = answer.reservations().iter().flat_map(types::Reservation::instances);
        let instances = instances.map(described).collect::<Result<_, _>>()?;
        Ok(Page { instances, next_token })
    }

    async fn require_tokens(&self, id: &InstanceId) -> Result<MetadataOptions, Error> {
        let call = self.client.modify_instance_metadata_options().instance_id(id.as_str());
        let call = call.http_tokens(types::HttpTokensState::Required);
        let call = call.http_endpoint(types::InstanceMetadataEndpointState::Enabled);
        let answer = Box::pin(call.send()).await.map_err(|error| failed(&error, IAM_ACTIONS[1]))?;
        Ok(answer.instance_metadata_options().map(metadata_options).unwrap_or_default())
    }

    fn requests(&self) -> usize {
        self.requests.0.load(Ordering::Relaxed)
    }
}

fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> types::Filter {
    let values = values.into_iter().map(str::to_owned).collect();
    types::Filter::builder().name(name).set_values(Some(values)).build()
}

fn described(instance: &types::Instance) -> Result<Instance, Error> {
    let id = instance.instance_id().unwrap_or_default().parse().map_err(|error| {
        Error::unreadable(format!("DescribeInstances answered with an instance whose id can't be read: {error}"))
    })?;
    let operator = instance.operator().filter(|operator| operator.managed() == Some(true));
    let tags = instance
        .tags()
        .iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())));
    Ok(Instance {
        id,
        state: InstanceState::from(
            instance.state().and_then(types::InstanceState::name).map_or("", |name| name.as_str()),
        ),
        metadata_options: instance.metadata_options().map(metadata_options).unwrap_or_default(),
        tags: tags.collect(),
        managed_by: operator.map(|operator| operator.principal().unwrap_or("a service").to_owned()),
        image_id: instance.image_id().map(str::to_owned),
        instance_profile: instance.iam_instance_profile().and_then(types::IamInstanceProfile::arn).map(str::to_owned),
        created: created(instance),
    })
}

/// When an instance was created. EC2's model of the API says that the attach time of the primary
/// network interface is the time of the first launch.
fn created(instance: &types::Instance) -> Option<DateTime<Utc>> {
    let is_primary = |it: &&types::InstanceNetworkInterfaceAttachment| {
        it.device_index() == Some(0) && it.network_card_index().is_none_or(|card| card == 0)
    };
    let attachments = instance.network_interfaces().iter().filter_map(|it| it.attachment()).filter(is_primary);
    let volumes = instance.block_device_mappings().iter();
    let root = volumes.filter(|it| it.device_name().is_some() && it.device_name() == instance.root_device_name());
    let root = root.filter_map(|it| it.ebs()?.attach_time());
    let times = instance.launch_time().into_iter().chain(attachments.filter_map(|it| it.attach_time())).chain(root);
    times.filter_map(|time| DateTime::from_timestamp(time.secs(), 0)).min()
}

fn metadata_options(options: &types::InstanceMetadataOptionsResponse) -> MetadataOptions {
    MetadataOptions {
        state: options.state().map(|it| it.as_str().into()),
        http_tokens: options.http_tokens().map(|it| it.as_str().into()),
        http_endpoint: options.http_endpoint().map(|it| it.as_str().into()),
        http_put_response_hop_limit: options.http_put_response_hop_limit(),
        http_protocol_ipv6: options.http_protocol_ipv6().map(|it| it.as_str().to_owned()),
        instance_metadata_tags: options.instance_metadata_tags().map(|it| it.as_str().to_owned()),
    }
}

/// An error of a call of EC2 that needs `action`.
fn failed<E>(error: &SdkError<E, HttpResponse>, action: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let mut error = Error::from_sdk(error, class, action);
    if matches!(error.code.as_str(), "OperationNotPermitted" | "UnsupportedOperation") {
        error.message.push_str(" (the instance can't be changed from here: ask the service or team that manages it)");
    }
    error
}

/// The class of EC2's own codes, by its documentation of error codes.
fn class(code: &str) -> Option<Class> {
    match code {
        "IncorrectInstanceState" | "IncorrectState" => Some(Class::NotReady),
        "InvalidInstanceID.NotFound" => Some(Class::NotFound),
        "InternalError" | "Unavailable" => Some(Class::Retryable),
        "RequestLimitExceeded" => Some(Class::Throttled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesError;

    use super::super::error::tests::answered;
    use super::*;

    #[test]
    fn what_ec2_answers_is_classed_by_what_can_be_done_about_it() {
        for (code, status, expected) in [
            ("RequestLimitExceeded", 503, Class::Throttled),
            ("Throttling", 400, Class::Throttled),
            ("ThrottlingException", 400, Class::Throttled),
            ("EC2ThrottledException", 400, Class::Throttled),
            ("TooManyRequestsException", 400, Class::Throttled),
            ("RequestExpired", 400, Class::Retryable),
            ("InternalError", 500, Class::Retryable),
            ("InternalError", 400, Class::Retryable),
            ("Unavailable", 400, Class::Retryable),
            ("SomethingNew", 503, Class::Retryable),
            ("IncorrectInstanceState", 400, Class::NotReady),
            ("InvalidInstanceID.NotFound", 400, Class::NotFound),
            ("UnauthorizedOperation", 403, Class::Refused),
            ("OperationNotPermitted", 400, Class::Refused),
            ("UnsupportedOperation", 400, Class::Refused),
            ("InvalidParameterValue", 400, Class::Refused),
            ("New", 400, Class::Refused),
        ] {
            assert_eq!(answered(class, code, status).class, expected, "{code}");
        }
    }

    /// The error of a write that EC2 answered with this code.
    fn refused(code: &str) -> DescribeInstancesError {
        let answer = aws_sdk_ec2::error::ErrorMetadata::builder().code(code).message("no").build();
        DescribeInstancesError::generic(answer)
    }

    #[test]
    fn a_refusal_says_what_to_grant_or_whom_to_ask() {
        for (code, advice) in [
            ("UnauthorizedOperation", "no (grant ec2:ModifyInstanceMetadataOptions to the function's role"),
            ("OperationNotPermitted", "no (the instance can't be changed from here: ask the service or team"),
            ("UnsupportedOperation", "no (the instance can't be changed from here: ask the service or team"),
        ] {
            let response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
            let error = failed(&SdkError::service_error(refused(code), response), IAM_ACTIONS[1]);
            assert!(error.message.starts_with(advice), "{error}");
        }
    }

    #[test]
    fn an_instance_was_created_at_the_earliest_of_launch_primary_interface_and_root_volume() {
        let time = |secs: i64| aws_smithy_types::DateTime::from_secs(secs);
        let interface = |index, card, secs| {
            let attachment = types::InstanceNetworkInterfaceAttachment::builder().device_index(index);
            let attachment = attachment.network_card_index(card).attach_time(time(secs)).build();
            types::InstanceNetworkInterface::builder().attachment(attachment).build()
        };
        let volume = |name: &str, secs| {
            let ebs = types::EbsInstanceBlockDevice::builder().attach_time(time(secs)).build();
            types::InstanceBlockDeviceMapping::builder().device_name(name).ebs(ebs).build()
        };
        for (launch, primary, root) in [(300, 400, 500), (500, 300, 400), (400, 500, 300)] {
            let instance = types::Instance::builder()
                .launch_time(time(launch))
                .network_interfaces(interface(1, 0, 100))
                .network_interfaces(interface(0, 1, 100))
                .network_interfaces(interface(0, 0, primary))
                .root_device_name("/dev/xvda")
                .block_device_mappings(volume("/dev/sdf", 100))
                .block_device_mappings(volume("/dev/xvda", root))
                .build();
            assert_eq!(created(&instance).map(|time| time.timestamp()), Some(300), "{launch} {primary} {root}");
        }
        let without_root_name = types::Instance::builder().block_device_mappings(volume("/dev/xvda", 100)).build();
        assert_eq!(created(&without_root_name), None);
    }

    #[test]
    fn a_call_ends_well_within_the_minute_that_the_function_has() {
        let connect = timeouts().connect_timeout().unwrap();
        let attempt = timeouts().operation_attempt_timeout().unwrap();
        assert!(connect < attempt && attempt <= Duration::from_secs(5));
    }
}
