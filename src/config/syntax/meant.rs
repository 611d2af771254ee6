//! Guesses the meaning of an invalid text, such as a duration without a unit. A guess may be
//! invalid too: whoever asks checks it.

use std::net::{IpAddr, Ipv6Addr};

use crate::fleet::address::without_endpoint;
use crate::limit::own_limits::PERIODS;

/// Splits a text into a number, which may have a fraction, and the word after it.
fn number_and_word(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let digits = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(text.len());
    let (number, word) = text.split_at(digits);
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite())?;
    Some((number, word.trim().to_ascii_lowercase()))
}

/// Returns the unit that a word names, and its milliseconds. A number alone means seconds.
fn unit_of_time(word: &str) -> Option<(&'static str, f64)> {
    Some(match word {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => ("ms", 1.0),
        "" | "s" | "sec" | "secs" | "second" | "seconds" => ("s", 1000.0),
        "m" | "min" | "mins" | "minute" | "minutes" => ("m", 60_000.0),
        "h" | "hr" | "hrs" | "hour" | "hours" => ("h", 3_600_000.0),
        "d" | "day" | "days" => ("d", 86_400_000.0),
        _ => return None,
    })
}

/// Corrects a duration: `5` is `5s`, `1.5s` is `1500ms`, `10 min` is `10m`.
pub(super) fn duration(text: &str) -> Option<String> {
    let (number, word) = number_and_word(text)?;
    let (unit, millis) = unit_of_time(&word)?;
    let whole = number.fract() == 0.0;
    Some(if whole { format!("{number}{unit}") } else { format!("{}ms", (number * millis).round()) })
}

/// Corrects a rate: `10` is `10/s`, `10/min` is `10/m`, `10rps` is `10/s`, `0.5/s` is `30/m`.
pub(super) fn rate(text: &str) -> Option<String> {
    let (number, word) = number_and_word(text)?;
    let word = word.trim_start_matches(['/', ' ']).trim_start_matches("per ");
    let unit = match word {
        "rps" | "r/s" | "qps" => "s",
        "rpm" | "tpm" => "m",
        word => unit_of_time(word).map(|(unit, _)| unit).filter(|unit| *unit != "ms")?,
    };
    // Of a fraction, the shortest longer period in which it is whole.
    let (_, period) = *PERIODS.iter().find(|(name, _)| *name == unit)?;
    PERIODS.iter().filter(|(_, longer)| *longer >= period).find_map(|(unit, longer)| {
        let number = number * (longer / period) as f64;
        let whole = number.round();
        // A fraction such as 0.1 has no exact value in binary.
        ((number - whole).abs() < 1e-6).then(|| format!("{whole}/{unit}"))
    })
}

/// Corrects a size: `8M` and `8MB` are `8MiB`.
pub(super) fn size(text: &str) -> Option<String> {
    let (number, word) = number_and_word(text)?;
    let unit = match word.as_str() {
        "b" | "bytes" => "B",
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// Returns `true` if the last part of an IPv6 address was probably meant as a port.
fn is_port(text: &str) -> bool {
    text.len() >= 2 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Corrects an address: `8080`, `:8080`, `localhost:8080`, `*:8080` and an address without a port.
pub(super) fn address(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let text = text.trim_end_matches('/');
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let (host, port) = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => match text.rsplit_once(':').filter(|(_, port)| is_port(port)) {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (format!("[{host}]"), port),
            _ => (format!("[{address}]"), "8080"),
        },
        Ok(address) => (address.to_string(), "8080"),
        Err(_) => match text.rsplit_once(':') {
            Some(("localhost", port)) => ("127.0.0.1".to_owned(), port),
            Some(("" | "*", port)) => ("0.0.0.0".to_owned(), port),
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (format!("[{host}]"), port),
            Some((host, port)) => (host.to_owned(), port),
            None if text == "localhost" => ("127.0.0.1".to_owned(), "8080"),
            None => ("127.0.0.1".to_owned(), text),
        },
    };
    Some(format!("{host}:{port}"))
}

/// Returns an origin without its port, if that is the default port of its scheme.
pub(super) fn without_default_port(origin: &str) -> Option<&str> {
    let (scheme, rest) = origin.split_once("://")?;
    let (_, port) = rest.rsplit_once(':')?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    // A port with leading zeros is the same one.
    (port.parse() == Ok(default)).then(|| origin.get(..origin.len() - port.len() - 1)).flatten()
}

/// Removes the default port of an origin, and a slash at its end.
pub(super) fn origin(text: &str) -> Option<String> {
    let bare = text.trim_end_matches('/');
    Some(without_default_port(bare).unwrap_or(bare).to_owned())
}

/// Adds the scheme to a collector's URL.
pub(super) fn collector(text: &str) -> Option<String> {
    (!text.contains("://") && !text.contains('@') && text.contains(':')).then(|| format!("http://{text}"))
}

/// Adds the scheme to a worker's URL, and removes the path of an endpoint.
pub(super) fn worker(text: &str) -> Option<String> {
    let base = without_endpoint(text);
    let text = base.unwrap_or(text);
    if text.contains("://") {
        return base.map(str::to_owned);
    }
    // A single word may be anything, so a port is required.
    (!text.contains('@') && text.contains(':')).then(|| format!("http://{text}"))
}
