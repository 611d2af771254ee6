//! Order, trust, silence and outages.

use super::*;
use crate::fleet::Light;
use crate::fleet::address::worker_url;

const WALL: u64 = 1_763_680_000_000;

fn fixed(id: &str, url: &str) -> WorkerSpec {
    WorkerSpec {
        id: id.into(),
        url: worker_url(url).unwrap(),
        pool: "default".into(),
        model: "*".into(),
        slots: Some(8),
        kv_tokens: None,
        colour: "blue".into(),
        headers: HeaderMap::new(),
        external: None,
        address: None,
        http2: None,
    }
}

/// A registry, and a time at which the feed works.
struct Stage {
    registry: WorkerRegistry,
    now: Nanos,
}

impl Stage {
    fn new(fixed: Vec<WorkerSpec>) -> Self {
        let settings = RegistrySettings {
            channel: "dam:health".into(),
            key: None,
            allow: vec![AllowedHosts::read("10.0.0.0/8").unwrap()],
            ..RegistrySettings::default()
        };
        Self::with(settings, fixed)
    }

    fn with(settings: RegistrySettings, fixed: Vec<WorkerSpec>) -> Self {
        let mut stage = Self { registry: WorkerRegistry::new(settings, fixed), now: Nanos::from_secs(5) };
        stage.registry.feed_worked(stage.now);
        stage
    }

    /// Lets the feed run on.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now = self.now + Duration::from_millis(100);
            self.registry.feed_worked(self.now);
        }
    }

    fn receive(&mut self, text: &str) -> Result<bool, HeartbeatRefusal> {
        self.registry.receive(text.as_bytes(), HeartbeatSource::Channel, self.now, WALL)
    }

    fn refused(&mut self, text: &str) -> &'static str {
        let before = (self.registry.specs(), self.registry.expire_and_revise());
        let refused = self.receive(text).expect_err(text).as_str();
        assert!(HeartbeatRefusal::NAMES.contains(&refused));
        assert_eq!((self.registry.specs(), self.registry.expire_and_revise()), before, "{text}");
        refused
    }

    fn ids(&mut self) -> Vec<String> {
        self.registry.specs().iter().map(|spec| spec.id.to_string()).collect()
    }

    fn held(&mut self) -> Vec<String> {
        self.registry.expire_and_revise().held.iter().map(ToString::to_string).collect()
    }

    fn report(&self, id: &str) -> WorkerReport {
        self.registry.reports().into_iter().find(|report| &*report.beat.worker == id).unwrap()
    }
}

fn beat(id: &str, seq: u64, more: &str) -> String {
    let host = id.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    format!(
        r#"{{"v":1,"worker":"{id}","boot":"a","seq":{seq},"interval_ms":1000,"state":"ready","url":"http://10.0.0.{host}:8000"{more}}}"#
    )
}

