//! Reload: by a changed file, by a swapped link, by a signal; and not by a file that is the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use traffic_dam::config::Overrides;
use traffic_dam::config::watch::{Cause, Reload, Watch};

use super::LEAST;

/// Far longer than any of it takes, and shorter than the files are compared without an event.
const BOUND: Duration = Duration::from_secs(8);

async fn next(watch: &mut Watch) -> Reload {
    timeout(BOUND, watch.next()).await.expect("no reload came")
}

fn dams(reload: Reload) -> u32 {
    reload.settings.unwrap_or_else(|faults| panic!("{faults}")).gate.dams
}

fn with_dams(dams: u32) -> String {
    format!("{LEAST}dams: {dams}\n")
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_bad_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dam.yaml");
    fs::write(&path, with_dams(1)).unwrap();
    let mut watch = Watch::start(&path, Overrides::default()).unwrap();
    assert_eq!(watch.load().unwrap().gate.dams, 1);
    fs::write(&path, "dams: none").unwrap();
    let bad = next(&mut watch).await;
    assert_eq!(bad.cause, Cause::Change);
    assert!(bad.settings.unwrap_err().to_string().contains("dams: must be a whole number"));
    // As editors save: a new file in the place of the old one.
    fs::write(directory.path().join("new"), with_dams(3)).unwrap();
    fs::rename(directory.path().join("new"), &path).unwrap();
    assert_eq!(dams(next(&mut watch).await), 3);
    // Other files of the directory, and the same contents again, are no change: only the last one is.
    fs::write(directory.path().join("other"), "x").unwrap();
    fs::write(&path, with_dams(3)).unwrap();
    fs::write(&path, with_dams(4)).unwrap();
    assert_eq!(dams(next(&mut watch).await), 4);
}

#[tokio::test]
async fn a_link_that_is_swapped_is_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // As Kubernetes mounts: the file is a link through a link, and an update swaps the inner one.
    let put = |version: &str, dams: u32| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("dam.yaml"), with_dams(dams)).unwrap();
        symlink(version, at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
    };
    put("..v1", 1);
    symlink(Path::new("..data/dam.yaml"), at("dam.yaml")).unwrap();
    let mut watch = Watch::start(&at("dam.yaml"), Overrides::default()).unwrap();
    assert_eq!(watch.load().unwrap().gate.dams, 1);
    for (version, dams_now) in [("..v2", 2), ("..v3", 3)] {
        put(version, dams_now);
        assert_eq!(dams(next(&mut watch).await), dams_now);
    }
}

#[tokio::test]
async fn a_certificate_that_changes_is_a_change_of_the_settings() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = directory.path().join("dam.yaml");
    let (cert, key) = (elsewhere.path().join("cert.pem"), elsewhere.path().join("key.pem"));
    fs::write(&cert, "old").unwrap();
    fs::write(&key, "old").unwrap();
    fs::write(&path, format!("{LEAST}tls: {{ cert: {cert:?}, key: {key:?} }}\n")).unwrap();
    let mut watch = Watch::start(&path, Overrides::default()).unwrap();
    watch.load().unwrap();
    fs::write(&cert, "new").unwrap();
    let reload = next(&mut watch).await;
    assert_eq!(reload.settings.unwrap().tls.unwrap().cert, cert);
}

#[tokio::test]
async fn a_signal_reads_even_an_unchanged_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dam.yaml");
    fs::write(&path, with_dams(7)).unwrap();
    let mut watch = Watch::start(&path, Overrides::default()).unwrap();
    watch.load().unwrap();
    let own = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &own]).status().unwrap().success());
    let reload = next(&mut watch).await;
    assert_eq!(reload.cause, Cause::Signal);
    assert_eq!(dams(reload), 7);
}
