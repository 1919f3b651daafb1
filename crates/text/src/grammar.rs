//! Which tokens may come next, by llguidance.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher as GuidanceMatcher, ParserFactory};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie, INVALID_TOKEN};

use crate::ffi::AddedToken;
use crate::guard::guard;
use crate::Result;

const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The trie allows 1024 levels; the longest published token has 1024 bytes, nearly all under 128.
const TOKEN_BYTES_MAX: usize = 512;
/// A weak model may prefer white space for ever: JSON gets this much between two of its parts.
const JSON_SPACE: &str = r"[ \t\n\r]{1,32}";

/// The vocabulary as llguidance wants it, shared by all matchers of a model.
pub struct Engine {
    factory: ParserFactory,
    stop_ids: Arc<[u32]>,
    banned_ids: Arc<[u32]>,
    vocab_size: usize,
}

impl Engine {
    pub fn new(
        token_bytes: &[Vec<u8>],
        added: &[AddedToken],
        stop_ids: &[u32],
        banned_ids: &[u32],
    ) -> Result<Self> {
        let vocab_size = token_bytes.len();
        let mut words: Vec<Vec<u8>> = token_bytes
            .iter()
            .map(|bytes| {
                if bytes.len() <= TOKEN_BYTES_MAX {
                    bytes.clone()
                } else {
                    Vec::new()
                }
            })
            .collect();
        // The marker keeps control tokens out of every text that a grammar spells.
        for token in added.iter().filter(|token| token.control) {
            let word = &mut words[token.id as usize];
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
        let known = |ids: &[u32]| -> Vec<u32> {
            ids.iter()
                .copied()
                .filter(|&id| (id as usize) < vocab_size)
                .collect()
        };
        let banned_ids = known(banned_ids);
        let stop_ids = known(stop_ids);
        for &id in &banned_ids {
            words[id as usize].clear();
        }
        let end = stop_ids.first().copied().unwrap_or(INVALID_TOKEN);
        let size = u32::try_from(vocab_size).map_err(|e| e.to_string())?;
        let mut trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
        if !stop_ids.is_empty() {
            trie = trie.with_eos_tokens(&stop_ids);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| e.to_string())?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self {
            factory,
            stop_ids: stop_ids.into(),
            banned_ids: banned_ids.into(),
            vocab_size,
        })
    }

    pub fn compile(&self, kind: u8, source: &[u8]) -> Result<Box<Matcher>> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!(
                "limit: {} bytes, at most {SOURCE_BYTES_MAX}",
                source.len()
            ));
        }
        let source = std::str::from_utf8(source).map_err(|_| "not UTF-8".to_string())?;
        let grammar = match kind {
            0 => json_grammar(serde_json::json!({"type": "object"})),
            1 => json_grammar(serde_json::from_str(source).map_err(|e| format!("schema: {e}"))?),
            2 => TopLevelGrammar::from_regex(source),
            3 => TopLevelGrammar::from_lark(source.to_string()),
            _ => return Err(format!("grammar kind {kind} is unknown")),
        };
        let parser = self
            .factory
            .create_parser(grammar)
            .map_err(|e| e.to_string())?;
        let matcher = GuidanceMatcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Box::new(Matcher {
                matcher,
                stop_ids: self.stop_ids.clone(),
                banned_ids: self.banned_ids.clone(),
                vocab_size: self.vocab_size,
            })),
        }
    }
}

fn json_grammar(mut schema: serde_json::Value) -> TopLevelGrammar {
    if let Some(members) = schema.as_object_mut() {
        members.entry("x-guidance").or_insert_with(
            || serde_json::json!({"whitespace_flexible": true, "whitespace_pattern": JSON_SPACE}),
        );
    }
    TopLevelGrammar::from_json_schema(schema)
}

pub struct Matcher {
    matcher: GuidanceMatcher,
    stop_ids: Arc<[u32]>,
    banned_ids: Arc<[u32]>,
    vocab_size: usize,
}

impl Matcher {
    pub fn fill_mask(&mut self, words: &mut [u32]) -> Result<()> {
        guard("grammar", || {
            let needed = self.vocab_size.div_ceil(32);
            if words.len() < needed {
                return Err(format!("mask of {} words, expected {needed}", words.len()));
            }
            words.fill(0);
            let mask = self
                .matcher
                .compute_mask_or_eos()
                .map_err(|e| e.to_string())?;
            for (word, allowed) in words.iter_mut().zip(&mask.as_slice()[..needed]) {
                *word = *allowed;
            }
            if self.vocab_size % 32 != 0 {
                words[needed - 1] &= (1 << (self.vocab_size % 32)) - 1;
            }
            for &id in self.banned_ids.iter() {
                words[id as usize / 32] &= !(1 << (id % 32));
            }
            Ok(())
        })
    }

