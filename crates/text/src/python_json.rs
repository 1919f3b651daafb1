//! Python's `json.dumps` and `repr(float)`, to the byte: templates were trained with them.

use serde_json::{Map, Number, Value};

pub struct DumpOptions {
    pub ensure_ascii: bool,
    pub indent: Option<String>, // one level of it
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            sort_keys: false,
        }
    }
}

/// Nesting is bounded by whoever made `value`.
pub fn dumps(value: &Value, options: &DumpOptions) -> String {
    let mut out = String::new();
    write(value, options, 0, &mut out);
    out
}

fn write(value: &Value, options: &DumpOptions, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(text) => write_string(text, options, out),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                start_item(index, options, depth + 1, out);
                write(item, options, depth + 1, out);
            }
            end_items(options, depth, out);
            out.push(']');
        }
        Value::Object(members) if members.is_empty() => out.push_str("{}"),
        Value::Object(members) => write_object(members, options, depth, out),
    }
}

fn write_object(
    members: &Map<String, Value>,
    options: &DumpOptions,
    depth: usize,
    out: &mut String,
) {
    let mut entries: Vec<(&String, &Value)> = members.iter().collect();
    if options.sort_keys {
        entries.sort_by_key(|(key, _)| *key); // UTF-8 order is code point order, as in Python
    }
    out.push('{');
    for (index, (key, member)) in entries.into_iter().enumerate() {
        start_item(index, options, depth + 1, out);
        write_string(key, options, out);
        out.push_str(&options.key_separator);
        write(member, options, depth + 1, out);
    }
    end_items(options, depth, out);
    out.push('}');
}

fn start_item(index: usize, options: &DumpOptions, depth: usize, out: &mut String) {
    if index > 0 {
        out.push_str(&options.item_separator);
    }
    new_line(options, depth, out);
}

fn end_items(options: &DumpOptions, depth: usize, out: &mut String) {
    new_line(options, depth, out);
}

fn new_line(options: &DumpOptions, depth: usize, out: &mut String) {
    if let Some(indent) = &options.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_string(text: &str, options: &DumpOptions, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            // A sentinel must survive to be taken out again.
            c if options.ensure_ascii && c > '~' && !crate::special::is_sentinel(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_repr(float),
        _ => number.to_string(),
    }
}

/// Shortest digits that read back the same; exponents below -4 or from 16 on, as in Python.
pub fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent if (-4..16).contains(&exponent) => format!("{value:?}"),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Expected texts were printed by CPython 3.11's json.dumps.
    #[test]
    fn as_python_prints() {
        let value = json!({"b": [1, 2.0, -0.0, 1e16, 1.5e-7, 123456789012345.6],
                           "a": {"ü\"\n\u{1}": null, "e": []}, "t": true});
        assert_eq!(
            dumps(&value, &DumpOptions::default()),
            "{\"b\": [1, 2.0, -0.0, 1e+16, 1.5e-07, 123456789012345.6], \
             \"a\": {\"ü\\\"\\n\\u0001\": null, \"e\": []}, \"t\": true}"
        );
        let compact = DumpOptions {
            ensure_ascii: true,
            item_separator: ",".into(),
            key_separator: ":".into(),
            sort_keys: true,
            ..DumpOptions::default()
        };
        assert_eq!(
            dumps(&json!({"b": 1, "a": "é😀\u{7f}"}), &compact),
            "{\"a\":\"\\u00e9\\ud83d\\ude00\\u007f\",\"b\":1}"
        );
        let indented = DumpOptions {
            indent: Some("  ".into()),
            item_separator: ",".into(),
            ..DumpOptions::default()
        };
        assert_eq!(
            dumps(&json!({"a": [1, {}], "b": 2}), &indented),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": 2\n}"
        );
    }

    #[test]
    fn floats() {
        for (value, text) in [
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e100, "1.25e+100"),
            (1e22, "1e+22"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }
}
