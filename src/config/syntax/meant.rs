//! Guesses the meaning of an invalid text, such as a duration without a unit. A guess may be
//! invalid too: whoever asks checks it.

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

/// Corrects a rate: `10` is `10/s`, `10/min` is `10/m`, `10rps` is `10/s`.
pub(super) fn rate(text: &str) -> Option<String> {
    let (number, word) = number_and_word(text)?;
    let word = word.trim_start_matches(['/', ' ']).trim_start_matches("per ");
    let unit = match word {
        "rps" | "r/s" | "qps" => "s",
        "rpm" | "tpm" => "m",
        word => unit_of_time(word).map(|(unit, _)| unit).filter(|unit| *unit != "ms")?,
    };
    Some(format!("{number}/{unit}"))
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

/// Corrects an address: `8080`, `:8080`, `localhost:8080`, `*:8080` and an address without a port.
pub(super) fn address(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let text = text.trim_end_matches('/');
    let (host, port) = match text.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_ipv6() => (format!("[{address}]"), "8080"),
        Ok(address) => (address.to_string(), "8080"),
        Err(_) => match text.rsplit_once(':') {
            Some(("localhost", port)) => ("127.0.0.1".to_owned(), port),
            Some(("" | "*", port)) => ("0.0.0.0".to_owned(), port),
            Some((host, port)) => (host.to_owned(), port),
            None if text == "localhost" => ("127.0.0.1".to_owned(), "8080"),
            None => ("127.0.0.1".to_owned(), text),
        },
    };
    Some(format!("{host}:{port}"))
}

/// Adds the scheme to a worker's URL.
pub(super) fn worker(text: &str) -> Option<String> {
    let bare = !text.contains("://") && !text.contains('@');
    // A single word may be anything, so a port is required.
    (bare && text.contains(':')).then(|| format!("http://{text}"))
}
