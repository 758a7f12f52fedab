{{- define "openlimit.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods; it never changes. */}}
{{- define "openlimit.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "openlimit.labels" -}}
{{ include "openlimit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "openlimit.metadata" -}}
name: {{ include "openlimit.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "openlimit.labels" . | nindent 2 }}
{{- end -}}

{{- define "openlimit.isInMemory" -}}
{{- if and (eq .Values.store.url "memory://") (not .Values.store.existingSecret) }}true{{ end -}}
{{- end -}}

{{- define "openlimit.keysSecret" -}}
{{- if .Values.keys.existingSecret -}}
{{- .Values.keys.existingSecret -}}
{{- else if .Values.keys.entries -}}
{{- include "openlimit.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* A probe of the health service of a name, or of a page over HTTP where the port speaks TLS. */}}
{{- define "openlimit.probe" -}}
{{- if .tls -}}
httpGet: {path: {{ .path }}, port: http}
{{- else -}}
grpc: {port: 50051, service: {{ .service | quote }}}
{{- end -}}
{{- end -}}