    pub fn accept(&mut self, id: u32) -> Result<()> {
        guard("grammar", || {
            if id as usize >= self.vocab_size {
                return Err(format!("token {id} is beyond the vocabulary"));
            }
            // The library stops by itself where only a stop token could follow.
            let ended = self.matcher.is_stopped() && !self.matcher.is_error();
            if ended && self.stop_ids.contains(&id) {
                return Ok(());
            }
            match self.matcher.try_consume_tokens(&[id]) {
                // A grammar may ask for a stop token by number; the answer ends with it all the same.
                Ok(0) if self.stop_ids.contains(&id) && self.mask_allows(id)? => Ok(()),
                Ok(0) => Err(format!("token {id} is not allowed here")),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn mask_allows(&mut self, id: u32) -> Result<bool> {
        let mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|e| e.to_string())?;
        Ok(mask.is_allowed(id))
    }

    pub fn finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 256;
    const CALL: u32 = 257;
    const BANNED: u32 = 258;

    fn engine() -> Engine {
        let mut bytes: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        bytes.extend([b"<end>".to_vec(), b"<call>".to_vec(), b"aa".to_vec()]);
        let added: Vec<AddedToken> = [(END, "<end>"), (CALL, "<call>")]
            .map(|(id, content)| AddedToken {
                id,
                content: content.into(),
                control: true,
                ..AddedToken::default()
            })
            .into();
        Engine::new(&bytes, &added, &[END], &[BANNED]).unwrap()
    }

    fn allowed(matcher: &mut Matcher) -> Vec<u32> {
        let mut words = [0u32; 9];
        matcher.fill_mask(&mut words).unwrap();
        (0..9 * 32)
            .filter(|id| words[id / 32] >> (id % 32) & 1 == 1)
            .map(|id| id as u32)
            .collect()
    }

    #[test]
    fn a_regex_allows_its_bytes_then_the_end() {
        let mut matcher = engine().compile(2, b"aa?b").unwrap();
        assert_eq!(allowed(&mut matcher), [u32::from(b'a')]); // "aa" is banned
        matcher.accept(u32::from(b'a')).unwrap();
        assert!(matcher.accept(u32::from(b'x')).is_err());
        matcher.accept(u32::from(b'b')).unwrap();
        assert_eq!(allowed(&mut matcher), [END]);
        assert!(matcher.finished());
        matcher.accept(END).unwrap();
        assert!(matcher.accept(CALL).is_err());
    }

    #[test]
    fn control_tokens_come_by_reference_only() {
        let lark = format!("start: <[{CALL}]> /<call>/");
        let mut matcher = engine().compile(3, lark.as_bytes()).unwrap();
        assert_eq!(allowed(&mut matcher), [CALL]);
        matcher.accept(CALL).unwrap();
        assert_eq!(allowed(&mut matcher), [u32::from(b'<')]);
        let stop = format!("start: /a/ <[{END}]>");
        let mut matcher = engine().compile(3, stop.as_bytes()).unwrap();
        matcher.accept(u32::from(b'a')).unwrap();
        matcher.accept(END).unwrap();
    }

    #[test]
    fn white_space_in_json_ends() {
        let mut matcher = engine().compile(0, b"").unwrap();
        matcher.accept(u32::from(b'{')).unwrap();
        let mut spaces = 0;
        while matcher.accept(u32::from(b' ')).is_ok() {
            spaces += 1;
            assert!(spaces < 100);
        }
        assert_eq!(allowed(&mut matcher), [u32::from(b'"'), u32::from(b'}')]);
    }

    #[test]
    fn broken_grammars_are_refused() {
        let error = |kind, source: &[u8]| engine().compile(kind, source).err().unwrap();
        assert!(error(1, b"{").contains("schema"));
        assert!(!error(1, b"{\"type\": \"nope\"}").is_empty());
        assert!(!error(2, b"(").is_empty());
        assert!(!error(3, b"start: missing").is_empty());
        assert!(error(9, b"").contains("kind 9"));
        assert!(error(2, &vec![b'a'; SOURCE_BYTES_MAX + 1]).starts_with("limit: "));
    }
}
