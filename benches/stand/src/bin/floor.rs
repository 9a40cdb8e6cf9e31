//! The least that the job costs: one event, its instances described, the violators required to use
//! tokens, by hand-written requests. No pages, no retries, no classes of errors, no report: what
//! the real function costs beyond this is what these cost.

use chrono::Utc;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use ring::{digest, hmac};
use serde_json::{Value, json};

struct Ec2 {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    region: String,
    key_id: String,
    secret: String,
}

impl Ec2 {
    fn new() -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: std::env::var("AWS_ENDPOINT_URL_EC2")?.parse()?,
            region: std::env::var("AWS_REGION")?,
            key_id: std::env::var("AWS_ACCESS_KEY_ID")?,
            secret: std::env::var("AWS_SECRET_ACCESS_KEY")?,
        })
    }

    /// Signature Version 4 of a form.
    fn authorization(&self, host: &str, time: &str, form: &str) -> String {
        let hash = |text: &str| hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
        let sign = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let headers = "content-type;host;x-amz-date";
        let canonical = format!(
            "POST\n/\n\ncontent-type:application/x-www-form-urlencoded\nhost:{host}\nx-amz-date:{time}\n\n{headers}\n{}",
            hash(form)
        );
        let date = &time[..8];
        let scope = format!("{date}/{}/ec2/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(&canonical));
        let key = [date, &self.region, "ec2", "aws4_request"];
        let key = key.iter().fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| sign(&key, part));
        let signature = hex::encode(sign(&key, &text));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={headers}, Signature={signature}", self.key_id)
    }

    async fn call(&self, form: String) -> Result<String, Error> {
        let host = self.endpoint.authority().ok_or("no host")?.as_str();
        let time = Utc::now().format("%Y%m%dT%H%M%SZ").to_string();
        let request = Request::post(&self.endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("host", host)
            .header("x-amz-date", &time)
            .header("authorization", self.authorization(host, &time, &form))
            .body(Full::from(form))?;
        let answer = self.client.request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.to_vec())?)
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(inner, _)| inner)
}

async fn handle(ec2: &Ec2, event: Value) -> Result<Value, Error> {
    let items = event["detail"]["responseElements"]["instancesSet"]["items"].as_array().cloned().unwrap_or_default();
    let ids: Vec<_> = items.iter().filter_map(|item| item["instanceId"].as_str()).collect();
    let mut enforced = 0;
    for ids in ids.chunks(200) {
        let values = ids.iter().enumerate().map(|(n, id)| format!("&Filter.1.Value.{}={id}", n + 1));
        let values: String = values.collect();
        let form =
            format!("Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=instance-id&MaxResults=1000{values}");
        let answer = ec2.call(form).await?;
        for instance in answer.split("<instanceId>").skip(1) {
            let id = instance.split('<').next().unwrap_or_default();
            let is_open = between(instance, "<httpEndpoint>", "<") != Some("disabled");
            if is_open && between(instance, "<httpTokens>", "<") != Some("required") {
                let action = "Action=ModifyInstanceMetadataOptions&Version=2016-11-15";
                let answer =
                    ec2.call(format!("{action}&HttpEndpoint=enabled&HttpTokens=required&InstanceId={id}")).await?;
                enforced += usize::from(between(&answer, "<httpTokens>", "<") == Some("required"));
            }
        }
    }
    println!("{}", json!({"enforced": enforced}));
    Ok(json!({"enforced": enforced}))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let ec2 = Ec2::new()?;
    ec2.call(String::new()).await?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| handle(&ec2, event.payload))).await
}
