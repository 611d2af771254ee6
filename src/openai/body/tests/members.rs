//! Members in other letters, and members of single servers.

use super::*;

fn read(kind: Kind, body: &str) -> Result<Facts, BodyFieldError> {
    parse(&Shape::of_kind(kind), body.as_bytes())
}

#[test]
fn a_name_that_some_workers_take_for_another_is_refused() {
    for (kind, written, right) in [
        (Kind::Chat, "Model", "model"),
        (Kind::Chat, "MESSAGES", "messages"),
        (Kind::Chat, "Max_Tokens", "max_tokens"),
        (Kind::Chat, "STREAM", "stream"),
        (Kind::Chat, "me\u{17f}\u{17f}ages", "messages"),
        (Kind::Chat, "max_to\u{212a}ens", "max_tokens"),
        (Kind::Chat, "\\u004dodel", "model"),
        (Kind::Chat, "N_Predict", "n_predict"),
        (Kind::Completion, "Prompt", "prompt"),
        (Kind::Embedding, "Input", "input"),
        (Kind::Messages, "System", "system"),
        (Kind::Count, "Model", "model"),
    ] {
        for body in
            [format!(r#"{{"model":"small","{written}":null,"x":[]}}"#), format!(r#"{{"{written}":"big"}}"#)]
        {
            let fault = read(kind, &body).unwrap_err();
            let param = written.replace("\\u004d", "M");
            assert_eq!(fault.to_string(), format!("'{param}' must be written '{right}'."), "{body}");
            assert_eq!(Refusal::from(fault).param.as_deref(), Some(&*param));
        }
    }
    let usage = read(Kind::Chat, r#"{"stream_options":{"Include_Usage":false}}"#).unwrap_err();
    assert_eq!(
        usage.to_string(),
        "'stream_options.Include_Usage' must be written 'stream_options.include_usage'."
    );

    for body in [
        r#"{"Temperature":1,"Prompt":"no member of a chat","mödel":1,"models":[]}"#,
        r#"{"metadata":{"Model":"x"},"messages":[{"Role":"user"}]}"#,
    ] {
        assert!(read(Kind::Chat, body).is_ok(), "{body}");
    }
    let route = Shape::route(Kind::Chat, None, None);
    assert!(parse(&route, br#"{"Model":"x","stream_options":{"Include_Usage":1}}"#).is_ok());
}

#[test]
fn the_bounds_of_llama_cpp_count_too() {
    for (body, bound, unbounded, sequences) in [
        (r#"{"max_tokens":5,"n_predict":900}"#, Some(900), false, 1),
        (r#"{"n_predict":5,"max_tokens":900}"#, Some(900), false, 1),
        (r#"{"max_tokens":5,"n_predict":-1}"#, None, true, 1),
        (r#"{"n_predict":-2,"max_tokens":5}"#, None, true, 1),
        (r#"{"max_tokens":5,"n_predict":null}"#, Some(5), false, 1),
        (r#"{"n":2,"n_cmpl":8}"#, None, false, 8),
        (r#"{"n_cmpl":2,"n":8}"#, None, false, 8),
    ] {
        for kind in [Kind::Chat, Kind::Completion] {
            let read = read(kind, body).unwrap();
            assert_eq!(
                (read.max_tokens, read.unbounded, read.sequences),
                (bound, unbounded, sequences),
                "{body}"
            );
        }
    }
    for (wrong, message) in [
        (r#"{"n_predict":-3}"#, "'n_predict' must be from 0 to 4294967295."),
        (r#"{"n_predict":"9"}"#, "'n_predict' must be a whole number."),
        (r#"{"n_cmpl":0}"#, "'n_cmpl' must be from 1 to 128."),
        (r#"{"n_predict":1,"n_predict":2}"#, "'n_predict' is given more than once."),
    ] {
        assert_eq!(fault(wrong).to_string(), message, "{wrong}");
    }
    let other = read(Kind::Response, r#"{"n_predict":"no member of a response","n_cmpl":[]}"#).unwrap();
    assert_eq!((other.max_tokens, other.sequences), (None, 1));
}

#[test]
fn text_that_single_servers_show_to_the_model_counts() {
    let chat = facts(Kind::Chat, &json!({"messages": [], "tool_prompt": "four", "guideline": "five5"}));
    assert_eq!(chat.prompt_bytes, 9);
    let format = json!({"type": "json_schema", "schema": {"description": "lorem ipsum"}});
    for (name, value) in [("output_config", json!({ "format": format })), ("output_format", format)] {
        let length = value.to_string().len() as u64;
        assert_eq!(
            facts(Kind::Messages, &json!({"messages": [], name: value})).prompt_bytes,
            length,
            "{name}"
        );
    }
}
