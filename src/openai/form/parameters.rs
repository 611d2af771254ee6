//! Parameters of a field, read only where all parsers read them alike.
//!
//! A second name of a part, or a quotation mark at an odd place, is one part to the gateway and
//! another to a worker. Then the model that is checked would not be the model that runs.

/// Returns the value of the parameter `name` in the value of a field; `None` without one.
///
/// # Errors
/// The given one if parsers may read another value or none: if the parameter comes twice, or as
/// `name*` (RFC 2231), or if the field is malformed.
pub(super) fn parameter<E>(field: &str, name: &str, error: E) -> Result<Option<String>, E> {
    let Some(parameters) = all(field) else { return Err(error) };
    let mut named = parameters.into_iter().filter(|(key, _)| {
        let same = key.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        same && matches!(key.as_bytes().get(name.len()), None | Some(b'*'))
    });
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some((key, value)), None) if key.len() == name.len() && is_plain(&value) => Ok(Some(value)),
        _ => Err(error),
    }
}

/// Returns `true` if no parser removes or replaces a letter.
fn is_plain(value: &str) -> bool {
    !value.contains(|letter: char| letter.is_control() || matches!(letter, '\\' | '"' | '<' | '>'))
}

/// Reads all parameters; `None` if the field is malformed.
fn all(field: &str) -> Option<Vec<(&str, String)>> {
    let (first, mut rest) = field.split_once(';').unwrap_or((field, ""));
    if first.contains('"') {
        return None;
    }
    let mut found = Vec::new();
    loop {
        let (key, after) = rest.split_at(rest.find([';', '=', '"']).unwrap_or(rest.len()));
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => value(after)?,
            None => (String::new(), after),
        };
        found.push((key.trim(), value));
        let after = after.trim_start();
        if after.is_empty() {
            return Some(found);
        }
        rest = after.strip_prefix(';')?;
    }
}

/// Reads a value, quoted or not, and returns what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_at(text.find(';').unwrap_or(text.len()));
        return (!value.contains('"')).then(|| (value.trim().to_owned(), after));
    };
    let mut from = 0;
    loop {
        let at = from + quoted.get(from..)?.find('"')?;
        let (value, after) = quoted.split_at_checked(at)?;
        match value.len() - value.trim_end_matches('\\').len() {
            0 => return Some((value.replace("\\\"", "\""), after.get(1..)?)),
            1 => from = at + 1,
            // Whether the mark is escaped depends on the parser.
            _ => return None,
        }
    }
}
