//! Header fields that are lists.

use http::header::{CONNECTION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns the elements of a comma-separated list, trimmed, without empty ones (RFC 9110 §5.6.1).
pub(crate) fn elements(value: &HeaderValue) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Returns the elements of all lines of the field `name`; several lines mean the same as one.
pub(crate) fn elements_of<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'h [u8]> {
    headers.get_all(name).iter().flat_map(elements)
}

/// Returns `true` if a body must be decoded before it can be read: any coding counts, in any line.
#[must_use]
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    elements_of(headers, &CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// Returns `true` if the sender closes the connection after this message.
#[must_use]
pub(crate) fn says_close(headers: &HeaderMap) -> bool {
    elements_of(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_of_every_line_counts() {
        for (lines, encoded) in [
            (&[][..], false),
            (&["identity"], false),
            (&["", " , ,Identity ,"], false),
            (&["identity, br"], true),
            (&["identity", "gzip"], true),
            (&["x-unknown"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(is_encoded(&headers), encoded, "{lines:?}");
        }
    }
}
