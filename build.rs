//! Tells the program which commit and target it is built from.

use std::env;
use std::path::Path;
use std::process::Command;

/// Names the commit where there is no repository, as in an image.
const VARIABLE: &str = "TRAFFIC_DAM_COMMIT";
/// Hexadecimal digits of a commit that are shown.
const DIGITS: &str = "--short=12";

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let told = env::var(VARIABLE).ok().filter(|commit| !commit.is_empty());
    // A debug build would be compiled anew after each commit, and says for itself that it is no release.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| {
        if !release {
            return Some("unknown: debug build".to_owned());
        }
        // A commit on a branch changes the branch; `HEAD` changes with a switch of branches.
        let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
        for name in ["HEAD".to_owned(), "packed-refs".to_owned()].into_iter().chain(branch) {
            // A file that is not there would count as changed at each build.
            if let Some(path) =
                git(&["rev-parse", "--git-path", &name]).filter(|path| Path::new(path).exists())
            {
                println!("cargo::rerun-if-changed={path}");
            }
        }
        git(&["rev-parse", DIGITS, "HEAD"])
    });
    println!("cargo::rustc-env={VARIABLE}={}", commit.as_deref().unwrap_or("unknown"));
    println!("cargo::rustc-env=TRAFFIC_DAM_TARGET={}", env::var("TARGET").unwrap_or_default());
}
