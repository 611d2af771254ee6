//! Reads a file into settings, in steps that each report all errors they find: text → tree →
//! variables → structure → values → checks of values against each other.

use std::fs::File as Opened;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;

use super::fault::{Fault, Faults, Position};
use super::file::File;
use super::place::{Place, Report};
use super::settings::Settings;
use super::syntax::Text;
use super::tree::Node;
use super::validate::{Files, validate};
use super::{schema, structure, variables, yaml};

/// Maximum file size in bytes: thousands of callers and workers fit. A full file is about 4 KiB.
pub(super) const LARGEST: usize = 1 << 20;

/// Settings that the command line overrides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Overrides `listen`.
    pub listen: Option<SocketAddr>,
    /// Overrides `admin.listen`.
    pub admin_listen: Option<SocketAddr>,
}

/// Everything that a settings file depends on besides its text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Returns why a file named in the settings cannot be read; `None` if it can.
    pub obstacle: &'a dyn Fn(&Path) -> Option<String>,
    /// Settings that the command line overrides.
    pub overrides: Overrides,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// Reads the settings from the file `path`. Variables come from the process's environment.
///
/// # Errors
/// All errors of the file.
pub fn load(path: &Path, overrides: Overrides) -> Result<Settings, Faults> {
    let surroundings =
        Surroundings { variable: &|name| std::env::var(name).ok(), obstacle: &obstacle, overrides };
    match read_bounded(path, LARGEST.saturating_add(1)) {
        Ok(bytes) => from_bytes(&bytes, path, surroundings),
        Err(error) => Err(Faults::unreadable(path, format!("the file cannot be read: {error}"))),
    }
}

/// Returns the address of the administration port in the settings `path`, and `true` if it uses
/// TLS. A health probe uses this: it must not report a gateway as ill because its file was broken a
/// moment ago, so errors elsewhere in the file are ignored.
///
/// # Errors
/// If the file cannot be read, or is not YAML.
pub fn admin_port(path: &Path) -> Result<(SocketAddr, bool), Faults> {
    let bytes = read_bounded(path, LARGEST.saturating_add(1))
        .map_err(|error| Faults::unreadable(path, format!("the file cannot be read: {error}")))?;
    let FileShape { file, .. } = shape(&bytes, path, &|name| std::env::var(name).ok())?;
    Ok((file.admin.listen.0, file.admin.tls.is_some()))
}

/// Reads at most the first `most` bytes of a file.
pub(super) fn read_bounded(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Opened::open(path)?.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads settings from `text`. Errors call it `path`; relative file names start at its directory.
///
/// # Errors
/// All errors of the text.
pub fn from_str(text: &str, path: &Path, surroundings: Surroundings<'_>) -> Result<Settings, Faults> {
    from_bytes(text.as_bytes(), path, surroundings)
}

/// The valid part of a file, and its errors.
struct FileShape {
    file: File,
    place: Place,
    meant: Vec<String>,
    faults: Vec<Fault>,
}

fn from_bytes(bytes: &[u8], path: &Path, surroundings: Surroundings<'_>) -> Result<Settings, Faults> {
    let FileShape { file, place, meant, faults } = shape(bytes, path, surroundings.variable)?;
    let file = overridden(file, surroundings.overrides);
    let mut report = Report::new(faults, meant);
    let directory = path.parent().unwrap_or(Path::new(""));
    let files = Files { directory, obstacle: surroundings.obstacle };
    let settings = validate(file, &place, files, &mut report);
    match report.into_faults() {
        faults if faults.is_empty() => Ok(settings),
        faults => Err(Faults::new(path, faults)),
    }
}

fn shape(bytes: &[u8], path: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<FileShape, Faults> {
    if bytes.len() > LARGEST {
        return Err(Faults::unreadable(path, format!("the file is larger than {LARGEST} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let position = end_of(&String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default()));
        let problem = "this is not UTF-8".to_owned();
        Faults::new(
            path,
            vec![Fault { position: Some(position), field: String::new(), problem, found: None }],
        )
    })?;
    // Some editors begin a file with a byte order mark; it has no meaning.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Vec::new();
    let document = yaml::read(text, &mut faults);
    let Some(mut document) = document.or_else(|| faults.is_empty().then(Node::nothing)) else {
        return Err(Faults::new(path, faults));
    };
    variables::substitute(&mut document, variable, &mut faults);
    let sound = structure::compare(schema::schema(), document, &mut faults);
    match serde_json::from_value::<File>(sound.value) {
        Ok(file) => Ok(FileShape { file, place: sound.place, meant: sound.meant, faults }),
        Err(_) => {
            // A bug in this program. The error may quote any value, so it is not shown.
            let problem = "the schema admits a value that the settings do not".to_owned();
            faults.push(Fault { position: None, field: String::new(), problem, found: None });
            Err(Faults::new(path, faults))
        }
    }
}

fn overridden(mut file: File, overrides: Overrides) -> File {
    if let Some(address) = overrides.listen {
        file.listen = Text(address);
    }
    if let Some(address) = overrides.admin_listen {
        file.admin.listen = Text(address);
    }
    file
}

fn obstacle(path: &Path) -> Option<String> {
    match Opened::open(path).and_then(|file| file.metadata()) {
        Ok(facts) if facts.is_dir() => Some("it is a directory".into()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn end_of(text: &str) -> Position {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    Position { line, column }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    #[ignore = "a minute: make fuzz"]
    fn fuzzed_settings_are_taken_or_told_what_is_wrong_and_keep_their_secrets() {
        let seeds = [
            include_bytes!("../../examples/minimal.yaml").as_slice(),
            include_bytes!("../../examples/demo.yaml"),
            b"redis: { url: \"redis://user:${SECRET}@10.0.0.1:6379\" }\nlimits: [{ name: a, per: [caller, model], limit: 5 }]\n",
        ];
        let words: [&[u8]; 14] = [
            b"\n",
            b"\n  ",
            b": ",
            b"- ",
            b"{",
            b"}",
            b"[",
            b"]",
            b"${SECRET}",
            b"&a",
            b"*a",
            b"!!str",
            b"|\n",
            b"99999999999d",
        ];
        let surroundings = Surroundings {
            variable: &|name| (name == "SECRET").then(|| "s3cret-of-all".to_owned()),
            obstacle: &|_| None,
            overrides: Overrides::default(),
        };
        fuzz(&seeds, &words, |bytes, _| {
            if let Err(faults) = from_bytes(bytes, Path::new("dam.yaml"), surroundings) {
                let text = faults.to_string();
                assert!(!faults.list.is_empty() && !text.contains("s3cret"), "{text}");
                assert!(!text.contains("schema admits"), "{text}");
            }
        });
    }
}
