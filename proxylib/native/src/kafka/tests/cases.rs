//! One case each.

use super::*;

/// The body of a Produce v9: acks and topics with one partition each.
fn produce(acks: i16, topics: &[&str], record_bytes: usize) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(acks.to_be_bytes());
    out.extend(1000u32.to_be_bytes());
    crate::kafka::reply::count(Some(topics.len() as u32), true, &mut out);
    for topic in topics {
        crate::kafka::reply::count(Some(topic.len() as u32), true, &mut out);
        out.extend(topic.as_bytes());
        crate::kafka::reply::count(Some(1), true, &mut out);
        out.extend(3u32.to_be_bytes());
        crate::kafka::reply::count(Some(record_bytes as u32), true, &mut out);
        out.extend(vec![0xcd; record_bytes]);
        out.extend([0, 0]);
    }
    out.push(0);
    out
}

/// A Produce v9 response with one entry for each topic.
fn produced(correlation: i32, topics: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::kafka::reply::count(Some(topics.len() as u32), true, &mut out);
    for topic in topics {
        crate::kafka::reply::count(Some(topic.len() as u32), true, &mut out);
        out.extend(topic.as_bytes());
        crate::kafka::reply::count(Some(1), true, &mut out);
        out.extend([0, 0, 0, 3, 0, 0]);
        out.extend([0; 24]);
        out.extend([1, 0, 0, 0]);
    }
    out.extend([0, 0, 0, 0, 0]);
    response(api(0), 9, correlation, &out)
}

#[test]
fn a_partly_denied_produce_is_cut_and_its_answer_completed() {
    let mut bed = Bed::scoped();
    let (to_broker, to_client) = bed.client(&request(
        api(0),
        9,
        1,
        &produce(-1, &["secret", "orders", "other"], 50),
    ));
    assert_eq!(to_client, b"");
    assert_eq!(
        to_broker,
        request(api(0), 9, 1, &produce(-1, &["orders"], 50))
    );
    let (_, answer) = bed.broker(&produced(1, &["orders"]));
    let content = read_response(api(0), 9, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret", "other", "orders"]);
    assert_eq!(content.entries[0].partitions, [3]);
}

#[test]
fn answers_keep_the_order_of_requests() {
    let mut bed = Bed::scoped();
    let allowed = |correlation| request(api(0), 9, correlation, &produce(1, &["orders"], 9));
    let denied = |correlation| request(api(0), 9, correlation, &produce(1, &["secret"], 9));
    let all = [
        denied(1),
        allowed(2),
        denied(3),
        denied(4),
        allowed(5),
        denied(6),
    ]
    .concat();
    let (to_broker, first) = bed.client(&all);
    assert_eq!(to_broker, [allowed(2), allowed(5)].concat());
    let answers = [produced(2, &["orders"]), produced(5, &["orders"])].concat();
    let (_, rest) = bed.broker(&answers);
    let found: Vec<i32> = frames(&first)
        .into_iter()
        .chain(frames(&rest))
        .map(correlation)
        .collect();
    assert_eq!(found, [1, 2, 3, 4, 5, 6]);
    assert_eq!(frames(&first).len(), 1);
}

#[test]
fn a_denied_produce_without_an_answer_closes_behind_what_is_due() {
    let mut bed = Bed::scoped();
    let first = request(api(0), 9, 1, &produce(1, &["orders"], 9));
    let second = request(api(0), 9, 2, &produce(0, &["secret"], 9));
    bed.client(&[first, second].concat());
    assert_eq!(bed.closed(), None);
    bed.broker(&produced(1, &["orders"]));
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::NoAnswer)));
}

#[test]
fn a_partly_denied_produce_without_an_answer_is_done_and_then_closes() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(0),
        9,
        1,
        &produce(0, &["orders", "secret"], 9),
    ));
    assert_eq!(
        to_broker,
        request(api(0), 9, 1, &produce(1, &["orders"], 9))
    );
    let (_, to_client) = bed.broker(&produced(1, &["orders"]));
    assert_eq!(to_client, b"");
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::NoAnswer)));
}

