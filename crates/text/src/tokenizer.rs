//! One tokenizer, whichever library reads its file.

use std::sync::OnceLock;

use tiktoken_rs::CoreBPE;

use crate::ffi::{AddedToken, Rendered};
use crate::grammar::{Engine, Matcher};
use crate::guard::guard;
use crate::hf::HfBackend;
use crate::special::{Matcher as AddedMatcher, Piece};
use crate::template::Template;
use crate::{hf, tiktoken, Result};

/// Longer texts are refused. The longest context in use is about a million tokens of four bytes.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Ids are u32 and the grammar's trie keeps 24 bits of them.
const VOCAB_MAX: usize = 1 << 22;

pub enum Backend {
    Tiktoken(Box<CoreBPE>),
    Hf(Box<HfBackend>),
}

pub struct Tokenizer {
    backend: Backend,
    token_bytes: Vec<Vec<u8>>, // by id; empty: no such token
    added: Vec<AddedToken>,
    all_added: AddedMatcher,
    words_added: AddedMatcher, // those without control meaning: they match in client text too
    control: AddedMatcher,
    engine: OnceLock<Result<Engine>>, // built by the first grammar
}

pub fn load_hf(json: &[u8], vocab_size: usize) -> Result<Box<Tokenizer>> {
    guard("tokenizer.json", || {
        check_vocab_size(vocab_size)?;
        let (backend, bytes, added) = hf::load(json, vocab_size)?;
        Tokenizer::new(Backend::Hf(Box::new(backend)), bytes, added)
    })
}

pub fn load_tiktoken(
    ranks: &[u8],
    added: &[AddedToken],
    vocab_size: usize,
) -> Result<Box<Tokenizer>> {
    guard("tiktoken.model", || {
        check_vocab_size(vocab_size)?;
        let (backend, bytes) = tiktoken::load(ranks, vocab_size)?;
        Tokenizer::new(Backend::Tiktoken(Box::new(backend)), bytes, added.to_vec())
    })
}

fn check_vocab_size(vocab_size: usize) -> Result<()> {
    if vocab_size == 0 || vocab_size > VOCAB_MAX {
        return Err(format!(
            "vocabulary of {vocab_size} tokens, expected 1 to {VOCAB_MAX}"
        ));
    }
    Ok(())
}

impl Tokenizer {
    fn new(
        backend: Backend,
        mut token_bytes: Vec<Vec<u8>>,
        mut added: Vec<AddedToken>,
    ) -> Result<Box<Self>> {
        // Rows of the embedding end at vocab_size: a token beyond it must never be produced.
        added.retain(|token| (token.id as usize) < token_bytes.len() && !token.content.is_empty());
        for token in &added {
            token_bytes[token.id as usize] = token.content.clone().into_bytes();
        }
        let only = |control: bool| {
            AddedMatcher::new(
                added
                    .iter()
                    .filter(|t| t.control == control)
                    .cloned()
                    .collect(),
            )
        };
        Ok(Box::new(Self {
            all_added: AddedMatcher::new(added.clone())?,
            words_added: only(false)?,
            control: only(true)?,
            backend,
            token_bytes,
            added,
            engine: OnceLock::new(),
        }))
    }

    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.added
    }

    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.token_bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    pub fn encode(&self, text: &[u8], allow_control: bool) -> Result<Vec<u32>> {
        guard("encoding", || {
            let text = String::from_utf8_lossy(text);
            let added = if allow_control {
                &self.all_added
            } else {
                &self.words_added
            };
            self.encode_pieces(&text, added, None)
        })
    }

    /// Control strings become tokens, except those that a sentinel breaks up.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        guard("encoding", || {
            let sentinel = rendered.sentinel.chars().next();
            self.encode_pieces(&rendered.text, &self.all_added, sentinel)
        })
    }

    pub fn render(
        &self,
        template: &Template,
        client_json: &[u8],
        trusted_json: &[u8],
    ) -> Result<Rendered> {
        guard("chat template", || {
            template.render(&self.control, client_json, trusted_json)
        })
    }

    pub fn compile_grammar(
        &self,
        kind: u8,
        source: &[u8],
        stop_ids: &[u32],
        banned_ids: &[u32],
    ) -> Result<Box<Matcher>> {
        guard("grammar", || {
            let engine = self.engine.get_or_init(|| {
                guard("grammar", || {
                    Engine::new(&self.token_bytes, &self.added, stop_ids, banned_ids)
                })
            });
            engine.as_ref().map_err(Clone::clone)?.compile(kind, source)
        })
    }

    fn encode_pieces(
        &self,
        text: &str,
        added: &AddedMatcher,
        sentinel: Option<char>,
    ) -> Result<Vec<u32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!(
                "limit: text of {} bytes, at most {TEXT_BYTES_MAX} can be encoded",
                text.len()
            ));
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in added.split(text) {
            match (piece, sentinel) {
                (Piece::Added(token), _) => ids.push(token.id),
                (Piece::Plain(plain), Some(sentinel)) if plain.contains(sentinel) => {
                    // Without its sentinels this is client text again: only words may match.
                    let clean: String = plain.chars().filter(|&c| c != sentinel).collect();
                    ids.extend(self.encode_pieces(&clean, &self.words_added, None)?);
                }
                (Piece::Plain(plain), _) => self.encode_plain(plain, ids.is_empty(), &mut ids)?,
            }
        }
        Ok(ids)
    }

    fn encode_plain(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<()> {
        let before = ids.len();
        match &self.backend {
            Backend::Tiktoken(bpe) => tiktoken::encode(bpe, text, ids),
            Backend::Hf(hf) => hf.encode(text, first, ids)?,
        }
        match ids[before..]
            .iter()
            .find(|&&id| id as usize >= self.token_bytes.len())
        {
            Some(id) => Err(format!("token {id} is beyond the model's vocabulary")),
            None => Ok(()),
        }
    }
}
