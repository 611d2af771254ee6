use super::*;
use proptest::prelude::*;

fn part(head: &str, value: &str) -> String {
    format!("--xY\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Option<String>, bool), FormError> {
    let mut tap = FormTap::new("xY");
    for chunk in chunks {
        tap.feed(chunk)?;
        assert!(tap.carry.len() + tap.kept.len() <= MAX_HEAD + MAX_BOUNDARY + 512);
    }
    Ok((tap.model().map(str::to_owned), tap.is_over()))
}

#[test]
fn the_model_is_found_wherever_the_form_is_cut() {
    let file = "\r\n--x\r\n--xZ\r\nmodel\r\n\r\n--".repeat(3);
    let form = [
        "\r\n".to_owned(),
        part("name=\"file\"; filename=\"a;name=\\\"model\\\".wav\"\r\nContent-Type: audio/wav", &file),
        part("name=empty", ""),
        part("x; filename=x; NAME=\"model\"", "whisper-1"),
        part("name=\"language\"", "de"),
        "--xY--\r\nepilogue --xY".to_owned(),
    ]
    .concat();
    let form = form.as_bytes();
    let expected = Ok((Some("whisper-1".to_owned()), true));
    for at in 0..=form.len() {
        assert_eq!(read([&form[..at], &form[at..]]), expected, "cut at {at}");
    }
    for length in 1..40 {
        assert_eq!(read(form.chunks(length)), expected, "in pieces of {length}");
    }
}

#[test]
fn a_form_that_is_ambiguous_or_too_large_is_an_error_for_every_cut() {
    let two = [part("name=model", "a"), part("name=\"model\"", "b")].concat();
    let many: String = (0..33).map(|_| part("name=a", "")).collect();
    let long = part(&format!("name=\"{}\"", "x".repeat(MAX_HEAD)), "");
    let name = part("name=model", &"x".repeat(257)) + "--xY--";
    for (form, error) in [
        (two, FormError::TwoModels),
        (many, FormError::TooManyParts),
        (long, FormError::LongHead),
        (name, FormError::Model),
        ("--xYz\r\n".to_owned(), FormError::Delimiter),
        ("--xY-\r\n".to_owned(), FormError::Delimiter),
        (format!("\n{}", part("name=model", "a")), FormError::Preamble),
        (format!("\r\n\r\n{}", part("name=model", "a")), FormError::Preamble),
        ("preamble\r\n".to_owned() + &part("name=model", "a"), FormError::Preamble),
    ] {
        for length in [1, 7, 64, usize::MAX] {
            assert_eq!(read(form.as_bytes().chunks(length)), Err(error), "in pieces of {length}");
        }
    }
    let longest = part("name=model", &"x".repeat(256));
    assert!(read([longest.as_bytes(), b"--xY--"]).is_ok_and(|(model, over)| model.is_some() && over));
}

#[test]
fn a_part_has_one_name_for_every_parser() {
    const CD: &str = "content-disposition: form-data; ";
    let read_part = |head: &str| {
        let form = format!("--xY\r\n{head}\r\n\r\nb\r\n--xY--");
        read([form.as_bytes()]).map(|(model, _)| model)
    };
    for name in [
        "name=\"x\"; name=\"model\"",
        "name=\"model\"; name=\"x\"",
        "name=x; NAME=model",
        "name; name=model",
        "name*=utf-8''model",
        "name=\"x\"; name*=utf-8''model",
        "name*0=\"mo\"; name*1=\"del\"",
        "name=<model>",
        "name=\"mo\\del\"",
        "name=\"model\0\"",
        "name=\"x\", name=\"model\"",
        "a\"b=\";name=\"model\"",
        "x=\"a\"name=\"b\"; name=\"model\"",
        "x=\"\\\\\";y=\"; name=model;z=\"",
        "name=\"model",
        "name=mo\"del\"",
    ] {
        assert_eq!(read_part(&format!("{CD}{name}")), Err(FormError::Name), "{name}");
    }
    assert_eq!(read_part("content-disposition: \"form-data; name=model"), Err(FormError::Name));
    assert_eq!(read_part(&format!("{CD}name=x\r\n{CD}name=model")), Err(FormError::Name));
    for head in [
        "content-disposition: form-data;\r\n name=model",
        "x: y\ncontent-disposition: form-data; name=model",
        "x: y\rcontent-disposition: form-data; name=model",
        "no field",
    ] {
        assert_eq!(read_part(head), Err(FormError::Head), "{head}");
    }
    for (name, model) in [
        ("name=\"model\"; filename=\"a\\\"; name=x\"", true),
        ("filename=\"C:\\dir\\a.wav\"; name = model ;", true),
        ("filename*=utf-8''a.wav; name=model", true),
        ("name=models; names=model; filename=\"; name=model\"", false),
        ("filename=model", false),
    ] {
        let expected = model.then(|| "b".to_owned());
        assert_eq!(read_part(&format!("{CD}{name}")), Ok(expected), "{name}");
    }
    assert_eq!(read_part("x-other: name=model"), Ok(None));
}

#[test]
fn a_boundary_is_read_from_the_content_type() {
    for (text, expected) in [
        ("multipart/form-data; boundary=xY", Ok(Some("xY"))),
        ("Multipart/Form-Data; charset=utf-8; Boundary=\"x Y\"", Ok(Some("x Y"))),
        ("application/json", Ok(None)),
        ("multipart/form-data", Err(FormError::NoBoundary)),
        ("multipart/form-data; boundary=", Err(FormError::NoBoundary)),
        ("multipart/form-data; boundary=xY; boundary=Z", Err(FormError::NoBoundary)),
        ("multipart/form-data; boundary=xY; boundary*=utf-8''Z", Err(FormError::NoBoundary)),
        ("multipart/form-data; boundary=<xY>", Err(FormError::NoBoundary)),
        ("multipart/form-data; boundary=\"x;Y\"", Ok(Some("x;Y"))),
    ] {
        assert_eq!(boundary(text), expected.map(|found| found.map(str::to_owned)), "{text}");
    }
    assert!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))).is_err());
}

proptest! {
    #[test]
    fn any_bytes_read_the_same_in_any_pieces(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "--xY", "\r\n", "--", "\r\n\r\n", "-", "x", "Content-Disposition: form-data; name=model", "\r", "\n", " ",
        ]), 0..20),
        lengths in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let form = pieces.concat().into_bytes();
        let mut rest = &form[..];
        let mut lengths = lengths.iter().cycle();
        let cut = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(rest.len().min(*lengths.next()?));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(read(cut), read([&form[..]]));
    }
}