#[test]
fn records_are_never_held() {
    let mut bed = Bed::scoped();
    let asked = request(api(0), 9, 1, &produce(1, &["orders"], 64 << 20));
    let mut passed = 0;
    for part in asked.chunks(64 << 10) {
        passed += bed.client(part).0.len();
        assert!(
            crate::kafka::memory::held() < 40 << 20,
            "other tests hold some"
        );
    }
    assert_eq!(passed, asked.len());
    let denied = request(api(0), 9, 2, &produce(1, &["secret"], 64 << 20));
    for part in denied.chunks(64 << 10) {
        assert_eq!(bed.client(part).0, b"");
    }
    let (_, answers) = bed.broker(&produced(1, &["orders"]));
    let found: Vec<i32> = frames(&answers).into_iter().map(correlation).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn a_long_produce_is_judged_as_it_comes() {
    let long = 2 << 20;
    let mut bed = Bed::scoped();
    let allowed = request(api(0), 9, 1, &produce(1, &["orders", "orders"], long));
    let passed: Vec<u8> = allowed
        .chunks(65_536)
        .flat_map(|part| bed.client(part).0)
        .collect();
    assert_eq!(passed, allowed);
    // Denied first: the broker gets nothing, what was allowed is to be sent again.
    let mut bed = Bed::scoped();
    let mixed = request(api(0), 9, 1, &produce(1, &["secret", "orders"], long));
    let left: Vec<Left> = mixed.chunks(65_536).map(|part| bed.client(part)).collect();
    assert!(left.iter().all(|left| left.0.is_empty()));
    let answer = left
        .iter()
        .flat_map(|left| left.1.clone())
        .collect::<Vec<u8>>();
    let content = read_response(api(0), 9, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret", "orders"]);
    assert_eq!(bed.closed(), None);
    // Denied late: the broker's part is never completed.
    let mut bed = Bed::scoped();
    let mixed = request(api(0), 9, 1, &produce(1, &["orders", "secret"], long));
    let left: Vec<Left> = mixed.chunks(65_536).map(|part| bed.client(part)).collect();
    let passed: usize = left.iter().map(|left| left.0.len()).sum();
    assert!(passed > 0 && passed < long + 70_000, "{}", passed);
    assert_eq!(bed.closed(), Some(Close::Flush(Reason::Partial)));
}

/// A Metadata v12 response of topics (name, id).
fn metadata(correlation: i32, topics: &[(&str, [u8; 16])]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
    crate::kafka::reply::count(Some(topics.len() as u32), true, &mut out);
    for (name, id) in topics {
        out.extend([0, 0]);
        crate::kafka::reply::count(Some(name.len() as u32), true, &mut out);
        out.extend(name.as_bytes());
        out.extend(id);
        out.extend([0, 1, 0, 0, 0, 0, 0]);
    }
    out.push(0);
    response(api(3), 12, correlation, &out)
}

fn metadata_request(topics: Option<&[&str]>) -> Vec<u8> {
    let mut out = Vec::new();
    crate::kafka::reply::count(topics.map(|topics| topics.len() as u32), true, &mut out);
    for name in topics.unwrap_or(&[]) {
        out.extend([0; 16]);
        crate::kafka::reply::count(Some(name.len() as u32), true, &mut out);
        out.extend(name.as_bytes());
        out.push(0);
    }
    out.extend([1, 0, 0]);
    out
}

#[test]
fn a_list_of_all_topics_is_filtered() {
    let mut bed = Bed::scoped();
    let asked = request(api(3), 12, 1, &metadata_request(None));
    assert_eq!(bed.client(&asked).0, asked);
    let (_, answer) = bed.broker(&metadata(
        1,
        &[("secret", SECRET), ("orders", ORDERS), ("x", [3; 16])],
    ));
    assert_eq!(answer, metadata(1, &[("orders", ORDERS)]));
}

#[test]
fn a_denied_topic_of_metadata_is_answered_without_its_id_and_never_asked_for() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(3),
        12,
        1,
        &metadata_request(Some(&["secret"])),
    ));
    assert_eq!(
        to_broker,
        request(api(3), 12, 1, &metadata_request(Some(&[])))
    );
    let (_, answer) = bed.broker(&metadata(1, &[]));
    let content = read_response(api(3), 12, frames(&answer)[0]);
    assert_eq!(topics_of(&content), ["secret"]);
    assert_eq!(content.entries[0].id, None);
}

