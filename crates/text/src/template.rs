//! Chat templates through minijinja, set up as Hugging Face sets up Jinja2.

use std::io::{Error as IoError, Write};

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::ffi::Rendered;
use crate::guard::guard;
use crate::python_json::{dumps, DumpOptions};
use crate::special::Matcher;
use crate::Result;

const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Instructions of one render. A message costs about a hundred.
const FUEL: u64 = 5_000_000;
const OUTPUT_BYTES_MAX: usize = 32 << 20;
const NAME: &str = "chat_template";

pub struct Template {
    environment: Environment<'static>,
}

pub fn compile_template(source: &[u8]) -> Result<Box<Template>> {
    guard("chat template", || {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!(
                "limit: {} bytes, at most {SOURCE_BYTES_MAX}",
                source.len()
            ));
        }
        let source = std::str::from_utf8(source).map_err(|_| "not UTF-8".to_string())?;
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| describe(&e))?;
        Ok(Box::new(Template { environment }))
    })
}

impl Template {
    /// `client_json` is guarded against control strings, `trusted_json` is not; both are objects,
    /// and the client never overrides a trusted name.
    pub fn render(
        &self,
        control: &Matcher,
        client_json: &[u8],
        trusted_json: &[u8],
    ) -> Result<Rendered> {
        let mut context: serde_json::Value =
            serde_json::from_slice(client_json).map_err(|e| format!("messages: {e}"))?;
        let sentinel = control.protect(&mut context)?;
        let trusted: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(trusted_json).map_err(|e| e.to_string())?;
        let Some(members) = context.as_object_mut() else {
            return Err("messages: expected an object".into());
        };
        members.extend(trusted);
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| describe(&e))?;
        let mut output = BoundedOutput(Vec::new());
        template
            .render_captured_to(Value::from_serialize(&context), &mut output)
            .map_err(|e| describe(&e))?;
        let text = String::from_utf8(output.0).map_err(|e| e.to_string())?;
        Ok(Rendered {
            text,
            sentinel: sentinel.map(String::from).unwrap_or_default(),
        })
    }
}

struct BoundedOutput(Vec<u8>);

impl Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(IoError::other("limit: rendered prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn describe(error: &Error) -> String {
    let limit = match error.kind() {
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => "limit: ",
        _ => "",
    };
    let line = error
        .line()
        .map_or(String::new(), |line| format!("line {line}: "));
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_string);
    format!("{limit}{line}{detail}")
}

/// `{% generation %}` only marks text for training; minijinja does not know the tag.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let Some(length) = rest[begin..].find("%}") else {
            break;
        };
        let tag = &rest[begin..begin + length];
        let word = tag
            .trim_start_matches("{%")
            .trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replaced = match word {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out.push_str(&rest[..begin]);
        out.push_str(&replaced);
        rest = &rest[begin + length..];
    }
    out + rest
}

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> std::result::Result<String, Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(&format)).map_err(|_| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: format {format:?}"),
        )
    })?;
    Ok(out)
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
fn tojson(
    value: Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> std::result::Result<String, Error> {
    let argument = |index: usize, name: &str| -> std::result::Result<Option<Value>, Error> {
        let given = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let mut options = DumpOptions::default();
    if let Some(ensure_ascii) = argument(0, "ensure_ascii")? {
        options.ensure_ascii = ensure_ascii.is_true();
    }
    if let Some(indent) = argument(1, "indent")? {
        options.indent = Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        });
        options.item_separator = ",".into();
    }
    if let Some(separators) = argument(2, "separators")? {
        let pair: Vec<String> = separators
            .try_iter()?
            .map(|item| item.to_string())
            .collect();
        let [item, key] = <[String; 2]>::try_from(pair).map_err(|_| {
            Error::new(
                ErrorKind::InvalidOperation,
                "tojson: separators must be two strings",
            )
        })?;
        options.item_separator = item;
        options.key_separator = key;
    }
    if let Some(sort_keys) = argument(3, "sort_keys")? {
        options.sort_keys = sort_keys.is_true();
    }
    named.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
    Ok(dumps(&json, &options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::AddedToken;
    use serde_json::json;

    fn render(source: &str, client: serde_json::Value) -> Result<Rendered> {
        let end = AddedToken {
            content: "<|end|>".into(),
            control: true,
            ..AddedToken::default()
        };
        let control = Matcher::new(vec![end]).unwrap();
        let trusted = json!({"bos_token": "<|end|>", "flag": true});
        compile_template(source.as_bytes())?.render(
            &control,
            client.to_string().as_bytes(),
            trusted.to_string().as_bytes(),
        )
    }

    fn text(source: &str, client: serde_json::Value) -> String {
        render(source, client).unwrap().text
    }

    #[test]
    fn hugging_face_settings() {
        assert_eq!(
            text("  {% if flag %}\na\n{% endif %}\nb\n", json!({})),
            "a\nb"
        );
        assert_eq!(
            text("{{ x.strip().split(' ')[-1] }}", json!({"x": " a b "})),
            "b"
        );
        assert_eq!(
            text("{{ flag }} {{ none }} {{ 1.0 }} {{ nothing }}", json!({})),
            "True None 1.0 "
        );
        assert_eq!(
            text(
                "{% for i in range(9) %}{% if i > 1 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                json!({})
            ),
            "01"
        );
        assert_eq!(
            text("{%- generation -%} x {%- endgeneration -%}", json!({})),
            "x"
        );
        assert_eq!(text("{{ strftime_now('%Y') | length }}", json!({})), "4");
    }

    #[test]
    fn tojson_takes_pythons_arguments() {
        let client = json!({"x": {"b": "<é>", "a": [1, 2]}});
        assert_eq!(
            text("{{ x | tojson }}", client.clone()),
            "{\"b\": \"<é>\", \"a\": [1, 2]}"
        );
        assert_eq!(
            text(
                "{{ x | tojson(separators=(',', ':'), sort_keys=True, ensure_ascii=true) }}",
                client.clone()
            ),
            "{\"a\":[1,2],\"b\":\"<\\u00e9>\"}"
        );
        assert_eq!(
            text("{{ x.a | tojson(indent=1) }}", client.clone()),
            "[\n 1,\n 2\n]"
        );
        assert!(render("{{ x | tojson(nope=1) }}", client).is_err());
    }

    #[test]
    fn errors_and_limits() {
        let error = |source: &str| render(source, json!({})).err().unwrap();
        assert!(error("\n{{ raise_exception('no tools') }}").contains("line 2: no tools"));
        assert!(error("{% if %}").contains("line 1"));
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(error(loops).starts_with("limit: "));
        let long = "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}";
        assert!(error(long).starts_with("limit: "));
        assert!(error("{{ strftime_now('%Q') }}").contains("strftime_now"));
    }

    #[test]
    fn the_client_can_neither_write_control_strings_nor_trusted_names() {
        let client = json!({"x": "a<|end|>", "bos_token": "mine"});
        let rendered = render("{{ bos_token }}{{ x }}", client).unwrap();
        assert_eq!(rendered.text, "<|end|>a<\u{FDD0}|end|>");
        assert_eq!(rendered.sentinel, "\u{FDD0}");
    }
}
