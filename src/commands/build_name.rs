//! Name of this build, by which two builds are told apart that carry the same version.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes from the start of the program that are hashed. They hold its headers, with the sizes of
/// all sections and the identifier that the linker gives each build.
const HEAD: u64 = 16 * 1024;
/// Bytes of the hash that are shown.
const SHOWN: usize = 4;

/// Returns the version, and a hash of the program file: `0.1.0-3f9a2c1b`. Copies of one build have
/// the same name on every machine. Without access to its file it is the version alone.
pub(crate) fn name() -> String {
    let version = env!("CARGO_PKG_VERSION");
    hash().map_or_else(|_| version.to_owned(), |hash| format!("{version}-{hash}"))
}

fn hash() -> io::Result<String> {
    let file = File::open(std::env::current_exe()?)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    let digest = Sha256::new().chain_update(length.to_le_bytes()).chain_update(head).finalize();
    Ok(digest.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_build_has_a_name_of_its_own_that_may_be_a_version() {
        let name = super::name();
        assert_eq!(name, super::name());
        let (version, hash) = name.rsplit_once('-').unwrap();
        assert_eq!((version, hash.len()), (env!("CARGO_PKG_VERSION"), 8));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{name}");
    }
}
