//! The dashboard, as a list of panels. The rows answer an on-call engineer's questions in order:
//! health, load, refused callers, which worker, Redis, and the gateway's own cost.

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;

/// Display of a panel's queries.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Lines over time.
    Lines,
    /// One number, coloured by bounds: (from, colour).
    Number(&'static [(f64, &'static str)]),
    /// Buckets of a histogram over time.
    Heat,
    /// States over time: (value, text, colour).
    States(&'static [(i32, &'static str, &'static str)]),
}

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: &'static str,
    pub(crate) width: u32,
    /// Each query with its legend.
    pub(crate) queries: &'static [(&'static str, &'static str)],
}

const fn lines(
    title: &'static str,
    what: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, what, kind: Kind::Lines, unit, width: 8, queries }
}

const LOW_IS_BAD: &[(f64, &str)] = &[(0.0, "red"), (0.9, "yellow"), (0.98, "green")];
const HIGH_IS_BAD: &[(f64, &str)] = &[(0.0, "green"), (0.5, "yellow"), (1.0, "red")];
const SHARE: &[(f64, &str)] = &[(0.0, "green"), (0.05, "yellow"), (0.3, "red")];
const NONE_IS_BAD: &[(f64, &str)] = &[(0.0, "red"), (1.0, "green")];
const LIGHTS: &[(i32, &str, &str)] = &[(0, "red", "red"), (1, "yellow", "yellow"), (2, "green", "green")];

