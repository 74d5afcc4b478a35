//! Regular expressions as programs, run in time linear in the text.
//!
//! Python compiles them (`proxylib/kafka/pattern.py`), so that what RE2 would read differently is refused before it gets
//! here; this only runs them: all threads at once (Thompson), a match is of the whole text.

use super::json::Json;

/// Instructions of one expression. Each costs a step for each byte of a name.
pub const PROGRAM_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Pass over one byte that lies in one of the ranges.
    Byte(Vec<(u8, u8)>),
    /// Go on at both.
    Split(usize, usize),
    /// The text must end here.
    Match,
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Step>);

impl Program {
    /// Read `[["byte", low, high, ...], ["split", a, b], ["match"], ...]`; None when it isn't that.
    pub fn of(json: &Json) -> Option<Program> {
        let items = json.list();
        if items.is_empty() || items.len() > PROGRAM_MAX {
            return None;
        }
        let mut steps = Vec::with_capacity(items.len());
        for item in items {
            let parts = item.list();
            let numbers: Option<Vec<i64>> = parts.iter().skip(1).map(Json::number).collect();
            let numbers = numbers?;
            steps.push(match (parts.first()?.text()?, numbers.as_slice()) {
                ("byte", ranges) => {
                    let pairs = ranges.chunks(2).map(|pair| match pair {
                        [low, high] => Some((u8::try_from(*low).ok()?, u8::try_from(*high).ok()?)),
                        _ => None,
                    });
                    Step::Byte(pairs.collect::<Option<_>>()?)
                }
                ("split", [a, b]) => Step::Split(target(*a, items)?, target(*b, items)?),
                ("match", []) => Step::Match,
                _ => return None,
            });
        }
        Some(Program(steps))
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        let mut now = Threads::new(self.0.len());
        let mut next = Threads::new(self.0.len());
        self.follow(0, &mut now);
        for byte in text {
            next.clear();
            for index in &now.list {
                if let Some(Step::Byte(ranges)) = self.0.get(*index) {
                    if ranges.iter().any(|(low, high)| low <= byte && byte <= high) {
                        self.follow(index + 1, &mut next);
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
            if now.list.is_empty() {
                return false;
            }
        }
        now.list
            .iter()
            .any(|index| self.0.get(*index) == Some(&Step::Match))
    }

    /// Add a thread at `start` and wherever it goes without a byte.
    fn follow(&self, start: usize, threads: &mut Threads) {
        let mut open = vec![start];
        while let Some(index) = open.pop() {
            match self.0.get(index) {
                Some(Step::Split(a, b)) if threads.add(index, false) => open.extend([*b, *a]),
                Some(Step::Byte(_) | Step::Match) => {
                    threads.add(index, true);
                }
                _ => {}
            }
        }
    }
}

fn target(number: i64, items: &[Json]) -> Option<usize> {
    usize::try_from(number)
        .ok()
        .filter(|index| *index < items.len())
}

/// A set of instructions.
struct Threads {
    seen: Vec<bool>,
    list: Vec<usize>,
    touched: Vec<usize>,
}

impl Threads {
    fn new(count: usize) -> Threads {
        Threads {
            seen: vec![false; count],
            list: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Returns whether it is new.
    fn add(&mut self, index: usize, waits: bool) -> bool {
        if std::mem::replace(&mut self.seen[index], true) {
            return false;
        }
        self.touched.push(index);
        if waits {
            self.list.push(index);
        }
        true
    }

    fn clear(&mut self) {
        for index in self.touched.drain(..) {
            self.seen[index] = false;
        }
        self.list.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::json::parse;

    fn program(text: &str) -> Option<Program> {
        Program::of(&parse(text).expect("JSON"))
    }

    #[test]
    fn a_program_matches_whole_texts() {
        // a(b|c)*
        let found =
            program(r#"[["byte",97,97],["split",2,4],["byte",98,99],["split",2,4],["match"]]"#)
                .expect("a program");
        for (text, matches) in [
            ("a", true),
            ("abcb", true),
            ("", false),
            ("ad", false),
            ("abcd", false),
        ] {
            assert_eq!(found.matches(text.as_bytes()), matches, "{}", text);
        }
    }

    #[test]
    fn a_loop_without_bytes_ends() {
        let found = program(r#"[["split",0,1],["split",0,2],["match"]]"#).expect("a program");
        assert!(found.matches(b""));
        assert!(!found.matches(b"x"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for text in [
            r#"[]"#,
            r#"[["split",0,9]]"#,
            r#"[["byte",1]]"#,
            r#"[["byte",1,256]]"#,
            r#"[["jump",1]]"#,
            r#"{}"#,
        ] {
            assert_eq!(program(text), None, "{}", text);
        }
    }
}
