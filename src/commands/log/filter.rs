//! Parses the log filter in the environment variable `TRAFFIC_DAM_LOG`.
//!
//! `tracing-subscriber` takes a bare word that is not a level for a module name, and logs only that
//! module. A misspelt level would silence the gateway, so each part is checked here first.

use std::env::VarError;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Environment variable with the log filter, as in `info,traffic_dam=debug`.
pub(super) const VARIABLE: &str = "TRAFFIC_DAM_LOG";

const RIGHT: &str = "it must be `off`, `error`, `warn`, `info`, `debug` or `trace`, alone or after a module and `=`, \
                     as in `info,traffic_dam=debug`";

/// Returns the filter for `value`, plus the level `default` if `value` has no bare level.
///
/// # Errors
/// Returns a message that names the invalid part of the value and the valid form.
pub(super) fn filter(value: Result<String, VarError>, default: &str) -> Result<EnvFilter, String> {
    let value = match value {
        Ok(value) => value,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(_)) => return Err(format!("{VARIABLE}: the value is not UTF-8; {RIGHT}")),
    };
    let parts: Vec<_> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    for part in &parts {
        check(part).map_err(|problem| format!("{VARIABLE}: {problem}; {RIGHT}"))?;
    }
    let bare = parts.iter().any(|part| is_level(part));
    let all: Vec<_> = (!bare).then_some(default).into_iter().chain(parts).collect();
    EnvFilter::try_new(all.join(",")).map_err(|error| format!("{VARIABLE}: `{value}`: {error}; {RIGHT}"))
}

fn check(part: &str) -> Result<(), String> {
    let Some((target, level)) = part.rsplit_once('=') else {
        return if is_level(part) { Ok(()) } else { Err(format!("`{part}` is not a level")) };
    };
    if !is_level(level) {
        return Err(format!("`{level}` in `{part}` is not a level"));
    }
    let module = target.split('[').next().unwrap_or(target);
    if module.contains('-') {
        let right = module.replace('-', "_");
        return Err(format!("`{module}` is not a module; module names have underscores: `{right}`"));
    }
    Ok(())
}

fn is_level(word: &str) -> bool {
    // `LevelFilter` parses an empty word as `error`.
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<String, String> {
        filter(Ok(value.to_owned()), "info").map(|filter| filter.to_string())
    }

    #[test]
    fn what_is_not_named_keeps_the_default_level() {
        for value in ["", " , ", "info", "INFO", "traffic_dam=debug", "debug,traffic_dam::layers=warn", "4"] {
            assert!(read(value).is_ok(), "{value}");
        }
        assert_eq!(filter(Err(VarError::NotPresent), "warn").unwrap().to_string(), "warn");
        let debug = read("traffic_dam=debug").unwrap();
        assert!(debug.contains("traffic_dam=debug") && debug.contains("info"), "{debug}");
        assert!(!read("error, traffic_dam=debug").unwrap().contains("info"));
    }

    #[test]
    fn what_is_no_level_is_named_with_what_would_be_right() {
        for (value, named) in [
            ("inof", "`inof` is not a level"),
            ("info,traffic_dam", "`traffic_dam` is not a level"),
            ("traffic_dam=debgu", "`debgu` in `traffic_dam=debgu` is not a level"),
            ("traffic_dam=", "`` in `traffic_dam=` is not a level"),
            ("info,traffic-dam=debug", "`traffic_dam`"),
        ] {
            let fault = read(value).unwrap_err();
            assert!(fault.starts_with("TRAFFIC_DAM_LOG: ") && fault.contains(named), "{fault}");
            assert!(fault.contains("`info,traffic_dam=debug`"), "{fault}");
        }
    }
}
