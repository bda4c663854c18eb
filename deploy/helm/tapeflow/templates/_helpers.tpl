{{/*
The prefix of all names, at most 34 characters. The name of the StatefulSet adds `-dataflow-` and
eight characters of a hash, and must not exceed 52 characters to be a valid label of its pods.
*/}}
{{- define "tapeflow.name" -}}
{{- if contains "tapeflow" .Release.Name -}}
{{ .Release.Name | trunc 34 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-tapeflow" (.Release.Name | trunc 25 | trimSuffix "-") }}
{{- end -}}
{{- end }}

{{- define "tapeflow.selector" -}}
app.kubernetes.io/name: tapeflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tapeflow.labels" -}}
{{ include "tapeflow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tapeflow.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The name of the secret that the processes of the job prove to each other. */}}
{{- define "tapeflow.clusterSecret" -}}
{{- $made := printf "%s-cluster" (include "tapeflow.name" .) }}
{{- .Values.dataflow.clusterSecret.name | default $made }}
{{- end }}

{{/* The ports of HOST[:PORT],..., as ports of a NetworkPolicy. Takes the list and the default. */}}
{{- define "tapeflow.ports" -}}
{{- $default := index . 1 }}
{{- $ports := list }}
{{- range splitList "," (index . 0) }}
{{- $port := regexFind ":[0-9]+$" (trim .) | trimPrefix ":" }}
{{- $ports = append $ports (int ($port | default $default)) }}
{{- end }}
{{- range concat $ports (index . 2) | uniq }}
- {port: {{ int . }}, protocol: TCP}
{{- end }}
{{- end }}

{{/* Addresses of the servers. */}}
{{- define "tapeflow.brokers" -}}
{{- if .Values.kafka.brokers }}{{ .Values.kafka.brokers }}
{{- else if .Values.bundled.kafka.enabled }}{{ include "tapeflow.name" . }}-kafka:9092
{{- else }}
{{- fail "kafka.brokers: set the address of Kafka, or enable bundled.kafka" }}
{{- end -}}
{{- end }}
{{- define "tapeflow.contactPoints" -}}
{{- if .Values.cassandra.contactPoints }}{{ .Values.cassandra.contactPoints }}
{{- else if .Values.bundled.cassandra.enabled }}{{ include "tapeflow.name" . }}-cassandra:9042
{{- else }}
{{- fail "cassandra.contactPoints: set the address of Cassandra, or enable bundled.cassandra" }}
{{- end -}}
{{- end }}

{{/* Fields that all containers and pods of tapeflow share. */}}
{{- define "tapeflow.container" -}}
image: {{ include "tapeflow.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
{{- define "tapeflow.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Environment variables for the log, Kafka, Cassandra and HTTP. Secrets are mounted as files. Only
Cassandra's user name is a variable.
*/}}
{{- define "tapeflow.env.log" -}}
- {name: TAPEFLOW_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
- {name: TAPEFLOW_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
{{- end }}
{{- define "tapeflow.env.kafka" -}}
- {name: TAPEFLOW_BROKERS, value: {{ include "tapeflow.brokers" . | quote }}}
- {name: TAPEFLOW_TOPIC, value: {{ .Values.kafka.topic | quote }}}
{{- with .Values.kafka.existingSecret }}
{{- if .name }}
- {name: TAPEFLOW_KAFKA_CONFIG_FILE, value: /secrets/kafka/{{ .key }}}
{{- end }}
{{- end }}
{{- end }}
{{- define "tapeflow.env.cassandra" -}}
{{- $store := list "cassandra:/" (include "tapeflow.contactPoints" .) .Values.cassandra.keyspace }}
- {name: TAPEFLOW_STORE, value: {{ join "/" $store | quote }}}
{{- with .Values.cassandra.datacenter }}
- {name: TAPEFLOW_CASSANDRA_DATACENTER, value: {{ . | quote }}}
{{- end }}
{{- with .Values.cassandra.existingSecret }}
{{- if .name }}
- name: TAPEFLOW_CASSANDRA_USER
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .userKey }}}}
- {name: TAPEFLOW_CASSANDRA_PASSWORD_FILE, value: /secrets/cassandra/{{ .passwordKey }}}
{{- end }}
{{- end }}
{{- with .Values.cassandra.tls }}
{{- if .enabled }}
- {name: TAPEFLOW_CASSANDRA_TLS, value: "true"}
{{- if .caSecret.name }}
- {name: TAPEFLOW_CASSANDRA_CA_FILE, value: /secrets/cassandra-ca/{{ .caSecret.key }}}
{{- end }}
{{- with .clientSecret }}
{{- if .name }}
- {name: TAPEFLOW_CASSANDRA_CERT_FILE, value: /secrets/cassandra-client/{{ .certKey }}}
- {name: TAPEFLOW_CASSANDRA_KEY_FILE, value: /secrets/cassandra-client/{{ .keyKey }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- define "tapeflow.env.http" -}}
- {name: TAPEFLOW_HTTP, value: "0.0.0.0:8080"}
{{- if .Values.http.existingSecret.name }}
- {name: TAPEFLOW_HTTP_PASSWORD_FILE, value: /secrets/http/{{ .Values.http.existingSecret.key }}}
{{- end }}
{{- with .Values.http.tlsSecret }}
{{- if .name }}
- {name: TAPEFLOW_HTTP_TLS_CERT, value: /secrets/http-tls/{{ .certKey }}}
- {name: TAPEFLOW_HTTP_TLS_KEY, value: /secrets/http-tls/{{ .keyKey }}}
{{- end }}
{{- end }}
{{- end }}

{{/*
The files that a component mounts. Takes the root context and a list of the kinds of files that the
component needs. Returns a JSON list of {name, at, secret | configMap}, without the kinds whose
secret or ConfigMap is not set.
*/}}
{{- define "tapeflow.files" -}}
{{- $root := index . 0 }}
{{- $needed := index . 1 }}
{{- $v := $root.Values }}
{{- $tls := $v.cassandra.tls }}
{{- $token := $v.ingest.existingSecret.name }}
{{- if $v.ingest.simulated.enabled }}
{{- $token = printf "%s-simulated" (include "tapeflow.name" $root) }}
{{- end }}
{{- $all := list
  (dict "of" "kafka" "name" "kafka" "at" "/secrets/kafka"
    "secret" $v.kafka.existingSecret.name)
  (dict "of" "cassandra" "name" "cassandra" "at" "/secrets/cassandra"
    "secret" $v.cassandra.existingSecret.name)
  (dict "of" "cassandra" "name" "cassandra-ca" "at" "/secrets/cassandra-ca"
    "secret" (ternary $tls.caSecret.name "" $tls.enabled))
  (dict "of" "cassandra" "name" "cassandra-client" "at" "/secrets/cassandra-client"
    "secret" (ternary $tls.clientSecret.name "" $tls.enabled))
  (dict "of" "http" "name" "http" "at" "/secrets/http"
    "secret" $v.http.existingSecret.name)
  (dict "of" "http" "name" "http-tls" "at" "/secrets/http-tls"
    "secret" $v.http.tlsSecret.name)
  (dict "of" "cluster" "name" "cluster" "at" "/secrets/cluster"
    "secret" (include "tapeflow.clusterSecret" $root))
  (dict "of" "baskets" "name" "baskets" "at" "/settings/baskets"
    "configMap" $v.dataflow.baskets.configMap)
  (dict "of" "token" "name" "token" "at" "/secrets/finnhub" "secret" $token)
}}
{{- $files := list }}
{{- range $all }}
{{- if and (has .of $needed) (or .secret .configMap) }}{{ $files = append $files . }}{{ end }}
{{- end }}
{{- toJson $files }}
{{- end }}
{{- define "tapeflow.mounts" -}}
{{- range . }}
- {name: {{ .name }}, mountPath: {{ .at }}, readOnly: true}
{{- end }}
{{- end }}
{{- define "tapeflow.volumes" -}}
{{- range . }}
- name: {{ .name }}
  {{- if .secret }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
  {{- else }}
  configMap: {name: {{ .configMap }}}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tapeflow.scheme" -}}
{{ ternary "https" "http" (ne .Values.http.tlsSecret.name "") }}
{{- end }}
{{- define "tapeflow.probes" -}}
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ include "tapeflow.scheme" . | upper }}}
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: http, scheme: {{ include "tapeflow.scheme" . | upper }}}
  initialDelaySeconds: 30
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
