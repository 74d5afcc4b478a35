//! The walker on random messages of every API and version.

use super::*;

/// Writes down what a walk tells.
#[derive(Default, PartialEq, Debug)]
struct Log(Vec<String>, u32);

impl Visitor for Log {
    fn array(&mut self, field: &'static Field, count: Option<u32>, at: Span) -> bool {
        self.0
            .push(format!("array {} {:?} {:?}", field.name, count, at));
        true
    }
    fn array_end(&mut self, field: &'static Field) {
        self.0.push(format!("end {}", field.name));
    }
    fn enter(&mut self, field: &'static Field, at: u64) {
        self.0.push(format!("enter {} {}", field.name, at));
    }
    fn leave(&mut self, field: &'static Field, at: u64) {
        self.0.push(format!("leave {} {}", field.name, at));
    }
    fn value(&mut self, field: &'static Field, value: Value<'_>, at: Span) -> bool {
        self.1 += (field.role == Role::Topic && value != Value::Null) as u32;
        self.0.push(format!("{} {:?} {:?}", field.name, value, at));
        true
    }
}

#[test]
fn every_message_is_walked_to_its_end_and_every_topic_is_seen() {
    let mut dice = Dice(1);
    for (api, version) in pairs() {
        for fields in [api.request, api.response] {
            for _ in 0..5 {
                let (body, topics) = made(fields, api, version, &mut dice);
                let mut log = Log::default();
                let mut walk = Walk::new(
                    fields,
                    version,
                    api.flexible.has(version),
                    body.len() as u64,
                );
                let progress = walk.feed(&body, &mut log);
                assert_eq!(progress, Ok(Progress::Done), "{} v{}", api.name, version);
                assert_eq!(
                    (walk.at(), log.1),
                    (body.len() as u64, topics),
                    "{} v{}",
                    api.name,
                    version
                );
            }
        }
    }
}

#[test]
fn a_walk_split_anywhere_tells_the_same() {
    let mut dice = Dice(2);
    for (api, version) in pairs() {
        let (body, _) = made(api.request, api, version, &mut dice);
        let flexible = api.flexible.has(version);
        let mut whole = Log::default();
        let mut walk = Walk::new(api.request, version, flexible, body.len() as u64);
        walk.feed(&body, &mut whole).expect("a message");
        let mut log = Log::default();
        let mut walk = Walk::new(api.request, version, flexible, body.len() as u64);
        for end in 0..=body.len() {
            let at = walk.at() as usize;
            walk.feed(&body[at.min(end)..end], &mut log)
                .expect("a message");
        }
        assert_eq!(log, whole, "{} v{}", api.name, version);
    }
}

#[test]
fn no_tagged_field_means_anything_to_an_authorizer() {
    fn check(api: &Api, fields: &'static [Field], tagged: bool) {
        for field in fields {
            let tagged = tagged || field.tag >= 0;
            let means = !matches!(
                field.role,
                Role::None | Role::Error | Role::ErrorMessage | Role::Throttle
            );
            assert!(!(tagged && means), "{} {}", api.name, field.name);
            check(api, field.fields, tagged);
        }
    }
    for api in APIS.iter().copied().flatten() {
        check(api, api.request, false);
        check(api, api.response, false);
    }
}
