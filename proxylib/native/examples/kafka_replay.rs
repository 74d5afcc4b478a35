//! Plays one connection to the Kafka filter without Envoy, for tests in Python and for fuzzers.
//!
//! stdin: `u32 length, bytes` of the configuration, then events: `u8 direction, u32 length, bytes`; 0: the client sent them,
//! 1: the broker did, 2: a configuration to publish in place of the last. Numbers are big-endian.
//! stdout: for each event of a direction `u32 length, bytes` to the broker, the same to the client, `u8 closing` (0, 1 flush, 2 now),
//! then `u32 length, lines` of what is reported.

use std::io::{Read, Write};

use tidegate_native::kafka::connection::{Close, Connection};
use tidegate_native::kafka::output::Output;
use tidegate_native::kafka::policy::Policy;
use tidegate_native::kafka::slots::publish;

fn main() {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).expect("stdin");
    let mut rest = &input[..];
    let mut published = vec![publish(policy(chunk(&mut rest)))];
    let slot = published[0].slot.clone();
    let mut connection = Connection::new(slot, ([0; 16], 9092)).expect("rules");
    let mut answer = Vec::new();
    while let Some(direction) = take(&mut rest, 1) {
        let bytes = chunk(&mut rest);
        let mut out = Output::default();
        match direction[0] {
            0 => connection.request(bytes, &mut out),
            1 => connection.response(bytes, &mut out),
            _ => {
                published.push(publish(policy(bytes)));
                published.remove(0);
                continue;
            }
        }
        let passed = out.bytes(bytes);
        let mut to_broker = std::mem::take(&mut connection.to_broker);
        let mut to_client = std::mem::take(&mut connection.to_client);
        if direction[0] == 0 {
            to_broker.splice(0..0, passed);
        } else {
            to_client.splice(0..0, passed);
        }
        let closing = match connection.closing {
            None => 0,
            Some(Close::Flush(_)) => 1,
            Some(Close::Now(_)) => 2,
        };
        let lines: Vec<String> = connection
            .events
            .drain(..)
            .map(|event| event.line(1, "", 0))
            .collect();
        put(&mut answer, &to_broker);
        put(&mut answer, &to_client);
        answer.push(closing);
        put(&mut answer, lines.join("\n").as_bytes());
    }
    std::io::stdout().write_all(&answer).expect("stdout");
}

fn policy(text: &[u8]) -> Policy {
    Policy::of(std::str::from_utf8(text).expect("UTF-8")).expect("a policy")
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    if rest.len() < count {
        return None;
    }
    let (taken, left) = rest.split_at(count);
    *rest = left;
    Some(taken)
}

fn chunk<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = take(rest, 4).expect("a length");
    let length = length.iter().fold(0, |sum, byte| sum << 8 | *byte as usize);
    take(rest, length).expect("as many bytes as their length says")
}

fn put(answer: &mut Vec<u8>, bytes: &[u8]) {
    answer.extend((bytes.len() as u32).to_be_bytes());
    answer.extend(bytes);
}
