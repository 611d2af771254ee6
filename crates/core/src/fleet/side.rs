//! Names of the sides of a pool: which workers of a queue share one stream of jobs.
//!
//! A worker with a colour takes the jobs of that colour. Without one its version is the colour, so
//! that two builds never share a stream: a worker of version 2.0 is on the side `v-2.0`, and one
//! that names neither is on `v-0`. A switch may name one version of a colour; its jobs then go to
//! the side `blue@2.0`, which only workers of that colour and version read.

use std::sync::Arc;

use super::heartbeat::name;

/// Prefix of the sides of workers without a colour.
const BY_VERSION: &str = "v-";
/// Version of a worker that reports none.
const NO_VERSION: &str = "0";
/// Separates a colour from a version; no colour contains it.
const VERSION_SEPARATOR: char = '@';
/// Separates a side from the name of one worker; no side contains it.
const WORKER_SEPARATOR: char = ':';

/// Returns the colour of a queue worker: its own, or the one that stands for its version. `None`
/// if it has no colour and its version cannot be part of one: it must be 1 to 62 letters, digits,
/// `.`, `_` or `-`.
#[must_use]
pub fn colour_of(colour: Option<&Arc<str>>, version: Option<&str>) -> Option<Arc<str>> {
    let version = version.filter(|version| !version.is_empty()).unwrap_or(NO_VERSION);
    colour.map(Arc::clone).or_else(|| name(&format!("{BY_VERSION}{version}")))
}

/// Returns the side of one version of a colour. A colour that stands for a version has only that one.
#[must_use]
pub fn of_version(colour: &str, version: &str) -> Arc<str> {
    match colour.strip_prefix(BY_VERSION) {
        Some(own) if own == version => colour.into(),
        _ => format!("{colour}{VERSION_SEPARATOR}{version}").into(),
    }
}

/// Returns the side of one worker alone, which takes the jobs of the sessions that it keeps: its
/// narrowest side and its name.
#[must_use]
pub fn of_worker(colour: &Arc<str>, version: Option<&str>, worker: &str) -> Arc<str> {
    let narrowest = taken_by(colour, version).into_iter().next();
    format!("{}{WORKER_SEPARATOR}{worker}", narrowest.as_deref().unwrap_or_default()).into()
}

/// Returns the side `text` without the name of a worker, if it has one.
#[must_use]
pub fn without_worker(text: &str) -> &str {
    text.split_once(WORKER_SEPARATOR).map_or(text, |(side, _)| side)
}

/// Returns the colour and the version of the side `text`; no version if it is a whole colour.
#[must_use]
pub fn parts(text: &str) -> (&str, Option<&str>) {
    text.split_once(VERSION_SEPARATOR).map_or((text, None), |(colour, version)| (colour, Some(version)))
}

/// Returns the sides whose jobs a worker takes, the narrowest first. A version that is not a valid
/// name has no side of its own.
#[must_use]
pub fn taken_by(colour: &Arc<str>, version: Option<&str>) -> Vec<Arc<str>> {
    let own = version.filter(|version| name(version).is_some()).map(|version| of_version(colour, version));
    own.into_iter().filter(|own| own != colour).chain([Arc::clone(colour)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_a_colour_is_on_the_side_of_its_version() {
        let blue: Arc<str> = "blue".into();
        let of = |colour, version| colour_of(colour, version).map(|side| side.to_string());
        assert_eq!(of(Some(&blue), Some("2.0")).as_deref(), Some("blue"));
        assert_eq!(of(None, Some("2.0")).as_deref(), Some("v-2.0"));
        assert_eq!(of(None, None).as_deref(), Some("v-0"));
        assert_eq!(of(None, Some("")).as_deref(), Some("v-0"));
        for wrong in ["2 0", "2.0+a", &"9".repeat(63)] {
            assert_eq!(of(None, Some(wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_worker_takes_what_is_for_its_version_and_what_is_for_its_colour() {
        let taken = |colour: &str, version| {
            taken_by(&colour.into(), version).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(taken("blue", Some("2.0")), ["blue@2.0", "blue"]);
        assert_eq!(taken("blue", None), ["blue"]);
        assert_eq!(taken("blue", Some("2.0+a")), ["blue"]);
        assert_eq!(taken("v-2.0", Some("2.0")), ["v-2.0"]);
        assert_eq!(&*of_worker(&"blue".into(), Some("2.0"), "w1"), "blue@2.0:w1");
        assert_eq!(&*of_worker(&"v-2.0".into(), Some("2.0"), "w1"), "v-2.0:w1");
        assert_eq!((without_worker("blue@2.0:w1"), without_worker("blue")), ("blue@2.0", "blue"));
        assert_eq!((parts("blue@2.0"), parts("v-2.0")), (("blue", Some("2.0")), ("v-2.0", None)));
    }
}
