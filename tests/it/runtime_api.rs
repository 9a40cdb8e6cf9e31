//! The real binary under a Runtime API that waits for every answer. AWS's emulator ends a function
//! whose deadline has passed; here it is the function that ends its work, however slow the machine.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::process::{BINARY, function_command, json_lines, memory_kib};

/// An event, and how long the function has for it.
struct Invocation {
    payload: String,
    time_left: Duration,
}

/// The function under this Runtime API. It ends when dropped.
pub(crate) struct Function {
    process: Child,
    log: PathBuf,
    invocations: Sender<Invocation>,
    answers: Receiver<String>,
}

impl Function {
    /// Starts the function with EC2 at `endpoint`.
    pub(crate) fn start(name: &str, endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (invocations, to_hand_out) = channel();
        let (answer, answers) = channel();
        std::thread::spawn(move || accept(&listener, &Arc::new(Mutex::new(to_hand_out)), &answer));
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let process = function_command(BINARY, endpoint)
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .envs([("AWS_LAMBDA_FUNCTION_NAME", "imds-enforcer"), ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")])
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        Self { process, log, invocations, answers }
    }

    /// Invokes the function, and waits for its answer or its error as long as its process lives.
    pub(crate) fn invoke(&mut self, payload: &str, time_left: Duration) -> Value {
        self.invocations.send(Invocation { payload: payload.to_owned(), time_left }).unwrap();
        loop {
            match self.answers.recv_timeout(Duration::from_millis(100)) {
                Ok(answer) => return serde_json::from_str(&answer).unwrap(),
                Err(RecvTimeoutError::Timeout) => {
                    let ended = self.process.try_wait().unwrap();
                    assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(&self.log).unwrap());
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the Runtime API has ended"),
            }
        }
    }

    /// A line of `/proc/…/status` of the function, in KiB: `VmRSS`, or at the most `VmHWM`.
    pub(crate) fn memory_kib(&self, line: &str) -> usize {
        memory_kib(self.process.id(), line)
    }

    /// What the function has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The lines of its log.
    pub(crate) fn lines(&self) -> Vec<Value> {
        json_lines(&self.log())
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

type ToHandOut = Arc<Mutex<Receiver<Invocation>>>;

fn accept(listener: &TcpListener, to_hand_out: &ToHandOut, answer: &Sender<String>) {
    for stream in listener.incoming() {
        let (to_hand_out, answer) = (Arc::clone(to_hand_out), answer.clone());
        // A connection ends by an error when the function ends.
        std::thread::spawn(move || serve(&stream?, &to_hand_out, &answer));
    }
}

/// Answers the requests of one connection: one for the next event, or one with an answer.
fn serve(stream: &TcpStream, to_hand_out: &ToHandOut, answer: &Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (head, body) = read(&mut reader)?;
        let response = if head.contains("/invocation/next ") {
            let Ok(invocation) = to_hand_out.lock().unwrap().recv() else { return Ok(()) };
            next(&invocation)
        } else {
            drop(answer.send(body));
            "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}".to_owned()
        };
        (&mut &*stream).write_all(response.as_bytes())?;
    }
}

/// One request: its lines up to the empty one, and its body.
fn read(reader: &mut impl BufRead) -> std::io::Result<(String, String)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        assert!(!line.starts_with("transfer-encoding"), "a body without a length: {line}");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
        head += &line;
        head += "\n";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).unwrap()))
}

fn next(Invocation { payload, time_left }: &Invocation) -> String {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock enters")]
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + *time_left;
    format!(
        "HTTP/1.1 200 OK\r\nlambda-runtime-aws-request-id: 00000000-0000-0000-0000-000000000001\r\n\
         lambda-runtime-deadline-ms: {}\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:111122223333:function:imds-enforcer\r\n\
         lambda-runtime-trace-id: Root=1-00000000-000000000000000000000000\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{payload}",
        deadline.as_millis(),
        payload.len()
    )
}
