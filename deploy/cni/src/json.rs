//! JSON as far as a CNI plugin needs it: reading untrusted text into values, with the span of each member of the outermost
//! object, so that a part of the input can be handed on byte for byte.

use std::fmt::Write;

/// Nesting beyond this is no CNI configuration.
const DEPTH_MAX: usize = 64;

/// One value. Numbers stay text: nobody here calculates with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The member `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string member; "" if there is none.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// The items of a list member.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.get(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// A number member as seconds.
    pub fn seconds(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Value::Number(text)) => text
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite() && *number >= 0.0),
            _ => None,
        }
    }
}

/// A parsed document, and where the members of its outermost object stand in the text.
pub struct Document<'a> {
    pub value: Value,
    text: &'a str,
    spans: Vec<(String, usize, usize)>,
}

impl Document<'_> {
    /// The text of a member of the outermost object, as it was written.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.spans
            .iter()
            .find(|(key, _, _)| key == name)
            .map(|(_, from, to)| &self.text[*from..*to])
    }
}

/// Read a document; the error says what is wrong at which byte.
pub fn parse(text: &str) -> Result<Document<'_>, String> {
    let mut reader = Reader {
        text,
        bytes: text.as_bytes(),
        at: 0,
        spans: Vec::new(),
    };
    let value = reader.value(0)?;
    reader.space();
    if reader.at != reader.bytes.len() {
        return reader.wrong("something follows the document");
    }
    Ok(Document {
        value,
        text,
        spans: reader.spans,
    })
}

/// A string as JSON writes it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            char if (char as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", char as u32);
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    spans: Vec<(String, usize, usize)>,
}

impl Reader<'_> {
    fn wrong<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("not JSON: {} at byte {}", what, self.at))
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), String> {
        if self.bytes.get(self.at) != Some(&byte) {
            return self.wrong(&format!("expected '{}'", byte as char));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return self.wrong("nested too deep");
        }
        self.space();
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => Ok(self.number()),
            _ => self.wrong("expected a value"),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, String> {
        if !self.text[self.at..].starts_with(word) {
            return self.wrong("unknown word");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Value {
        let from = self.at;
        while matches!(
            self.bytes.get(self.at),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            self.at += 1;
        }
        Value::Number(self.text[from..self.at].to_string())
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        self.take(b'[')?;
        let mut items = Vec::new();
        self.space();
        if self.bytes.get(self.at) == Some(&b']') {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.bytes.get(self.at) == Some(&b']') {
                self.at += 1;
                return Ok(Value::List(items));
            }
            self.take(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.take(b'{')?;
        let mut members = Vec::new();
        self.space();
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.take(b':')?;
            self.space();
            let from = self.at;
            let value = self.value(depth + 1)?;
            if depth == 0 {
                self.spans.push((key.clone(), from, self.at));
            }
            members.push((key, value));
            self.space();
            if self.bytes.get(self.at) == Some(&b'}') {
                self.at += 1;
                return Ok(Value::Object(members));
            }
            self.take(b',')?;
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.take(b'"')?;
        let mut out = String::new();
        loop {
            let from = self.at;
            while !matches!(self.bytes.get(self.at), None | Some(b'"' | b'\\')) {
                self.at += 1;
            }
            out.push_str(&self.text[from..self.at]);
            match self.bytes.get(self.at) {
                None => return self.wrong("a string does not end"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(_) => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(match byte {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(byte @ (b'"' | b'\\' | b'/')) => byte as char,
            Some(b'u') => {
                let first = self.hex()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first)
                        .map_or_else(|| self.wrong("half a surrogate pair"), Ok);
                }
                self.take(b'\\')?;
                self.take(b'u')?;
                let second = self.hex()?;
                let code = 0x10000 + ((first - 0xd800) << 10) + second.wrapping_sub(0xdc00);
                return char::from_u32(code)
                    .map_or_else(|| self.wrong("half a surrogate pair"), Ok);
            }
            _ => return self.wrong("unknown escape"),
        })
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .and_then(|text| u32::from_str_radix(text, 16).ok());
        match digits {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.wrong("expected four hexadecimal digits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_the_outermost_object_is_handed_on_byte_for_byte() {
        let text =
            r#"{"a": 1, "prevResult": {"x" : [1,2, {"prevResult": 3}] , "y":"\u00e9"}, "z": null}"#;
        let document = parse(text).unwrap();
        assert_eq!(
            document.raw("prevResult"),
            Some(r#"{"x" : [1,2, {"prevResult": 3}] , "y":"\u00e9"}"#)
        );
        assert_eq!(document.value.get("prevResult").unwrap().text("y"), "é");
    }

    #[test]
    fn strings_survive_quoting() {
        for text in ["", "plain", "\"\\\n\t\u{1}", "é\u{1f600}"] {
            let quoted = format!("[{}]", quoted(text));
            assert_eq!(
                parse(&quoted).unwrap().value,
                Value::List(vec![Value::Text(text.to_string())])
            );
        }
    }

    #[test]
    fn a_surrogate_pair_is_one_character() {
        assert_eq!(
            parse(r#""\ud83d\ude00""#).unwrap().value,
            Value::Text("\u{1f600}".to_string())
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(100);
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "\"\\ud83d\"",
            "\"\\u12\"",
            "nul",
            "1 2",
            "\"a",
            deep.as_str(),
        ] {
            assert!(parse(text).is_err(), "{}", text);
        }
    }

    #[test]
    fn every_prefix_of_a_document_is_refused_or_read_without_panic() {
        let text = r#"{"name":"a","list":[true,false,null,-1.5e3,"\u00e9\\"],"o":{"p":{}}}"#;
        for end in 0..text.len() {
            if text.is_char_boundary(end) {
                assert!(parse(&text[..end]).is_err());
            }
        }
    }
}