#[test]
fn workers_come_with_their_first_heartbeat_in_the_order_of_their_names() {
    let mut stage = Stage::new(vec![fixed("z", "http://127.0.0.1:1")]);
    let before = stage.registry.expire_and_revise();
    assert_eq!(
        stage.receive(&beat("w2", 1, r#","slots":4,"pool":"p","model":"m","colour":"green""#)),
        Ok(true)
    );
    assert_eq!(stage.receive(&beat("w1", 1, "")), Ok(true));
    assert_eq!(stage.ids(), ["z", "w1", "w2"]);
    assert_ne!(stage.registry.expire_and_revise(), before);
    let spec = &stage.registry.specs()[2];
    assert_eq!((&*spec.pool, &*spec.model, &*spec.colour, spec.slots), ("p", "m", "green", Some(4)));
    assert_eq!(spec.url, "http://10.0.0.2:8000");
    // Only a change that the snapshot shows changes the revision.
    let revision = stage.registry.expire_and_revise();
    assert_eq!(stage.receive(&beat("w1", 2, r#","running":3,"kv_used":0.5"#)), Ok(true));
    assert_eq!(stage.registry.expire_and_revise(), revision);
    assert_eq!(stage.receive(&beat("w1", 3, r#","slots":5"#)), Ok(true));
    assert_ne!(stage.registry.expire_and_revise(), revision);
}

#[test]
fn each_boot_counts_for_itself_and_never_comes_back() {
    let mut stage = Stage::new(Vec::new());
    let of = |boot: &str, seq| beat("w1", seq, "").replace(r#""boot":"a""#, &format!(r#""boot":"{boot}""#));
    assert_eq!(stage.receive(&of("a", 7)), Ok(true));
    assert_eq!(stage.refused(&of("a", 7)), "replayed");
    assert_eq!(stage.refused(&of("a", 6)), "replayed");
    assert_eq!(stage.receive(&of("b", 0)), Ok(true));
    assert_eq!(stage.refused(&of("a", 8)), "replaced");
    assert_eq!(stage.receive(&of("b", 1)), Ok(true));
    for boot in 0..20 {
        assert_eq!(stage.receive(&of(&format!("c{boot}"), 0)), Ok(true));
    }
    assert_eq!(stage.registry.known["w1"].replaced.len(), BOOTS);
}

#[test]
fn a_key_tells_what_was_missed_and_nothing_old() {
    let mut stage = Stage::new(Vec::new());
    let from_key = |stage: &mut Stage, seq, left| {
        let text = beat("w1", seq, "");
        stage.registry.receive(
            text.as_bytes(),
            HeartbeatSource::Key(Duration::from_millis(left)),
            stage.now,
            WALL,
        )
    };
    assert_eq!(from_key(&mut stage, 5, 2300), Ok(true));
    assert_eq!(stage.report("w1").age, Duration::from_millis(700));
    assert_eq!(stage.receive(&beat("w1", 6, "")), Ok(true));
    // A Redis key that was read earlier may be processed later: that is not a replay.
    assert_eq!(from_key(&mut stage, 5, 2300), Ok(false));
    assert_eq!(from_key(&mut stage, 6, 0), Ok(false));
    assert_eq!(stage.report("w1").age, Duration::ZERO);
    // However strange the key's time to live is.
    assert_eq!(from_key(&mut stage, 7, u64::MAX), Ok(true));
    assert_eq!(stage.report("w1").age, Duration::ZERO);
    assert_eq!(from_key(&mut stage, 8, 0), Ok(true));
    assert_eq!(stage.report("w1").age, Duration::from_secs(3));
}

#[test]
fn forgeries_change_nothing() {
    let mut stage = Stage::new(vec![fixed("s1", "http://10.9.9.9:8000")]);
    stage.receive(&beat("w1", 10, "")).unwrap();
    let elsewhere = |text: String, url: &str| {
        let (head, tail) = text.split_once("http://").unwrap();
        format!("{head}{url}{}", &tail[tail.find('"').unwrap()..])
    };
    assert_eq!(stage.refused(&elsewhere(beat("w9", 1, ""), "http://192.0.2.1:8000")), "not_allowed");
    assert_eq!(stage.refused(&elsewhere(beat("w1", 11, ""), "http://192.0.2.1:8000")), "not_allowed");
    assert_eq!(stage.refused(&elsewhere(beat("w9", 1, ""), "http://169.254.169.254")), "not_allowed");
    assert_eq!(stage.refused(&elsewhere(beat("w9", 1, ""), "http://10.0.0.1:8000")), "address_taken");
    assert_eq!(stage.refused(&elsewhere(beat("w9", 1, ""), "http://10.9.9.9:8000")), "address_taken");
    assert_eq!(stage.refused(&beat("s1", 1, "")), "contradicts");
    let static_one = |more: &str| elsewhere(beat("s1", 1, more), "http://10.9.9.9:8000");
    assert_eq!(stage.refused(&static_one(r#","pool":"other""#)), "contradicts");
    assert_eq!(stage.refused(&static_one(r#","colour":"green""#)), "contradicts");
    assert_eq!(stage.refused(&beat("w9", 1, r#","model":"m""#)), "other_model");
    assert_eq!(stage.refused(&beat("w1", 11, &format!(r#","at_ms":{}"#, WALL + 60_001))), "future");
    assert_eq!(stage.refused(&beat("w1", 11, r#","at_ms":18446744073709551615"#)), "future");
    assert_eq!(stage.refused(&" ".repeat(1 << 20)), "oversized");
    assert_eq!(stage.refused(r#"{"v":7}"#), "version");
    assert_eq!(stage.refused("{"), "malformed");
    let nowhere = r#"{"v":1,"worker":"w5","boot":"a","seq":1,"interval_ms":1000,"state":"ready"}"#;
    assert_eq!(stage.refused(nowhere), "no_address");
    assert_eq!(stage.receive(&beat("w1", 11, &format!(r#","at_ms":{}"#, WALL + 60_000))), Ok(true));
}

#[test]
fn with_a_key_only_what_is_signed_counts() {
    let mut stage = Stage::new(Vec::new());
    let key = SigningKey::new("secret");
    stage.registry.settings.key = Some(key.clone());
    let text = beat("w1", 1, "");
    assert_eq!(stage.refused(&text), "unsigned");
    assert_eq!(stage.refused(&SigningKey::new("other").signed_text("dam:health", &text)), "forged");
    assert_eq!(stage.refused(&key.signed_text("dam:control", &text)), "forged");
    assert_eq!(stage.refused(&key.signed_text("dam:health", &"x".repeat(1 << 20))), "oversized");
    assert_eq!(stage.receive(&key.signed_text("dam:health", &text)), Ok(true));
    assert_eq!(stage.refused(&key.signed_text("dam:health", &text)), "replayed");
}

#[test]
fn silence_dims_a_worker_and_a_word_restores_it() {
    let mut stage = Stage::new(Vec::new());
    stage.receive(&beat("w1", 1, "")).unwrap();
    let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
    for (pass, light, weight, seen) in [
        (2000, Light::Green, 1.0, 1.0),
        (400, Light::Yellow, 0.6, 0.6),
        (200, Light::Yellow, 0.4, 0.5),
        (400, Light::Yellow, 0.0, 0.5),
        (100, Light::Red, 0.0, 0.5),
    ] {
        stage.pass(pass);
        let report = stage.report("w1");
        assert_eq!((report.light, report.held), (light, false), "{:?}", report.age);
        assert!(
            near(report.intervals_since().unwrap(), report.age.as_secs_f64()),
            "its interval is a second"
        );
        assert!(near(report.weight, weight), "{:?}: {}", report.age, report.weight);
        // A worker that answers requests is alive, whatever happens to its heartbeats.
        assert!(near(report.weight_if_answering(Some(Duration::from_secs(3))), seen), "{:?}", report.age);
        assert!(
            near(report.weight_if_answering(Some(Duration::from_millis(3001))), weight),
            "{:?}",
            report.age
        );
    }
    stage.receive(&beat("w1", 2, "")).unwrap();
    assert!(near(stage.report("w1").weight, 1.0));
    stage.receive(&beat("w1", 3, "").replace("ready", "failed")).unwrap();
    let failed = stage.report("w1").weight_if_answering(Some(Duration::ZERO));
    assert!(near(failed, 0.0), "what it says itself counts more");
    stage.pass(60_000);
    assert_eq!(stage.ids(), ["w1"]);
    stage.pass(100);
    stage.registry.expire_and_revise();
    assert_eq!(stage.ids(), [""; 0]);
}

#[test]
fn silence_is_counted_in_a_workers_own_intervals() {
    let mut stage = Stage::new(Vec::new());
    let slow = |seq| beat("w1", seq, "").replace("1000", "60000");
    stage.receive(&slow(1)).unwrap();
    stage.pass(30_000);
    assert_eq!(stage.report("w1").intervals_since(), Some(0.5));
    stage.receive(&slow(2).replace("ready", "draining")).unwrap();
    assert_eq!(stage.report("w1").intervals_since(), None, "it was announced");
}

#[test]
fn what_a_worker_says_shows_in_its_light() {
    let mut stage = Stage::new(Vec::new());
    let mut seq = 0;
    let mut shows = |more: &str| {
        seq += 1;
        stage.receive(&beat("w1", seq, more)).unwrap();
        let report = stage.report("w1");
        (report.light, report.reason().map_or_else(String::new, |(_, reason)| reason))
    };
    let told = |light: Light, reason: &str| (light, reason.to_owned());
    assert_eq!(shows(r#","waiting":0,"kv_used":0.8,"running":16"#), told(Light::Green, ""));
    assert_eq!(shows(r#","waiting":1"#), told(Light::Yellow, "1 requests wait in its own queue"));
    assert_eq!(shows(r#","kv_used":0.81"#), told(Light::Yellow, "its KV cache is 81 % full"));
    let check = |status: &str| {
        format!(r#","checks":[{{"name":"a","status":"green"}},{{"name":"b","status":"{status}"}}]"#)
    };
    assert_eq!(shows(&check("green")), told(Light::Green, ""));
    assert_eq!(shows(&check("yellow")), told(Light::Yellow, "its check `b` is yellow"));
    assert_eq!(shows(&check("red")), told(Light::Red, "its check `b` is red"));
    stage.receive(&beat("w1", 9, "").replace("ready", "failed")).unwrap();
    assert_eq!(stage.report("w1").reason(), Some((true, "it reports the state `failed`".to_owned())));
    stage.receive(&beat("w1", 10, "")).unwrap();
    stage.pass(3500);
    let (red, reason) = stage.report("w1").reason().unwrap();
    assert!(
        red && reason.starts_with("its last heartbeat is 3.5 s old, and it sends one every 1.0 s"),
        "{reason}"
    );
}

#[test]
fn states_are_heeded_and_a_drained_worker_leaves() {
    let mut stage = Stage::new(Vec::new());
    for (seq, state, held) in
        [(1, "ready", false), (2, "standby", true), (3, "ready", false), (4, "failed", true)]
    {
        stage.receive(&beat("w1", seq, "").replace("ready", state)).unwrap();
        assert_eq!(stage.held().len() == 1, held, "{state}");
    }
    stage.receive(&beat("w1", 5, "").replace("ready", "draining")).unwrap();
    assert_eq!(stage.held(), ["w1"]);
    stage.pass(3100);
    stage.registry.expire_and_revise();
    assert_eq!(stage.ids(), [""; 0]);
}

#[test]
fn a_red_check_takes_out_all_but_the_last_of_a_pool() {
    let mut stage = Stage::new(Vec::new());
    let red = r#","checks":[{"name":"gpu","status":"red"}]"#;
    stage.receive(&beat("w1", 1, red)).unwrap();
    stage.receive(&beat("w2", 1, "")).unwrap();
    assert_eq!(stage.held(), ["w1"]);
    stage.receive(&beat("w2", 2, red)).unwrap();
    assert_eq!(stage.held(), [""; 0]);
    stage.receive(&beat("w2", 3, "").replace("ready", "failed")).unwrap();
    assert_eq!(stage.held(), ["w2"]);
}

#[test]
fn an_outage_of_the_feed_ages_nobody() {
    let mut stage = Stage::new(Vec::new());
    stage.receive(&beat("w1", 1, "")).unwrap();
    stage.pass(900);
    stage.receive(&beat("w2", 1, "")).unwrap();
    assert!(stage.registry.feed_works(stage.now));
    stage.now = stage.now + Duration::from_secs(30);
    assert!(!stage.registry.feed_works(stage.now));
    assert_eq!((stage.held().len(), stage.ids().len()), (0, 2));
    assert_eq!(stage.report("w1").age, Duration::from_millis(900));
    // The feed is back: a silent worker loses weight after one more interval, all after two.
    stage.registry.feed_worked(stage.now);
    stage.receive(&beat("w2", 2, "")).unwrap();
    stage.pass(1000);
    assert!(stage.report("w1").weight > 0.99);
    stage.receive(&beat("w2", 3, "")).unwrap();
    stage.pass(1100);
    assert!(stage.report("w1").weight <= 0.0 && stage.report("w2").weight > 0.5);
}

#[test]
fn signs_of_life_do_not_tell_that_everything_was_read() {
    let mut stage = Stage::new(Vec::new());
    let before = stage.now;
    assert!(!stage.registry.caught_up_since(before));
    stage.registry.caught_up(before);
    stage.pass(1000);
    stage.receive(&beat("w1", 1, "")).unwrap();
    assert!(stage.registry.caught_up_since(before));
    assert!(!stage.registry.caught_up_since(before + Duration::from_nanos(1)));
    stage.registry.caught_up(stage.now);
    assert!(stage.registry.caught_up_since(stage.now));
}

#[test]
fn an_outage_forgives_one_lost_heartbeat_and_no_more() {
    for (silent, after) in [(500, 500), (2000, 1000), (2900, 2900)] {
        let mut stage = Stage::new(Vec::new());
        stage.receive(&beat("w1", 1, "")).unwrap();
        stage.pass(silent);
        stage.now = stage.now + Duration::from_secs(30);
        stage.registry.feed_worked(stage.now);
        assert_eq!(stage.report("w1").age, Duration::from_millis(after));
    }
}

#[test]
fn who_joins_a_configured_pool_serves_what_it_serves() {
    let mut spec = fixed("s1", "http://10.9.9.9:8000");
    spec.model = "qwen*".into();
    let mut stage = Stage::new(vec![spec]);
    stage.receive(&beat("w1", 1, "")).unwrap();
    stage.receive(&beat("w2", 1, r#","pool":"other""#)).unwrap();
    let models: Vec<_> = stage.registry.specs().iter().map(|spec| spec.model.to_string()).collect();
    assert_eq!(models, ["qwen*", "qwen*", "*"]);
}

#[test]
fn a_new_name_at_the_place_of_a_silent_worker_takes_it() {
    let mut stage = Stage::new(Vec::new());
    stage.receive(&beat("a1", 1, "")).unwrap();
    assert_eq!(stage.refused(&beat("b1", 1, "")), "address_taken");
    stage.pass(2100);
    assert_eq!(stage.receive(&beat("b1", 1, "")), Ok(true));
    assert_eq!(stage.ids(), ["b1"]);
}

#[test]
fn the_number_of_workers_is_bounded() {
    let mut stage = Stage::new(Vec::new());
    let numbered = |number: usize| {
        beat("w1", 1, "")
            .replace("\"w1\"", &format!("\"n{number}\""))
            .replace(":8000", &format!(":{}", 1000 + number))
    };
    for number in 0..MOST_WORKERS {
        stage.receive(&numbered(number)).unwrap();
    }
    assert_eq!(stage.refused(&numbered(MOST_WORKERS)), "full");
    // Known workers are still accepted.
    assert_eq!(stage.receive(&numbered(3).replace("\"seq\":1", "\"seq\":2")), Ok(true));
}

#[test]
fn new_settings_forget_what_they_do_not_allow() {
    let mut stage = Stage::new(vec![fixed("s1", "http://10.9.9.9:8000")]);
    stage.receive(&beat("w1", 1, "")).unwrap();
    stage.receive(&beat("w2", 1, "")).unwrap();
    let narrower = RegistrySettings {
        allow: vec![AllowedHosts::read("10.0.0.2").unwrap()],
        ..RegistrySettings::default()
    };
    stage.registry.apply_settings(narrower, vec![fixed("s2", "http://10.9.9.9:8000")]);
    assert_eq!(stage.ids(), ["s2", "w2"]);
    // A worker that is configured now loses its own description.
    stage.registry.apply_settings(RegistrySettings::default(), vec![fixed("w2", "http://127.0.0.1:1")]);
    assert_eq!((stage.ids(), stage.registry.reports().len()), (vec!["w2".to_owned()], 0));
}

#[test]
fn a_configured_worker_may_say_how_big_it_is_where_nobody_else_did() {
    let mut spec = fixed("s1", "http://10.0.0.1:8000");
    spec.slots = None;
    let mut stage = Stage::new(vec![spec]);
    let before = stage.registry.expire_and_revise();
    stage.receive(&beat("s1", 1, r#","slots":4,"kv_tokens":100"#)).unwrap();
    assert_ne!(stage.registry.expire_and_revise(), before);
    let spec = &stage.registry.specs()[0];
    assert_eq!((spec.slots, spec.kv_tokens), (Some(4), Some(100)));
}

#[test]
fn workers_of_a_queue_count_together_by_colour() {
    let settings =
        RegistrySettings { channel: "dam:health".into(), queue: true, ..RegistrySettings::default() };
    let mut stage = Stage::with(settings, Vec::new());
    let say = |stage: &mut Stage, id: &str, seq: u64, state: &str, more: &str| {
        let text = format!(
            r#"{{"v":1,"worker":"{id}","boot":"a","seq":{seq},"interval_ms":1000,"state":"{state}","pool":"chat"{more}}}"#
        );
        stage.receive(&text).unwrap();
    };
    // With a queue its URL is not used, and needs no permission.
    say(
        &mut stage,
        "w1",
        1,
        "ready",
        r#","colour":"blue","slots":6,"running":5,"waiting":2,"url":"http://192.0.2.1:80""#,
    );
    say(&mut stage, "w2", 1, "ready", r#","colour":"blue","slots":2,"running":1,"waiting":1"#);
    say(&mut stage, "w3", 1, "standby", r#","slots":4,"colour":"green""#);
    let specs = stage.registry.specs();
    let sizes: Vec<_> = specs.iter().map(|spec| (&*spec.id, spec.slots)).collect();
    assert_eq!(sizes, [("chat.blue", Some(8)), ("chat.green", Some(4))]);
    assert!(specs.iter().all(|spec| spec.url.host() == Some("queue.invalid")));
    assert_eq!(stage.held(), ["chat.green"]);
    let blue = stage.report("chat.blue");
    assert_eq!(
        (blue.beat.running, blue.beat.waiting, blue.light, blue.held),
        (Some(6), Some(2), Light::Yellow, false)
    );
    assert!((blue.weight - 1.0).abs() < 1e-9, "{}", blue.weight);

    // A worker that drains or falls silent takes its slots with it.
    say(&mut stage, "w1", 2, "draining", r#","colour":"blue","slots":6"#);
    let blue = stage.report("chat.blue");
    assert!((blue.weight - 0.25).abs() < 1e-9 && !blue.held, "{}", blue.weight);
    stage.pass(2500);
    assert!((stage.report("chat.blue").weight - 0.125).abs() < 1e-9);
    assert_eq!(stage.report("chat.blue").light, Light::Yellow);
    say(&mut stage, "w2", 2, "failed", r#","colour":"blue","slots":2"#);
    assert_eq!(stage.held(), ["chat.blue", "chat.green"]);

    // If one reports no slots, the sum is unknown, and the limit algorithm decides alone.
    say(&mut stage, "w4", 1, "ready", r#","colour":"blue""#);
    assert_eq!(stage.registry.specs()[0].slots, None);
}

/// Returns a registry of queue workers, and a function that says one of them is ready.
fn queue() -> (Stage, impl Fn(&mut Stage, &str, &str) -> Result<bool, HeartbeatRefusal>) {
    let settings =
        RegistrySettings { channel: "dam:health".into(), queue: true, ..RegistrySettings::default() };
    let say = |stage: &mut Stage, id: &str, more: &str| {
        stage.receive(&format!(
            r#"{{"v":1,"worker":"{id}","boot":"a","seq":1,"interval_ms":1000,"state":"ready","pool":"chat","slots":2{more}}}"#
        ))
    };
    (Stage::with(settings, Vec::new()), say)
}

#[test]
fn workers_of_a_queue_without_a_colour_are_divided_by_their_version() {
    let (mut stage, say) = queue();
    for (id, more) in [("a", r#","version":"2.0""#), ("b", r#","version":"2.1""#), ("c", ""), ("d", "")] {
        say(&mut stage, id, more).unwrap();
    }
    let ids: Vec<_> = stage.registry.specs().iter().map(|spec| (spec.id.to_string(), spec.slots)).collect();
    let side = |id: &str, slots| (format!("chat.{id}"), Some(slots));
    assert_eq!(ids, [side("v-0", 4), side("v-2.0", 2), side("v-2.1", 2)]);
    assert_eq!(stage.report("chat.v-2.0").beat.version.as_deref(), Some("2.0"));
    let refused = say(&mut stage, "e", r#","version":"2.1+a""#).unwrap_err();
    assert_eq!(refused.as_str(), "no_colour");
    assert!(refused.to_string().contains("set `colour`"), "{refused}");
    let versions = stage.registry.versions();
    assert!(versions.iter().all(|(_, _, count)| *count == 1), "{versions:?}");
}

#[test]
fn one_version_of_a_colour_can_be_a_side_of_its_own() {
    let (mut stage, say) = queue();
    for (id, version) in [("a", "1"), ("b", "2"), ("c", "2")] {
        say(&mut stage, id, &format!(r#","colour":"blue","version":"{version}""#)).unwrap();
    }
    let ids = |stage: &Stage| {
        stage.registry.specs().iter().map(|spec| (spec.id.to_string(), spec.slots)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&stage), [("chat.blue".to_owned(), Some(6))]);
    assert_eq!(stage.registry.versions(), [("chat".into(), "blue".into(), 2)]);
    let before = stage.registry.expire_and_revise();
    stage.registry.name_versions([(("chat".into(), "blue".into()), "2".into())].into());
    assert_ne!(stage.registry.expire_and_revise(), before);
    assert_eq!(ids(&stage), [("chat.blue".to_owned(), Some(2)), ("chat.blue@2".to_owned(), Some(4))]);
    let sides: Vec<_> = stage.registry.queue_members().iter().map(|it| it.side.to_string()).collect();
    assert_eq!(sides, ["blue", "blue@2", "blue@2"]);
    // A worker still finishes what its whole colour was given.
    for (worker, side, takes) in [
        ("b", "blue", Some(true)),
        ("b", "blue@2", Some(true)),
        ("a", "blue@2", Some(false)),
        ("a", "green", Some(false)),
        ("x", "blue", None),
    ] {
        assert_eq!(stage.registry.takes(worker, "chat", side), takes, "{worker} {side}");
    }
    assert!(
        stage.registry.has_version("chat", "blue", "2") && !stage.registry.has_version("chat", "blue", "3")
    );
}

#[test]
fn over_http_other_versions_than_the_named_one_are_held() {
    let mut stage = Stage::new(vec![fixed("s", "http://127.0.0.1:1")]);
    for (id, version) in [("w1", "1"), ("w2", "2")] {
        stage.receive(&beat(id, 1, &format!(r#","version":"{version}""#))).unwrap();
    }
    assert!(stage.held().is_empty());
    stage.registry.name_versions([(("default".into(), "blue".into()), "2".into())].into());
    assert_eq!(stage.held(), ["s", "w1"]);
}
