//! Says in plain words what is wrong with a certificate or a TLS handshake, without addresses.

use std::io;

use rustls::pki_types::pem;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Returns why a handshake failed, to complete "its TLS handshake failed: …".
pub(crate) fn handshake_fault(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(fault)) => certificate_fault(fault),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "it does not speak TLS",
        Some(Error::InvalidMessage(_)) => "it sent what is no valid TLS",
        Some(Error::AlertReceived(alert)) => alert_fault(*alert),
        Some(Error::PeerIncompatible(_)) => "it supports no version or cipher of TLS that this side accepts",
        Some(_) => "it does not follow the protocol",
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection",
        None => "the connection broke",
    }
}

fn certificate_fault(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::UnknownIssuer => "its certificate is not signed by a known authority",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::Revoked => "its certificate is revoked",
        CertificateError::BadEncoding => "its certificate cannot be parsed",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not one of a server"
        }
        // Among them: the certificate of an authority, shown as the server's own.
        _ => "its certificate is not acceptable",
    }
}

fn alert_fault(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnrecognisedName => "it has no certificate for this name",
        AlertDescription::CertificateRequired => "it demands a client certificate",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "it accepts no version or cipher of TLS that this side offers"
        }
        _ => "it refused the handshake",
    }
}

/// Returns why a file of PEM cannot be used; `empty` is the answer for one without the wanted parts.
pub(crate) fn pem_fault(error: &pem::Error, empty: &str) -> String {
    match error {
        pem::Error::NoItemsFound => empty.to_owned(),
        pem::Error::Io(error) => error.to_string(),
        other => format!("not valid PEM ({other})"),
    }
}

/// Returns why a certificate and a private key cannot be used together.
pub(crate) fn pair_fault(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        Error::InvalidCertificate(_) => "the certificate cannot be parsed".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_told_without_words_of_the_library() {
        for (error, words) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "known authority"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "another name"),
            (Error::InvalidCertificate(CertificateError::Expired), "has expired"),
            (Error::InvalidCertificate(CertificateError::NotValidYet), "not valid yet"),
            (Error::InvalidCertificate(CertificateError::BadSignature), "not acceptable"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "does not speak TLS"),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), "no version or cipher"),
            (Error::AlertReceived(AlertDescription::AccessDenied), "refused the handshake"),
        ] {
            let told = handshake_fault(&io::Error::new(io::ErrorKind::InvalidData, error));
            assert!(told.contains(words), "{told}");
        }
        assert_eq!(handshake_fault(&io::ErrorKind::UnexpectedEof.into()), "it closed the connection");
        assert_eq!(handshake_fault(&io::Error::other("10.0.0.5:8000")), "the connection broke");
    }
}
