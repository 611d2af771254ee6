{{- define "traffic-dam.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "traffic-dam.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "traffic-dam.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "traffic-dam.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* Labels that select Pods: `dict "root" $ "part" "gateway"`. They never change. */ -}}
{{- define "traffic-dam.selector" -}}
app.kubernetes.io/name: {{ include "traffic-dam.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "traffic-dam.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "traffic-dam.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "traffic-dam.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "traffic-dam.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "traffic-dam.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- /* What Pod Security "restricted" asks of a Pod and of a container. */ -}}
{{- define "traffic-dam.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "traffic-dam.security" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
{{- end }}

{{- /* A duration of the settings in whole seconds, rounded up: `dict "value" "5s" "key" "config.drain.delay"`. */ -}}
{{- define "traffic-dam.seconds" -}}
{{- $text := toString .value -}}
{{- if not (regexMatch "^[0-9]+(ms|s|m|h|d)$" $text) -}}
{{- fail (printf "%s must be a whole number of ms, s, m, h or d, such as 5s, because the chart computes with it; found %q" .key $text) -}}
{{- end -}}
{{- $n := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- if eq $unit "ms" -}}{{ div (add $n 999) 1000 }}
{{- else -}}{{ mul $n (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) $unit | int64) }}
{{- end -}}
{{- end }}

{{- /* How long a gateway may take to go down: drain.delay + drain.timeout + 5 s. */ -}}
{{- define "traffic-dam.grace" -}}
{{- $drain := .Values.config.drain | default dict -}}
{{- $delay := include "traffic-dam.seconds" (dict "value" ($drain.delay | default "5s") "key" "config.drain.delay") | int64 -}}
{{- $timeout := include "traffic-dam.seconds" (dict "value" ($drain.timeout | default "1m") "key" "config.drain.timeout") | int64 -}}
{{ add $delay $timeout 5 }}
{{- end }}
