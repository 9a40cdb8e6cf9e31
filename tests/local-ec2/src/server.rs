//! HTTP on 127.0.0.1, and control paths for those who drive the stand-in as a process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::exchange::{Reply, reply};
use crate::fault::Fault;
use crate::model::{Instance, Model};

/// A running local EC2. It stops when dropped.
#[derive(Debug)]
pub struct LocalEc2 {
    address: SocketAddr,
    model: Arc<Mutex<Model>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LocalEc2 {
    /// Serves `model` on 127.0.0.1, in a thread of its own; port 0 takes any that is free.
    ///
    /// # Errors
    ///
    /// If the port can't be had.
    pub fn start(port: u16, model: Model) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let model = Arc::new(Mutex::new(model));
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&model);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    result = accept(listener, served) => result,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Self { address, model, stop: Some(stop), thread: Some(thread) })
    }

    /// What `AWS_ENDPOINT_URL_EC2` is to be set to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The instances, buckets, faults and calls, locked while the guard lives.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    ///
    /// If serving ends by an error.
    pub fn wait(mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), join)
    }
}

impl Drop for LocalEc2 {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(join);
    }
}

fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the server's thread panicked")))
}

/// A panic while the lock was held leaves a model that is as good as before for a test to look at.
fn lock(model: &Mutex<Model>) -> MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, model: Arc<Mutex<Model>>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        lock(&model).connections += 1;
        let model = Arc::clone(&model);
        tokio::spawn(async move {
            let serve = service_fn(|request| serve(request, &model));
            // An error here is a peer that went away, or a connection that a fault dropped.
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await);
        });
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a fault dropped the connection")
    }
}

impl std::error::Error for Dropped {}

async fn serve(request: Request<Incoming>, model: &Mutex<Model>) -> Result<Response<Full<Bytes>>, Dropped> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    let (status, content_type, body) = if let Some(path) = head.uri.path().strip_prefix("/_local/") {
        match control(&head.method, path, &body, &mut lock(model)) {
            Ok(body) => (200, "application/json", body),
            Err(message) => (400, "text/plain", message),
        }
    } else {
        let signed = head.headers.get(AUTHORIZATION).is_some_and(|it| it.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
        let form = if head.method == Method::GET { head.uri.query().unwrap_or_default().as_bytes() } else { &body[..] };
        let Reply { delay, answer } = reply(form, signed, &mut lock(model), Instant::now());
        tokio::time::sleep(delay).await;
        let (status, body) = answer.ok_or(Dropped)?;
        (status, "text/xml;charset=UTF-8", body)
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type).body(Full::from(body));
    response.map_err(|_| Dropped)
}

/// `/_local/…`: what a process apart can ask and set.
fn control(method: &Method, path: &str, body: &[u8], model: &mut Model) -> Result<String, String> {
    fn json(value: &impl serde::Serialize) -> Result<String, String> {
        serde_json::to_string_pretty(value).map_err(|error| error.to_string())
    }
    match (method.as_str(), path) {
        ("GET", "counts") => json(&model.counts()),
        ("GET", "instances") => json(&model.instances.values().collect::<Vec<_>>()),
        ("POST", "instances") => {
            let instances: Vec<Instance> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            for instance in instances {
                model.put(instance);
            }
            json(&model.instances.len())
        }
        ("POST", "faults") => {
            let faults: Vec<Fault> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            for fault in faults {
                model.faults.add(fault);
            }
            json(&())
        }
        ("POST", "clock") => {
            let milliseconds = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            json(&model.advance(Duration::from_millis(milliseconds)))
        }
        ("DELETE", "faults") => json(&model.faults.clear()),
        ("DELETE", "calls") => json(&model.calls.clear()),
        _ => Err(format!(
            "no {method} /_local/{path}; there are GET counts, GET instances, POST instances, POST faults, \
             POST clock, DELETE faults, DELETE calls"
        )),
    }
}
