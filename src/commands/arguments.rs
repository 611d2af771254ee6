//! Reads values of the command line that have the syntax of a setting.

use traffic_dam::config::syntax::Syntax;

/// Reads a value, with the settings file's own words for an invalid one.
pub(crate) fn read<T: Syntax>(text: &str) -> Result<T, String> {
    T::read(text).ok_or_else(|| match T::meant(text).filter(|meant| T::read(meant).is_some()) {
        Some(meant) => format!("must be {}; did you mean `{meant}`?", T::EXPECTED),
        None => format!("must be {}", T::EXPECTED),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn an_address_is_explained_as_in_the_file() {
        for (text, meant) in
            [("8080", "127.0.0.1:8080"), (":8080", "0.0.0.0:8080"), ("localhost", "127.0.0.1:8080")]
        {
            let fault = read::<SocketAddr>(text).unwrap_err();
            let expected = "must be an IP address and a port, such as `127.0.0.1:8080` or `[::]:8080`";
            assert_eq!(fault, format!("{expected}; did you mean `{meant}`?"));
        }
        assert!(!read::<SocketAddr>("gateway.example:80").unwrap_err().contains("did you mean"));
        assert!(read::<SocketAddr>("[::1]:80").is_ok());
    }
}
