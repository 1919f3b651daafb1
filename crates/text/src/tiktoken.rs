//! `tiktoken.model`: one token a line, `base64(bytes) SPACE rank`. The rank is the id and the
//! merge priority. The split pattern is Kimi's, the one family that ships this file.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use rustc_hash::FxHashMap;
use tiktoken_rs::CoreBPE;

use crate::Result;

/// Eight alternatives; their order decides. See docs of the Kimi K2 tokenizer.
pub const KIMI_PATTERN: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// The published wrapper cuts its input here, so ids agree on long input too. The second limit
/// also bounds the work of the regex and of the merges.
const CHUNK_CHARS: usize = 400_000;
const RUN_CHARS: usize = 25_000;

pub fn load(file: &[u8], vocab_size: usize) -> Result<(CoreBPE, Vec<Vec<u8>>)> {
    let text = std::str::from_utf8(file).map_err(|_| "not a text file".to_string())?;
    let mut ranks = FxHashMap::default();
    let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); vocab_size];
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let (token, rank) = parse_line(line).map_err(|e| format!("line {}: {e}", index + 1))?;
        let Some(slot) = bytes.get_mut(rank as usize) else {
            return Err(format!(
                "line {}: rank {rank}, but the model has {vocab_size} tokens",
                index + 1
            ));
        };
        if !slot.is_empty() || ranks.insert(token.clone(), rank).is_some() {
            return Err(format!("line {}: rank or token appears twice", index + 1));
        }
        *slot = token;
    }
    for byte in 0..=255u8 {
        if !ranks.contains_key(&[byte][..]) {
            return Err(format!("no token for the single byte {byte}"));
        }
    }
    let bpe = CoreBPE::new(ranks, FxHashMap::default(), KIMI_PATTERN).map_err(|e| e.to_string())?;
    Ok((bpe, bytes))
}

fn parse_line(line: &str) -> Result<(Vec<u8>, u32)> {
    let (token, rank) = line.split_once(' ').ok_or("expected `base64 rank`")?;
    let token = STANDARD.decode(token).map_err(|e| format!("base64: {e}"))?;
    if token.is_empty() {
        return Err("empty token".into());
    }
    let rank = rank
        .trim_end()
        .parse()
        .map_err(|_| format!("rank {rank:?} is no number"))?;
    Ok((token, rank))
}

pub fn encode(bpe: &CoreBPE, text: &str, ids: &mut Vec<u32>) {
    let mut start = 0; // of the current slice
    let mut chunk_chars = 0;
    let mut run_chars = 0;
    let mut run_is_space = false;
    for (at, c) in text.char_indices() {
        let is_space = c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c); // str.isspace()
        run_chars = if is_space == run_is_space {
            run_chars + 1
        } else {
            1
        };
        run_is_space = is_space;
        if chunk_chars == CHUNK_CHARS || run_chars > RUN_CHARS {
            if chunk_chars == CHUNK_CHARS {
                chunk_chars = 0;
            }
            ids.extend(bpe.encode_ordinary(&text[start..at]));
            start = at;
            run_chars = 1;
        }
        chunk_chars += 1;
    }
    ids.extend(bpe.encode_ordinary(&text[start..]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;

    fn pieces(text: &str) -> String {
        let regex = Regex::new(KIMI_PATTERN).unwrap();
        let found: Vec<&str> = regex.find_iter(text).map(|m| m.unwrap().as_str()).collect();
        found.join("|")
    }

    fn file(extra: &str) -> Vec<u8> {
        let mut out = String::new();
        for byte in 0..=255u8 {
            out += &format!("{} {byte}\n", STANDARD.encode([byte]));
        }
        (out + extra).into_bytes()
    }

    fn error(file: &[u8], vocab_size: usize) -> String {
        load(file, vocab_size).err().expect("must be refused")
    }

    #[test]
    fn published_pieces() {
        assert_eq!(
            pieces("helloWorld HTTPServer's iPhone"),
            "hello|World| HTTPServer's| i|Phone"
        );
        assert_eq!(pieces("HELLOworld ABC"), "HELLOworld| ABC");
        assert_eq!(pieces("1234567 3.14"), "123|456|7| |3|.|14");
        assert_eq!(pieces("a  b\n\n  c   "), "a| | b|\n\n| | c|   ");
        assert_eq!(pieces("foo(bar);\n\nx"), "foo|(bar|);\n\n|x");
        assert_eq!(
            pieces("中文English混合 北京市 Pascal"),
            "中文|English|混合| |北京市| Pascal"
        );
        assert_eq!(pieces("日本語のテキスト"), "日本語|のテキスト");
    }

    #[test]
    fn merges_by_the_rank_of_the_result() {
        let line = |token: &str, rank| format!("{} {rank}\n", STANDARD.encode(token));
        let (bpe, _) = load(&file(&(line("bc", 256) + &line("ab", 257))), 300).unwrap();
        let mut ids = Vec::new();
        encode(&bpe, "abc", &mut ids);
        assert_eq!(ids, [u32::from(b'a'), 256]);
    }

    #[test]
    fn long_runs_are_cut_as_published() {
        let line = format!("{} 256\n", STANDARD.encode("aa"));
        let (bpe, _) = load(&file(&line), 257).unwrap();
        let mut ids = Vec::new();
        encode(&bpe, &"a".repeat(RUN_CHARS + 3), &mut ids);
        assert_eq!(ids.len(), RUN_CHARS / 2 + 2);
        assert_eq!(ids.last(), Some(&u32::from(b'a')));
    }

    #[test]
    fn broken_files_are_named() {
        assert!(error(b"YQ== 1\n", 300).contains("single byte 0"));
        assert!(error(b"YQ==\n", 300).contains("line 1"));
        assert!(error(b"*** 1\n", 300).contains("base64"));
        assert!(error(b"YQ== x\n", 300).contains("no number"));
        assert!(error(&file("YWE= 400\n"), 300).contains("rank 400"));
        assert!(error(&file("YWE= 255\n"), 300).contains("twice"));
        assert!(error(&file("YQ== 256\n"), 300).contains("twice"));
    }
}
