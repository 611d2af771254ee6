use super::*;

fn prompts(json: &str) -> (u64, u64, u64) {
    let mut prompts = Prompts::default();
    add_prompts(&mut Scanner::new(json.as_bytes()), &mut prompts).unwrap();
    (prompts.bytes, prompts.tokens, prompts.count)
}

#[test]
fn every_form_of_a_prompt_is_counted() {
    assert_eq!(prompts(r#""four""#), (4, 0, 1));
    assert_eq!(prompts(r#"["four","\u00e9",""]"#), (6, 0, 3));
    assert_eq!(prompts("[1,2,3]"), (0, 3, 1));
    assert_eq!(prompts("[[1,2,3],[4]]"), (0, 4, 2));
    assert_eq!(prompts(r#"[{"content":[{"type":"text","text":"four"}]}]"#), (4, 0, 1));
    assert_eq!(prompts("[]"), (0, 0, 0));
    assert_eq!(prompts("null"), (0, 0, 1));
}

fn text_bytes(json: &str) -> u64 {
    let mut prompts = Prompts::default();
    add_text(&mut Scanner::new(json.as_bytes()), &mut prompts).unwrap();
    prompts.bytes
}

#[test]
fn names_ids_and_media_are_no_text() {
    let message = r#"[{"role":"user","content":[
        {"type":"text","text":"look"},
        {"type":"image_url","image_url":{"url":"https://example.org/cat.png","detail":"auto"}},
        {"type":"image_url","image_url":"data:image\/png;x=1;base64,iVBORw0K\u002BGg="},
        {"type":"image_embeds","image_embeds":{"a":"gASVAA-_"}},
        {"type":"input_file","file_data":"data:application/pdf;base64,JVBERi0xLjQ="},
        {"type":"input_file","file_data":"JVBERi0xLjQ="},
        {"type":"input_audio","input_audio":{"data":"UklGRg","format":"wav"}}]},
        {"role":"tool","tool_call_id":"call_1","content":"data: none"},
        {"result":"iVBORw0KGgo","type":"image_generation_call","id":"ig_1"},
        {"outputs":[{"type":"image","url":"data:image/png;base64,iVBORw0KGgo"}]},
        {"type":"reasoning","encrypted_content":"gAAAAABo=="}]"#;
    assert_eq!(text_bytes(message), ("look".len() + "data: none".len()) as u64);
    // Blocks of the Messages API.
    let message = r#"[{"role":"assistant","content":[
        {"type":"thinking","thinking":"hm","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3h+/=="},
        {"type":"redacted_thinking","data":"EmwKAhgBEgy3va3pzix"},
        {"type":"tool_use","id":"toolu_01A09q90qw90lq917835lq9","name":"now","input":{"a": 1}}]},
        {"role":"user","content":[
        {"type":"tool_result","tool_use_id":"toolu_01A09q90qw90lq917835lq9","content":"noon"},
        {"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo"}},
        {"type":"image","source":{"type":"url","url":"https://example.org/cat.png"}},
        {"type":"document","source":{"type":"text","media_type":"text/plain","data":"four"}},
        {"type":"text","text":"look","cache_control":{"type":"ephemeral"}}]}]"#;
    assert_eq!(
        text_bytes(message),
        ["hm", "now", r#"{"a": 1}"#, "noon", "four", "look"].concat().len() as u64
    );
}

#[test]
fn text_is_counted_wherever_a_model_may_read_it() {
    let text = "lorem ipsum ".repeat(20);
    let data = format!("data:;base64,{text}");
    let plain = "lorem".repeat(20);
    for (what, json) in [
        ("a role", format!(r#"[{{"role":"{text}","content":""}}]"#)),
        ("a type", format!(r#"[{{"type":"{text}"}}]"#)),
        ("an id", format!(r#"[{{"tool_call_id":"{plain}"}}]"#)),
        ("a name", format!(r#"[{{"name":"{text}"}}]"#)),
        ("what says that it is data", format!(r#"[{{"content":"{data}"}}]"#)),
        ("data in its place, which is none", format!(r#"[{{"image_url":{{"url":"{data}"}}}}]"#)),
        ("data without a media type", format!(r#"[{{"image_url":"data:;base64,{plain}"}}]"#)),
        ("base64 elsewhere", format!(r#"[{{"content":"data:image/png;base64,{plain}"}}]"#)),
        ("a file's text", format!(r#"[{{"file":{{"file_data":"{text}"}}}}]"#)),
        ("an URL with text", format!(r#"[{{"image_url":"https://a/{text}"}}]"#)),
        ("a tool's result", format!(r#"[{{"type":"function_call_output","result":"{plain}"}}]"#)),
        (
            "a picture's result that is text",
            format!(r#"[{{"type":"image_generation_call","result":"{text}"}}]"#),
        ),
        ("what says that it is an URL", format!(r#"[{{"source":{{"type":"url","url":"{text}"}}}}]"#)),
        ("a signature that is text", format!(r#"[{{"signature":"{text}"}}]"#)),
        ("data of a text", format!(r#"[{{"source":{{"type":"text","data":"{plain}"}}}}]"#)),
        ("names within what a tool was told", format!(r#"[{{"type":"tool_use","input":{{"{text}":1}}}}]"#)),
    ] {
        let counted = text_bytes(&json);
        assert!((100..=400).contains(&counted), "{what}: {counted}");
    }
    assert_eq!(prompts(&format!(r#""{data}""#)).0, data.len() as u64);
}

#[test]
fn no_name_and_no_id_carries_a_prompt() {
    let word = "loremipsumdolorsitametconsecteturadipiscingelitseddoeiusmodtempo";
    let of = |item: &str| text_bytes(&format!("[{}]", vec![item.replace("WORD", word); 375].join(",")));
    for item in [
        r#"{"role":"WORD","content":""}"#,
        r#"{"role":"user","content":[{"type":"WORD"}]}"#,
        r#"{"role":"tool","content":"","tool_call_id":"WORD"}"#,
        r#"{"role":"assistant","tool_calls":[{"id":"WORD","type":"function"}]}"#,
        r#"{"type":"item_reference","id":"WORD"}"#,
        r#"{"source":{"type":"base64","media_type":"WORD"}}"#,
        r#"{"type":"image_url","image_url":{"detail":"WORD"}}"#,
    ] {
        let hidden = 375 * 64 - of(item);
        assert!(hidden <= 1024, "{item}: {hidden}");
    }
    for item in [
        r#"{"role":"user","content":[{"type":"text","text":""}]}"#,
        r#"{"role":"developer","content":[{"type":"input_text","text":""}]}"#,
        r#"{"role":"user","content":[{"type":"tool_result","content":"","cache_control":{"type":"ephemeral"}}]}"#,
    ] {
        assert_eq!(of(item), 0, "{item}");
    }
    assert_eq!(text_bytes(r#"[{"role":"ipython","content":[{"type":"verse"}]}]"#), 12);
    // Few ids are no text: most templates do not show them.
    assert_eq!(text_bytes(&format!(r#"[{{"tool_call_id":"{word}","content":""}}]"#)), 0);
}
