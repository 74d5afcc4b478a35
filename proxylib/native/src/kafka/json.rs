//! A small JSON reader for the filter's own configuration, which Python's `json` wrote.
//!
//! Bounded in depth; refuses what isn't JSON. Numbers are integers here, as nothing else is sent.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::Chars;

/// Arrays and objects in one another.
const DEPTH_MAX: usize = 16;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// The member `name` of an object; Null when there is none.
    pub fn get(&self, name: &str) -> &Json {
        match self {
            Json::Object(members) => members.get(name).unwrap_or(&Json::Null),
            _ => &Json::Null,
        }
    }

    pub fn number(&self) -> Option<i64> {
        match self {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list; none of anything else.
    pub fn list(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        *self == Json::Bool(true)
    }
}

/// Read one document; None when it is not JSON.
pub fn parse(text: &str) -> Option<Json> {
    let mut reader = Reader {
        chars: text.chars(),
    };
    let value = reader.value(0)?;
    if reader.next_solid().is_some() {
        return None;
    }
    Some(value)
}

struct Reader<'a> {
    chars: Chars<'a>,
}

impl Reader<'_> {
    fn next_solid(&mut self) -> Option<char> {
        self.chars.find(|found| !found.is_ascii_whitespace())
    }

    fn peek_solid(&mut self) -> Option<char> {
        let mut ahead = self.chars.clone();
        ahead.find(|found| !found.is_ascii_whitespace())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth == DEPTH_MAX {
            return None;
        }
        match self.next_solid()? {
            '{' => self.object(depth),
            '[' => self.items(depth),
            '"' => Some(Json::Text(self.string()?)),
            't' => self.word("rue", Json::Bool(true)),
            'f' => self.word("alse", Json::Bool(false)),
            'n' => self.word("ull", Json::Null),
            first => self.integer(first),
        }
    }

    fn word(&mut self, rest: &str, value: Json) -> Option<Json> {
        for wanted in rest.chars() {
            if self.chars.next()? != wanted {
                return None;
            }
        }
        Some(value)
    }

    fn integer(&mut self, first: char) -> Option<Json> {
        let mut digits = String::from(first);
        while let Some(digit) = self.chars.clone().next().filter(char::is_ascii_digit) {
            digits.push(digit);
            self.chars.next();
        }
        digits.parse().ok().map(Json::Number)
    }

    fn items(&mut self, depth: usize) -> Option<Json> {
        let mut items = Vec::new();
        if self.peek_solid()? == ']' {
            self.next_solid();
            return Some(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.next_solid()? {
                ',' => {}
                ']' => return Some(Json::List(items)),
                _ => return None,
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        let mut members = BTreeMap::new();
        if self.peek_solid()? == '}' {
            self.next_solid();
            return Some(Json::Object(members));
        }
        loop {
            if self.next_solid()? != '"' {
                return None;
            }
            let name = self.string()?;
            if self.next_solid()? != ':' {
                return None;
            }
            members.insert(name, self.value(depth + 1)?);
            match self.next_solid()? {
                ',' => {}
                '}' => return Some(Json::Object(members)),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.chars.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                control if (control as u32) < 0x20 => return None,
                plain => text.push(plain),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let high = self.hex()?;
                if !(0xd800..0xdc00).contains(&high) {
                    return char::from_u32(high);
                }
                self.word("\\u", Json::Null)?;
                let low = self.hex()?;
                if !(0xdc00..0xe000).contains(&low) {
                    return None;
                }
                return char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
            same @ ('"' | '\\' | '/') => same,
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let mut value = 0;
        for _ in 0..4 {
            value = value * 16 + self.chars.next()?.to_digit(16)?;
        }
        Some(value)
    }
}

/// `text` as a JSON string, with its quotes; bytes that are no UTF-8 become U+FFFD.
pub fn quoted(text: &[u8], out: &mut String) {
    out.push('"');
    for found in String::from_utf8_lossy(text).chars() {
        match found {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if (control as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let found = parse(r#" {"a": [1, -2, true, null], "b": {"c": "x\n\"\u00e9\ud83d\ude00"}} "#);
        let found = found.expect("JSON");
        assert_eq!(found.get("a").list()[1], Json::Number(-2));
        assert_eq!(found.get("b").get("c").text(), Some("x\n\"é😀"));
        assert!(found.get("a").list()[2].is_true());
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "\"\u{1}\"",
            "1 2",
            "tru",
            "\"\\ud83d\"",
        ] {
            assert_eq!(parse(text), None, "{}", text);
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }

    #[test]
    fn what_is_quoted_reads_back() {
        let mut out = String::new();
        quoted(b"a\"b\\c\n", &mut out);
        assert_eq!(parse(&out), Some(Json::Text("a\"b\\c\n".into())));
    }
}