/// Rows of panels with titles. `$i` stands for the selected gateways, `$r` for the range of a rate.
pub(crate) const ROWS: [(&str, &[Panel]); 6] = [
    (
        "Is it healthy?",
        &[
            Panel {
                title: "TTFT SLO met",
                what: "Share of ended streams that began within the TTFT SLO and completed; not counted: streams whose client left while all was well.",
                kind: Kind::Number(LOW_IS_BAD),
                unit: "percentunit",
                width: 4,
                queries: &[("traffic_dam:goodput:ratio5m", "")],
            },
            Panel {
                title: "p95 TTFT",
                what: "From a request's last byte to its first content, queue wait included.",
                kind: Kind::Number(HIGH_IS_BAD),
                unit: "s",
                width: 4,
                queries: &[("max(traffic_dam:ttft_seconds:p95_5m)", "")],
            },
            Panel {
                title: "Refused",
                what: "Share of all requests, for any reason.",
                kind: Kind::Number(SHARE),
                unit: "percentunit",
                width: 4,
                queries: &[("sum(traffic_dam:refused:ratio5m)", "")],
            },
            Panel {
                title: "Usable workers",
                what: "Lowest number that any gateway sees.",
                kind: Kind::Number(NONE_IS_BAD),
                unit: "none",
                width: 4,
                queries: &[("min(traffic_dam:workers:usable)", "")],
            },
            Panel {
                title: "Gateways",
                what: "Gateways whose admin port answers.",
                kind: Kind::Number(NONE_IS_BAD),
                unit: "none",
                width: 4,
                queries: &[("sum(up{job=\"traffic-dam\"})", "")],
            },
            Panel {
                title: "Redis",
                what: "1 if every gateway reaches it.",
                kind: Kind::Number(NONE_IS_BAD),
                unit: "none",
                width: 4,
                queries: &[("min(traffic_dam_redis_up)", "")],
            },
        ],
    ),
    (
        "How high is the load?",
        &[
            lines(
                "Offered, good, refused",
                "Good: completed streams within the TTFT SLO; watch these, the other rates alone say little.",
                "reqps",
                &[
                    ("sum(rate(traffic_dam_requests_total{$i}[$r]))", "offered"),
                    ("sum(rate(traffic_dam_goodput_total{$i}[$r]))", "good"),
                    ("sum(rate(traffic_dam_requests_total{outcome=\"refused\",$i}[$r]))", "refused"),
                ],
            ),
            Panel {
                title: "TTFT",
                what: "Each column is a moment; a second band above the first means a queue inside a worker.",
                kind: Kind::Heat,
                unit: "s",
                width: 8,
                queries: &[("sum by (le) (increase(traffic_dam_ttft_seconds_bucket{$i}[$r]))", "{{le}}")],
            },
            lines(
                "TTFT percentiles",
                "By pool.",
                "s",
                &[
                    ("traffic_dam:ttft_seconds:p50_5m", "p50 {{pool}}"),
                    ("traffic_dam:ttft_seconds:p95_5m", "p95 {{pool}}"),
                    ("traffic_dam:ttft_seconds:p99_5m", "p99 {{pool}}"),
                ],
            ),
            lines(
                "Sequences in flight",
                "Sequences in flight at the workers, the sum of their limits, and the maximum total of the pools.",
                "none",
                &[
                    ("sum(traffic_dam_worker_in_flight{$i})", "in use"),
                    ("sum(traffic_dam_concurrency_limit{$i})", "limit"),
                    ("sum(traffic_dam_fleet_ceiling{$i})", "ceiling"),
                ],
            ),
            lines(
                "Queue",
                "Waiting requests by class, and requests that a pool cannot start yet.",
                "none",
                &[
                    ("sum by (class) (traffic_dam_queue_depth{$i})", "{{class}}"),
                    ("sum by (pool) (traffic_dam_demand_waiting{$i})", "demand of {{pool}}"),
                ],
            ),
            lines(
                "Wait in the queue, p95",
                "Of admitted requests.",
                "s",
                &[(
                    "histogram_quantile(0.95, sum by (class, le) (rate(traffic_dam_queue_wait_seconds_bucket{$i}[$r])))",
                    "{{class}}",
                )],
            ),
        ],
    ),
    (
        "Who is refused?",
        &[
            lines(
                "Refusals by reason",
                "",
                "reqps",
                &[(
                    "sum by (reason) (rate(traffic_dam_requests_total{outcome=\"refused\",$i}[$r]))",
                    "{{reason}}",
                )],
            ),
            lines(
                "Requests by outcome",
                "",
                "reqps",
                &[("sum by (outcome) (rate(traffic_dam_requests_total{$i}[$r]))", "{{outcome}}")],
            ),
            lines(
                "Streams by TTFT SLO result",
                "Ended streams. Abandoned: the client left after the TTFT SLO had passed without content. Left: the client left while all was well.",
                "reqps",
                &[("sum by (promise) (rate(traffic_dam_streams_total{$i}[$r]))", "{{promise}}")],
            ),
            lines(
                "Decisions of rules",
                "",
                "ops",
                &[(
                    "sum by (rule, decision) (rate(traffic_dam_limit_checks_total{$i}[$r]))",
                    "{{rule}} {{decision}}",
                )],
            ),
        ],
    ),
    (
        "Which worker?",
        &[
            Panel {
                title: "Lights",
                what: "Green: healthy. Yellow: doubtful. Red: receives no requests.",
                kind: Kind::States(LIGHTS),
                unit: "none",
                width: 8,
                queries: &[("max by (worker) (traffic_dam_worker_light{$i})", "{{worker}}")],
            },
            lines(
                "Share of the limit in use",
                "",
                "percentunit",
                &[(
                    "sum by (worker) (traffic_dam_worker_in_flight{$i}) / sum by (worker) (traffic_dam_concurrency_limit{$i})",
                    "{{worker}}",
                )],
            ),
            lines(
                "Limit",
                "Limit of each worker, found by the limit algorithm.",
                "none",
                &[("sum by (worker) (traffic_dam_concurrency_limit{$i})", "{{worker}}")],
            ),
            lines(
                "KV cache",
                "As workers report.",
                "percentunit",
                &[("max by (worker) (traffic_dam_worker_kv_used{$i})", "{{worker}}")],
            ),
            lines(
                "Heartbeat age",
                "",
                "s",
                &[("max by (worker) (traffic_dam_worker_heartbeat_age_seconds{$i})", "{{worker}}")],
            ),
            lines(
                "Time between tokens, p95",
                "",
                "s",
                &[(
                    "histogram_quantile(0.95, sum by (pool, le) (rate(traffic_dam_itl_seconds_bucket{$i}[$r])))",
                    "{{pool}}",
                )],
            ),
        ],
    ),
    (
        "Tokens and Redis",
        &[
            lines(
                "Tokens",
                "",
                "none",
                &[(
                    "sum by (direction) (rate(traffic_dam_tokens_total{$i}[$r]))",
                    "{{direction}} per second",
                )],
            ),
            lines(
                "Estimated over used tokens",
                "1 is exact.",
                "none",
                &[
                    ("traffic_dam:token_estimate_error_ratio:p50_5m", "median"),
                    (
                        "histogram_quantile(0.9, sum by (le) (rate(traffic_dam_token_estimate_error_ratio_bucket{$i}[$r])))",
                        "p90",
                    ),
                ],
            ),
            lines(
                "Keys in memory, by rule",
                "",
                "none",
                &[("sum by (rule) (traffic_dam_limiter_keys{$i})", "{{rule}}")],
            ),
            lines(
                "Redis commands, p99",
                "",
                "s",
                &[(
                    "histogram_quantile(0.99, sum by (op, le) (rate(traffic_dam_redis_command_seconds_bucket{$i}[$r])))",
                    "{{op}}",
                )],
            ),
            lines(
                "Requests decided without Redis",
                "",
                "reqps",
                &[("sum by (instance) (rate(traffic_dam_redis_fallback_total{$i}[$r]))", "{{instance}}")],
            ),
            lines(
                "Heartbeats",
                "Taken, or the reason why they were refused.",
                "ops",
                &[("sum by (result) (rate(traffic_dam_heartbeats_total{$i}[$r]))", "{{result}}")],
            ),
        ],
    ),
    (
        "What does the gateway cost?",
        &[
            lines(
                "Gateway's own time, p99",
                "Until a request goes to a worker, or until its refusal; without queue wait.",
                "s",
                &[
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(traffic_dam_overhead_seconds_bucket{$i}[$r])))",
                        "admitted",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(traffic_dam_refusal_seconds_bucket{$i}[$r])))",
                        "refused",
                    ),
                ],
            ),
            lines(
                "Requests and connections",
                "",
                "none",
                &[
                    ("sum by (instance) (traffic_dam_in_flight{$i})", "requests {{instance}}"),
                    ("sum by (instance) (traffic_dam_connections{$i})", "connections {{instance}}"),
                ],
            ),
            lines(
                "Permits that no request explains",
                "Above 0 for long is a leak, or requests of several sequences.",
                "none",
                &[("traffic_dam:seats:unexplained", "{{instance}}")],
            ),
            lines(
                "Request duration, p95",
                "From the head of a request to the last byte of its answer, by outcome.",
                "s",
                &[(
                    "histogram_quantile(0.95, sum by (outcome, le) (rate(traffic_dam_request_duration_seconds_bucket{$i}[$r])))",
                    "{{outcome}}",
                )],
            ),
            lines(
                "Requests that no rule applies to",
                "",
                "reqps",
                &[("sum(rate(traffic_dam_unmatched_requests_total{$i}[$r]))", "unmatched")],
            ),
            lines(
                "Reloads of settings within an hour",
                "Refused: the file is invalid, and the old settings stay in use.",
                "none",
                &[("sum by (result) (increase(traffic_dam_config_reloads_total{$i}[1h]))", "{{result}}")],
            ),
            lines(
                "Lost log lines",
                "The reader of the gateway's stderr is too slow, or does not read at all.",
                "none",
                &[("sum by (instance) (increase(traffic_dam_log_lines_lost_total{$i}[$r]))", "{{instance}}")],
            ),
            lines(
                "Timer delay of the gateway, p99",
                "Delay of the gateway's own timers: CPU time that it did not get.",
                "s",
                &[(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(traffic_dam_event_loop_lag_seconds_bucket{$i}[$r])))",
                    "{{instance}}",
                )],
            ),
            lines(
                "Pauses of the gateway",
                "Timers that were more than 50 ms late, per second.",
                "ops",
                &[(
                    "sum by (instance) (rate(traffic_dam_event_loop_lag_seconds_count{$i}[$r])) \
                     - sum by (instance) (rate(traffic_dam_event_loop_lag_seconds_bucket{le=\"0.05\",$i}[$r]))",
                    "{{instance}}",
                )],
            ),
        ],
    ),
];

