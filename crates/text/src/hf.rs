//! `tokenizer.json` through the `tokenizers` crate. Added tokens are taken out of the file and
//! matched by this crate, so that client text can be encoded without them.

use serde_json::{json, Value};
use tokenizers::Tokenizer;

use crate::ffi::AddedToken;
use crate::Result;

pub struct HfBackend {
    first: Tokenizer,
    rest: Option<Tokenizer>, // without the prefix space, where only the first piece gets one
}

pub fn load(file: &[u8], vocab_size: usize) -> Result<(HfBackend, Vec<Vec<u8>>, Vec<AddedToken>)> {
    let mut json: Value = serde_json::from_slice(file).map_err(|e| e.to_string())?;
    if !json.is_object() {
        return Err("expected a JSON object".into());
    }
    let added = take_added_tokens(&mut json)?;
    for part in ["truncation", "padding", "post_processor"] {
        json[part] = Value::Null;
    }
    let first = build(&json)?;
    let rest = if stop_prefix_after_first(&mut json["pre_tokenizer"]) {
        Some(build(&json)?)
    } else {
        None
    };
    let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); vocab_size];
    let byte_level = uses_byte_level(&json["decoder"]) || uses_byte_level(&json["pre_tokenizer"]);
    for (token, id) in first.get_vocab(false) {
        if let Some(slot) = bytes.get_mut(id as usize) {
            *slot = if byte_level {
                byte_level_bytes(&token)
            } else {
                piece_bytes(&token)
            };
        }
    }
    Ok((HfBackend { first, rest }, bytes, added))
}

fn build(json: &Value) -> Result<Tokenizer> {
    Tokenizer::from_bytes(json.to_string()).map_err(|e| e.to_string())
}

impl HfBackend {
    pub fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<()> {
        let tokenizer = match &self.rest {
            Some(rest) if !first => rest,
            _ => &self.first,
        };
        let encoding = tokenizer
            .encode_fast(text, false)
            .map_err(|e| e.to_string())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

fn take_added_tokens(json: &mut Value) -> Result<Vec<AddedToken>> {
    let list = match json.get_mut("added_tokens").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err("added_tokens: expected an array".into()),
    };
    json["added_tokens"] = json!([]);
    list.iter()
        .enumerate()
        .map(|(index, entry)| added_token(index, entry))
        .collect()
}

fn added_token(index: usize, entry: &Value) -> Result<AddedToken> {
    let flag = |name: &str| entry.get(name).and_then(Value::as_bool).unwrap_or(false);
    let id = entry
        .get("id")
        .and_then(Value::as_u64)
        .and_then(|id| u32::try_from(id).ok());
    let content = entry.get("content").and_then(Value::as_str);
    let (Some(id), Some(content)) = (id, content) else {
        return Err(format!(
            "added_tokens[{index}]: expected `id` and `content`"
        ));
    };
    let special = flag("special");
    // DeepSeek adds letters such as "ö", others runs of spaces: words, not control tokens.
    let bracketed = |open, close| content.starts_with(open) && content.ends_with(close);
    Ok(AddedToken {
        id,
        content: content.into(),
        special,
        control: special || bracketed('<', '>') || bracketed('[', ']'),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
    })
}

/// Rewrites Metaspace's `prepend_scheme: first` to `never`; says whether there was one.
fn stop_prefix_after_first(pre_tokenizer: &mut Value) -> bool {
    if !pre_tokenizer.is_object() {
        return false;
    }
    if pre_tokenizer["type"] == "Metaspace" && pre_tokenizer["prepend_scheme"] == "first" {
        pre_tokenizer["prepend_scheme"] = json!("never");
        return true;
    }
    let members = pre_tokenizer
        .get_mut("pretokenizers")
        .and_then(Value::as_array_mut);
    members.is_some_and(|list| list.iter_mut().any(stop_prefix_after_first))
}

fn uses_byte_level(part: &Value) -> bool {
    let members = |name: &str| part.get(name).and_then(Value::as_array).cloned();
    part["type"] == "ByteLevel"
        || members("decoders").is_some_and(|list| list.iter().any(uses_byte_level))
        || members("pretokenizers").is_some_and(|list| list.iter().any(uses_byte_level))
}

/// GPT-2's printable alphabet: 188 bytes stand for themselves, the other 68 start at U+0100.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let own = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let byte_of = |c: char| match u32::from(c) {
        code if own(code) => u8::try_from(code).ok(),
        code if code >= 256 => {
            let mut others = (0..=255u32).filter(|&byte| !own(byte));
            others
                .nth(code as usize - 256)
                .and_then(|byte| u8::try_from(byte).ok())
        }
        _ => None,
    };
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// SentencePiece style: "▁" is a space and "<0x0A>" a byte.
fn piece_bytes(token: &str) -> Vec<u8> {
    let hex = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match hex
        .filter(|hex| hex.len() == 2)
        .and_then(|hex| u8::from_str_radix(hex, 16).ok())
    {
        Some(byte) => vec![byte],
        None => token.replace('▁', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [
                {"id": 3, "content": "<|end|>", "special": true, "rstrip": true},
                {"id": 4, "content": "<think>", "special": false},
                {"id": 5, "content": "ö", "special": false}],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                              "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true,
                        "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "Ġa": 2}, "merges": ["Ġ a"]}
        })
    }

    #[test]
    fn added_tokens_leave_the_library_and_keep_their_flags() {
        let (backend, bytes, added) = load(sample().to_string().as_bytes(), 6).unwrap();
        assert_eq!(bytes[2], b" a");
        let flags: Vec<(bool, bool, bool)> = added
            .iter()
            .map(|t| (t.special, t.control, t.rstrip))
            .collect();
        assert_eq!(
            flags,
            [
                (true, true, true),
                (false, true, false),
                (false, false, false)
            ]
        );
        let mut ids = Vec::new();
        backend.encode("a a", true, &mut ids).unwrap();
        assert_eq!(ids, [0, 2]);
    }

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen: Vec<u8> = (33..=126u32)
            .chain(161..=172)
            .chain(174..=255)
            .chain(256..324)
            .flat_map(|code| byte_level_bytes(&char::from_u32(code).unwrap().to_string()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255u8).collect::<Vec<_>>());
        assert_eq!(piece_bytes("<0x0A>"), b"\n");
        assert_eq!(piece_bytes("▁a"), b" a");
    }

    #[test]
    fn only_the_first_piece_gets_a_prefix_space() {
        let mut json = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}]});
        assert!(stop_prefix_after_first(&mut json));
        assert_eq!(json["pretokenizers"][0]["prepend_scheme"], "never");
        assert!(!stop_prefix_after_first(&mut json));
    }

    #[test]
    fn broken_files_are_named() {
        let error = |json: Value| load(json.to_string().as_bytes(), 6).err().unwrap();
        let mut json = sample();
        json["added_tokens"] = json!([{"id": 3}]);
        assert!(error(json).contains("added_tokens[0]"));
        assert!(load(b"{", 6).is_err());
        assert!(load(b"{}", 6).is_err());
        assert!(load(b"[]", 6).is_err());
    }
}
