//! Who is told: a Unix datagram socket of the agent's for lines, whoever counts for all.
//!
//! Nothing waits: a line that can't be sent at once is dropped and counted, and the next line that goes says how many were.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::report::{Event, Kind};

/// Lines a second and worker; a client that is denied in a loop must not make Envoy a log writer.
pub const LINES_A_SECOND_MAX: u32 = 500;
/// How long a socket that nobody reads is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Lines that were not sent since the last that was.
static LOST: AtomicU64 = AtomicU64::new(0);

struct Teller {
    path: String,
    socket: Option<UnixDatagram>,
    failed: Option<Instant>,
    second: Instant,
    lines: u32,
}

thread_local! {
    static TELLER: RefCell<Option<Teller>> = RefCell::new(None);
}

/// Send the line of an event.
pub fn tell(path: &str, event: &Event, line: impl FnOnce(u64) -> String) {
    let sent = TELLER.with(|teller| {
        let mut teller = teller.borrow_mut();
        if teller.as_ref().map_or(true, |teller| teller.path != path) {
            *teller = Some(Teller {
                path: path.to_string(),
                socket: None,
                failed: None,
                second: Instant::now(),
                lines: 0,
            });
        }
        teller
            .as_mut()
            .map_or(false, |teller| teller.tell(event, line))
    });
    if !sent {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

impl Teller {
    fn tell(&mut self, event: &Event, line: impl FnOnce(u64) -> String) -> bool {
        let now = Instant::now();
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.lines = 0;
        }
        // Half of the room is kept for what is not allowed.
        let room = if event.kind == Kind::Allowed {
            LINES_A_SECOND_MAX / 2
        } else {
            LINES_A_SECOND_MAX
        };
        if self.lines >= room {
            return false;
        }
        if self.socket.is_none() {
            if self
                .failed
                .map_or(false, |failed| now.duration_since(failed) < RETRY)
            {
                return false;
            }
            self.socket = connect(&self.path);
            self.failed = Some(now).filter(|_| self.socket.is_none());
        }
        let socket = match &self.socket {
            None => return false,
            Some(socket) => socket,
        };
        self.lines += 1;
        let lost = LOST.swap(0, Ordering::Relaxed);
        let sent = socket.send(line(lost).as_bytes());
        if sent.is_err() {
            LOST.fetch_add(lost, Ordering::Relaxed);
        }
        match sent {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(_) => {
                // The agent was restarted, say: another socket is there under the name.
                self.socket = None;
                false
            }
        }
    }
}

fn connect(path: &str) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::report::Reason;

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_the_next_one_says_how_many() {
        let path = std::env::temp_dir().join(format!("tidegate-teller-{}", std::process::id()));
        let path = path.to_str().expect("a path");
        let event = Event::closed(Reason::Tls);
        let line = |lost: u64| event.line(7, "", lost);
        tell(path, &event, line);
        let reader = UnixDatagram::bind(path).expect("a socket");
        reader.set_nonblocking(true).expect("a socket");
        TELLER.with(|teller| *teller.borrow_mut() = None);
        for _ in 0..2 * LINES_A_SECOND_MAX {
            tell(path, &event, line);
        }
        let mut buffer = [0; 4096];
        let size = reader.recv(&mut buffer).expect("a line");
        let first = String::from_utf8_lossy(&buffer[..size]).to_string();
        assert!(first.contains(r#""lost":1,"reason":"tls""#), "{}", first);
        let mut read = 1;
        while reader.recv(&mut buffer).is_ok() {
            read += 1;
        }
        assert!(read <= LINES_A_SECOND_MAX);
        TELLER.with(|teller| *teller.borrow_mut() = None);
        tell(path, &event, line);
        let size = reader.recv(&mut buffer).expect("a line");
        let lost = format!(r#""lost":{}"#, 2 * LINES_A_SECOND_MAX - read);
        let next = String::from_utf8_lossy(&buffer[..size]).to_string();
        assert!(next.contains(&lost), "{}", next);
        std::fs::remove_file(path).expect("the socket");
    }
}
