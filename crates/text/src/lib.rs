//! Tokenizers, chat templates and grammars for conclave, behind a C++ bridge.
//!
//! The libraries do the work; this crate only feeds them and bounds them. Every function that
//! meets untrusted bytes runs inside `guard`, so that a library's panic becomes an error.

mod grammar;
mod guard;
mod hf;
mod python_json;
mod special;
mod template;
mod tiktoken;
mod tokenizer;

use grammar::Matcher;
use template::Template;
use tokenizer::{load_hf, load_tiktoken, Tokenizer};

/// Errors cross the bridge as one line for a person. A text that starts with `limit: ` means that
/// a stated limit was reached.
pub type Result<T> = std::result::Result<T, String>;

#[cxx::bridge(namespace = "conclave::text::rust_bridge")]
mod ffi {
    /// A token that stands outside the text: control tokens, and words added after training.
    #[derive(Clone, Debug, Default)]
    struct AddedToken {
        id: u32,
        content: String,
        /// Hidden from users when decoding.
        special: bool,
        /// Only a template may write it; in client text the same characters stay text.
        control: bool,
        /// Swallows the white space before or after it.
        lstrip: bool,
        rstrip: bool,
    }

    /// A rendered prompt. `sentinel` (a noncharacter, or empty) breaks up every control string
    /// that came from the client.
    struct Rendered {
        text: String,
        sentinel: String,
    }

    extern "Rust" {
        type Tokenizer;
        fn load_hf(json: &[u8], vocab_size: usize) -> Result<Box<Tokenizer>>;
        fn load_tiktoken(
            ranks: &[u8],
            added: &[AddedToken],
            vocab_size: usize,
        ) -> Result<Box<Tokenizer>>;
        fn added_tokens(self: &Tokenizer) -> &[AddedToken];
        fn token_bytes(self: &Tokenizer, id: u32) -> &[u8];
        fn encode(self: &Tokenizer, text: &[u8], allow_control: bool) -> Result<Vec<u32>>;
        fn render(
            self: &Tokenizer,
            chat_template: &Template,
            client_json: &[u8],
            trusted_json: &[u8],
        ) -> Result<Rendered>;
        fn encode_rendered(self: &Tokenizer, rendered: &Rendered) -> Result<Vec<u32>>;
        fn compile_grammar(
            self: &Tokenizer,
            kind: u8,
            source: &[u8],
            stop_ids: &[u32],
            banned_ids: &[u32],
        ) -> Result<Box<Matcher>>;

        type Template;
        fn compile_template(source: &[u8]) -> Result<Box<Template>>;

        type Matcher;
        fn fill_mask(self: &mut Matcher, words: &mut [u32]) -> Result<()>;
        fn accept(self: &mut Matcher, id: u32) -> Result<()>;
        fn finished(self: &Matcher) -> bool;
    }
}

use template::compile_template;
