use super::label::LABEL_VALUES;
use super::*;
use crate::fleet::Light;
use crate::refusal::Reason;
use crate::request::{Ending, SloOutcome};
use crate::shed::PrefixFigures;
use crate::view::{
    CanaryView, FactorView, HeartbeatView, JobsView, PoolView, RuleUseView, SourceView, StrangerView,
    WorkerView,
};

fn lines(metrics: &Metrics, view: &GatewayView) -> Vec<String> {
    metrics.encode(view).lines().map(str::to_owned).collect()
}

fn has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|have| have == line), "missing {line} in\n{}", lines.join("\n"));
}

#[test]
fn each_event_reaches_its_series() {
    let metrics = Metrics::new();
    let ms = Duration::from_millis;
    let route = metrics.route("/v1/chat/completions");
    route.count(Class::Interactive, Ending::Complete, None, ms(40));
    route.count(Class::Batch, Ending::Refused, Some(Reason::RateLimited), ms(1));
    metrics.route("/v1/chat/completions").count(
        Class::Batch,
        Ending::Refused,
        Some(Reason::RateLimited),
        ms(1),
    );
    let pool = metrics.pool("default");
    pool.ttft(Class::Interactive, ms(90));
    pool.itl(ms(20));
    SloOutcome::ALL.into_iter().for_each(|promise| pool.ended(promise));
    drop(metrics.pool("idle"));
    let rule = metrics.rule("caller-burst");
    rule.allowed();
    rule.refused();
    rule.would_refuse("key:a");
    for caller in 0..200 {
        rule.would_refuse(&format!("ip:{caller}"));
    }
    metrics.queue_wait(Class::Critical, ms(3));
    metrics.overhead(Duration::from_micros(60));
    metrics.refusal(Duration::from_micros(60));
    metrics.tokens(100, 30);
    metrics.token_estimate(110, 100);
    metrics.token_estimate(110, 0);
    metrics.unmatched_request();
    metrics.fallback("assistant", "remote-mini", "overloaded");
    metrics.config_reload(true);
    metrics.config_reload(false);
    metrics.lines_lost(3);
    metrics.lines_lost(7);
    let _under_way = metrics.enter();
    drop(metrics.enter());

    let lines = lines(&metrics, &GatewayView::default());
    let chat = r#"route="/v1/chat/completions""#;
    has(
        &lines,
        &format!(
            r#"traffic_dam_requests_total{{class="interactive",outcome="complete",reason="none",{chat}}} 1"#
        ),
    );
    has(
        &lines,
        &format!(
            r#"traffic_dam_requests_total{{class="batch",outcome="refused",reason="rate_limited",{chat}}} 2"#
        ),
    );
    has(
        &lines,
        &format!(r#"traffic_dam_request_duration_seconds_bucket{{outcome="complete",{chat},le="0.05"}} 1"#),
    );
    has(&lines, r#"traffic_dam_ttft_seconds_bucket{class="interactive",pool="default",le="0.075"} 0"#);
    has(&lines, r#"traffic_dam_ttft_seconds_bucket{class="interactive",pool="default",le="0.1"} 1"#);
    has(&lines, r#"traffic_dam_itl_seconds_bucket{pool="default",le="0.02"} 1"#);
    has(&lines, r#"traffic_dam_goodput_total{pool="default"} 1"#);
    // A pool has series before its first stream.
    has(&lines, r#"traffic_dam_goodput_total{pool="idle"} 0"#);
    for promise in SloOutcome::ALL.map(SloOutcome::as_str) {
        has(&lines, &format!(r#"traffic_dam_streams_total{{pool="default",promise="{promise}"}} 1"#));
        has(&lines, &format!(r#"traffic_dam_streams_total{{pool="idle",promise="{promise}"}} 0"#));
    }
    for (decision, count) in [("allowed", 1), ("refused", 1), ("would_refuse", 201)] {
        has(
            &lines,
            &format!(
                r#"traffic_dam_limit_checks_total{{decision="{decision}",rule="caller-burst"}} {count}"#
            ),
        );
    }
    has(&lines, r#"traffic_dam_would_refuse_total{caller="key:a",rule="caller-burst"} 1"#);
    has(&lines, r#"traffic_dam_would_refuse_total{caller="other",rule="caller-burst"} 101"#);
    has(&lines, r#"traffic_dam_queue_wait_seconds_count{class="critical"} 1"#);
    has(&lines, r#"traffic_dam_overhead_seconds_bucket{le="0.00005"} 0"#);
    has(&lines, r#"traffic_dam_refusal_seconds_bucket{le="0.0001"} 1"#);
    has(&lines, r#"traffic_dam_tokens_total{direction="prompt"} 100"#);
    has(&lines, r#"traffic_dam_tokens_total{direction="output"} 30"#);
    has(&lines, "traffic_dam_token_estimate_error_ratio_count 1");
    has(&lines, r#"traffic_dam_config_reloads_total{result="refused"} 1"#);
    has(&lines, "traffic_dam_config_current 0");
    has(&lines, "traffic_dam_unmatched_requests_total 1");
    has(&lines, r#"traffic_dam_fallback_total{model="assistant",reason="overloaded",to="remote-mini"} 1"#);
    has(&lines, "traffic_dam_log_lines_lost_total 7");
    has(&lines, "traffic_dam_in_flight 1");
    assert!(lines.iter().any(|line| line.starts_with("traffic_dam_build_info{version=\"")), "{lines:?}");
}

#[test]
fn a_reading_is_shown_whole_and_replaces_the_last() {
    let metrics = Metrics::new();
    let worker = |id: &str, light| WorkerView {
        id: id.into(),
        colour: "blue".into(),
        light,
        ejected: light == Light::Red,
        limit: 8,
        in_flight: 3,
        said: (light == Light::Green).then(|| HeartbeatView {
            kv_used: Some(0.25),
            age_ms: 1500,
            missed: Some(0.75),
            ..HeartbeatView::default()
        }),
        ..WorkerView::default()
    };
    // A worker of a queue, whose side counts what it has in flight.
    let member = WorkerView { member_of: Some("w1".into()), ..worker("m1", Light::Yellow) };
    let pool = PoolView {
        name: "default".into(),
        queue: [("batch".into(), 1), ("interactive".into(), 2)].into(),
        workers: vec![worker("w1", Light::Green), member, worker("w2", Light::Red)],
        demand: 4,
        jobs: Some(JobsView { waiting: 5, oldest_ms: 2500 }),
        strangers: Some(vec![StrangerView::default()]),
        canary: Some(CanaryView { new: "green".into(), share: 0.05, ..CanaryView::default() }),
        versions: [("blue".into(), 2)].into(),
        ceiling: Some(13.5),
        fleet_factor: Some(FactorView { configured: 0.83, measured: 0.7, workers: vec![1, 2] }),
        prefix_hit_ratio: PrefixFigures { estimated: Some(0.5), reported: None },
        ..PoolView::default()
    };
    let view = GatewayView {
        connections: 7,
        pools: vec![pool],
        rules: vec![RuleUseView { name: "burst".into(), keys: 12, ..RuleUseView::default() }],
        discovery: vec![SourceView { source: "dns".into(), age_ms: 1500, away: Vec::new() }],
        redis: Some(true),
        ..GatewayView::default()
    };
    let first = lines(&metrics, &view);
    assert!(!first.iter().any(|line| line.starts_with(r#"traffic_dam_worker_in_flight{worker="m1"}"#)));
    for line in [
        "traffic_dam_connections 7",
        r#"traffic_dam_queue_depth{class="interactive"} 2"#,
        r#"traffic_dam_limiter_keys{rule="burst"} 12"#,
        r#"traffic_dam_worker_light{colour="blue",worker="w1"} 2"#,
        r#"traffic_dam_worker_light{colour="blue",worker="w2"} 0"#,
        r#"traffic_dam_concurrency_limit{worker="w1"} 8"#,
        r#"traffic_dam_worker_in_flight{worker="w2"} 3"#,
        r#"traffic_dam_demand_waiting{pool="default"} 4"#,
        r#"traffic_dam_jobs_waiting{pool="default"} 5"#,
        r#"traffic_dam_jobs_oldest_seconds{pool="default"} 2.5"#,
        r#"traffic_dam_queue_strangers{pool="default"} 1"#,
        r#"traffic_dam_canary_share{colour="green",pool="default"} 0.05"#,
        r#"traffic_dam_versions{colour="blue",pool="default"} 2"#,
        r#"traffic_dam_worker_kv_used{worker="w1"} 0.25"#,
        r#"traffic_dam_worker_heartbeat_age_seconds{worker="w1"} 1.5"#,
        r#"traffic_dam_worker_heartbeats_missed{worker="w1"} 0.75"#,
        r#"traffic_dam_fleet_ceiling{pool="default"} 13.5"#,
        r#"traffic_dam_fleet_factor{kind="configured",pool="default"} 0.83"#,
        r#"traffic_dam_fleet_factor{kind="measured",pool="default"} 0.7"#,
        r#"traffic_dam_prefix_hit_ratio{pool="default",source="estimated"} 0.5"#,
        "traffic_dam_redis_up 1",
        r#"traffic_dam_discovery_age_seconds{source="dns"} 1.5"#,
    ] {
        has(&first, line);
    }
    let pool = PoolView { workers: vec![worker("w2", Light::Yellow)], ..PoolView::default() };
    let second = lines(&metrics, &GatewayView { pools: vec![pool], ..GatewayView::default() });
    let gone = [
        "w1",
        "burst",
        "traffic_dam_redis_up",
        "traffic_dam_worker_kv_used{",
        "traffic_dam_worker_heartbeats_missed{",
    ];
    assert!(
        !second.iter().any(|line| gone.iter().any(|name| line.starts_with("traffic") && line.contains(name)))
    );
    has(&second, r#"traffic_dam_worker_light{colour="blue",worker="w2"} 1"#);
    has(&second, r#"traffic_dam_worker_in_flight{worker="w2"} 3"#);
}

#[test]
fn a_label_takes_no_more_values_than_its_bound() {
    let metrics = Metrics::new();
    for index in 0..LABEL_VALUES + 50 {
        metrics.rule(&format!("r{index}")).refused();
    }
    metrics.rule("r3").refused();
    let rule = |index| RuleUseView { name: format!("r{index}").into(), keys: 2, ..RuleUseView::default() };
    let rules = (0..LABEL_VALUES + 50).map(rule).collect();
    let lines = lines(&metrics, &GatewayView { rules, ..GatewayView::default() });
    has(&lines, r#"traffic_dam_limit_checks_total{decision="refused",rule="r3"} 2"#);
    has(&lines, r#"traffic_dam_limit_checks_total{decision="refused",rule="other"} 50"#);
    has(&lines, r#"traffic_dam_limiter_keys{rule="other"} 100"#);
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("traffic_dam_limiter_keys{")).count(),
        LABEL_VALUES + 1
    );
}

#[test]
fn every_reason_has_its_own_column() {
    let metrics = Metrics::new();
    let route = metrics.route("/r");
    for reason in Reason::ALL {
        route.count(Class::Critical, Ending::Refused, Some(reason), Duration::ZERO);
    }
    let lines = lines(&metrics, &GatewayView::default());
    for reason in Reason::ALL {
        has(
            &lines,
            &format!(
                r#"traffic_dam_requests_total{{class="critical",outcome="refused",reason="{reason}",route="/r"}} 1"#
            ),
        );
    }
}

#[test]
fn two_gateways_in_one_process_count_apart() {
    let (one, two) = (Metrics::new(), Metrics::new());
    one.unmatched_request();
    for taken in [false, true, false] {
        one.config_reload(taken);
    }
    has(&lines(&two, &GatewayView::default()), "traffic_dam_config_current 1");
    two.config_reload(false);
    two.config_reload(true);
    has(&lines(&two, &GatewayView::default()), "traffic_dam_config_current 1");
    has(&lines(&one, &GatewayView::default()), "traffic_dam_config_current 0");
    has(&lines(&two, &GatewayView::default()), "traffic_dam_unmatched_requests_total 0");
}

#[test]
fn what_is_written_is_what_is_described() {
    let metrics = Metrics::new();
    metrics.redis().fallback();
    let pool = PoolView { name: "p".into(), ceiling: Some(1.0), ..PoolView::default() };
    let rule = RuleUseView { name: "quote\"back\\line\n".into(), keys: 1, ..RuleUseView::default() };
    let view = GatewayView { pools: vec![pool], rules: vec![rule], ..GatewayView::default() };
    let lines = lines(&metrics, &view);
    has(&lines, r#"traffic_dam_limiter_keys{rule="quote\"back\\line\n"} 1"#);
    for line in lines.iter().filter_map(|line| line.strip_prefix("# TYPE traffic_dam_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let known = metrics.catalogue().into_iter().find(|described| described.name == name);
        assert_eq!(known.map(|described| described.kind.as_str()), Some(kind), "{name}");
    }
}
