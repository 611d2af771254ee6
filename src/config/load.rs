//! Reads a file into settings, in steps that each report all errors they find: text → tree →
//! variables → structure → values → checks of values against each other.

use std::fs::File as Opened;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;
use traffic_dam_lab::simulate::Scenario;

use super::error::{ConfigError, ConfigErrors, Position};
use super::file::ConfigFile;
use super::settings::Settings;
use super::source::{ErrorCollector, SettingPath, SettingPlace};
use super::syntax::Text;
use super::tree::{Node, NodeKind};
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
pub struct LoadContext<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Returns why a file named in the settings cannot be read; `None` if it can.
    pub obstacle: &'a dyn Fn(&Path) -> Option<String>,
    /// Settings that the command line overrides.
    pub overrides: Overrides,
}

impl std::fmt::Debug for LoadContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadContext").field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// Reads the settings from the file `path`. Variables come from the process's environment.
///
/// # Errors
/// All errors of the file.
pub fn load(path: &Path, overrides: Overrides) -> Result<Settings, ConfigErrors> {
    let surroundings =
        LoadContext { variable: &|name| std::env::var(name).ok(), obstacle: &unreadable_reason, overrides };
    from_bytes(&read(path)?, path, surroundings)
}

/// Returns the address of the administration port in the settings `path`, and `true` if it uses
/// TLS. A health probe uses this: it must not report a gateway as ill because its file was broken a
/// moment ago, so errors elsewhere in the file are ignored.
///
/// # Errors
/// If the file cannot be read, or is not YAML.
pub fn admin_port(path: &Path) -> Result<(SocketAddr, bool), ConfigErrors> {
    let bytes = read(path)?;
    let FileShape { file, .. } = settings_file(&bytes, path, &|name| std::env::var(name).ok())?;
    Ok((file.admin.listen.0, file.admin.tls.is_some()))
}

/// Reads a file of settings or of a scenario; one byte too many of one that is too large.
fn read(path: &Path) -> Result<Vec<u8>, ConfigErrors> {
    read_bounded(path, LARGEST.saturating_add(1))
        .map_err(|error| ConfigErrors::unreadable(path, format!("the file cannot be read: {error}")))
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
pub fn from_str(text: &str, path: &Path, surroundings: LoadContext<'_>) -> Result<Settings, ConfigErrors> {
    from_bytes(text.as_bytes(), path, surroundings)
}

/// Former names of top-level settings that are still read, with the present ones.
const FORMER_NAMES: [(&str, &str); 1] = [("dams", "gateways")];

/// The valid part of a file, and its errors.
struct FileShape<T> {
    file: T,
    place: SettingPlace,
    meant: Vec<String>,
    faults: Vec<ConfigError>,
}

fn from_bytes(bytes: &[u8], path: &Path, surroundings: LoadContext<'_>) -> Result<Settings, ConfigErrors> {
    let FileShape { file, place, meant, faults } = settings_file(bytes, path, surroundings.variable)?;
    let file = overridden(file, surroundings.overrides);
    let mut report = ErrorCollector::new(faults, meant);
    let directory = path.parent().unwrap_or(Path::new(""));
    let files = Files { directory, obstacle: surroundings.obstacle };
    let settings = validate(file, &place, files, &mut report);
    match report.into_faults() {
        faults if faults.is_empty() => Ok(settings),
        faults => Err(ConfigErrors::new(path, faults)),
    }
}

fn settings_file(
    bytes: &[u8],
    path: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<FileShape<ConfigFile>, ConfigErrors> {
    let prepare = |document: &mut Node, faults: &mut Vec<ConfigError>| {
        variables::substitute(document, variable, faults);
        read_former_names(document, faults);
    };
    // The error may quote any value, so it is not shown.
    let hidden = |_| "the schema admits a value that the settings do not".to_owned();
    parse_file(bytes, path, schema::schema(), prepare, hidden)
}

/// Reads a scenario for `traffic-dam simulate`.
///
/// # Errors
/// All errors of the file.
pub fn scenario(path: &Path) -> Result<Scenario, ConfigErrors> {
    let bytes = read(path)?;
    scenario_from(&bytes, path)
}

/// Reads a scenario from `text`. Errors call it `path`.
///
/// # Errors
/// All errors of the text.
pub fn scenario_from(text: &[u8], path: &Path) -> Result<Scenario, ConfigErrors> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(schema::schema_of::<Scenario>);
    let FileShape { file, place, meant, faults } =
        parse_file::<Scenario>(text, path, &SCHEMA, |_, _| {}, |error| error.to_string())?;
    let mut report = ErrorCollector::new(faults, meant);
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let checked = file.checked(&name);
    for (field, problem) in checked.as_ref().err().into_iter().flatten() {
        report.fault(&SettingPath::root(&place).below(field), problem.as_str());
    }
    match (checked, report.into_faults()) {
        (Ok(scenario), faults) if faults.is_empty() => Ok(scenario),
        (_, faults) => Err(ConfigErrors::new(path, faults)),
    }
}

fn parse_file<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    schema: &Value,
    prepare: impl FnOnce(&mut Node, &mut Vec<ConfigError>),
    bug: impl FnOnce(serde_json::Error) -> String,
) -> Result<FileShape<T>, ConfigErrors> {
    if bytes.len() > LARGEST {
        return Err(ConfigErrors::unreadable(path, format!("the file is larger than {LARGEST} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let position = end_of(&String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default()));
        let problem = "the file is not valid UTF-8".to_owned();
        ConfigErrors::new(
            path,
            vec![ConfigError { position: Some(position), field: String::new(), problem, found: None }],
        )
    })?;
    // Some editors begin a file with a byte order mark; it has no meaning.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Vec::new();
    let document = yaml::read(text, &mut faults);
    let Some(mut document) = document.or_else(|| faults.is_empty().then(Node::nothing)) else {
        return Err(ConfigErrors::new(path, faults));
    };
    prepare(&mut document, &mut faults);
    let sound = structure::compare(schema, document, &mut faults);
    match serde_json::from_value(sound.value) {
        Ok(file) => Ok(FileShape { file, place: sound.place, meant: sound.meant, faults }),
        Err(error) => {
            let problem = bug(error);
            faults.push(ConfigError { position: None, field: String::new(), problem, found: None });
            Err(ConfigErrors::new(path, faults))
        }
    }
}

/// Gives settings under a former name their present one. A file that has both is at fault.
fn read_former_names(document: &mut Node, faults: &mut Vec<ConfigError>) {
    let NodeKind::Map(entries) = &mut document.kind else { return };
    for (former, name) in FORMER_NAMES {
        let Some(at) = entries.iter().position(|entry| entry.key == former) else { continue };
        if entries.iter().any(|entry| entry.key == name) {
            let position = Some(entries.remove(at).at);
            let problem = format!("is the former name of `{name}`, which is set too: remove one of them");
            faults.push(ConfigError { position, field: former.to_owned(), problem, found: None });
        } else if let Some(entry) = entries.get_mut(at) {
            name.clone_into(&mut entry.key);
        }
    }
}

fn overridden(mut file: ConfigFile, overrides: Overrides) -> ConfigFile {
    if let Some(address) = overrides.listen {
        file.listen = Text(address);
    }
    if let Some(address) = overrides.admin_listen {
        file.admin.listen = Text(address);
    }
    file
}

fn unreadable_reason(path: &Path) -> Option<String> {
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
    use traffic_dam_fuzz::fuzz;

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
        let surroundings = LoadContext {
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