/// A Fetch v13 of ids, one partition each.
fn fetch(session: i32, epoch: i32, ids: &[[u8; 16]], forgotten: &[[u8; 16]]) -> Vec<u8> {
    let mut out = vec![0xff; 4];
    out.extend([0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]);
    out.extend(session.to_be_bytes());
    out.extend(epoch.to_be_bytes());
    crate::kafka::reply::count(Some(ids.len() as u32), true, &mut out);
    for id in ids {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5]);
        out.extend([0; 4 + 8 + 4 + 8 + 4]);
        out.extend([0, 0]);
    }
    crate::kafka::reply::count(Some(forgotten.len() as u32), true, &mut out);
    for id in forgotten {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5, 0]);
    }
    out.extend([1, 0]);
    out
}

/// A Fetch v13 response of ids.
fn fetched(correlation: i32, session: i32, ids: &[[u8; 16]]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 0, 0];
    out.extend(session.to_be_bytes());
    crate::kafka::reply::count(Some(ids.len() as u32), true, &mut out);
    for id in ids {
        out.extend(id);
        out.extend([2, 0, 0, 0, 5, 0, 0]);
        out.extend([0; 24]);
        out.extend([1, 0, 0, 0, 0, 1, 0, 0]);
    }
    out.push(0);
    response(api(1), 13, correlation, &out)
}

#[test]
fn topic_ids_are_judged_by_name_and_an_unknown_one_is_asked_for() {
    let mut bed = Bed::scoped();
    let unknown = [7; 16];
    let asked = request(api(1), 13, 1, &fetch(0, -1, &[unknown], &[]));
    let later = request(api(1), 13, 2, &fetch(0, -1, &[ORDERS], &[]));
    let (question, nothing) = bed.client(&[asked.clone(), later.clone()].concat());
    assert_eq!(nothing, b"");
    assert!(bed.connection.is_blocked());
    let questions = frames(&question);
    assert_eq!(read_request(questions[0]).entries[0].id, Some(unknown));
    let own = i32::from_be_bytes(questions[0][4..8].try_into().expect("four bytes"));
    let (to_broker, to_client) = bed.broker(&metadata(own, &[("orders", unknown)]));
    assert_eq!(
        (to_broker, to_client),
        ([asked, later].concat(), Vec::new())
    );
    assert!(!bed.connection.is_blocked());
}

#[test]
fn an_id_that_the_broker_does_not_know_is_refused() {
    let mut bed = Bed::scoped();
    let (question, _) = bed.client(&request(api(1), 13, 1, &fetch(0, -1, &[[8; 16]], &[])));
    let own = i32::from_be_bytes(frames(&question)[0][4..8].try_into().expect("four bytes"));
    let (to_broker, to_client) = bed.broker(&metadata(own, &[]));
    assert_eq!(to_broker, b"");
    let answers = frames(&to_client);
    assert_eq!(correlation(answers[0]), 1);
    assert_eq!(
        bed.connection.events.last().expect("an event").error,
        judge::UNKNOWN_TOPIC_ID
    );
}

