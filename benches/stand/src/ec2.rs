//! The local EC2 behind TLS, with a certificate that the functions are told to trust beside as many
//! others as they have in Lambda: Amazon's five for those in Rust, certifi's for those in Python.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use local_ec2::LocalEc2;
use local_ec2::model::{Instance, Model};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// An EC2 of the stand, and where the functions find it.
pub(crate) struct Ec2 {
    pub(crate) local: LocalEc2,
    pub(crate) endpoint: String,
    /// PEM, Amazon's roots and the stand's.
    pub(crate) few_roots: PathBuf,
    /// PEM, all roots.
    pub(crate) many_roots: PathBuf,
}

impl Ec2 {
    /// Starts it, and writes the roots to `folder`; `certifi` holds all.
    pub(crate) async fn start(folder: &Path, certifi: &Path) -> Result<Self, Error> {
        let mut model = Model::with_transition(Duration::ZERO);
        model.buckets.unlimited = true;
        let local = LocalEc2::start(0, model)?;
        let (acceptor, root) = tls()?;
        let (few_roots, many_roots) = (folder.join("few-roots.pem"), folder.join("many-roots.pem"));
        fs::write(&few_roots, include_str!("../../../src/aws/amazon_roots.pem").to_owned() + &root)?;
        fs::write(&many_roots, fs::read_to_string(certifi)? + "\n" + &root)?;

        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("https://localhost:{}", listener.local_addr()?.port());
        let upstream = local.endpoint().trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                tokio::spawn(async move { drop(relay(stream, acceptor, &upstream).await) });
            }
        });
        Ok(Self { local, endpoint, few_roots, many_roots })
    }

    /// In place of all instances: `count` of them, of which the first `violators` don't require tokens.
    pub(crate) fn hold(&self, count: usize, violators: usize) {
        let mut model = self.local.model();
        model.instances.clear();
        for n in 0..count {
            let mut instance = Instance::new(&id(n));
            if n >= violators {
                "required".clone_into(&mut instance.metadata_options.http_tokens);
            }
            model.put(instance);
        }
        model.calls.clear();
    }

    /// The calls that were made since, but for that without an action, which opens a connection.
    pub(crate) fn calls(&self) -> usize {
        self.local.model().calls.iter().filter(|call| call.action != "none").count()
    }

    /// The instances whose tokens are not required.
    pub(crate) fn violators(&self) -> usize {
        let model = self.local.model();
        model.instances.values().filter(|it| it.metadata_options.http_tokens != "required").count()
    }
}

/// The id of the `n`th instance.
pub(crate) fn id(n: usize) -> String {
    format!("i-0{n:016x}")
}

fn tls() -> Result<(TlsAcceptor, String), Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Subject and issuer of the other certificate must differ, or OpenSSL takes it for its own issuer.
    authority.distinguished_name.push(DnType::CommonName, "bench authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem()))
}

async fn relay(stream: TcpStream, acceptor: TlsAcceptor, upstream: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
}
