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

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were not sent, since the process began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

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
pub fn tell(path: &str, event: &Event, line: impl FnOnce() -> String) {
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
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

impl Teller {
    fn tell(&mut self, event: &Event, line: impl FnOnce() -> String) -> bool {
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
        match socket.send(line().as_bytes()) {
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

/// Exact counts of verdicts, by what they were.
pub fn count(_slot: u32, event: &Event) {
    let index = match event.kind {
        Kind::Allowed => 0,
        Kind::Denied => 1,
        Kind::Audited => 2,
        Kind::Closed => 3,
    };
    COUNTS[index].fetch_add(1, Ordering::Relaxed);
}

static COUNTS: [AtomicU64; 4] = [
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
];
