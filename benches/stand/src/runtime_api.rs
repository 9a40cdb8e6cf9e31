//! Lambda's Runtime API for one function on 127.0.0.1, which tells to the microsecond when an
//! event was handed out, when its answer came, and when the function asked for the next.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

/// How long an event may take, and the function until it asks for the first.
const PATIENCE: Duration = Duration::from_mins(10);

/// What the function does.
enum Step {
    AsksForNext,
    WasHanded(Instant),
    Answers { at: Instant, failed: bool, body: Bytes },
}

/// An event's answer, and how long it took.
pub(crate) struct Answer {
    pub(crate) wall: Duration,
    pub(crate) failed: bool,
    pub(crate) body: String,
}

/// The API of one function.
pub(crate) struct RuntimeApi {
    pub(crate) address: String,
    events: mpsc::Sender<Bytes>,
    steps: mpsc::Receiver<Step>,
}

impl RuntimeApi {
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (events, to_hand_out) = mpsc::channel(1);
        let (tell, steps) = mpsc::channel(8);
        let to_hand_out = Arc::new(Mutex::new(to_hand_out));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                let (to_hand_out, tell) = (Arc::clone(&to_hand_out), tell.clone());
                let serve = service_fn(move |request| serve(request, Arc::clone(&to_hand_out), tell.clone()));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        Ok(Self { address, events, steps })
    }

    /// Waits until the function asks for its next event.
    pub(crate) async fn ready(&mut self) -> Result<(), String> {
        match self.step().await? {
            Step::AsksForNext => Ok(()),
            Step::WasHanded(_) => Err("an event was handed out twice".to_owned()),
            Step::Answers { body, .. } => {
                Err(format!("the function did not start: {}", String::from_utf8_lossy(&body)))
            }
        }
    }

    /// Hands an event to the function that is ready, and waits until it is ready again.
    pub(crate) async fn invoke(&mut self, event: &str) -> Result<Answer, String> {
        self.events.send(Bytes::from(event.to_owned())).await.map_err(|error| error.to_string())?;
        let Step::WasHanded(handed) = self.step().await? else { return Err("no event was asked for".to_owned()) };
        let Step::Answers { at, failed, body } = self.step().await? else { return Err("no answer came".to_owned()) };
        self.ready().await?;
        Ok(Answer { wall: at - handed, failed, body: String::from_utf8_lossy(&body).into_owned() })
    }

    async fn step(&mut self) -> Result<Step, String> {
        let step = tokio::time::timeout(PATIENCE, self.steps.recv()).await;
        step.map_err(|_| "the function does nothing".to_owned())?.ok_or_else(|| "the API has ended".to_owned())
    }
}

async fn serve(
    request: Request<Incoming>,
    events: Arc<Mutex<mpsc::Receiver<Bytes>>>,
    tell: mpsc::Sender<Step>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path().ends_with("/invocation/next") {
        drop(tell.send(Step::AsksForNext).await);
        let event = events.lock().await.recv().await.unwrap_or_default();
        drop(tell.send(Step::WasHanded(Instant::now())).await);
        return Ok(next(event));
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let failed = head.uri.path().ends_with("/error");
    drop(tell.send(Step::Answers { at: Instant::now(), failed, body }).await);
    let mut accepted = Response::new(Full::from("{}"));
    *accepted.status_mut() = StatusCode::ACCEPTED;
    Ok(accepted)
}

fn next(event: Bytes) -> Response<Full<Bytes>> {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + PATIENCE;
    let response = Response::builder()
        .header("lambda-runtime-aws-request-id", "00000000-0000-0000-0000-000000000001")
        .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
        .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:111122223333:function:bench")
        .header("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000")
        .header("content-type", "application/json")
        .body(Full::from(event));
    response.unwrap_or_default()
}
