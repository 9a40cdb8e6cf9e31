//! The floor of a function that uses the SDK: the same two calls by the same client, and nothing
//! else. It decides nothing beyond what there is to do, reports nothing and logs nothing. What the
//! real function costs beyond this is its own; `make bench` measures both.
//!
//! An example of the function's package, so that the SDK is not compiled again for it.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::HttpRequest;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::types::{Filter, HttpTokensState, Instance, InstanceMetadataEndpointState, Reservation};
use aws_smithy_types::body::SdkBody;
use imds_enforcer::aws::http::{Roots, sdk_config_loader};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

/// EC2's limits of values for a filter, and of instances on a page.
const IDS_PER_DESCRIBE: usize = 200;
const INSTANCES_PER_PAGE: i32 = 1000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let client = client().await;
    warm_up(&client).await;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| handle(&client, event.payload))).await
}

/// With the HTTP client, credentials, retries and time-outs of the real function.
async fn client() -> Client {
    let names_roots = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().any(is_set);
    let mut loader = sdk_config_loader(if names_roots { Roots::Environment } else { Roots::AmazonFirst });
    if is_set("AWS_ACCESS_KEY_ID") {
        loader = loader.credentials_provider(EnvironmentVariableCredentialsProvider::new());
    }
    let retries = RetryConfig::standard()
        .with_max_attempts(5)
        .with_initial_backoff(Duration::from_millis(200))
        .with_max_backoff(Duration::from_secs(3));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(20))
        .build();
    let config = aws_sdk_ec2::config::Builder::from(&loader.load().await);
    Client::from_conf(config.retry_config(retries).timeout_config(timeouts).build())
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the environment enters")]
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Opens the connection during INIT, by a request that names no action. EC2 refuses it.
async fn warm_up(client: &Client) {
    let name_no_action = |request: &mut HttpRequest| {
        *request.body_mut() = SdkBody::empty();
        request.headers_mut().remove("content-length");
    };
    let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
    let call = client.describe_instances().customize().mutate_request(name_no_action).config_override(once);
    drop(Box::pin(call.send()).await);
}

/// Describes the instances that a launch names, and requires tokens where they are not required.
async fn handle(client: &Client, event: Value) -> Result<Value, Error> {
    let items = event.pointer("/detail/responseElements/instancesSet/items").and_then(Value::as_array);
    let ids: Vec<&str> = items.into_iter().flatten().filter_map(|item| item.get("instanceId")?.as_str()).collect();
    for ids in ids.chunks(IDS_PER_DESCRIBE) {
        let values = ids.iter().map(|&id| id.to_owned()).collect();
        let filter = Filter::builder().name("instance-id").set_values(Some(values)).build();
        let call = client.describe_instances().filters(filter).max_results(INSTANCES_PER_PAGE);
        let answer = Box::pin(call.send()).await?;
        for instance in answer.reservations().iter().flat_map(Reservation::instances) {
            if let (true, Some(id)) = (is_violator(instance), instance.instance_id()) {
                require_tokens(client, id).await?;
            }
        }
    }
    Ok(json!({}))
}

fn is_violator(instance: &Instance) -> bool {
    let options = instance.metadata_options();
    options.and_then(|it| it.http_endpoint()) != Some(&InstanceMetadataEndpointState::Disabled)
        && options.and_then(|it| it.http_tokens()) != Some(&HttpTokensState::Required)
}

async fn require_tokens(client: &Client, id: &str) -> Result<(), Error> {
    let call = client.modify_instance_metadata_options().instance_id(id);
    let call = call.http_tokens(HttpTokensState::Required).http_endpoint(InstanceMetadataEndpointState::Enabled);
    Box::pin(call.send()).await?;
    Ok(())
}
