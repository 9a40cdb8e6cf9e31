//! The SDK's HTTP client: TLS that starts in no time, the roots it trusts, and proxies.
//!
//! AWS's endpoints are signed by five roots. To read the hundred and more of an environment is
//! most of INIT's work, so the five are tried first; what they did not sign, such as a proxy's own
//! certificate, is tried again with the environment's.

use std::sync::{Arc, OnceLock};

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::telemetry;

/// Which roots are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// Amazon's, then the environment's.
    AmazonFirst,
    /// The environment's alone, for those who name them: `SSL_CERT_FILE`, `SSL_CERT_DIR`.
    Environment,
}

/// Amazon Root CA 1 to 4 and Starfield Services Root Certificate Authority G2, as PEM.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon_roots.pem");

/// What `aws_config` is to load the SDK's configuration with: an HTTP client whose TLS starts in
/// no time (ring; the default provider seeds itself from CPU jitter for 20 ms of a cold start),
/// which honours the proxy variables as the default client does.
#[must_use]
pub fn sdk_config_loader(roots: Roots) -> ConfigLoader {
    let known = match roots {
        Roots::AmazonFirst => OnceLock::new(),
        Roots::Environment => OnceLock::from(Right::Environment),
    };
    aws_config::defaults(behavior_version()).http_client(Clients {
        amazon: client(TrustStore::empty().with_pem_certificate(AMAZON_ROOTS)),
        environment: client(TrustStore::empty().with_native_roots(true)),
        known: Arc::new(known),
    })
}

/// Pinned: a newer one changes time-outs, retries or proxies, and wants to be read first.
fn behavior_version() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// A client that reads its roots when it first connects.
fn client(roots: TrustStore) -> SharedHttpClient {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector =
            ConnectorBuilder::default().tls_provider(provider.clone()).proxy_config(ProxyConfig::from_env());
        // It can only fail for roots that are no PEM, of which there are none; without a context
        // the connector trusts the environment's.
        if let Ok(context) = TlsContext::builder().with_trust_store(roots.clone()).build() {
            connector.set_tls_context(context);
        }
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    })
}

/// Two clients, and which of them is known to be right.
#[derive(Debug, Clone)]
struct Clients {
    amazon: SharedHttpClient,
    environment: SharedHttpClient,
    known: Arc<OnceLock<Right>>,
}

/// The client whose roots signed the endpoint's certificate.
#[derive(Debug)]
enum Right {
    Amazon,
    Environment,
}

impl HttpClient for Clients {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        match self.known.get() {
            Some(Right::Amazon) => self.amazon.http_connector(settings, components),
            Some(Right::Environment) => self.environment.http_connector(settings, components),
            None => SharedHttpConnector::new(Trial {
                clients: self.clone(),
                settings: settings.clone(),
                components: components.clone(),
            }),
        }
    }
}

/// A call whose outcome tells which client is right.
#[derive(Debug)]
struct Trial {
    clients: Clients,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Trial {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { clients, settings, components } = self;
        let again = request.try_clone();
        let first = clients.amazon.http_connector(settings, components).call(request);
        let (clients, settings, components) = (clients.clone(), settings.clone(), components.clone());
        HttpConnectorFuture::new(async move {
            let result = first.await;
            match (&result, again) {
                (Ok(_), _) => drop(clients.known.set(Right::Amazon)),
                (Err(error), Some(request)) if is_of_unknown_issuer(error) => {
                    telemetry::log_other_roots(error);
                    drop(clients.known.set(Right::Environment));
                    return clients.environment.http_connector(&settings, &components).call(request).await;
                }
                (Err(_), _) => {}
            }
            result
        })
    }
}

/// Whether a certificate was refused because none of the roots signed it, in rustls' words.
fn is_of_unknown_issuer(error: &ConnectorError) -> bool {
    telemetry::chain(error).contains("UnknownIssuer")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aws_config::Region;
    use aws_sdk_ec2::config::Credentials;
    use aws_smithy_runtime_api::client::http::http_client_fn;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;

    use super::*;
    use crate::aws::ec2::SdkEc2;

    /// Which client was asked, in order.
    type Asked = Arc<Mutex<Vec<&'static str>>>;

    /// A client of this name that answers nothing, or fails with these words.
    #[derive(Debug, Clone)]
    struct Fake(&'static str, Option<&'static str>, Asked);

    impl HttpConnector for Fake {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            self.2.lock().unwrap().push(self.0);
            HttpConnectorFuture::ready(match self.1 {
                Some(words) => Err(ConnectorError::io(words.into())),
                None => Ok(HttpResponse::new(400.try_into().unwrap(), SdkBody::from("<Response></Response>"))),
            })
        }
    }

    /// Calls EC2 twice, with an Amazon client that fails so, and answers which clients were asked.
    async fn asked(failure_of_amazon: Option<&'static str>) -> Vec<&'static str> {
        let asked = Asked::default();
        let fake = |name, failure| {
            let connector = SharedHttpConnector::new(Fake(name, failure, Arc::clone(&asked)));
            SharedHttpClient::new(http_client_fn(move |_, _| connector.clone()))
        };
        let clients = Clients {
            amazon: fake("amazon", failure_of_amazon),
            environment: fake("environment", None),
            known: Arc::default(),
        };
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "not-a-secret", None, None, "tests");
        let config = aws_config::defaults(behavior_version()).http_client(clients);
        let config = config.region(Region::new("us-east-1")).credentials_provider(credentials).load().await;
        let ec2 = SdkEc2::new(&config);
        drop((ec2.warm_up().await, ec2.warm_up().await));
        let asked = asked.lock().unwrap();
        asked.clone()
    }

    #[tokio::test]
    async fn what_amazon_did_not_sign_is_tried_with_the_roots_of_the_environment_and_so_is_all_that_follows() {
        assert_eq!(
            asked(Some("invalid peer certificate: UnknownIssuer")).await,
            ["amazon", "environment", "environment"]
        );
    }

    #[tokio::test]
    async fn what_amazon_signed_is_never_tried_with_others() {
        assert_eq!(asked(None).await, ["amazon", "amazon"]);
    }

    #[tokio::test]
    async fn another_failure_says_nothing_about_roots() {
        assert_eq!(asked(Some("connection refused")).await, ["amazon", "amazon"]);
        assert_eq!(asked(Some("invalid peer certificate: Expired")).await, ["amazon", "amazon"]);
    }
}
