{{- /* Values that cannot be meant together. Each fails with a sentence, and all of them are told at once. */ -}}
{{- define "traffic-dam.checks" -}}
{{- $v := .Values -}}
{{- $config := $v.config -}}
{{- $faults := list -}}
{{- $pools := include "traffic-dam.pools" . | fromJson -}}
{{- $redis := include "traffic-dam.usesRedis" . -}}
{{- $workers := $config.workers | default dict -}}

{{- if not $v.admin.secret -}}
{{- $faults = append $faults "admin.secret: name a Secret with the admin token: kubectl create secret generic traffic-dam-admin --from-literal=token=\"$(openssl rand -hex 32)\"" -}}
{{- end -}}
{{- range list "listen" "tls" -}}
{{- if hasKey $config . -}}
{{- $faults = append $faults (printf "config.%s: the chart sets it (%s); take it out" . (ternary "port 8080; listenAddress for IPv6" "tls.secret" (eq . "listen"))) -}}
{{- end -}}
{{- end -}}
{{- range list "listen" "token" "read_token" "metrics_token" "hosts" "tls" -}}
{{- if hasKey ($config.admin | default dict) . -}}
{{- $faults = append $faults (printf "config.admin.%s: the chart sets it, from the values under `admin`; take it out" .) -}}
{{- end -}}
{{- end -}}
{{- range list "url" "hmac_key" -}}
{{- if hasKey ($config.redis | default dict) . -}}
{{- $faults = append $faults (printf "config.redis.%s: it is a secret; put it into a Secret and name that as redis.secret" .) -}}
{{- end -}}
{{- end -}}

