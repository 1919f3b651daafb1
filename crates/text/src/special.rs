//! Finds added tokens in text, and keeps client text from ever forming one.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::ffi::AddedToken;
use crate::Result;

/// Noncharacters of Unicode: legal in a string, never assigned, in no vocabulary.
const SENTINELS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

pub fn is_sentinel(c: char) -> bool {
    SENTINELS.contains(&c)
}

/// A stretch of text between added tokens, or one added token.
pub enum Piece<'a> {
    Plain(&'a str),
    Added(&'a AddedToken),
}

/// Finds added tokens in text.
pub struct Matcher {
    tokens: Vec<AddedToken>,
    // None when there is nothing to find.
    split: Option<AhoCorasick>, // leftmost first, longest among those
    occurrences: Option<AhoCorasick>, // every one, overlapping too
    first_bytes: [bool; 256],
}

impl Matcher {
    pub fn new(tokens: Vec<AddedToken>) -> Result<Self> {
        let mut first_bytes = [false; 256];
        for token in &tokens {
            let Some(&byte) = token.content.as_bytes().first() else {
                return Err(format!("added token {}: empty content", token.id));
            };
            first_bytes[usize::from(byte)] = true;
        }
        let build = |kind| {
            if tokens.is_empty() {
                return Ok(None);
            }
            AhoCorasick::builder()
                .match_kind(kind)
                .build(tokens.iter().map(|token| token.content.as_bytes()))
                .map(Some)
                .map_err(|error| format!("added tokens: {error}"))
        };
        let split = build(MatchKind::LeftmostLongest)?;
        let occurrences = build(MatchKind::Standard)?;
        Ok(Self {
            tokens,
            split,
            occurrences,
            first_bytes,
        })
    }

    pub fn split<'a>(&'a self, text: &'a str) -> Vec<Piece<'a>> {
        let Some(split) = &self.split else {
            return vec![Piece::Plain(text)];
        };
        let mut pieces = Vec::new();
        let mut start = 0;
        for found in split.find_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let mut plain = &text[start.min(found.start())..found.start()];
            if token.lstrip {
                plain = plain.trim_end();
            }
            if !plain.is_empty() {
                pieces.push(Piece::Plain(plain));
            }
            pieces.push(Piece::Added(token));
            start = found.end();
            if token.rstrip {
                start = text.len() - text[start..].trim_start().len();
            }
        }
        if start < text.len() {
            pieces.push(Piece::Plain(&text[start..]));
        }
        pieces
    }

    /// Puts `sentinel` after the first character of every added token in `text`, and of every
    /// beginning of one at the end of `text`, where the client's next string might complete it.
    /// White space at the end does not count: templates trim. None: nothing to protect.
    fn protect_text(&self, text: &str, sentinel: char) -> Option<String> {
        let occurrences = self.occurrences.as_ref()?;
        let mut starts: Vec<usize> = occurrences
            .find_overlapping_iter(text)
            .map(|found| found.start())
            .collect();
        let trimmed = text.trim_end();
        let longest = self
            .tokens
            .iter()
            .map(|token| token.content.len())
            .max()
            .unwrap_or(0);
        for at in trimmed.len().saturating_sub(longest)..trimmed.len() {
            let tail = &trimmed.as_bytes()[at..];
            if self.first_bytes[usize::from(tail[0])]
                && self
                    .tokens
                    .iter()
                    .any(|token| token.content.as_bytes().starts_with(tail))
            {
                starts.push(at);
            }
        }
        if starts.is_empty() {
            return None;
        }
        starts.sort_unstable();
        starts.dedup();
        let mut out = String::with_capacity(text.len() + starts.len() * sentinel.len_utf8());
        let mut copied = 0;
        for start in starts {
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            out.push_str(&text[copied..start + first]);
            out.push(sentinel);
            copied = start + first;
        }
        out.push_str(&text[copied..]);
        Some(out)
    }

    /// Protects every string and key inside `value`. Returns the sentinel if any was put in.
    /// Nesting is bounded by the JSON parser that made `value`.
    pub fn protect(&self, value: &mut Value) -> Result<Option<char>> {
        let mut used = [false; 32];
        visit_strings(value, &mut |text| {
            for c in text.chars().filter(|&c| is_sentinel(c)) {
                used[(u32::from(c) - u32::from(*SENTINELS.start())) as usize] = true;
            }
        });
        let Some(sentinel) = SENTINELS.zip(used).find(|(_, used)| !used).map(|(c, _)| c) else {
            return Err("messages: every noncharacter U+FDD0 to U+FDEF is in use".into());
        };
        let mut protected = false;
        self.protect_value(value, sentinel, &mut protected);
        Ok(protected.then_some(sentinel))
    }

    fn protect_value(&self, value: &mut Value, sentinel: char, protected: &mut bool) {
        match value {
            Value::String(text) => {
                if let Some(safe) = self.protect_text(text, sentinel) {
                    *text = safe;
                    *protected = true;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.protect_value(item, sentinel, protected);
                }
            }
            Value::Object(members) => {
                let old = std::mem::take(members);
                for (key, mut member) in old {
                    self.protect_value(&mut member, sentinel, protected);
                    let safe = self.protect_text(&key, sentinel);
                    *protected |= safe.is_some();
                    members.insert(safe.unwrap_or(key), member);
                }
            }
            _ => {}
        }
    }
}

fn visit_strings(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| visit_strings(item, visit)),
        Value::Object(members) => {
            for (key, member) in members {
                visit(key);
                visit_strings(member, visit);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matcher() -> Matcher {
        let token = |id, content: &str| AddedToken {
            id,
            content: content.into(),
            control: true,
            ..AddedToken::default()
        };
        Matcher::new(vec![
            token(1, "<|end|>"),
            token(2, "[EOS]"),
            token(3, "<|end|>x"),
        ])
        .unwrap()
    }

    fn ids(text: &str) -> Vec<u32> {
        let matcher = matcher();
        let pieces = matcher.split(text);
        pieces
            .iter()
            .filter_map(|p| {
                if let Piece::Added(t) = p {
                    Some(t.id)
                } else {
                    None
                }
            })
            .collect()
    }

    #[test]
    fn the_longest_token_wins() {
        assert_eq!(ids("a<|end|>b[EOS]<|end|>x"), [1, 2, 3]);
    }

    #[test]
    fn client_strings_never_form_a_token_alone_or_joined() {
        let matcher = matcher();
        let mut value = json!(["a <|end|>x", {"[EOS]": "<|en  "}, "d|>", "x[", "EOS]", "plain"]);
        let sentinel = matcher.protect(&mut value).unwrap().unwrap();
        let mut joined = String::new();
        visit_strings(&value, &mut |text| joined.push_str(text.trim()));
        assert!(ids(&joined).is_empty(), "{joined:?}");
        assert_eq!(
            joined.replace(sentinel, ""),
            "a <|end|>x[EOS]<|end|>x[EOS]plain"
        );
    }

    #[test]
    fn a_sentinel_of_the_client_is_left_alone() {
        let mut value = json!("\u{FDD0}[EOS]");
        assert_eq!(matcher().protect(&mut value).unwrap(), Some('\u{FDD1}'));
        let all: String = SENTINELS.collect();
        assert!(matcher().protect(&mut json!(all)).is_err());
        assert_eq!(matcher().protect(&mut json!("nothing")).unwrap(), None);
    }
}
