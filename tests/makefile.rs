//! `make test` runs all of its parts, even if one fails.

use std::process::Command;

#[test]
fn one_part_that_fails_does_not_hide_the_others() {
    let run = |parts: &str| {
        let make = Command::new("make")
            .args(["test", &format!("PARTS={parts}")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // Otherwise it would use the job server of a `make` that runs the tests.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .unwrap();
        let said = [make.stdout, make.stderr].map(|said| String::from_utf8(said).unwrap());
        (make.status.success(), said)
    };
    let (passed, [out, err]) = run("no-such-part help no-other-part");
    assert!(!passed && out.contains("make lint"), "the part between them ran: {out}{err}");
    assert!(err.contains("make test: failed: no-such-part no-other-part"), "{err}");
    assert!(run("help").0);
}
