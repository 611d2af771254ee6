//! Hexadecimal encoding.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Encodes `bytes` in lower case, two digits for each.
#[must_use]
pub fn write(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

/// Encodes `number` in lower case, as 32 digits.
#[must_use]
pub fn digits(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    digits
}

/// Decodes `digits` of either case; `None` unless they are exactly `2 * N` hexadecimal digits.
#[must_use]
pub fn read<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(high)? << 4 | value(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = write(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(read::<256>(text.as_bytes()).map(Vec::from), Some(all.clone()));
        assert_eq!(read::<256>(text.to_uppercase().as_bytes()).map(Vec::from), Some(all));
    }

    #[test]
    fn a_number_has_all_its_digits() {
        for number in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            assert_eq!(digits(number), *format!("{number:032x}").as_bytes());
        }
    }

    #[test]
    fn nothing_but_the_right_number_of_digits_is_read() {
        assert_eq!(read(b"0fF0"), Some([0x0f, 0xf0]));
        for wrong in ["", "0", "0f", "0fF", "0fF00", "0fF0f0", "+fF0", "0fF ", "0fFg", "\u{b2}0f"] {
            assert_eq!(read::<2>(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
