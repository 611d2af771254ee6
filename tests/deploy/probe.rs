//! The image's own probe, for gateways with an admin port other than the default.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::text;

/// A gateway with the settings in a file; killed at the end.
struct Gateway(Child);

impl Gateway {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(["serve", "--config"])
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It prints its addresses as soon as it listens.
        let said = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
        let gateway = Self(child);
        assert_eq!(said.map_while(Result::ok).count(), 2, "it did not start");
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

fn health(file: &Path) -> Output {
    let mut probe = Command::new(env!("CARGO_BIN_EXE_traffic-dam"));
    probe.args(["health", "--config"]).arg(file).output().unwrap()
}

#[test]
fn the_images_probe_finds_the_admin_port_wherever_the_settings_put_it() {
    let probe = r#"["/traffic-dam", "health", "--config", "/etc/traffic-dam/dam.yaml"]"#;
    assert!(text("deploy/Dockerfile").contains(probe), "the image asks otherwise than this test");
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["dam.example".to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let file = folder.path().join("dam.yaml");
    for (host, tls) in [("127.0.0.1", ""), ("0.0.0.0", ", tls: { cert: cert.pem, key: key.pem }")] {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port();
        let admin = format!("listen: \"{host}:{port}\", token: a-token-of-many-letters{tls}");
        let settings = format!("listen: 127.0.0.1:0\nadmin: {{ {admin} }}\nworkers: {{ static: [] }}\n");
        fs::write(&file, &settings).unwrap();
        let gateway = Gateway::start(&file);
        let well = health(&file);
        assert!(well.status.success(), "{admin}: {}", String::from_utf8_lossy(&well.stderr));
        // A file that breaks while the gateway runs is refused, but does not end the gateway.
        fs::write(&file, settings + "dams: many\nunheard: of\n").unwrap();
        assert!(health(&file).status.success(), "{admin}");
        drop(gateway);
        let gone = health(&file);
        let said = String::from_utf8_lossy(&gone.stderr);
        assert!(!gone.status.success() && said.contains("does not answer"), "{said}");
    }
}