#[test]
fn a_fetch_session_is_told_of_its_denied_partitions_each_time_until_it_forgets_them() {
    let mut bed = Bed::scoped();
    let (to_broker, _) = bed.client(&request(
        api(1),
        13,
        1,
        &fetch(0, 0, &[ORDERS, SECRET], &[]),
    ));
    assert_eq!(
        to_broker,
        request(api(1), 13, 1, &fetch(0, 0, &[ORDERS], &[]))
    );
    let (_, answer) = bed.broker(&fetched(1, 77, &[ORDERS]));
    assert_eq!(
        topics_of(&read_response(api(1), 13, frames(&answer)[0])),
        ["secret", "orders"]
    );
    for correlation in 2..4 {
        let asked = request(
            api(1),
            13,
            correlation,
            &fetch(77, correlation - 1, &[], &[]),
        );
        assert_eq!(bed.client(&asked).0, asked);
        let (_, answer) = bed.broker(&fetched(correlation, 77, &[]));
        assert_eq!(
            topics_of(&read_response(api(1), 13, frames(&answer)[0])),
            ["secret"]
        );
    }
    let asked = request(api(1), 13, 4, &fetch(77, 3, &[], &[SECRET]));
    assert_eq!(bed.client(&asked).0, asked);
    assert_eq!(bed.broker(&fetched(4, 77, &[])).1, fetched(4, 77, &[]));
}

#[test]
fn a_fetch_session_begins_anew_after_an_edit_and_on_another_connection() {
    let lost = |answer: &[u8]| read_response(api(1), 13, frames(answer)[0]).error;
    let mut bed = Bed::scoped();
    bed.client(&request(api(1), 13, 1, &fetch(0, 0, &[ORDERS], &[])));
    bed.broker(&fetched(1, 77, &[ORDERS]));
    bed.edit(NOTHING);
    let (to_broker, answer) = bed.client(&request(api(1), 13, 2, &fetch(77, 1, &[], &[])));
    assert_eq!(
        (to_broker.len(), lost(&answer)),
        (0, judge::FETCH_SESSION_ID_NOT_FOUND)
    );
    let (to_broker, answer) =
        Bed::scoped().client(&request(api(1), 13, 2, &fetch(77, 1, &[], &[])));
    assert_eq!(
        (to_broker.len(), lost(&answer)),
        (0, judge::FETCH_SESSION_ID_NOT_FOUND)
    );
}

#[test]
fn an_edit_reaches_the_next_request() {
    let mut bed = Bed::new(ALL);
    let asked = request(api(0), 9, 1, &produce(1, &["secret"], 9));
    assert_eq!(bed.client(&asked).0, asked);
    bed.edit(NOTHING);
    assert_eq!(bed.client(&asked).0, b"");
    bed.edit(ALL);
    assert_eq!(bed.client(&asked).0, asked);
}

#[test]
fn a_version_that_nobody_knows_is_answered_or_closes() {
    let mut bed = Bed::new(ALL);
    let (to_broker, answer) = bed.client(&framed(&[&[0, 1, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 0]]));
    assert_eq!(to_broker, b"");
    let content = read_response(api(1), 18, frames(&answer)[0]);
    assert_eq!(content.error, judge::UNSUPPORTED_VERSION);
    assert_eq!(bed.closed(), None);
    bed.client(&framed(&[&[0, 0, 0, 2, 0, 0, 0, 5, 0xff, 0xff]]));
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unsupported)));
    let mut bed = Bed::new(ALL);
    bed.client(&framed(&[&[3, 0, 0, 0, 0, 0, 0, 5, 0xff, 0xff]]));
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unsupported)));
}

#[test]
fn api_versions_of_any_version_passes() {
    let mut bed = Bed::new(NOTHING);
    let asked = framed(&[&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 0, 1, 2, 3]]);
    assert_eq!(bed.client(&asked).0, asked);
    let told = framed(&[&[0, 0, 0, 5, 0, 35, 0, 0, 0, 0]]);
    assert_eq!(bed.broker(&told).1, told);
}

#[test]
fn what_is_not_kafka_closes_with_its_reason() {
    for (bytes, reason) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            Reason::Tls,
        ),
        (b"GET / HTTP/1.1\r\n", Reason::FrameTooLong),
        (b"\xff\xff\xff\xff", Reason::FrameTooLong),
        (b"\x00\x00\x00\x01\x00", Reason::Malformed),
        (
            b"\x00\x00\x00\x0c\x00\x03\x00\x0c\x00\x00\x00\x00\x7f\xff\x00\x00",
            Reason::Malformed,
        ),
    ] {
        let mut bed = Bed::scoped();
        let mut passed = 0;
        for byte in bytes {
            passed += bed.client(&[*byte]).0.len();
        }
        assert_eq!((bed.closed(), passed), (Some(Close::Now(reason)), 0));
        assert_eq!(bed.connection.events[0].reason, reason);
    }
}