{{- if and $redis (not $v.redis.secret) -}}
{{- $faults = append $faults "redis.secret: config or a pool uses Redis; name a Secret with its `url`, and `hmac-key` or redis.hmacKeyKey: \"\"" -}}
{{- end -}}
{{- if and $v.redis.secret (not $redis) -}}
{{- $faults = append $faults "redis.secret: nothing uses Redis; set config.state: redis, or a pool's discovery to agent, self or queue, or leave it out" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (ne (toString $config.state) "redis") -}}
{{- $faults = append $faults "autoscaling.enabled: the number of gateways may change only where they count together: set config.state: redis" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- $faults = append $faults "autoscaling.minReplicas: must not be above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not (dig "requests" "cpu" "" ($v.resources | default dict))) -}}
{{- $faults = append $faults "autoscaling.cpu: a share of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- if and $v.podDisruptionBudget.enabled (eq (toString $v.podDisruptionBudget.maxUnavailable) "0") -}}
{{- $faults = append $faults "podDisruptionBudget.maxUnavailable: with 0 no node can ever be drained; set at least 1" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- $faults = append $faults "ingress.host: name the host that the Ingress serves" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- $faults = append $faults "httpRoute.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and $v.tls.secret (or $v.ingress.enabled $v.httpRoute.enabled) -}}
{{- $faults = append $faults "tls.secret: an Ingress or a Gateway speaks plain HTTP to its backend and ends TLS itself; leave tls.secret out, or both of ingress.enabled and httpRoute.enabled" -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.monitoring.podMonitor.enabled (not $v.networkPolicy.admin) -}}
{{- $faults = append $faults "networkPolicy.admin: Prometheus could not reach port 8081; name it as a peer, or disable monitoring.podMonitor" -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) $v.serviceAccount.annotations -}}
{{- $faults = append $faults "serviceAccount.annotations: no account is made to carry them; set serviceAccount.create" -}}
{{- end -}}

{{- $sources := include "traffic-dam.sources" . | fromJsonArray -}}
{{- $cluster := include "traffic-dam.cluster" . | fromJson -}}
{{- if and (has "kubernetes" $sources) (not $workers.kubernetes) -}}
{{- $faults = append $faults "config.workers.kubernetes: config.workers.discovery names kubernetes; name a service, a selector or an inference_pool" -}}
{{- end -}}
{{- if and $workers.kubernetes (not (has "kubernetes" $sources)) -}}
{{- $faults = append $faults "config.workers.kubernetes: nothing reads it; set config.workers.discovery to kubernetes" -}}
{{- end -}}
{{- if and $cluster (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- $faults = append $faults "serviceAccount.name: workers are found in the cluster, and each Pod of this namespace has the account `default`; set serviceAccount.create, or name an account" -}}
{{- end -}}
{{- if and $v.networkPolicy.apiServer (not (and $cluster $v.networkPolicy.egress)) -}}
{{- $faults = append $faults "networkPolicy.apiServer: used only where the gateways find workers in the cluster, and with networkPolicy.egress" -}}
{{- end -}}

{{- /* Workers. */ -}}
{{- if not (or $pools $workers.static $workers.discovery $workers.mode) -}}
{{- $faults = append $faults "pools: there is no worker; add a pool, or config.workers.static with workers that run elsewhere" -}}
{{- end -}}
{{- $modes := list -}}
{{- $colours := list -}}
{{- range $name, $pool := $pools -}}
{{- $modes = append $modes (ternary "queue" "http" (eq $pool.discovery "queue")) -}}
{{- if not $pool.image -}}
{{- $faults = append $faults (printf "pools.%s.image: name the image of the worker" $name) -}}
{{- end -}}
{{- if eq (toString $pool.maxUnavailable) "0" -}}
{{- $faults = append $faults (printf "pools.%s.maxUnavailable: with 0 no node can ever be drained; set at least 1" $name) -}}
{{- end -}}
{{- if and (eq (toString (dig "concurrency" "limit" "" $config)) "slots") (not $pool.slots) (has $pool.discovery (list "addresses" "kubernetes")) -}}
{{- $faults = append $faults (printf "pools.%s.slots: config.concurrency.limit is slots, so say how many requests it decodes at once" $name) -}}
{{- end -}}
{{- if $pool.autoscaling.enabled -}}
{{- if eq $pool.discovery "addresses" -}}
{{- $faults = append $faults (printf "pools.%s.autoscaling: the gateways know workers found by addresses from their settings, and so a fixed number of them; set discovery to kubernetes, agent, self or queue" $name) -}}
{{- end -}}
{{- if not $v.keda.prometheus -}}
{{- $faults = append $faults (printf "pools.%s.autoscaling: set keda.prometheus to the address of the Prometheus that scrapes the gateways" $name) -}}
{{- end -}}
{{- if and (eq (int $pool.autoscaling.minReplicas) 0) (eq (dig "concurrency" "queue" "wait_no_worker" "0s" $config) "0s") -}}
{{- $faults = append $faults (printf "pools.%s.autoscaling.minReplicas: from 0 workers a request must wait for the first; set config.concurrency.queue.wait_no_worker" $name) -}}
{{- end -}}
{{- if gt (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas) -}}
{{- $faults = append $faults (printf "pools.%s.autoscaling.minReplicas: must not be above maxReplicas" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len $pool.colours) 1) (not $v.activeColour) -}}
{{- $faults = append $faults (printf "activeColour: pool %s has the colours %s; say which of them gets the work" $name (keys $pool.colours | sortAlpha | join " and ")) -}}
{{- end -}}
{{- if and $v.activeColour (not (hasKey $pool.colours $v.activeColour)) -}}
{{- $faults = append $faults (printf "activeColour: pool %s has no colour %s, so nothing of it would get work" $name $v.activeColour) -}}
{{- end -}}
{{- range $colour, $side := $pool.colours -}}
{{- $set := printf "%s-%s-%s" (include "traffic-dam.fullname" $) $name $colour -}}
{{- if gt (len $set) 52 -}}
{{- $faults = append $faults (printf "pools.%s: %s is longer than the 52 characters that a StatefulSet's name may have; shorten the name of release, pool or colour" $name $set) -}}
{{- end -}}
{{- if and (eq $colour $v.activeColour) (eq (int $side.replicas) 0) (not $pool.autoscaling.enabled) -}}
{{- $faults = append $faults (printf "activeColour: pool %s has no workers of colour %s; set pools.%s.colours.%s.replicas" $name $colour $name $colour) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (len (uniq $modes)) 1 -}}
{{- $faults = append $faults "pools: workers take from a queue or are sent requests, all of one gateway alike; install a second release for the other kind" -}}
{{- end -}}
{{- if and (has "http" $modes) (eq (toString $workers.mode) "queue") -}}
{{- $faults = append $faults "config.workers.mode: it is queue, and pools have a discovery other than queue" -}}
{{- end -}}
{{- if and (has "queue" $modes) $cluster -}}
{{- $faults = append $faults "config.workers.discovery: workers of a queue are known by their heartbeats; take kubernetes out, or set the pools' discovery to another" -}}
{{- end -}}
{{- if and (has "queue" $modes) $workers.static -}}
{{- $faults = append $faults "config.workers.static: workers of a queue have no address; take it out, or set the pools' discovery to another" -}}
{{- end -}}
{{- if $v.switch.enabled -}}
{{- if not $v.activeColour -}}
{{- $faults = append $faults "switch.enabled: name the colour to switch to as activeColour" -}}
{{- end -}}
{{- if not $redis -}}
{{- $faults = append $faults "switch.enabled: a switch reaches all gateways over Redis only; without it set activeColour alone, and the gateways are rolled" -}}
{{- end -}}
{{- if not $pools -}}
{{- $faults = append $faults "switch.enabled: there are no pools to switch" -}}
{{- end -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n\nThe values of %s cannot be:\n  - %s\n" .Release.Name (join "\n  - " $faults)) -}}
{{- end -}}
{{- end }}
