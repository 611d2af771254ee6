use super::*;
use proptest::prelude::*;
use traffic_dam_fuzz::{fuzz, pieces};

const PLAIN: &str = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nGET / HTTP/1";
const BARE: &str = "\r\nGET /b HTTP/1.1\nhost: x\n\n";
// The body imitates a head with both lengths; its last chunk has an extension, and there are trailers.
const CHUNKED: &str = "POST /c HTTP/1.1\r\ntransfer-ENCODING:\tchunked\r\n\r\n20;a=b\r\n\r\ncontent-length: 5\r\n\r\nGET / H\r\n\r\n0;x\r\nContent-Length: 3\r\n\r\n";
const BOTH: &str = "POST /d HTTP/1.1\r\nCONTENT-LENGTH:  6 \r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n";
const PADDED: &str = "POST /d HTTP/1.1\r\ntransfer-encoding: chunked\r\nContent-Length:                                                                       6\r\n\r\n";

fn scan_in_pieces(text: &str, sizes: &[usize]) -> (FramingScanner, bool) {
    let mut scanner = FramingScanner::new();
    let (mut bytes, mut found, mut sizes) = (text.as_bytes(), false, sizes.iter().cycle());
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((*sizes.next().unwrap()).clamp(1, bytes.len()));
        found |= scanner.scan(piece) == Finding::BothLengths;
        bytes = rest;
    }
    (scanner, found)
}

proptest! {
    #[test]
    fn both_lengths_are_seen_wherever_the_reads_fall_and_only_in_heads(
        innocent in proptest::collection::vec(prop_oneof![Just(PLAIN), Just(BARE), Just(CHUNKED)], 0..6),
        guilty in proptest::option::of(prop_oneof![Just(BOTH), Just(PADDED)]),
        sizes in proptest::collection::vec(1usize..90, 1..8),
    ) {
        let text = innocent.concat() + guilty.unwrap_or_default();
        let (scanner, found) = scan_in_pieces(&text, &sizes);
        prop_assert_eq!(found, guilty.is_some());
        prop_assert_eq!(scanner.head_timeout, innocent.len() as u64 + u64::from(guilty.is_some()));
        prop_assert!(!scanner.in_head());
    }

    #[test]
    fn no_bytes_make_it_panic_or_keep_more_than_a_line(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut scanner = FramingScanner::new();
        scanner.scan(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        scanner.scan(&bytes);
        prop_assert!(scanner.line.len() <= KEPT_OF_A_LINE);
    }
}

#[test]
#[ignore = "a minute: make fuzz"]
fn fuzzed_connections_are_followed_alike_in_any_pieces() {
    let seeds = [PLAIN, BARE, CHUNKED, BOTH, PADDED, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].map(str::as_bytes);
    let words: [&[u8]; 8] = [
        b"\r\n",
        b"\n\n",
        b"Content-Length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff",
        b"99999999999999999999",
        b"POST / HTTP/1.1\r\n",
    ];
    let follow = |pieces: Vec<&[u8]>| {
        let mut scanner = FramingScanner::new();
        let found = pieces.into_iter().map(|piece| scanner.scan(piece)).find(|found| *found != Finding::None);
        assert!(scanner.line.len() <= KEPT_OF_A_LINE);
        (found, scanner.head_timeout, scanner.may_have_more(), scanner.is_first())
    };
    fuzz(&seeds, &words, |bytes, random| {
        let (whole, cut) = (follow(vec![bytes]), follow(pieces(bytes, random)));
        // A line in one piece is read to its end; of a split line only the start is kept.
        if cut.0 != Some(Finding::Untracked) {
            assert_eq!(cut, whole);
        }
    });
}

#[test]
fn it_knows_a_begun_head_and_leaves_http2_alone() {
    let mut scanner = FramingScanner::new();
    assert!(!scanner.in_head() && scanner.is_first());
    scanner.scan(b"GE");
    assert!(scanner.in_head());
    scanner.scan(b"T / HTTP/1.1\r\nhost: x\r\n");
    assert!(scanner.in_head() && scanner.is_first());
    scanner.scan(b"\r\n");
    assert!(!scanner.in_head() && !scanner.is_first());

    let mut scanner = FramingScanner::new();
    scanner.scan(b"PRI * HTTP/2.0\r\n\r\nSM");
    assert!(scanner.at == ScanState::Frames && scanner.in_head());
    scanner.scan(b"\r\n\r\n");
    assert!(scanner.at == ScanState::Frames && !scanner.in_head());
}

#[test]
fn a_length_that_cannot_be_followed_is_reported_however_it_is_split() {
    let long = " ".repeat(2 * KEPT_OF_A_LINE);
    let zeros = "0".repeat(2 * KEPT_OF_A_LINE);
    for head in [
        format!("POST / HTTP/1.1\r\ncontent-length:{long}15\r\n\r\n"),
        format!("POST / HTTP/1.1\r\ncontent-length: {zeros}15\r\n\r\n"),
        format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{zeros}f\r\n"),
    ] {
        for split in [KEPT_OF_A_LINE, head.len() - 8, head.len() - 5] {
            let mut scanner = FramingScanner::new();
            let (first, second) = head.as_bytes().split_at(split);
            let found = [scanner.scan(first), scanner.scan(second)];
            assert!(
                found.contains(&Finding::Untracked) || matches!(scanner.at, ScanState::Body { left: 15, .. }),
                "{found:?} {:?} {head}",
                scanner.at
            );
        }
    }
}

#[test]
fn a_known_method_in_other_letters_is_refused_and_an_unknown_one_is_not() {
    for (method, refused) in [
        ("POST", false),
        ("post", true),
        ("Post", true),
        ("gEt", true),
        ("options", true),
        ("PROPFIND", false),
        ("propfind", false),
    ] {
        let request = http::Request::builder().method(method).uri("/").header("host", "x");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(fault(&parts, Finding::None).is_some(), refused, "{method}");
    }
}

#[test]
fn a_lost_connection_takes_no_coded_request() {
    let request = http::Request::post("/").header("host", "x").header("transfer-encoding", "chunked");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    assert_eq!(fault(&parts, Finding::None), None);
    let told = fault(&parts, Finding::Untracked).unwrap();
    assert!(
        told.contains("new connection") && !told.contains("earlier"),
        "it may be the first request: {told}"
    );
}