#[test]
fn a_response_that_nobody_asked_for_closes() {
    let mut bed = Bed::new(ALL);
    assert_eq!(bed.broker(b"SSH-2.0-x\r\n").1, b"");
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unasked)));
    let mut bed = Bed::new(ALL);
    bed.client(&request(api(0), 9, 1, &produce(1, &["orders"], 9)));
    assert_eq!(bed.broker(&produced(2, &["orders"])).1, b"");
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Unasked)));
}

#[test]
fn counts_that_lie_allocate_nothing() {
    // A Metadata v12 that claims 2^31 topics in a frame of 16 MB, of which ten bytes have come.
    let mut bed = Bed::scoped();
    let mut bytes = request(
        api(3),
        12,
        1,
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0],
    );
    bytes[..4].copy_from_slice(&(16_000_000u32).to_be_bytes());
    bed.client(&bytes);
    assert_eq!(bed.closed(), None);
    let small = request(
        api(3),
        12,
        1,
        &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0],
    );
    let mut bed = Bed::scoped();
    bed.client(&small);
    assert_eq!(bed.closed(), Some(Close::Now(Reason::Malformed)));
    let mut bed = Bed::scoped();
    bytes[..4].copy_from_slice(&(17u32 << 20).to_be_bytes());
    bed.client(&bytes);
    assert_eq!(bed.closed(), Some(Close::Now(Reason::RequestTooLong)));
}

#[test]
fn raw_sasl_tokens_pass_and_are_counted() {
    let mut bed = Bed::new(NOTHING);
    let handshake = request(api(17), 0, 1, b"\x00\x0dSCRAM-SHA-256");
    assert_eq!(bed.client(&handshake).0, handshake);
    let early = framed(&[b"n,,n=user,r=x"]);
    assert_eq!(bed.client(&early).0, b"");
    let told = response(api(17), 0, 1, &[0, 0, 0, 0, 0, 0]);
    assert_eq!(bed.broker(&told), (early, told));
    let token = framed(&[b"\x00\x03\x00\x0c"]);
    assert_eq!(bed.client(&token).0, token);
    for _ in 0..2 {
        assert_eq!(bed.broker(&token).1, token);
    }
    // Both of the client's messages are through: Kafka again.
    let denied = request(api(0), 9, 1, &produce(1, &["orders"], 9));
    assert_eq!(bed.client(&denied).0, b"");
}

#[test]
fn a_refused_handshake_opens_no_gap() {
    let mut bed = Bed::new(NOTHING);
    bed.client(&request(api(17), 0, 1, b"\x00\x05PLAIN"));
    bed.broker(&response(api(17), 0, 1, &[0, 34, 0, 0, 0, 0]));
    let denied = request(api(0), 9, 2, &produce(1, &["orders"], 9));
    assert_eq!(bed.client(&denied).0, b"");
}

#[test]
fn an_audit_lets_pass_and_tells() {
    let mut bed = Bed::new(r#"[{"audit": true, "allow": []}]"#);
    let asked = request(api(0), 9, 1, &produce(1, &["secret"], 9));
    assert_eq!(bed.client(&asked).0, asked);
    bed.broker(&produced(1, &["secret"]));
    let event = &bed.connection.events[0];
    assert_eq!(
        (event.kind, &event.topics[0][..]),
        (Verdict::Audited, &b"secret"[..])
    );
}

#[test]
fn a_report_tells_topics_by_name_where_the_request_has_ids() {
    let mut bed = Bed::scoped();
    bed.client(&request(
        api(1),
        13,
        1,
        &fetch(0, -1, &[ORDERS, SECRET], &[]),
    ));
    let event = &bed.connection.events[0];
    let names: Vec<&[u8]> = event.topics.iter().map(|name| &name[..]).collect();
    assert_eq!(
        (event.kind, names),
        (Verdict::Denied, vec![&b"secret"[..], b"orders"])
    );
}
