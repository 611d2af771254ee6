use super::*;

fn switch(pool: &str, colour: &str, epoch: u64) -> ColourSwitch {
    ColourSwitch {
        pool: pool.into(),
        colour: colour.into(),
        version: None,
        chosen: false,
        canary: None,
        epoch,
    }
}

#[test]
fn a_version_is_kept_and_names_a_side_of_its_own() {
    let mut switches = ColourSwitches::default();
    let named = ColourSwitch { version: Some("2.0".into()), chosen: true, ..switch("chat", "blue", 1) };
    assert_eq!(switches.receive(switches.write(&named).as_bytes()), Ok(true));
    assert_eq!(switches.last("chat"), Some(&named));
    assert_eq!(switches.sides(None).of("chat").map(|side| &**side), Some("blue@2.0"));
    // The settings overrule the choice of a gateway.
    assert_eq!(switches.sides(Some("green".into())).of("chat").map(|side| &**side), Some("green"));
    assert_eq!(switches.colours(None).of("chat").map(|colour| &**colour), Some("blue"));
    let one = (("chat".into(), "blue".into()), "2.0".into());
    assert_eq!(switches.named_versions(), BTreeMap::from([one]));
}

#[test]
fn a_canary_gets_its_share_beside_the_active_side_until_it_ends() {
    let mut switches = ColourSwitches::default();
    let old = ColourSwitch { version: Some("1".into()), chosen: true, ..switch("chat", "blue", 1) };
    let trial =
        CanaryTrial { colour: "green".into(), version: Some("2".into()), per_million: 50_000, old_epoch: 1 };
    let canary = ColourSwitch { canary: Some(trial), epoch: 2, ..old.clone() };
    assert_eq!(switches.receive(switches.write(&canary).as_bytes()), Ok(true));
    assert_eq!(switches.last("chat"), Some(&canary));
    let colours = switches.sides(None);
    assert_eq!(colours.of("chat").map(|side| &**side), Some("blue@1"));
    let share = CanaryShare { epoch: 2, per_million: 50_000 };
    let on_trial = CanarySide { side: "green@2".into(), share };
    assert_eq!(colours.canaries, BTreeMap::from([("chat".into(), on_trial)]));
    assert_eq!(switches.named_versions().len(), 2);
    assert_eq!(canary.ended(false), Some(ColourSwitch { epoch: 3, ..old.clone() }));
    let promoted = canary.ended(true).unwrap();
    assert_eq!((&*promoted.side(), promoted.chosen, promoted.epoch), ("green@2", false, 3));
    assert_eq!(old.ended(true), None);
    switches.follow(promoted).unwrap();
    assert!(switches.sides(None).canaries.is_empty());
}

#[test]
fn the_latest_is_followed_in_whatever_order_they_come() {
    let mut switches = ColourSwitches::default();
    let of = |switches: &ColourSwitches, pool| {
        switches.colours(Some("blue".into())).of(pool).map(ToString::to_string)
    };
    for (epoch, colour, news, now) in [
        (2, "green", true, "green"),
        (1, "red", false, "green"),
        (2, "red", false, "green"),
        (3, "blue", true, "blue"),
    ] {
        let text = switches.write(&switch("chat", colour, epoch));
        assert_eq!(switches.receive(text.as_bytes()), Ok(news));
        assert_eq!(of(&switches, "chat").as_deref(), Some(now));
    }
    assert_eq!(of(&switches, "embed").as_deref(), Some("blue"));
    assert_eq!((switches.epoch("chat"), switches.epoch("embed")), (3, 0));
}

#[test]
fn with_a_key_only_what_is_signed_for_this_channel_counts() {
    let key = SigningKey::new("k");
    let mut switches = ColourSwitches::new("dam:control".into(), Some(key.clone()));
    let text = r#"{"v":1,"pool":"chat","colour":"green","epoch":1}"#;
    assert_eq!(
        switches.receive(text.as_bytes()),
        Err(ColourSwitchError::Signature(SignatureError::Unsigned))
    );
    let heartbeat = key.signed_text("dam:health", text);
    assert_eq!(
        switches.receive(heartbeat.as_bytes()),
        Err(ColourSwitchError::Signature(SignatureError::Wrong))
    );
    let signed = switches.write(&switch("chat", "green", 1));
    assert_eq!(switches.receive(signed.as_bytes()), Ok(true));
}

#[test]
fn what_is_no_switch_changes_nothing() {
    let mut switches = ColourSwitches::default();
    for text in [
        "{}",
        r#"{"v":2,"pool":"a","colour":"b","epoch":1}"#,
        r#"{"v":1,"pool":"a b","colour":"b","epoch":1}"#,
        r#"{"v":1,"pool":"a","colour":"","epoch":1}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":0}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1.5}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":9007199254740992}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":18446744073709551615}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"version":"1 0"}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"version":2}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"canary":{"colour":"g","old_epoch":0,"per_million":0}}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"canary":{"colour":"g","old_epoch":0,"per_million":500001}}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"canary":{"colour":"g","per_million":10}}"#,
        r#"{"v":1,"pool":"a","colour":"b","epoch":1,"canary":5}"#,
    ] {
        assert_eq!(switches.receive(text.as_bytes()), Err(ColourSwitchError::Fields), "{text}");
    }
    assert!(matches!(switches.receive(b"["), Err(ColourSwitchError::Format(HeartbeatError::NotJson(_)))));
    assert!(matches!(
        switches.receive(&[b' '; LARGEST + 1]),
        Err(ColourSwitchError::Format(HeartbeatError::Oversized(_)))
    ));
    for number in 0..MOST {
        switches.follow(switch(&format!("p{number}"), "b", 1)).unwrap();
    }
    assert_eq!(switches.follow(switch("one-more", "b", 1)), Err(ColourSwitchError::Full));
    assert_eq!(switches.follow(switch("p7", "b", 2)), Ok(true));
}
