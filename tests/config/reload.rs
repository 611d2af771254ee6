//! Reload: by a changed file, by a swapped link, by a signal; but not if the contents are the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use traffic_dam::config::Overrides;
use traffic_dam::config::watch::{ConfigWatch, Reload, ReloadCause};

use super::LEAST;

/// Far longer than a reload takes, and shorter than the interval of the comparison without events.
const BOUND: Duration = Duration::from_secs(8);

async fn next(watch: &mut ConfigWatch) -> Reload {
    timeout(BOUND, watch.next()).await.expect("no reload came")
}

fn gateways(reload: Reload) -> u32 {
    reload.settings.unwrap_or_else(|faults| panic!("{faults}")).gate.gateways
}

fn with_dams(gateways: u32) -> String {
    format!("{LEAST}gateways: {gateways}\n")
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_bad_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dam.yaml");
    fs::write(&path, with_dams(1)).unwrap();
    let mut watch = ConfigWatch::start(&path, Overrides::default()).unwrap();
    assert_eq!(watch.load().unwrap().gate.gateways, 1);
    fs::write(&path, "gateways: none").unwrap();
    let bad = next(&mut watch).await;
    assert_eq!(bad.cause, ReloadCause::Change);
    assert!(bad.settings.unwrap_err().to_string().contains("gateways: must be a whole number"));
    // As editors save: a new file replaces the old one.
    fs::write(directory.path().join("new"), with_dams(3)).unwrap();
    fs::rename(directory.path().join("new"), &path).unwrap();
    assert_eq!(gateways(next(&mut watch).await), 3);
    // Other files of the directory and equal contents are no change: only the last one is.
    fs::write(directory.path().join("other"), "x").unwrap();
    fs::write(&path, with_dams(3)).unwrap();
    fs::write(&path, with_dams(4)).unwrap();
    assert_eq!(gateways(next(&mut watch).await), 4);
}

#[tokio::test]
async fn a_link_that_is_swapped_is_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // As Kubernetes mounts: the file is a link through a link, and an update swaps the inner one.
    let put = |version: &str, gateways: u32| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("dam.yaml"), with_dams(gateways)).unwrap();
        symlink(version, at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
    };
    put("..v1", 1);
    symlink(Path::new("..data/dam.yaml"), at("dam.yaml")).unwrap();
    let mut watch = ConfigWatch::start(&at("dam.yaml"), Overrides::default()).unwrap();
    assert_eq!(watch.load().unwrap().gate.gateways, 1);
    for (version, dams_now) in [("..v2", 2), ("..v3", 3)] {
        put(version, dams_now);
        assert_eq!(gateways(next(&mut watch).await), dams_now);
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
    let mut watch = ConfigWatch::start(&path, Overrides::default()).unwrap();
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
    let mut watch = ConfigWatch::start(&path, Overrides::default()).unwrap();
    watch.load().unwrap();
    let own = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &own]).status().unwrap().success());
    let reload = next(&mut watch).await;
    assert_eq!(reload.cause, ReloadCause::Signal);
    assert_eq!(gateways(reload), 7);
}
