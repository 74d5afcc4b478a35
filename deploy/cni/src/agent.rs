//! Asking the agent: one HTTP request on its admin socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::json::{self, quoted};

/// Of an answer; it is a line.
const ANSWER_BYTES_MAX: u64 = 1 << 16;
/// Between tries while nobody listens.
const RETRY: Duration = Duration::from_millis(50);

/// A pod's sandbox, as the runtime made it.
pub struct Sandbox<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub container: &'a str,
    pub interface: &'a str,
    pub addresses: Vec<String>,
}

/// What came of asking.
pub enum Outcome {
    /// The pod's policy is in force, and its interface open.
    Open,
    /// Not within the time; what the agent says.
    Closed(String),
    /// Nobody answers.
    Silent(String),
}

/// Tell the agent of a new sandbox and wait until its policy is in force, no longer than `limit`.
pub fn open(socket: &Path, sandbox: &Sandbox<'_>, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let mut problem = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Outcome::Silent(problem);
        }
        let path = format!("/v1/sandboxes?wait={:.3}", left.as_secs_f64());
        // A little longer than the agent is asked to wait, so that its own words reach us.
        match request(
            socket,
            "POST",
            &path,
            &body(sandbox),
            left + Duration::from_millis(500),
        ) {
            Ok((200, answer)) => match json::parse(&answer) {
                Ok(document) if document.value.get("open") == Some(&json::Value::Bool(true)) => {
                    return Outcome::Open
                }
                Ok(document) => return Outcome::Closed(document.value.text("message").to_string()),
                Err(error) => return Outcome::Closed(error),
            },
            Ok((status, answer)) => {
                return Outcome::Closed(format!("the agent answers {}: {}", status, answer.trim()))
            }
            Err(error) => problem = format!("{}: {}", socket.display(), error),
        }
        std::thread::sleep(RETRY.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// Tell the agent that a sandbox is gone; it learns of it from the API server too.
pub fn forget(socket: &Path, namespace: &str, name: &str, container: &str) {
    let text = format!(
        "{{\"namespace\":{},\"name\":{},\"container\":{}}}",
        quoted(namespace),
        quoted(name),
        quoted(container)
    );
    let _ = request(
        socket,
        "DELETE",
        "/v1/sandboxes",
        &text,
        Duration::from_secs(1),
    );
}

fn body(sandbox: &Sandbox<'_>) -> String {
    let addresses: Vec<String> = sandbox
        .addresses
        .iter()
        .map(|address| quoted(address))
        .collect();
    format!(
        "{{\"namespace\":{},\"name\":{},\"uid\":{},\"container\":{},\"interface\":{},\"addresses\":[{}]}}",
        quoted(sandbox.namespace),
        quoted(sandbox.name),
        quoted(sandbox.uid),
        quoted(sandbox.container),
        quoted(sandbox.interface),
        addresses.join(",")
    )
}

fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "{} {} HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        method,
        path,
        body.len(),
        body
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer");
    let (head, content) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(bad)?;
    Ok((status, content.to_string()))
}
