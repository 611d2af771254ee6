use super::*;
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use traffic_dam_fuzz::fuzz;

fn check(bytes: &[u8]) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(bytes);
    scanner.skip()?;
    scanner.finish()
}

/// Pieces of JSON, so that random documents are nearly valid.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"b\":",
        "\\n",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\q",
        "1",
        "-",
        "0",
        "01",
        "1.5",
        ".",
        "e",
        "1e5",
        "true",
        "fals",
        "null",
        " ",
        "\t",
        "\u{1}",
        "é",
        "NaN",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn accepts_what_serde_json_accepts_and_nothing_else(bytes in nearly_json()) {
        // Parsed as ignored: `Value` also rejects numbers beyond `f64`, which the grammar allows.
        prop_assert_eq!(check(&bytes).is_ok(), serde_json::from_slice::<IgnoredAny>(&bytes).is_ok());
    }
}

proptest! {
    #[test]
    fn takes_whole_documents_and_calls_every_shorter_one_unfinished(value in any_value()) {
        let text = serde_json::to_vec(&Value::Array(vec![value])).unwrap();
        prop_assert_eq!(check(&text), Ok(()));
        for end in 0..text.len() {
            prop_assert_eq!(check(&text[..end]), Err(JsonError::End), "cut at {}", end);
        }
    }

    #[test]
    fn strings_decode_to_what_was_written(text in any::<String>(), ascii in any::<bool>()) {
        let mut json = serde_json::to_string(&text).unwrap();
        if ascii {
            json = json.encode_utf16().map(|unit| match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                _ => format!("\\u{unit:04X}"),
            }).collect();
        }
        let read = Scanner::new(json.as_bytes()).string().unwrap();
        prop_assert_eq!(read.decoded_len, text.len());
        let decoded = read.decode().map(Cow::into_owned);
        prop_assert_eq!(decoded, Some(text));
    }

    #[test]
    fn plain_runs_end_at_the_first_special_byte(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let slow = bytes.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
        prop_assert_eq!(plain_until(&bytes, 0), slow.unwrap_or(bytes.len()));
    }
}

#[test]
fn depth_is_bounded_as_in_serde_json() {
    for depth in [126, 127, 128, 100_000] {
        let text = ["[".repeat(depth), "]".repeat(depth)].concat();
        assert_eq!(check(text.as_bytes()).is_ok(), serde_json::from_str::<Value>(&text).is_ok(), "{depth}");
    }
    assert_eq!(check("[".repeat(500).as_bytes()), Err(JsonError::Deep(127)));
}

#[test]
fn a_half_surrogate_has_no_text_but_is_no_syntax_error() {
    let text = Scanner::new(br#""\ud800""#).string().unwrap();
    assert_eq!((text.decode(), text.name().as_ref()), (None, &br"\ud800"[..]));
}

#[test]
#[ignore = "a minute: make fuzz"]
fn fuzzed_documents_are_read_as_serde_json_reads_them() {
    let seeds: [&[u8]; 3] = [
        br#"{"model":"m","messages":[{"role":"user","content":"a\u00e9\ud83d\ude00\n"}],"stream":true,"n":2}"#,
        br#"[1,-0.5e+10,[[],{}],null,true,false," \" ",{"a":{"b":[0]}}]"#,
        "\t{\"é\" : \"zwölf\"}\r\n".as_bytes(),
    ];
    let words: [&[u8]; 12] =
        [b"{", b"}", b"[", b"]", b"\"", b"\\", b"\\u", b"\\ud83d", b",", b":", b"1e9", b"null"];
    fuzz(&seeds, &words, |bytes, _| {
        assert_eq!(check(bytes).is_ok(), serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
    });
}