/// Returns the dashboard in Grafana's format.
pub(crate) fn dashboard() -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    for (title, row) in ROWS {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
        }));
        y += 1;
        let mut x = 0;
        let mut lowest = y;
        for panel in row {
            let height = if matches!(panel.kind, Kind::Number(_)) { 4 } else { 8 };
            if x + panel.width > COLUMNS {
                (x, y) = (0, lowest);
            }
            panels.push(one(
                panel,
                panels.len() + 1,
                json!({ "h": height, "w": panel.width, "x": x, "y": y }),
            ));
            x += panel.width;
            lowest = y + height;
        }
        y = lowest;
    }
    let source = json!({
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
        "current": { "text": "Prometheus", "value": "prometheus" },
    });
    let gateways = json!({
        "name": "instance", "label": "Gateway", "type": "query", "datasource": datasource(),
        "query": "label_values(up{job=\"traffic-dam\"}, instance)", "refresh": 2, "multi": true, "includeAll": true,
        "allValue": ".*", "current": { "text": "All", "value": "$__all" },
    });
    json!({
        "uid": "traffic-dam", "title": "Traffic Dam", "tags": ["traffic-dam"], "schemaVersion": 41, "version": 1,
        "editable": true, "refresh": "5s", "time": { "from": "now-30m", "to": "now" }, "timezone": "browser",
        "graphTooltip": 1, "templating": { "list": [source, gateways] }, "panels": panels,
    })
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn one(panel: &Panel, id: usize, place: Value) -> Value {
    let refs = ["A", "B", "C", "D"];
    let targets: Vec<Value> = panel
        .queries
        .iter()
        .zip(refs)
        .map(|((query, legend), name)| {
            let expr = query.replace("$i", "instance=~\"$instance\"").replace("$r", "$__rate_interval");
            let format = if panel.kind == Kind::Heat { "heatmap" } else { "time_series" };
            json!({
                "refId": name, "datasource": datasource(), "expr": expr, "legendFormat": legend, "format": format,
                "instant": false, "range": true,
            })
        })
        .collect();
    let mut defaults = json!({ "unit": panel.unit });
    let (kind, options) = match panel.kind {
        Kind::Lines => {
            defaults["custom"] = json!({ "lineWidth": 1, "fillOpacity": 8, "showPoints": "never" });
            defaults["min"] = json!(0);
            let tooltip = json!({ "mode": "multi", "sort": "desc" });
            (
                "timeseries",
                json!({ "tooltip": tooltip, "legend": { "displayMode": "list", "placement": "bottom" } }),
            )
        }
        Kind::Number(bounds) => {
            let steps: Vec<Value> = bounds
                .iter()
                .enumerate()
                // The first step has no bound: Grafana needs one for all values below the second.
                .map(|(index, (from, colour))| {
                    json!({ "color": colour, "value": if index == 0 { Value::Null } else { json!(from) } })
                })
                .collect();
            defaults["thresholds"] = json!({ "mode": "absolute", "steps": steps });
            (
                "stat",
                json!({ "colorMode": "background", "graphMode": "area", "reduceOptions": { "calcs": ["lastNotNull"] } }),
            )
        }
        Kind::Heat => (
            "heatmap",
            json!({ "calculate": false, "yAxis": { "unit": panel.unit }, "color": { "scheme": "Blues", "mode": "scheme" } }),
        ),
        Kind::States(states) => {
            let texts: serde_json::Map<String, Value> = states
                .iter()
                .map(|(value, text, colour)| (value.to_string(), json!({ "text": text, "color": colour })))
                .collect();
            defaults["mappings"] = json!([{ "type": "value", "options": texts }]);
            ("state-timeline", json!({ "mergeValues": true, "showValue": "never" }))
        }
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.what, "datasource": datasource(),
        "gridPos": place, "targets": targets, "options": options,
        "fieldConfig": { "defaults": defaults, "overrides": [] },
    })
}
