use super::super::Text;
use super::*;
use crate::openai::kinds;

fn written<T: Syntax>(text: &str) -> Option<String> {
    T::read(text).map(|value| Text(value).to_string())
}

#[test]
fn networks_and_hosts_are_read_into_one_form() {
    assert_eq!(written::<Network>("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(written::<Network>("::1").as_deref(), Some("::1/128"));
    assert_eq!(written::<Network>("10.0.0.0/33"), None);
    assert_eq!(written::<Host>("LocalHost").as_deref(), Some("localhost"));
    assert_eq!(written::<Host>("0:0::1").as_deref(), Some("::1"));
    for wrong in ["", "a..b", "host:80", "[::1]", "a b", "*"] {
        assert_eq!(written::<Host>(wrong), None, "{wrong}");
    }
}

#[test]
fn the_url_of_a_collector_may_be_the_full_one() {
    for (text, base) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318"),
        ("https://otel.example/api/otlp/v1/traces/", "https://otel.example/api/otlp"),
        ("https://otel.example/v1", "https://otel.example"),
        ("http://h/traces", "http://h/traces"),
    ] {
        assert_eq!(written::<CollectorUrl>(text).as_deref(), Some(base), "{text}");
    }
    for wrong in ["", "127.0.0.1:4318", "grpc://h:4317", "http://u:p@h/v1/traces", "http://h/v1/traces?a=b"] {
        assert_eq!(written::<CollectorUrl>(wrong), None, "{wrong}");
    }
    assert_eq!(CollectorUrl::meant("otel:4318/v1/traces").as_deref(), Some("http://otel:4318/v1/traces"));
}

#[test]
fn worker_urls_have_a_host_and_nothing_to_hide() {
    assert_eq!(written::<WorkerUrl>("http://[::1]:8000/").as_deref(), Some("http://[::1]:8000"));
    assert_eq!(written::<WorkerUrl>("https://w.example/base/").as_deref(), Some("https://w.example/base"));
    for (base, form) in [
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("https://h/openai/v1", "https://h/openai"),
        ("http://h/v1/x", "http://h/v1/x"),
        ("http://h/av1", "http://h/av1"),
        ("http://h/engine", "http://h/engine"),
        ("http://h/rerank", "http://h/rerank"),
        ("http://h/v10", "http://h/v10"),
        ("http://v1", "http://v1"),
    ] {
        assert_eq!(written::<WorkerUrl>(base).as_deref(), Some(form), "{base}");
    }
    for wrong in [
        "",
        "127.0.0.1:8000",
        "http://",
        "http:///x",
        "ftp://h",
        "http://h:99999",
        "http://h:0",
        "http://h:",
        "http://h?a=b",
        "http://u:p@h",
        "http://h/a/../b",
        "http://h//a",
        "http://h/V1",
        "http://h/v1/v1",
        "http://h/chat/completions",
        "http://h/engine/v1/Chat/Completions/",
        "http://h/#x",
        "http://h\n",
    ] {
        assert_eq!(written::<WorkerUrl>(wrong), None, "{wrong}");
    }
}

#[test]
fn no_endpoint_below_v1_is_the_url_of_a_worker() {
    let endpoints = kinds::TABLE.iter().flat_map(|row| row.endpoints).map(|(_, path)| path);
    for path in endpoints.filter(|path| path.starts_with("/v1/") && !path.contains('*')) {
        let url = format!("https://h:1/engine{path}");
        assert_eq!(written::<WorkerUrl>(&url), None, "{url}");
        assert_eq!(WorkerUrl::meant(&url).as_deref(), Some("https://h:1/engine"), "{url}");
    }
}

#[test]
fn allowed_hosts_and_redis_urls() {
    for (text, form) in
        [("10.1.2.3/8", "10.0.0.0/8"), ("127.0.0.1", "127.0.0.1/32"), ("GPU-*.Example", "gpu-*.example")]
    {
        assert_eq!(written::<AllowedHost>(text).as_deref(), Some(form));
    }
    for wrong in ["", "http://a", "10.*", "a:80", "10.0.0.0/33"] {
        assert_eq!(written::<AllowedHost>(wrong), None, "{wrong}");
    }
    for (right, form) in [
        ("redis://h", "redis://h"),
        ("rediss://u:p@h:6380/1", "rediss://…@h:6380/1"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
    ] {
        assert_eq!(written::<RedisUrl>(right).as_deref(), Some(form));
    }
    assert_eq!(format!("{:?}", RedisUrl::read("rediss://u:s3cret@h").unwrap()), "rediss://…@h");
    for wrong in ["", "h:6379", "http://h", "redis://", "redis://h:x", "redis+unix:///tmp/s", "redis://h/db"]
    {
        assert_eq!(written::<RedisUrl>(wrong), None, "{wrong}");
    }
}

#[test]
fn origins_are_bare() {
    assert_eq!(written::<Origin>("https://Chat.example:8443").as_deref(), Some("https://chat.example:8443"));
    assert_eq!(written::<Origin>("*").as_deref(), Some("*"));
    for other_port in ["https://a:80", "http://a:443", "http://[::443]", "app://a:443"] {
        assert_eq!(written::<Origin>(other_port).as_deref(), Some(other_port));
    }
    for default in ["https://a:443", "http://a:80", "https://[::1]:443", "https://a:0443"] {
        assert_eq!(written::<Origin>(default), None, "{default}");
    }
    for wrong in ["chat.example", "https://a/", "https://a/b", "https://u@a", "https://*.a", "https://a:x"] {
        assert_eq!(written::<Origin>(wrong), None, "{wrong}");
    }
}

#[test]
fn what_a_url_hides_is_not_shown() {
    for (text, shown) in [
        ("http://h:1/a", "http://h:1/a"),
        ("http://u:secret@h/a", "http://…@h/a"),
        ("http://u:se@cret/x@h/a?k=secret", "http://…@h/a?…"),
        ("http://h?key=secret", "http://h?…"),
        ("http://u:se?cret@h", "http://…"),
        ("no url", "no url"),
    ] {
        assert_eq!(redacted_url(text), shown, "{text}");
    }
}
