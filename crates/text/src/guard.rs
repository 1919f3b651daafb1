//! Turns panics of the libraries into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe};
use std::sync::Once;

use crate::Result;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}
static QUIET_HOOK: Once = Once::new();

/// Runs `body`; a panic inside becomes `Err` and prints nothing.
pub fn guard<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    QUIET_HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.with(Cell::get) {
                previous(info);
            }
        }));
    });
    let outer = GUARDED.with(|flag| flag.replace(true));
    let result = catch_unwind(AssertUnwindSafe(body));
    GUARDED.with(|flag| flag.set(outer));
    match result {
        Ok(result) => result.map_err(|message| one_line(&message)),
        Err(panic) => Err(one_line(&format!("{what}: {}", panic_text(&*panic)))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "internal error"
    }
}

/// Libraries answer with pages; people and logs want one line of at most 500 characters.
fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(500) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_one_line() {
        let result: Result<()> = guard("encoding", || panic!("bad\n  bytes"));
        assert_eq!(result.unwrap_err(), "encoding: bad bytes");
        let long: Result<()> = guard("x", || Err("é".repeat(900)));
        assert_eq!(long.unwrap_err().chars().count(), 503);
    }
}
