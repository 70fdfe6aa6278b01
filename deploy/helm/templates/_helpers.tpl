{{- define "roundhouse.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "roundhouse.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "roundhouse.labels" -}}
{{ include "roundhouse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "roundhouse.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "roundhouse.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "roundhouse.pod-security" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Whether several gateways may run, which share limits, spend and stored objects. */ -}}
{{- define "roundhouse.several" -}}
{{- if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled (eq .Values.kind "DaemonSet") }}yes{{ end }}
{{- end }}

{{- define "roundhouse.ray-address" -}}
{{- .Values.ray.address | default (printf "ray://%s-ray-head-svc.%s.svc.%s:10001" (include "roundhouse.name" .) .Release.Namespace .Values.clusterDomain) }}
{{- end }}

{{- define "roundhouse.check" -}}
{{- if and (include "roundhouse.several" .) (eq .Values.redis.mode "none") }}
{{- fail "Several gateways share limits, spend and keys through Redis: set redis.mode to bundled or external." }}
{{- end }}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.url) (not .Values.redis.existingSecret) }}
{{- fail "redis.mode external wants redis.url, or redis.existingSecret whose key redis.secretKey has the address." }}
{{- end }}
{{- if and (eq .Values.redis.mode "bundled") (not .Values.redis.password) (not .Values.redis.existingSecret) }}
{{- fail "redis.mode bundled wants redis.password, or redis.existingSecret whose key redis.secretKey has it." }}
{{- end }}
{{- if and (not .Values.secrets) (not .Values.existingSecrets) }}
{{- fail "The gateway refuses to start without API keys: set secrets.ROUNDHOUSE_API_KEYS, or existingSecrets." }}
{{- end }}
{{- if and (eq .Values.kind "Deployment") (gt (int .Values.replicas) 1) .Values.data.existingClaim (not (has "ReadWriteMany" .Values.data.accessModes)) }}
{{- fail "Several pods of a Deployment share one claim: data.accessModes must have ReadWriteMany." }}
{{- end }}
{{- if and .Values.autoscaling.enabled (eq .Values.kind "DaemonSet") }}
{{- fail "A DaemonSet has one pod per machine and cannot be scaled: set autoscaling.enabled to false, or another kind." }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.enabled wants ingress.host: the gateway answers only to names that it is told (DNS rebinding)." }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.serviceMonitor.secret) (not (hasKey .Values.secrets .Values.serviceMonitor.secretKey)) }}
{{- fail "serviceMonitor.enabled wants a key for /metrics: secrets.ROUNDHOUSE_METRICS_KEYS, or serviceMonitor.secret." }}
{{- end }}
{{- end }}

{{- define "roundhouse.claim" -}}
accessModes: {{ toJson .accessModes }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}

{{- define "roundhouse.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.config }}
- {name: config, mountPath: /etc/roundhouse, readOnly: true}
{{- end }}
{{- if .Values.gpus }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- end }}

{{- define "roundhouse.secrets" -}}
envFrom:
  {{- if .Values.secrets }}
  - secretRef: {name: {{ include "roundhouse.name" . }}}
  {{- end }}
  {{- range .Values.existingSecrets }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end }}

{{- define "roundhouse.environment" -}}
{{- $name := include "roundhouse.name" . }}
{{- $hosts := list $name (printf "%s-pods" $name) "*.svc" (printf "*.svc.%s" .Values.clusterDomain) }}
{{- if .Values.ingress.enabled }}{{ $hosts = append $hosts .Values.ingress.host }}{{ end }}
# The names by which the service is called; others are refused (DNS rebinding).
- name: ROUNDHOUSE_SERVER__ALLOWED_HOSTS
  value: {{ toJson $hosts | quote }}
- name: ROUNDHOUSE_SERVER__DRAIN
  value: {{ .Values.drainSeconds | quote }}
{{- if .Values.config }}
- name: ROUNDHOUSE_CONFIG
  value: /etc/roundhouse/roundhouse.toml
{{- end }}
{{- if and .Values.ingress.enabled (ne .Values.ingress.path "/") }}
- name: ROUNDHOUSE_SERVER__ROOT_PATH
  value: {{ .Values.ingress.path | quote }}
{{- end }}
{{- if and .Values.ingress.enabled .Values.ingress.proxies }}
- name: ROUNDHOUSE_SERVER__PROXIES
  value: {{ toJson .Values.ingress.proxies | quote }}
{{- end }}
{{- if eq .Values.redis.mode "bundled" }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret | default (printf "%s-redis" $name) }}
      key: {{ .Values.redis.secretKey }}
- name: ROUNDHOUSE_STATE__URL
  value: redis://:$(REDIS_PASSWORD)@{{ $name }}-redis:6379/0
{{- else if eq .Values.redis.mode "external" }}
- name: ROUNDHOUSE_STATE__URL
  {{- if .Values.redis.existingSecret }}
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.secretKey }}}
  {{- else }}
  value: {{ .Values.redis.url | quote }}
  {{- end }}
{{- end }}
{{- if ne .Values.redis.mode "none" }}
- name: ROUNDHOUSE_STATE__PREFIX
  value: {{ printf "%s.%s" .Release.Namespace .Release.Name | quote }}
{{- end }}
{{- if or .Values.ray.enabled .Values.ray.address }}
- name: ROUNDHOUSE_WORKERS__CLUSTER
  value: {{ include "roundhouse.ray-address" . | quote }}
- name: ROUNDHOUSE_WORKERS__CLUSTER_NAMESPACE
  value: {{ printf "%s.%s" .Release.Namespace .Release.Name | quote }}
- name: ROUNDHOUSE_WORKERS__CLUSTER_DATA
  value: /data
{{- end }}
{{- range $key, $value := .Values.env }}
- name: {{ $key }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "roundhouse.ray-volumes" -}}
{{- $ := index . 0 }}
- name: models
  persistentVolumeClaim: {claimName: {{ $.Values.ray.models.existingClaim | default (printf "%s-models" (index . 1)) }}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: 2Gi}
{{- end }}
