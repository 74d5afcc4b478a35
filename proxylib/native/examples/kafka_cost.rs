//! What the Kafka filter costs a request and its response, without Envoy: nanoseconds, and bytes of a connection.

use std::time::Instant;

use tidegate_native::kafka::connection::Connection;
use tidegate_native::kafka::output::Output;
use tidegate_native::kafka::policy::Policy;
use tidegate_native::kafka::slots::publish;

const ROUNDS: u32 = 200_000;

fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn main() {
    let sides = r#"[{"allow": [{"origin": "default/orders[0]", "apis": [0, 1, 3], "topics": [{"exact": "orders"}]}]}]"#;
    let text = format!(r#"{{"slot": 1, "sides": {}}}"#, sides);
    let published = publish(Policy::of(&text).expect("a policy"));
    let mut connection = Connection::new(published.slot.clone(), ([0; 16], 9092)).expect("rules");
    println!("connection: {} bytes", std::mem::size_of::<Connection>());
    for size in [200_usize, 100_000] {
        let mut length = Vec::new();
        let mut left = size + 1;
        while left > 127 {
            length.push((left % 128) as u8 + 128);
            left /= 128;
        }
        length.push(left as u8);
        let records = vec![0xcd; size];
        // Produce v9 of one topic, one partition.
        let asked = frame(&[
            &[0, 0, 0, 9, 0, 0, 0, 7, 0, 3],
            b"app",
            &[0, 0, 0, 1, 0, 0, 3, 0xe8, 2, 7],
            b"orders",
            &[2, 0, 0, 0, 0],
            &length,
            &records,
            &[0, 0, 0],
        ]);
        let told = frame(&[
            &[0, 0, 0, 7, 0, 2, 7],
            b"orders",
            &[2, 0, 0, 0, 0, 0, 0],
            &[0; 24],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0],
        ]);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let mut out = Output::default();
            connection.request(&asked, &mut out);
            assert!(out.is_whole(asked.len()));
            let mut out = Output::default();
            connection.response(&told, &mut out);
            assert!(out.is_whole(told.len()));
            connection.events.clear();
        }
        let ns = start.elapsed().as_nanos() / ROUNDS as u128;
        println!("produce of {} B: {} ns for request and response", size, ns);
    }
}
