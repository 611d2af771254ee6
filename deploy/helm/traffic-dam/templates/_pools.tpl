{{- /* The pools with their defaults, as JSON. */ -}}
{{- define "traffic-dam.pools" -}}
{{- $pools := dict -}}
{{- range $name, $given := .Values.pools -}}
{{- $pool := mergeOverwrite (dict
    "discovery" "kubernetes" "model" "*" "image" "" "command" list "args" list "port" 8000 "health" "/health"
    "startupSeconds" 600 "slots" 0 "kvTokens" 0 "stopDelaySeconds" 5 "drainSeconds" 60 "maxUnavailable" 1 "env" list "resources" dict
    "volumes" list "volumeMounts" list "volumeClaimTemplates" list "nodeSelector" dict "tolerations" list
    "affinity" dict "runtimeClassName" "" "podSecurityContext" dict "securityContext" dict
    "agent" (dict "metrics" "/metrics" "maxLoad" 0 "rename" list)
    "autoscaling" (dict "enabled" false "minReplicas" 1 "maxReplicas" 4 "threshold" 4)) (deepCopy $given) -}}
{{- if not $pool.colours -}}{{- $_ := set $pool "colours" (dict "blue" dict) -}}{{- end -}}
{{- range $colour, $side := $pool.colours -}}
{{- $_ := set $pool.colours $colour (mergeOverwrite (dict "replicas" 1) ($side | default dict)) -}}
{{- end -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{ $pools | toJson }}
{{- end }}

{{- /* "true" if any pool is found by heartbeats, or takes from the queue. */ -}}
{{- define "traffic-dam.heartbeats" -}}
{{- range $name, $pool := include "traffic-dam.pools" . | fromJson -}}
{{- if has $pool.discovery (list "agent" "self" "queue") -}}true{{- end -}}
{{- end -}}
{{- end }}

{{- /* The sources of `config.workers.discovery`, as a JSON array; without `none`. */ -}}
{{- define "traffic-dam.sources" -}}
{{- $discovery := (.Values.config.workers | default dict).discovery | default list -}}
{{- $all := ternary $discovery (list $discovery) (kindIs "slice" $discovery) -}}
{{ without $all "none" | toJson }}
{{- end }}

{{- /* What the gateways may read in which namespace, as a JSON object; empty unless they find workers in the cluster. */ -}}
{{- define "traffic-dam.cluster" -}}
{{- $places := dict -}}
{{- range $name, $pool := include "traffic-dam.pools" . | fromJson -}}
{{- if eq $pool.discovery "kubernetes" -}}
{{- $_ := set $places $.Release.Namespace (dict "slices" true "pods" false "pools" list) -}}
{{- end -}}
{{- end -}}
{{- if has "kubernetes" (include "traffic-dam.sources" . | fromJsonArray) -}}
{{- range (.Values.config.workers).kubernetes -}}
{{- $namespace := .namespace | default $.Release.Namespace -}}
{{- $place := get $places $namespace | default (dict "slices" false "pods" false "pools" list) -}}
{{- if .service -}}{{- $_ := set $place "slices" true -}}{{- end -}}
{{- if or .labels .selector .inference_pool -}}{{- $_ := set $place "pods" true -}}{{- end -}}
{{- if .inference_pool -}}{{- $_ := set $place "pools" (append $place.pools .inference_pool | uniq) -}}{{- end -}}
{{- $_ := set $places $namespace $place -}}
{{- end -}}
{{- end -}}
{{ $places | toJson }}
{{- end }}

{{- /* "true" if the settings of the gateway count rules, callers or jobs in Redis, or hear workers there. */ -}}
{{- define "traffic-dam.usesRedis" -}}
{{- $config := .Values.config -}}
{{- $workers := $config.workers | default dict -}}
{{- if or (eq (toString $config.state) "redis") (has "redis" (include "traffic-dam.sources" . | fromJsonArray)) (eq (toString $workers.mode) "queue")
    (eq (dig "callers" "stored" "none" $config) "redis") (eq (dig "concurrency" "overflow" "refuse" $config) "jobs")
    (contains "true" (include "traffic-dam.heartbeats" .)) -}}
true
{{- end -}}
{{- end }}

{{- /* Environment with the address of Redis and its key, from the Secret. The agent and the gateway use other names. */ -}}
{{- define "traffic-dam.redisEnv" -}}
{{- $redis := .root.Values.redis -}}
- name: {{ .url }}
  valueFrom: { secretKeyRef: { name: {{ $redis.secret }}, key: {{ $redis.urlKey }} } }
{{- if $redis.hmacKeyKey }}
- name: {{ .key }}
  valueFrom: { secretKeyRef: { name: {{ $redis.secret }}, key: {{ $redis.hmacKeyKey }} } }
{{- end }}
{{- end }}
