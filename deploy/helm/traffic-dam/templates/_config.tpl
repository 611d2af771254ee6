{{- /* Of the settings that need new Pods when they change. A colour that the Job switches to is none. */ -}}
{{- define "traffic-dam.checksum" -}}
{{- $config := include "traffic-dam.config" . | fromYaml -}}
{{- if .Values.switch.enabled -}}{{- $_ := unset $config.workers "active_colour" -}}{{- end -}}
{{ $config | toJson | sha256sum }}
{{- end }}

{{- /* The settings file of the gateways: `config`, and what the chart knows. As YAML. */ -}}
{{- define "traffic-dam.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $name := include "traffic-dam.fullname" . -}}
{{- $pools := include "traffic-dam.pools" . | fromJson -}}
{{- $_ := set $config "listen" (printf "%s:8080" .Values.listenAddress) -}}
{{- if .Values.tls.secret -}}
{{- $_ := set $config "tls" (dict "cert" "/etc/traffic-dam-tls/tls.crt" "key" "/etc/traffic-dam-tls/tls.key") -}}
{{- end -}}

{{- $service := printf "%s-admin.%s" $name .Release.Namespace -}}
{{- $hosts := list "localhost" "127.0.0.1" (printf "%s-admin" $name) $service (printf "%s.svc" $service)
    (printf "%s.svc.%s" $service .Values.clusterDomain) -}}
{{- $admin := mergeOverwrite (dict) ($config.admin | default dict) (dict "listen" (printf "%s:8081" .Values.listenAddress)
    "token" "${DAM_ADMIN_TOKEN}" "hosts" (concat $hosts .Values.admin.hosts | uniq)) -}}
{{- if .Values.admin.readTokenKey -}}{{- $_ := set $admin "read_token" "${DAM_READ_TOKEN}" -}}{{- end -}}
{{- if .Values.admin.metricsTokenKey -}}{{- $_ := set $admin "metrics_token" "${DAM_METRICS_TOKEN}" -}}{{- end -}}
{{- $_ := set $config "admin" $admin -}}

{{- if include "traffic-dam.usesRedis" . -}}
{{- $redis := mergeOverwrite (dict) ($config.redis | default dict) (dict "url" "${DAM_REDIS_URL}") -}}
{{- if .Values.redis.hmacKeyKey -}}{{- $_ := set $redis "hmac_key" "${DAM_REDIS_KEY}" -}}{{- end -}}
{{- $_ := set $config "redis" $redis -}}
{{- end -}}
{{- /* While Redis cannot say how many gateways there are, each takes the smallest share that it may come to have. */ -}}
{{- if not (hasKey $config "gateways") -}}
{{- $_ := set $config "gateways" (ternary (max 2 .Values.autoscaling.maxReplicas) .Values.replicaCount .Values.autoscaling.enabled | int) -}}
{{- end -}}

{{- $workers := $config.workers | default dict -}}
{{- $static := $workers.static | default list -}}
{{- $services := $workers.kubernetes | default list -}}
{{- $sources := include "traffic-dam.sources" . | fromJsonArray -}}
{{- range $pool, $spec := $pools -}}
{{- range $colour, $side := $spec.colours -}}
{{- $set := printf "%s-%s-%s" $name $pool $colour -}}
{{- if eq $spec.discovery "addresses" -}}
{{- range $index := until (int $side.replicas) -}}
{{- $worker := dict "id" (printf "%s-%s-%d" $pool $colour $index) "pool" $pool "model" $spec.model "colour" $colour
    "url" (printf "http://%s-%d.%s.%s.svc.%s:%d" $set $index $set $.Release.Namespace $.Values.clusterDomain (int $spec.port)) -}}
{{- if $spec.slots -}}{{- $_ := set $worker "slots" (int $spec.slots) -}}{{- end -}}
{{- if $spec.kvTokens -}}{{- $_ := set $worker "kv_tokens" (int $spec.kvTokens) -}}{{- end -}}
{{- $static = append $static $worker -}}
{{- end -}}
{{- else if eq $spec.discovery "kubernetes" -}}
{{- $service := dict "service" $set "port" "http" "pool" $pool "model" $spec.model "colour" $colour -}}
{{- if $spec.slots -}}{{- $_ := set $service "slots" (int $spec.slots) -}}{{- end -}}
{{- if $spec.kvTokens -}}{{- $_ := set $service "kv_tokens" (int $spec.kvTokens) -}}{{- end -}}
{{- $services = append $services $service -}}
{{- $sources = append $sources "kubernetes" | uniq -}}
{{- else if eq $spec.discovery "queue" -}}
{{- $_ := set $workers "mode" "queue" -}}
{{- else -}}
{{- $sources = append $sources "redis" | uniq -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $static -}}{{- $_ := set $workers "static" $static -}}{{- end -}}
{{- if $services -}}{{- $_ := set $workers "kubernetes" $services -}}{{- end -}}
{{- if eq (len $sources) 1 -}}
{{- $_ := set $workers "discovery" (first $sources) -}}
{{- else if $sources -}}
{{- $_ := set $workers "discovery" $sources -}}
{{- end -}}
{{- /* The names that `dns` may lead to are known to whoever wrote it. */ -}}
{{- if and (or (has "redis" $sources) (has "kubernetes" $sources)) (not $workers.allow) -}}
{{- $_ := set $workers "allow" .Values.podNetworks -}}
{{- end -}}
{{- if .Values.activeColour -}}{{- $_ := set $workers "active_colour" .Values.activeColour -}}{{- end -}}
{{- $_ := set $config "workers" $workers -}}
{{ toYaml $config }}
{{- end }}
