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

use crate::answer::Error;
use crate::fault::{Fault, Kind};
use crate::model::{Call, Instance, Model};
use crate::query::Parameters;

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

/// What the answer to a request is, or that there is none.
enum Reply {
    Xml { status: u16, body: String },
    Json(Result<String, String>),
    Drop,
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
    let reply = if let Some(path) = head.uri.path().strip_prefix("/_local/") {
        Reply::Json(control(&head.method, path, &body, &mut lock(model)))
    } else {
        let signed = head.headers.get(AUTHORIZATION).is_some_and(|it| it.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
        let form = if head.method == Method::GET { head.uri.query().unwrap_or_default().as_bytes() } else { &body[..] };
        let (reply, delay) = act(&Parameters::parse(form), signed, &mut lock(model));
        tokio::time::sleep(delay).await;
        reply
    };
    let (status, content_type, body) = match reply {
        Reply::Xml { status, body } => (status, "text/xml;charset=UTF-8", body),
        Reply::Json(Ok(body)) => (200, "application/json", body),
        Reply::Json(Err(message)) => (400, "text/plain", message),
        Reply::Drop => return Err(Dropped),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type).body(Full::from(body));
    response.map_err(|_| Dropped)
}

/// Does what a request to EC2 asks for, or what a fault has in store for it.
fn act(parameters: &Parameters, signed: bool, model: &mut Model) -> (Reply, Duration) {
    let action = parameters.get("Action").unwrap_or("none").to_owned();
    let fault = model.faults.strike(&action, parameters.get("InstanceId"));
    let takes_effect = fault.as_ref().is_none_or(|it| it.after_effect || matches!(it.kind, Kind::Delay { .. }));

    let answer = if !signed {
        Err(Error::new("AuthFailure", "The request is not signed with Signature Version 4"))
    } else if action == "none" {
        Err(Error::new("MissingAction", "The request is missing an action or operation parameter."))
    } else if takes_effect {
        model.call(&action, parameters, Instant::now())
    } else {
        Err(Error::new("InternalError", "This answer is replaced by a fault"))
    };
    let answer = match &fault {
        Some(Fault { kind: Kind::Error { code, status }, .. }) => {
            Err(Error { status: *status, ..Error::new(code, "A fault was injected") })
        }
        _ => answer,
    };
    let error = answer.as_ref().err().map(|error| error.code.clone());
    model.calls.push(Call { action: action.clone(), parameters: parameters.clone(), error });

    let request_id = format!("00000000-0000-0000-0000-{:012}", model.calls.len());
    let xml = match answer {
        Ok(answer) => Reply::Xml { status: 200, body: answer.to_xml(&action, &request_id) },
        Err(error) => Reply::Xml { status: error.status, body: error.to_xml(&request_id) },
    };
    match fault.map(|fault| fault.kind) {
        None | Some(Kind::Error { .. }) => (xml, Duration::ZERO),
        Some(Kind::Delay { milliseconds }) => (xml, Duration::from_millis(milliseconds)),
        Some(Kind::DropConnection) => (Reply::Drop, Duration::ZERO),
        Some(Kind::Body { text }) => (Reply::Xml { status: 200, body: text }, Duration::ZERO),
    }
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
        ("DELETE", "faults") => json(&model.faults.clear()),
        ("DELETE", "calls") => json(&model.calls.clear()),
        _ => Err(format!(
            "no {method} /_local/{path}; there are GET counts, GET instances, POST instances, POST faults, \
             DELETE faults, DELETE calls"
        )),
    }
}
