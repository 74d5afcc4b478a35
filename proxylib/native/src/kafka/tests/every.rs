//! The filter on random exchanges of every API and version: whole, split, mutated.

use super::*;

/// One request and, if it reaches the broker, a random response; `step`: bytes given at once.
fn exchange(number: i16, version: i16, seed: u64, step: usize) -> (Left, Left, Option<Close>) {
    let mut dice = Dice(seed);
    let api = api(number);
    let (body, _) = made(api.request, api, version, &mut dice);
    let (answer, _) = made(api.response, api, version, &mut dice);
    let mut bed = Bed::scoped();
    let mut asked = (Vec::new(), Vec::new());
    for part in request(api, version, 7, &body).chunks(step) {
        let (to_broker, to_client) = bed.client(part);
        asked.0.extend(to_broker);
        asked.1.extend(to_client);
    }
    let mut told = (Vec::new(), Vec::new());
    if asked.1.is_empty() {
        for part in response(api, version, 7, &answer).chunks(step) {
            let (to_broker, to_client) = bed.broker(part);
            told.0.extend(to_broker);
            told.1.extend(to_client);
        }
    }
    (asked, told, bed.closed())
}

fn judged_pairs() -> impl Iterator<Item = (&'static Api, i16)> {
    pairs().filter(|(api, _)| api.judged)
}

#[test]
fn an_exchange_split_at_every_byte_is_the_same_as_whole() {
    for (api, version) in judged_pairs() {
        for seed in 1..4 {
            let whole = exchange(api.number, version, seed, usize::MAX);
            assert_eq!(
                exchange(api.number, version, seed, 1),
                whole,
                "{} v{}",
                api.name,
                version
            );
            assert_eq!(
                exchange(api.number, version, seed, 13),
                whole,
                "{} v{}",
                api.name,
                version
            );
        }
    }
}

#[test]
fn no_denied_topic_reaches_the_broker_and_every_request_gets_a_whole_answer() {
    for (api, version) in judged_pairs() {
        for seed in 1..40 {
            let (asked, told, closing) = exchange(api.number, version, seed, usize::MAX);
            let what = format!("{} v{} seed {}: {:?}", api.name, version, seed, closing);
            for frame in frames(&asked.0) {
                if api.scope.has(Scope::TOPIC) {
                    let content = read_request(frame);
                    let owns = api.number == judge::CONSUMER_GROUP_HEARTBEAT;
                    let is_judged = |entry: &&crate::kafka::request::Entry| {
                        let owned = owns && entry.name.is_none();
                        !owned && !crate::kafka::reply::is_forgotten(&content, entry)
                    };
                    let judged: Vec<_> =
                        content.entries.iter().filter(is_judged).cloned().collect();
                    let judged = Content {
                        entries: judged,
                        ..Content::default()
                    };
                    assert!(
                        topics_of(&judged).iter().all(|topic| topic == "orders"),
                        "{}",
                        what
                    );
                }
            }
            if closing == Some(Close::Flush(Reason::NoAnswer)) {
                continue;
            }
            assert_eq!(closing, None, "{}", what);
            let answer = if asked.1.is_empty() {
                &told.1
            } else {
                &asked.1
            };
            let answers = frames(answer);
            assert_eq!(answers.len(), 1, "{}", what);
            assert_eq!(correlation(answers[0]), 7, "{}", what);
            read_response(api, version, answers[0]);
        }
    }
}

#[test]
fn an_all_denied_request_is_answered_for_every_api_and_version() {
    let mut dice = Dice(3);
    for (api, version) in judged_pairs() {
        let mut bed = Bed::new(NOTHING);
        let (body, _) = made(api.request, api, version, &mut dice);
        let (to_broker, to_client) = bed.client(&request(api, version, 7, &body));
        let lists = matches!(
            api.number,
            judge::METADATA | judge::DESCRIBE_TOPIC_PARTITIONS | judge::LIST_GROUPS
        );
        if lists && !to_broker.is_empty() {
            continue; // what it may see of all that there is: nothing, as other tests show
        }
        assert_eq!(to_broker, b"", "{} v{}", api.name, version);
        if bed.closed() == Some(Close::Flush(Reason::NoAnswer)) {
            continue;
        }
        let answers = frames(&to_client);
        assert_eq!(answers.len(), 1, "{} v{}", api.name, version);
        let content = read_response(api, version, answers[0]);
        if content.error == judge::FETCH_SESSION_ID_NOT_FOUND {
            continue; // of a session that this connection never had: the client names its topics anew
        }
        let event = bed.connection.events.last().expect("an event");
        assert_eq!(event.kind, Verdict::Denied, "{} v{}", api.name, version);
        // A list of what nobody may see is empty, and no error.
        assert_eq!(
            event.error == 0,
            api.error == 0,
            "{} v{}",
            api.name,
            version
        );
    }
}

#[test]
fn what_a_rule_allows_whole_passes_byte_for_byte() {
    let apis: Vec<String> = (0..95).map(|number| number.to_string()).collect();
    let sides = format!(
        r#"[{{"allow": [{{"origin": "all", "apis": [{}]}}]}}]"#,
        apis.join(",")
    );
    let mut dice = Dice(4);
    for (api, version) in pairs().filter(|(api, _)| api.number != judge::SASL_HANDSHAKE) {
        let mut bed = Bed::new(&sides);
        let asked = request(
            api,
            version,
            7,
            &made(api.request, api, version, &mut dice).0,
        );
        assert_eq!(
            bed.client(&asked),
            (asked, Vec::new()),
            "{} v{}",
            api.name,
            version
        );
        let told = response(
            api,
            version,
            7,
            &made(api.response, api, version, &mut dice).0,
        );
        assert_eq!(
            bed.broker(&told),
            (Vec::new(), told),
            "{} v{}",
            api.name,
            version
        );
    }
}

#[test]
fn mutated_bytes_end_the_connection_or_pass_and_nothing_else() {
    let mut dice = Dice(5);
    let all: Vec<_> = judged_pairs().collect();
    for _ in 0..20_000 {
        let (api, version) = all[dice.below(all.len() as u64) as usize];
        let mut bed = Bed::scoped();
        let mut asked = request(
            api,
            version,
            7,
            &made(api.request, api, version, &mut dice).0,
        );
        let mut told = response(
            api,
            version,
            7,
            &made(api.response, api, version, &mut dice).0,
        );
        for bytes in [&mut asked, &mut told] {
            for _ in 0..dice.below(4) {
                let at = dice.below(bytes.len() as u64) as usize;
                match dice.below(3) {
                    0 => bytes[at] = dice.below(256) as u8,
                    1 => bytes[at] = 0xff,
                    _ => bytes.truncate(at.max(1)),
                }
            }
        }
        bed.client(&asked);
        bed.broker(&told);
    }
}
