//! The SDK's HTTP client: TLS that starts in no time, the roots it trusts, and proxies.
//!
//! AWS's endpoints are signed by five roots. To read the hundred and more of an environment is
//! most of INIT's work, so the five are tried first, endpoint by endpoint; what they did not sign,
//! such as a private endpoint or a proxy's own certificate, is tried again with the environment's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

use super::error::chain;
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
    let of_all = match roots {
        Roots::AmazonFirst => None,
        Roots::Environment => Some(Signer::Environment),
    };
    aws_config::defaults(behavior_version()).http_client(Clients {
        amazon: client(TrustStore::empty().with_pem_certificate(AMAZON_ROOTS)),
        environment: client(TrustStore::empty().with_native_roots(true)),
        signers: Signers { of_all, known: Arc::default() },
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

/// Two clients, neither of which is built before an endpoint needs it, and which each endpoint needs.
#[derive(Debug, Clone)]
struct Clients {
    amazon: SharedHttpClient,
    environment: SharedHttpClient,
    signers: Signers,
}

/// Whose root signed the certificate of each endpoint.
#[derive(Debug, Clone, Default)]
struct Signers {
    /// The signer of all endpoints, where it is given.
    of_all: Option<Signer>,
    /// The signers of the endpoints that have answered, by scheme, host and port.
    known: Arc<Mutex<BTreeMap<String, Signer>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signer {
    Amazon,
    Environment,
}

impl Signers {
    fn of(&self, endpoint: &str) -> Option<Signer> {
        self.of_all.or_else(|| self.lock().get(endpoint).copied())
    }

    fn record(&self, endpoint: &str, signer: Signer) {
        self.lock().insert(endpoint.to_owned(), signer);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Signer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpClient for Clients {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            clients: self.clone(),
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

/// The way to whatever endpoint a request names.
#[derive(Debug, Clone)]
struct Connector {
    clients: Clients,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Clients { amazon, environment, signers } = &self.clients;
        match signers.of(endpoint(request.uri())) {
            Some(Signer::Amazon) => self.send(amazon, request),
            Some(Signer::Environment) => self.send(environment, request),
            None => self.find_out(request),
        }
    }
}

impl Connector {
    fn send(&self, client: &SharedHttpClient, request: HttpRequest) -> HttpConnectorFuture {
        client.http_connector(&self.settings, &self.components).call(request)
    }

    /// Sends a request to an endpoint of which it is not known yet whose root signed it.
    fn find_out(&self, request: HttpRequest) -> HttpConnectorFuture {
        let endpoint = endpoint(request.uri()).to_owned();
        let again = request.try_clone();
        let first = self.send(&self.clients.amazon, request);
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            let Clients { environment, signers, .. } = &connector.clients;
            let result = first.await;
            match (&result, again) {
                (Ok(_), _) => signers.record(&endpoint, Signer::Amazon),
                (Err(error), Some(request)) if is_of_unknown_issuer(error) => {
                    telemetry::log_other_roots(&endpoint, &chain(error));
                    signers.record(&endpoint, Signer::Environment);
                    return connector.send(environment, request).await;
                }
                (Err(_), _) => {}
            }
            result
        })
    }
}

/// Scheme, host and port of a URI.
fn endpoint(uri: &str) -> &str {
    let authority = uri.find("://").map_or(0, |scheme| scheme + 3);
    let path = uri.get(authority..).and_then(|rest| rest.find(['/', '?', '#']));
    path.and_then(|path| uri.get(..authority + path)).unwrap_or(uri)
}

/// Whether a certificate was refused because none of the roots signed it, in rustls' words.
fn is_of_unknown_issuer(error: &ConnectorError) -> bool {
    chain(error).contains("UnknownIssuer")
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use aws_sdk_ec2::config::Credentials;
    use aws_smithy_runtime_api::client::http::http_client_fn;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;

    use super::*;
    use crate::aws::ec2::SdkEc2;

    const EC2: &str = "https://ec2.us-east-1.amazonaws.com";
    const EVENTS: &str = "https://events.example.org:8443";

    /// Which client was asked, in order.
    type Asked = Arc<Mutex<Vec<&'static str>>>;

    /// A client of this name that answers nothing, or fails with these words.
    #[derive(Debug, Clone)]
    struct Fake(&'static str, fn(&str) -> Option<&'static str>, Asked);

    impl HttpConnector for Fake {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            self.2.lock().unwrap().push(self.0);
            HttpConnectorFuture::ready(match self.1(endpoint(request.uri())) {
                Some(words) => Err(ConnectorError::io(words.into())),
                None => Ok(HttpResponse::new(400.try_into().unwrap(), SdkBody::from("<Response></Response>"))),
            })
        }
    }

    /// Calls these endpoints, one after another, with an Amazon client that fails so, and answers
    /// which clients were asked.
    async fn asked(endpoints: &[&str], failure_of_amazon: fn(&str) -> Option<&'static str>) -> Vec<&'static str> {
        asked_of(Signers::default(), endpoints, failure_of_amazon).await
    }

    async fn asked_of(
        signers: Signers,
        endpoints: &[&str],
        failure_of_amazon: fn(&str) -> Option<&'static str>,
    ) -> Vec<&'static str> {
        let asked = Asked::default();
        let fake = |name, failure| {
            let connector = SharedHttpConnector::new(Fake(name, failure, Arc::clone(&asked)));
            SharedHttpClient::new(http_client_fn(move |_, _| connector.clone()))
        };
        let amazon = fake("amazon", failure_of_amazon);
        let clients = Clients { amazon, environment: fake("environment", |_| None), signers };
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "not-a-secret", None, None, "tests");
        let config = aws_config::defaults(behavior_version()).http_client(clients);
        let config = config.region(Region::new("us-east-1")).credentials_provider(credentials).load().await;
        for endpoint in endpoints {
            let config = config.to_builder().endpoint_url(*endpoint).build();
            drop(SdkEc2::new(&config).warm_up().await);
        }
        let asked = asked.lock().unwrap();
        asked.clone()
    }

    #[tokio::test]
    async fn what_amazon_did_not_sign_is_tried_with_the_roots_of_the_environment_and_so_is_all_that_follows() {
        let asked = asked(&[EC2, EC2], |_| Some("invalid peer certificate: UnknownIssuer")).await;
        assert_eq!(asked, ["amazon", "environment", "environment"]);
    }

    #[tokio::test]
    async fn each_endpoint_is_tried_by_itself() {
        let private = |endpoint: &str| (endpoint == EVENTS).then_some("invalid peer certificate: UnknownIssuer");
        let asked = asked(&[EC2, EVENTS, EC2, EVENTS], private).await;
        assert_eq!(asked, ["amazon", "amazon", "environment", "amazon", "environment"]);
    }

    #[tokio::test]
    async fn what_amazon_signed_is_never_tried_with_others() {
        assert_eq!(asked(&[EC2, EC2], |_| None).await, ["amazon", "amazon"]);
    }

    #[tokio::test]
    async fn where_the_roots_are_named_amazon_s_are_never_tried() {
        let signers = Signers { of_all: Some(Signer::Environment), known: Arc::default() };
        assert_eq!(asked_of(signers, &[EC2, EVENTS], |_| None).await, ["environment", "environment"]);
    }

    #[tokio::test]
    async fn another_failure_says_nothing_about_roots() {
        assert_eq!(asked(&[EC2, EC2], |_| Some("connection refused")).await, ["amazon", "amazon"]);
        let expired = asked(&[EC2, EC2], |_| Some("invalid peer certificate: Expired")).await;
        assert_eq!(expired, ["amazon", "amazon"]);
    }

    #[test]
    fn an_endpoint_is_what_stands_before_the_path() {
        for (uri, expected) in [
            ("https://ec2.us-east-1.amazonaws.com/", EC2),
            ("https://events.example.org:8443/a/b?c=d", EVENTS),
            ("https://ec2.us-east-1.amazonaws.com?Action=a", EC2),
            ("https://ec2.us-east-1.amazonaws.com", EC2),
            ("/path", ""),
            ("", ""),
        ] {
            assert_eq!(endpoint(uri), expected, "{uri}");
        }
    }
}
